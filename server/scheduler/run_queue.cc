#include "server/scheduler/run_queue.h"

#include "base/check.h"

namespace nibble::scheduler {

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
    const auto bucket = ready_by_slots_.find(entry.job.slots);
    bucket->second.erase(OrderOf(entry.job));
    if (bucket->second.empty()) ready_by_slots_.erase(bucket);
  } else {
    sleeping_.erase({entry.not_before_nanos, job_id});
  }
  jobs_.erase(found);
}

void RunQueue::Wake(int64_t now_nanos) {
  while (!sleeping_.empty() && sleeping_.begin()->first <= now_nanos) {
    Entry& entry = jobs_.at(sleeping_.begin()->second);
    entry.ready = true;
    ready_by_slots_[entry.job.slots].insert(OrderOf(entry.job));
    sleeping_.erase(sleeping_.begin());
  }
}

std::vector<QueuedJob> RunQueue::Heads() const {
  std::vector<QueuedJob> heads;
  heads.reserve(ready_by_slots_.size());
  for (const auto& [slots, order] : ready_by_slots_) {
    heads.push_back(jobs_.at(std::get<2>(*order.begin())).job);
  }
  return heads;
}

}  // namespace nibble::scheduler
