// The control plane's state machine: which job is in which state and which attempt holds which
// slots. Pure: time and identifiers arrive in events, and what must be done leaves as effects, so
// the same events give the same effects, always. See docs/job_lifecycle.md.
//
// Jobs that ended are forgotten; they live in the store. Cost of an event: O(log live jobs), plus
// what it changes, plus for Tick O(workers).
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
#include "server/scheduler/resource_tracker.h"
#include "server/scheduler/scheduling_policy.h"
#include "server/scheduler/types.h"

namespace nibble::scheduler {

inline constexpr int32_t kMaxSlotsOfWorker = 1024;

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
  int64_t max_workers = 10'000;
};

// What is known of a worker; nibble.v1.Worker.
struct WorkerInfo {
  std::string worker_id;
  std::string incarnation;
  std::string host;
  std::string device_kind;
  std::string device_name;
  std::string version;
  int32_t slots = 0;
  int32_t slots_used = 0;
  // Heard of within a lease term.
  bool online = false;
  // Jobs whose attempts hold slots here.
  std::vector<std::string> job_ids;
  int64_t last_seen_micros = 0;
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
  Scheduler(SchedulerOptions options, std::unique_ptr<SchedulingPolicy> policy);
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  // The first event is Recovered, and no other is.
  std::vector<Effect> Step(const Event& event);

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
  // For checkers.
  const ResourceTracker& resources() const;
  std::vector<const JobRecord*> LiveJobs() const;

 private:
  class Machine;
  std::unique_ptr<Machine> machine_;
};

}  // namespace nibble::scheduler

#endif  // SERVER_SCHEDULER_SCHEDULER_H_
