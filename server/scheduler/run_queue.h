// The queued jobs: those that may start, in order, and those that back off until a time.
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

#include "server/scheduler/scheduling_policy.h"

namespace nibble::scheduler {

class RunQueue {
 public:
  // Startable from `not_before_nanos` on, once Wake has been told. The job is not in the queue.
  void Add(QueuedJob job, int64_t not_before_nanos);
  // The job is in the queue.
  void Remove(const std::string& job_id);
  bool Contains(const std::string& job_id) const { return jobs_.count(job_id) != 0; }
  // Ends the back-off of jobs whose time has come. O(log size) each.
  void Wake(int64_t now_nanos);
  // See SchedulingView.
  std::vector<QueuedJob> Heads() const;
  size_t size() const { return jobs_.size(); }

 private:
  // Order of starting: highest priority first, then first submitted.
  using Order = std::tuple<int64_t, int64_t, std::string>;
  struct Entry {
    QueuedJob job;
    int64_t not_before_nanos = 0;
    bool ready = false;
  };
  static Order OrderOf(const QueuedJob& job) {
    return {-int64_t{job.priority}, job.submit_sequence, job.job_id};
  }

  std::map<std::string, Entry> jobs_;
  std::map<int32_t, std::set<Order>> ready_by_slots_;  // no empty sets
  std::set<std::pair<int64_t, std::string>> sleeping_;
};

}  // namespace nibble::scheduler

#endif  // SERVER_SCHEDULER_RUN_QUEUE_H_
