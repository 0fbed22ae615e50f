// Drives the scheduler and carries out its effects in order: persist, act, answer.
//
// One thread owns the scheduler. It takes all events that wait, steps through them, commits the
// transactions of all those steps at once, and only then acts and answers; events that arrive while
// a commit is under way make the next group. So every answer and every assignment rests on durable
// state, and thousands of submissions share an fsync.
#ifndef SERVER_COORDINATOR_COORDINATOR_H_
#define SERVER_COORDINATOR_COORDINATOR_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "base/random.h"
#include "server/coordinator/assignment_board.h"
#include "server/coordinator/change_feed.h"
#include "server/coordinator/deletion_log.h"
#include "server/coordinator/job_gauges.h"
#include "server/coordinator/work_pool.h"
#include "server/scheduler/effects.h"
#include "server/scheduler/events.h"
#include "server/scheduler/scheduler.h"
#include "server/store/metric_store.h"
#include "server/store/store.h"
#include "server/telemetry/telemetry.h"

namespace nibble::coordinator {

struct CoordinatorOptions {
  scheduler::SchedulerOptions scheduler;
  int64_t tick_nanos = 100'000'000;
  // Events of one commit. Bounds how long an answer waits for others' work.
  size_t max_group = 512;
  // Events that wait; beyond it they are refused.
  size_t max_waiting = 4096;
  // After a full disk, submissions are refused for this long without trying.
  int64_t disk_full_pause_nanos = 1'000'000'000;
};

// All outlive the coordinator.
struct CoordinatorParts {
  store::Store* store = nullptr;
  store::MetricStore* metric_store = nullptr;
  telemetry::Telemetry* telemetry = nullptr;
  const Clock* clock = nullptr;
  WorkPool* pool = nullptr;
  // For the jitter of back-off.
  RandomSource* random = nullptr;
  // Label of a job's series: the name of its recipe.
  std::function<std::string(const scheduler::JobDocument&)> recipe_of;
  // A store failed for good (R4); any thread, possibly more than once. The daemon exits. Where this
  // returns, as in tests, nothing is committed afterwards.
  std::function<void(const absl::Status&)> on_fatal;
};

// An answer to an event: what the scheduler replied, or an error of the coordinator itself.
struct Outcome {
  // RESOURCE_EXHAUSTED: too many events wait, or the disk is full. UNAVAILABLE: shutting down.
  // DATA_LOSS: the job's row is damaged.
  absl::Status status;
  // Why, for programs: OVERLOADED, DISK_FULL, SHUTTING_DOWN, STORE_FAILED; may be empty.
  std::string reason;
  scheduler::Reply reply;  // where status is OK
};
// Runs on the coordinator's thread; must not block.
using OutcomeCallback = std::function<void(const Outcome&)>;

// Thread-safe.
class Coordinator {
 public:
  // Recovers from the store and starts the thread. Errors of the store's LoadLive.
  static absl::StatusOr<std::unique_ptr<Coordinator>> Start(CoordinatorOptions options,
                                                            CoordinatorParts parts);
  // As Start without a thread of its own: nothing happens but in RunPending, which one thread
  // calls. For the simulator.
  static absl::StatusOr<std::unique_ptr<Coordinator>> StartWithoutThread(CoordinatorOptions options,
                                                                         CoordinatorParts parts);
  // Stops first where that was not done.
  ~Coordinator();

  // Hands an event to the scheduler. `callback` (may be null) runs exactly once, after the event's
  // effects are durable.
  void Post(scheduler::EventBody body, OutcomeCallback callback);

  // Whether what this attempt sends may be kept: Scheduler::CheckAttempt. A refusal waits until the
  // state it rests on is durable; an acceptance answers at once.
  void CheckAttempt(const std::string& worker_id, const std::string& incarnation,
                    const scheduler::AttemptId& attempt, OutcomeCallback callback);

  std::vector<scheduler::WorkerInfo> Workers() const;
  std::vector<scheduler::ProjectInfo> Projects() const;
  // Absent for a job that has ended or does not exist.
  std::optional<scheduler::Explanation> Explain(const std::string& job_id) const;
  AssignmentBoard& assignments() { return assignments_; }
  ChangeFeed& feed() { return feed_; }
  // Jobs deleted since the start of the daemon; their rows say nothing any more.
  const DeletionLog& deletions() const { return deletions_; }
  // Newest event whose effects were published.
  int64_t last_event_id() const;

  // A store outside the coordinator's hands (the metric store) failed for good: as for its own.
  void StoreFailed(const absl::Status& status) { parts_.on_fatal(status); }

  // Carries out what waits, and a tick where one is due; never waits itself. REQUIRES: it was
  // started without a thread.
  void RunPending();
  int64_t next_tick_nanos() const { return next_tick_nanos_; }

  // Refuses new events, carries out those that wait, joins the thread. Idempotent.
  void Stop();

 private:
  struct Item {
    scheduler::EventBody body;
    OutcomeCallback callback;
    // For CheckAttempt: asks instead of stepping.
    std::function<scheduler::Error(const scheduler::Scheduler&)> check;
  };
  struct Group;

  Coordinator(CoordinatorOptions options, CoordinatorParts parts);
  absl::Status Recover();
  void Run();
  void WaitForItems();
  std::vector<Item> TakeItems();
  void Enqueue(Item item);
  void RunGroup(std::vector<Item> items);
  void StepItem(Item item, Group* group);
  absl::Status LoadStoredRows(scheduler::Event* event, const Group& group);
  absl::StatusOr<std::optional<scheduler::IdempotencyRecord>> StoredKey(const std::string& key,
                                                                        const Group& group);
  absl::StatusOr<std::shared_ptr<const scheduler::JobRecord>> StoredJob(const std::string& job_id,
                                                                        const Group& group);
  absl::Status Commit(const Group& group);
  void CarryOut(Group* group);
  void CarryOut(const scheduler::Transaction& transaction, Group* group);
  void CarryOut(const scheduler::AssignmentsChanged& change, Group* group);
  void CarryOut(const scheduler::JobChanged& change, Group* group);
  void CarryOut(const scheduler::PurgeMetrics& purge, Group* group);
  void CarryOut(const scheduler::Alert& alert, Group* group);
  void CarryOut(const scheduler::Reply& reply, Group* group);
  void RefreshCounts();
  void RestartScheduler();
  void Fail(const absl::Status& status, Group* group);
  scheduler::Time Now() const;

  const CoordinatorOptions options_;
  const CoordinatorParts parts_;
  ChangeFeed feed_;
  AssignmentBoard assignments_{&feed_};
  DeletionLog deletions_;

  // The scheduler, for the length of a step or of a question; never during a commit.
  mutable Mutex scheduler_mutex_;
  std::unique_ptr<scheduler::Scheduler> scheduler_ GUARDED_BY(scheduler_mutex_);

  mutable Mutex queue_mutex_;
  CondVar wake_;
  std::deque<Item> queue_ GUARDED_BY(queue_mutex_);
  bool stopping_ GUARDED_BY(queue_mutex_) = false;
  int64_t last_event_id_ GUARDED_BY(queue_mutex_) = 0;

  // The coordinator's thread only.
  JobGauges gauges_;
  bool failed_ = false;
  bool counts_changed_ = true;
  int64_t next_tick_nanos_ = 0;
  int64_t disk_full_until_nanos_ = 0;

  std::thread thread_;
};

}  // namespace nibble::coordinator

#endif  // SERVER_COORDINATOR_COORDINATOR_H_
