// Definitions of the C library's calls that come before its own, because a program's symbols come
// before a library's. Each makes the system call and writes it down.
#include "worker/checkpoint/testing/recorded_calls.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <map>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/mutex.h"

namespace nibble::checkpoint {
namespace {

struct Recorder {
  Mutex mutex;
  std::string directory GUARDED_BY(mutex);  // empty while nothing is recorded
  std::vector<FileCall> calls GUARDED_BY(mutex);
  std::map<int, int64_t> offsets GUARDED_BY(mutex);  // of descriptors open for writing
};

Recorder& TheRecorder() {
  static Recorder* const recorder = new Recorder;
  return *recorder;
}

std::string PathOf(int fd) {
  char path[PATH_MAX];
  const ssize_t size =
      syscall(SYS_readlink, absl::StrCat("/proc/self/fd/", fd).c_str(), path, sizeof(path));
  return size < 0 ? "" : std::string(path, static_cast<size_t>(size));
}

std::string PathAt(int fd, const char* path) {
  if (path[0] == '/' || fd == AT_FDCWD) return path;
  return absl::StrCat(PathOf(fd), "/", path);
}

void Record(FileCall call) {
  Recorder& recorder = TheRecorder();
  MutexLock lock(recorder.mutex);
  if (recorder.directory.empty() || !absl::StartsWith(call.path, recorder.directory)) return;
  recorder.calls.push_back(std::move(call));
}

int OpenAt(int at, const char* path, int flags, mode_t mode) {
  const bool existed = syscall(SYS_faccessat, at, path, F_OK) == 0;
  const int fd = static_cast<int>(syscall(SYS_openat, at, path, flags, mode));
  if (fd < 0 || (flags & O_ACCMODE) == O_RDONLY) return fd;
  const int error = errno;
  {
    MutexLock lock(TheRecorder().mutex);
    TheRecorder().offsets[fd] = 0;
  }
  if (!existed || (flags & O_TRUNC) != 0) {
    Record({FileCall::Kind::kCreate, PathAt(at, path), "", 0, ""});
  }
  errno = error;
  return fd;
}

// Records `call` where the system call went well.
int Done(long result, FileCall call) {
  const int error = errno;
  if (result == 0) Record(std::move(call));
  errno = error;
  return static_cast<int>(result);
}

}  // namespace

void StartRecording(const std::string& directory) {
  MutexLock lock(TheRecorder().mutex);
  TheRecorder().directory = directory;
  TheRecorder().calls.clear();
}

std::vector<FileCall> StopRecording() {
  MutexLock lock(TheRecorder().mutex);
  TheRecorder().directory.clear();
  return std::exchange(TheRecorder().calls, {});
}

void RecordAcknowledgement(const std::string& what) {
  MutexLock lock(TheRecorder().mutex);
  TheRecorder().calls.push_back({FileCall::Kind::kAcknowledge, "", "", 0, what});
}

}  // namespace nibble::checkpoint

namespace rec = nibble::checkpoint;
using rec::FileCall;

extern "C" {

int open(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(arguments, mode_t) : 0;
  va_end(arguments);
  return rec::OpenAt(AT_FDCWD, path, flags, mode);
}

int openat(int at, const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(arguments, mode_t) : 0;
  va_end(arguments);
  return rec::OpenAt(at, path, flags, mode);
}

ssize_t write(int fd, const void* data, size_t size) {
  const ssize_t written = syscall(SYS_write, fd, data, size);
  if (written <= 0) return written;
  FileCall call{FileCall::Kind::kWrite, rec::PathOf(fd), "", 0,
                std::string(static_cast<const char*>(data), static_cast<size_t>(written))};
  {
    nibble::MutexLock lock(rec::TheRecorder().mutex);
    int64_t& offset = rec::TheRecorder().offsets[fd];
    call.offset = offset;
    offset += written;
  }
  rec::Record(std::move(call));
  return written;
}

int fsync(int fd) {
  return rec::Done(syscall(SYS_fsync, fd), {FileCall::Kind::kSync, rec::PathOf(fd), "", 0, ""});
}

int rename(const char* from, const char* to) {
  return rec::Done(syscall(SYS_rename, from, to), {FileCall::Kind::kRename, from, to, 0, ""});
}

int renameat2(int from_at, const char* from, int to_at, const char* to, unsigned flags) {
  const auto kind =
      (flags & RENAME_EXCHANGE) != 0 ? FileCall::Kind::kExchange : FileCall::Kind::kRename;
  return rec::Done(syscall(SYS_renameat2, from_at, from, to_at, to, flags),
                   {kind, rec::PathAt(from_at, from), rec::PathAt(to_at, to), 0, ""});
}

int mkdir(const char* path, mode_t mode) {
  return rec::Done(syscall(SYS_mkdir, path, mode),
                   {FileCall::Kind::kMakeDirectory, path, "", 0, ""});
}

int unlink(const char* path) {
  return rec::Done(syscall(SYS_unlink, path), {FileCall::Kind::kRemove, path, "", 0, ""});
}

int rmdir(const char* path) {
  return rec::Done(syscall(SYS_rmdir, path), {FileCall::Kind::kRemove, path, "", 0, ""});
}

int unlinkat(int at, const char* path, int flags) {
  return rec::Done(syscall(SYS_unlinkat, at, path, flags),
                   {FileCall::Kind::kRemove, rec::PathAt(at, path), "", 0, ""});
}

}  // extern "C"
