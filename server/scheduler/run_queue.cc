#include "server/scheduler/run_queue.h"

#include <utility>

#include "base/check.h"

namespace nibble::scheduler {

int64_t RunTimeClass(int64_t max_run_nanos) {
  if (max_run_nanos <= 0) return 0;
  int64_t bound = 1'000'000;
  while (bound < max_run_nanos && bound < (int64_t{1} << 61)) bound *= 2;
  return bound;
}

void RunQueue::Add(QueuedJob job) {
  MakeReady(jobs_.Add(std::make_unique<Entry>(Entry{std::move(job), 0, false, {}})));
}

void RunQueue::AddSleeping(QueuedJob job, int64_t not_before_nanos) {
  Entry& entry =
      jobs_.Add(std::make_unique<Entry>(Entry{std::move(job), not_before_nanos, false, {}}));
  sleeping_.emplace(std::make_pair(not_before_nanos, entry.job.submit_sequence()), &entry);
}

void RunQueue::MakeReady(Entry& entry) {
  entry.ready = true;
  entry.shape = shapes_.try_emplace(KeyOf(entry.job)).first;
  Shape& shape = entry.shape->second;
  const size_t before = shape.ready.size();
  // Most jobs come after those that wait already.
  const auto place = shape.ready.emplace_hint(shape.ready.end(), OrderOf(entry.job), &entry.job);
  NIBBLE_CHECK(shape.ready.size() == before + 1);
  if (place == shape.ready.begin()) shape.blocked_at = 0;
}

void RunQueue::Remove(absl::string_view job_id) {
  Entry& entry = jobs_.At(job_id);
  if (entry.ready) {
    Shape& shape = entry.shape->second;
    shape.ready.erase(OrderOf(entry.job));
    if (shape.ready.empty()) shapes_.erase(entry.shape);
  } else {
    sleeping_.erase({entry.not_before_nanos, entry.job.submit_sequence()});
  }
  jobs_.Remove(job_id);
}

const QueuedJob* RunQueue::Find(absl::string_view job_id) const {
  const Entry* const entry = jobs_.Find(job_id);
  return entry == nullptr ? nullptr : &entry->job;
}

bool RunQueue::IsReady(absl::string_view job_id) const {
  const Entry* const entry = jobs_.Find(job_id);
  return entry != nullptr && entry->ready;
}

void RunQueue::Wake(int64_t now_nanos) {
  while (!sleeping_.empty() && sleeping_.begin()->first.first <= now_nanos) {
    Entry& entry = *sleeping_.begin()->second;
    sleeping_.erase(sleeping_.begin());
    MakeReady(entry);
  }
}

}  // namespace nibble::scheduler
