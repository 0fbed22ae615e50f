// The queued jobs: those that may start, and those that back off until a time.
//
// Jobs that ask for the same thing share a shape, and what holds for the first of a shape holds for
// the others: where it does not fit, none does. So a decision looks at shapes, not at jobs.
#ifndef SERVER_SCHEDULER_RUN_QUEUE_H_
#define SERVER_SCHEDULER_RUN_QUEUE_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "server/scheduler/types.h"

namespace nibble::scheduler {

// A job that waits for slots.
struct QueuedJob {
  std::string job_id;
  int project = 0;  // of FairShare
  int32_t priority = 0;
  // When it was submitted, earlier by its priority's worth of waiting: both priority and age in one
  // number that does not change while it waits. Smallest first.
  int64_t order_nanos = 0;
  int64_t submit_sequence = 0;
  int32_t slots = 1;
  int64_t max_run_nanos = 0;  // 0 for no bound
  WorkerConstraints constraints;
  // Where it failed, the newest last.
  std::vector<std::string> failed_workers;
  // Where its newest checkpoint lies; empty for nowhere.
  std::string preferred_worker;
};

// max_run_nanos rounded up to a power of two of milliseconds, so that shapes stay few; 0 for 0.
// What backfilling counts with.
int64_t RunTimeClass(int64_t max_run_nanos);

class RunQueue {
 public:
  using Order = std::tuple<int64_t, int64_t, std::string>;
  static Order OrderOf(const QueuedJob& job) {
    return {job.order_nanos, job.submit_sequence, job.job_id};
  }
  // project, slots, RunTimeClass, constraints, workers to avoid
  using ShapeKey = std::tuple<int, int32_t, int64_t, WorkerConstraints, std::vector<std::string>>;
  struct Shape {
    std::set<Order> ready;  // not empty
    // The scheduler's mark: its first job did not fit at this generation of the slots. 0 when that
    // is not known, as when another job has become the first.
    uint64_t blocked_at = 0;
  };

  // Startable from `not_before_nanos` on, once Wake has been told. The job is not in the queue.
  void Add(QueuedJob job, int64_t not_before_nanos);
  // The job is in the queue.
  void Remove(const std::string& job_id);
  bool Contains(const std::string& job_id) const { return jobs_.count(job_id) != 0; }
  // Null where it is not in the queue. Valid until it is removed.
  const QueuedJob* Find(const std::string& job_id) const;
  // It is in the queue and does not back off.
  bool IsReady(const std::string& job_id) const;
  // When the back-off of a job in the queue ends.
  int64_t NotBefore(const std::string& job_id) const { return jobs_.at(job_id).not_before_nanos; }
  // Ends the back-off of jobs whose time has come. O(log size) each.
  void Wake(int64_t now_nanos);

  // Of the jobs that may start.
  std::map<ShapeKey, Shape>& shapes() { return shapes_; }
  const std::map<ShapeKey, Shape>& shapes() const { return shapes_; }
  const QueuedJob& First(const Shape& shape) const {
    return jobs_.at(std::get<2>(*shape.ready.begin())).job;
  }
  size_t size() const { return jobs_.size(); }

 private:
  struct Entry {
    QueuedJob job;
    int64_t not_before_nanos = 0;
    bool ready = false;
  };
  static ShapeKey KeyOf(const QueuedJob& job) {
    return {job.project, job.slots, RunTimeClass(job.max_run_nanos), job.constraints,
            job.failed_workers};
  }

  std::map<std::string, Entry> jobs_;
  std::map<ShapeKey, Shape> shapes_;
  std::set<std::pair<int64_t, std::string>> sleeping_;
};

}  // namespace nibble::scheduler

#endif  // SERVER_SCHEDULER_RUN_QUEUE_H_
