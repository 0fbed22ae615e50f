#include "server/store/state_directory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/status_macros.h"

namespace nibble::store {

absl::StatusOr<StateDirectoryLock> StateDirectoryLock::Acquire(const std::string& path) {
  NIBBLE_RETURN_IF_ERROR(MakeDirectories(path));
  const std::string file = JoinPath(path, "lock");
  const int fd = open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) return ErrnoStatus(errno, "open", file);
  StateDirectoryLock lock(path, fd);
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return ErrnoStatus(errno, "lock", file);
    const absl::StatusOr<std::string> holder = ReadFile(file, 64);
    return absl::FailedPreconditionError(
        absl::StrCat("state directory ", path, " is in use by another nibbled",
                     holder.ok() && !holder->empty()
                         ? absl::StrCat(" (process ", absl::StripAsciiWhitespace(*holder), ")")
                         : "",
                     "; stop it or give another directory"));
  }
  // Only for the message above; the lock itself is the kernel's.
  const std::string pid = absl::StrCat(getpid(), "\n");
  if (ftruncate(fd, 0) != 0 ||
      pwrite(fd, pid.data(), pid.size(), 0) != static_cast<ssize_t>(pid.size())) {
    if (errno != ENOSPC) return ErrnoStatus(errno, "write", file);
  }
  return lock;
}

StateDirectoryLock::StateDirectoryLock(StateDirectoryLock&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)) {}

StateDirectoryLock& StateDirectoryLock::operator=(StateDirectoryLock&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(fd_, other.fd_);
  return *this;
}

StateDirectoryLock::~StateDirectoryLock() {
  if (fd_ >= 0) close(fd_);
}

}  // namespace nibble::store
