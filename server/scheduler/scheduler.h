// The control plane's state machine: which job is in which state and which attempt holds which
// slots. Pure: time and identifiers arrive in events, and what must be done leaves as effects, so
// the same events give the same effects, always. See docs/job_lifecycle.md.
//
// Jobs that ended are forgotten; they live in the store. Cost of an event: O(log live jobs), plus
// what it changes, plus O(shapes of queued jobs) for each decision, plus for Tick O(workers).
//
// The owner commits the Transaction of a step before it carries out later effects. Where a commit
// is refused (disk full), what the scheduler holds is ahead of the store: the owner answers
// RESOURCE_EXHAUSTED, drops this scheduler and starts a new one from the store; workers then
// register again and every attempt is adopted, as after a restart of the daemon.
#ifndef SERVER_SCHEDULER_SCHEDULER_H_
#define SERVER_SCHEDULER_SCHEDULER_H_

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "server/scheduler/effects.h"
#include "server/scheduler/events.h"
#include "server/scheduler/explanation.h"
#include "server/scheduler/fair_share.h"
#include "server/scheduler/reservation.h"
#include "server/scheduler/resource_tracker.h"
#include "server/scheduler/types.h"

namespace nibble::scheduler {

inline constexpr int32_t kMaxSlotsOfWorker = 1024;
inline constexpr int32_t kMaxSlotsOfJob = 1 << 16;

struct SchedulerOptions {
  int64_t lease_term_nanos = 15'000'000'000;
  // A worker kills trainers after this long without contact, so that leases may expire in any
  // number after it.
  int64_t orphan_limit_nanos = 30LL * 60 * 1'000'000'000;
  // n-th failure without progress: initial * 2^(n-1), at most `max`, before the next attempt.
  int64_t backoff_initial_nanos = 500'000'000;
  int64_t backoff_max_nanos = 60'000'000'000;
  // Attempts that may be lost with worker or lease, without a newly committed step, before the job
  // fails.
  int32_t max_losses_without_progress = 20;
  // Unreachable workers that hold nothing are forgotten after this.
  int64_t forget_worker_nanos = 3600LL * 1'000'000'000;
  int64_t max_live_jobs = 100'000;
  // The default project need not be listed.
  std::vector<ProjectOptions> projects;
  int64_t fair_share_half_life_nanos = 24LL * 3600 * 1'000'000'000;
  // So long a wait is worth one point of priority.
  int64_t ageing_nanos = 60'000'000'000;
  // An attempt that has held its slots for less is not preempted.
  int64_t min_run_nanos = 60'000'000'000;
  // A job that was told to checkpoint and end, and has not by then, is stopped.
  int64_t pause_grace_nanos = 120'000'000'000;
  // A job that failed on so many workers without progress is stopped, a worker on which so many
  // jobs failed without progress is drained.
  size_t poison_workers = 3;
  size_t lemon_jobs = 3;
  int64_t max_workers = 10'000;
};

// A project as it stands.
struct ProjectInfo {
  ProjectOptions options;
  int32_t held = 0;         // slots
  int64_t queued = 0;       // jobs that wait for slots
  int64_t unfinished = 0;   // jobs
  double slot_seconds = 0;  // decayed usage
};

// For gauges.
struct SchedulerStats {
  // Live jobs by JobState's number.
  std::array<int64_t, 10> jobs_by_state{};
  int64_t queue_depth = 0;  // QUEUED, backing off or not
  int64_t leases = 0;
  int64_t workers_online = 0;
  int64_t workers_unreachable = 0;
  int64_t slots = 0;
  int64_t slots_used = 0;
};

// Not thread-safe: one thread owns it.
class Scheduler {
 public:
  explicit Scheduler(SchedulerOptions options);
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  // The first event is Recovered, and no other is: hand it over by std::move, its rows are kept.
  std::vector<Effect> Step(Event event);

  // Null for a job that does not exist or has ended. Valid until the next Step. Ahead of the store
  // until the step's transaction is durable.
  const JobRecord* FindJob(absl::string_view job_id) const;
  // OK where the attempt is live and held by this incarnation of this worker: what it appends may
  // be kept. Else as a report would be answered: kUnknownWorker, kStaleIncarnation, kStaleAttempt.
  Error CheckAttempt(absl::string_view worker_id, absl::string_view incarnation,
                     const AttemptId& attempt) const;
  // Registered workers by worker_id; copies.
  std::vector<WorkerInfo> Workers() const;
  SchedulerStats Stats() const;  // O(workers)
  // By name. O(live jobs).
  std::vector<ProjectInfo> Projects() const;
  // Why a live job waits. Absent for others. O(live jobs).
  std::optional<Explanation> Explain(absl::string_view job_id, Time now) const;
  // Slots kept for the head of the queue, on the scheduler's clock.
  const std::optional<Reservation>& reservation() const;
  // Of the last step, on the scheduler's clock.
  int64_t clock_nanos() const;
  // For checkers.
  const ResourceTracker& resources() const;
  std::vector<const JobRecord*> LiveJobs() const;

 private:
  class Machine;
  std::unique_ptr<Machine> machine_;
};

}  // namespace nibble::scheduler

#endif  // SERVER_SCHEDULER_SCHEDULER_H_
