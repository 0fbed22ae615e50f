#include "server/scheduler/run_queue.h"

#include "base/check.h"

namespace nibble::scheduler {

int64_t RunTimeClass(int64_t max_run_nanos) {
  if (max_run_nanos <= 0) return 0;
  int64_t bound = 1'000'000;
  while (bound < max_run_nanos && bound < (int64_t{1} << 61)) bound *= 2;
  return bound;
}

void RunQueue::Add(QueuedJob job, int64_t not_before_nanos) {
  const std::string job_id = job.job_id;
  const auto [entry, inserted] =
      jobs_.emplace(job_id, Entry{std::move(job), not_before_nanos, false});
  NIBBLE_CHECK(inserted);
  sleeping_.emplace(not_before_nanos, job_id);
}

void RunQueue::Remove(const std::string& job_id) {
  const auto found = jobs_.find(job_id);
  NIBBLE_CHECK(found != jobs_.end());
  const Entry& entry = found->second;
  if (entry.ready) {
    const auto shape = shapes_.find(KeyOf(entry.job));
    shape->second.ready.erase(OrderOf(entry.job));
    if (shape->second.ready.empty()) shapes_.erase(shape);
  } else {
    sleeping_.erase({entry.not_before_nanos, job_id});
  }
  jobs_.erase(found);
}

const QueuedJob* RunQueue::Find(const std::string& job_id) const {
  const auto found = jobs_.find(job_id);
  return found == jobs_.end() ? nullptr : &found->second.job;
}

bool RunQueue::IsReady(const std::string& job_id) const {
  const auto found = jobs_.find(job_id);
  return found != jobs_.end() && found->second.ready;
}

void RunQueue::Wake(int64_t now_nanos) {
  while (!sleeping_.empty() && sleeping_.begin()->first <= now_nanos) {
    Entry& entry = jobs_.at(sleeping_.begin()->second);
    entry.ready = true;
    Shape& shape = shapes_[KeyOf(entry.job)];
    const auto place = shape.ready.insert(OrderOf(entry.job)).first;
    if (place == shape.ready.begin()) shape.blocked_at = 0;
    sleeping_.erase(sleeping_.begin());
  }
}

}  // namespace nibble::scheduler
