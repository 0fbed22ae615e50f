// The queued jobs: those that may start, and those that back off until a time.
//
// Jobs that ask for the same thing share a shape, and what holds for the first of a shape holds for
// the others: where it does not fit, none does. So a decision looks at shapes, not at jobs.
#ifndef SERVER_SCHEDULER_RUN_QUEUE_H_
#define SERVER_SCHEDULER_RUN_QUEUE_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/container/btree_map.h"
#include "server/scheduler/id_table.h"
#include "server/scheduler/types.h"

namespace nibble::scheduler {

// A job that waits for slots.
struct QueuedJob {
  // Its row, which outlives its wait. What is asked for does not change meanwhile.
  const JobRecord* record = nullptr;
  int project = 0;  // of FairShare
  int32_t priority = 0;
  // When it was submitted, earlier by its priority's worth of waiting: both priority and age in one
  // number that does not change while it waits. Smallest first.
  int64_t order_nanos = 0;
  int32_t slots = 1;
  int64_t max_run_nanos = 0;  // 0 for no bound
  // Where its newest checkpoint lies; empty for nowhere.
  std::string preferred_worker;

  const std::string& job_id() const { return record->job_id; }
  int64_t submit_sequence() const { return record->submit_sequence; }
  const WorkerConstraints& constraints() const { return record->document->constraints; }
  // Where it failed, the newest last.
  const std::vector<std::string>& failed_workers() const { return record->failed_workers; }
};

// max_run_nanos rounded up to a power of two of milliseconds, so that shapes stay few; 0 for 0.
// What backfilling counts with.
int64_t RunTimeClass(int64_t max_run_nanos);

class RunQueue {
 public:
  // No two jobs share a submit_sequence.
  using Order = std::pair<int64_t, int64_t>;
  static Order OrderOf(const QueuedJob& job) { return {job.order_nanos, job.submit_sequence()}; }
  // project, slots, RunTimeClass, constraints, workers to avoid
  using ShapeKey = std::tuple<int, int32_t, int64_t, WorkerConstraints, std::vector<std::string>>;
  struct Shape {
    absl::btree_map<Order, const QueuedJob*> ready;  // not empty
    // The scheduler's mark: its first job did not fit at this generation of the slots. 0 when that
    // is not known, as when another job has become the first.
    uint64_t blocked_at = 0;
  };

  // Startable at once. The job is not in the queue.
  void Add(QueuedJob job);
  // Startable from `not_before_nanos` on, once Wake has been told. The job is not in the queue.
  void AddSleeping(QueuedJob job, int64_t not_before_nanos);
  // Makes room for so many jobs at once.
  void Reserve(size_t jobs) { jobs_.Reserve(jobs); }
  // The job is in the queue.
  void Remove(absl::string_view job_id);
  // Null where it is not in the queue. Valid until it is removed.
  const QueuedJob* Find(absl::string_view job_id) const;
  // It is in the queue and does not back off.
  bool IsReady(absl::string_view job_id) const;
  // When the back-off of a job in the queue ends; 0 for one that never did.
  int64_t NotBefore(absl::string_view job_id) const { return jobs_.At(job_id).not_before_nanos; }
  // Ends the back-off of jobs whose time has come. O(log size) each.
  void Wake(int64_t now_nanos);

  // Of the jobs that may start.
  std::map<ShapeKey, Shape>& shapes() { return shapes_; }
  const std::map<ShapeKey, Shape>& shapes() const { return shapes_; }
  // REQUIRES: IsReady(job.job_id()).
  const Shape& ShapeOf(const QueuedJob& job) const { return shapes_.at(KeyOf(job)); }
  const QueuedJob& First(const Shape& shape) const { return *shape.ready.begin()->second; }
  size_t size() const { return jobs_.size(); }

 private:
  using Shapes = std::map<ShapeKey, Shape>;
  struct Entry {
    QueuedJob job;
    int64_t not_before_nanos = 0;
    bool ready = false;
    Shapes::iterator shape;  // where it is ready
  };
  struct JobIdOf {
    absl::string_view operator()(const Entry& entry) const { return entry.job.job_id(); }
  };
  static ShapeKey KeyOf(const QueuedJob& job) {
    return {job.project, job.slots, RunTimeClass(job.max_run_nanos), job.constraints(),
            job.failed_workers()};
  }

  void MakeReady(Entry& entry);

  IdTable<std::unique_ptr<Entry>, JobIdOf> jobs_;
  Shapes shapes_;
  absl::btree_map<std::pair<int64_t, int64_t>, Entry*> sleeping_;  // not_before, submit_sequence
};

}  // namespace nibble::scheduler

#endif  // SERVER_SCHEDULER_RUN_QUEUE_H_
