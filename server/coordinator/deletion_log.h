// The newest deletions of jobs, for watchers of all jobs: a deleted job leaves no row to find it
// by.
#ifndef SERVER_COORDINATOR_DELETION_LOG_H_
#define SERVER_COORDINATOR_DELETION_LOG_H_

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "base/mutex.h"

namespace nibble::coordinator {

// Thread-safe. Within one process.
class DeletionLog {
 public:
  // Deletions kept; a watcher further behind misses the oldest.
  static constexpr size_t kKept = 4096;

  void Add(const std::string& job_id) {
    MutexLock lock(mutex_);
    kept_.push_back(job_id);
    ++count_;
    if (kept_.size() > kKept) kept_.pop_front();
  }
  int64_t position() const {
    MutexLock lock(mutex_);
    return count_;
  }
  // Those after *position, which moves to the newest.
  std::vector<std::string> Since(int64_t* position) const {
    MutexLock lock(mutex_);
    const int64_t first_kept = count_ - static_cast<int64_t>(kept_.size());
    const int64_t from = *position > first_kept ? *position - first_kept : 0;
    *position = count_;
    return {kept_.begin() + from, kept_.end()};
  }

 private:
  mutable Mutex mutex_;
  std::deque<std::string> kept_ GUARDED_BY(mutex_);
  int64_t count_ GUARDED_BY(mutex_) = 0;
};

}  // namespace nibble::coordinator

#endif  // SERVER_COORDINATOR_DELETION_LOG_H_
