// The daemon's state directory: created, locked for as long as the object lives.
#ifndef SERVER_STORE_STATE_DIRECTORY_H_
#define SERVER_STORE_STATE_DIRECTORY_H_

#include <string>

#include "absl/status/statusor.h"

namespace nibble::store {

// Movable.
class StateDirectoryLock {
 public:
  // Creates `path` (mode 0755, with parents) and takes an advisory lock on <path>/lock. The kernel
  // drops it when the process ends, however it ends.
  // FAILED_PRECONDITION at once, naming the holder's process id, where another process has it.
  static absl::StatusOr<StateDirectoryLock> Acquire(const std::string& path);

  StateDirectoryLock(StateDirectoryLock&& other) noexcept;
  StateDirectoryLock& operator=(StateDirectoryLock&& other) noexcept;
  ~StateDirectoryLock();

  const std::string& path() const { return path_; }
  std::string jobs_database() const { return path_ + "/jobs.db"; }
  std::string metrics_database() const { return path_ + "/metrics.db"; }

 private:
  StateDirectoryLock(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}

  std::string path_;
  int fd_ = -1;
};

}  // namespace nibble::store

#endif  // SERVER_STORE_STATE_DIRECTORY_H_
