#include "worker/agent/work_directory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdlib>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/check.h"
#include "base/files.h"
#include "base/status_macros.h"

namespace nibble::agent {
namespace {

constexpr size_t kMaxIdBytes = 128;

// N of "<prefix>N", or -1.
int64_t NumberAfter(absl::string_view prefix, absl::string_view name) {
  int64_t number = 0;
  if (!absl::ConsumePrefix(&name, prefix) || !absl::SimpleAtoi(name, &number)) return -1;
  return number;
}

// Directories only: a symbolic link is never entered.
bool IsDirectory(const std::string& path) {
  struct stat info;
  return lstat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

// Names of the directories in `path`; empty where it does not exist.
absl::StatusOr<std::vector<std::string>> Directories(const std::string& path) {
  std::vector<std::string> directories;
  if (!IsDirectory(path)) return directories;
  NIBBLE_ASSIGN_OR_RETURN(std::vector<std::string> names, ListDirectory(path));
  for (std::string& name : names) {
    if (IsDirectory(JoinPath(path, name))) directories.push_back(std::move(name));
  }
  return directories;
}

absl::StatusOr<int> Lock(const std::string& path) {
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) return ErrnoStatus(errno, "open", path);
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    const int error = errno;
    close(fd);
    if (error != EWOULDBLOCK) return ErrnoStatus(error, "lock", path);
    const absl::StatusOr<std::string> holder = ReadFile(path, 64);
    return absl::FailedPreconditionError(
        absl::StrCat("another worker", holder.ok() && !holder->empty() ? " (process " : "",
                     holder.ok() ? std::string(absl::StripAsciiWhitespace(*holder)) : "",
                     holder.ok() && !holder->empty() ? ")" : "", " has locked ", path,
                     ": stop it, or choose another --work-dir"));
  }
  const std::string pid = absl::StrCat(getpid(), "\n");
  if (ftruncate(fd, 0) != 0 || pwrite(fd, pid.data(), pid.size(), 0) < 0) {
    const int error = errno;
    close(fd);
    return ErrnoStatus(error, "write", path);
  }
  return fd;
}

}  // namespace

bool WorkDirectory::IsId(absl::string_view id) {
  if (id.empty() || id.size() > kMaxIdBytes || id[0] == '.') return false;
  for (const char c : id) {
    if (!absl::ascii_isalnum(c) && c != '.' && c != '_' && c != '-') return false;
  }
  return true;
}

absl::StatusOr<WorkDirectory> WorkDirectory::Open(const std::string& path) {
  NIBBLE_RETURN_IF_ERROR(MakeDirectories(path));
  // Checkpoint paths must mean the same in the trainer, in the daemon's records and after a change
  // of the current directory.
  char resolved[PATH_MAX];
  if (realpath(path.c_str(), resolved) == nullptr) return ErrnoStatus(errno, "resolve", path);
  NIBBLE_ASSIGN_OR_RETURN(const int fd, Lock(JoinPath(resolved, "lock")));
  WorkDirectory directory(resolved, fd);
  NIBBLE_RETURN_IF_ERROR(MakeDirectories(directory.JobsDirectory()));
  return directory;
}

WorkDirectory::WorkDirectory(WorkDirectory&& other) noexcept
    : path_(std::move(other.path_)), lock_fd_(std::exchange(other.lock_fd_, -1)) {}

WorkDirectory::~WorkDirectory() {
  if (lock_fd_ >= 0) close(lock_fd_);
}

absl::StatusOr<std::string> WorkDirectory::WorkerId(RandomSource& random) const {
  const std::string file = JoinPath(path_, "worker_id");
  absl::StatusOr<std::string> contents = ReadFile(file, 4096);
  if (absl::IsNotFound(contents.status())) {
    const std::string id = MakeId("w-", random);
    NIBBLE_RETURN_IF_ERROR(ReplaceFileDurably(file, id + "\n"));
    return id;
  }
  NIBBLE_RETURN_IF_ERROR(contents.status());
  const std::string id(absl::StripAsciiWhitespace(*contents));
  if (!IsId(id)) {
    return absl::DataLossError(absl::StrCat(
        file,
        " does not hold a worker id: 1 to 128 of A-Z a-z 0-9 . _ -; remove it for a new one"));
  }
  return id;
}

std::string WorkDirectory::AttemptDirectory(absl::string_view job_id, int64_t attempt) const {
  NIBBLE_CHECK(IsId(job_id));
  return absl::StrCat(JobsDirectory(), "/", job_id, "/attempt-", attempt);
}

bool WorkDirectory::HasAttempt(absl::string_view job_id, int64_t attempt) const {
  return FileExists(AttemptDirectory(job_id, attempt));
}

absl::Status WorkDirectory::RemoveCheckpoints(absl::string_view job_id, CheckpointKey newest,
                                              const std::set<CheckpointKey>& retained) const {
  NIBBLE_CHECK(IsId(job_id));
  const std::string job = JoinPath(JobsDirectory(), job_id);
  NIBBLE_ASSIGN_OR_RETURN(const std::vector<std::string> attempts, Directories(job));
  for (const std::string& attempt_name : attempts) {
    const int64_t attempt = NumberAfter("attempt-", attempt_name);
    if (attempt < 0) continue;
    const std::string directory = JoinPath(job, attempt_name);
    NIBBLE_ASSIGN_OR_RETURN(const std::vector<std::string> steps, Directories(directory));
    for (const std::string& step_name : steps) {
      const int64_t step = NumberAfter("step-", step_name);
      const CheckpointKey key(attempt, step);
      if (step < 0 || key > newest || retained.contains(key)) continue;
      NIBBLE_RETURN_IF_ERROR(RemoveTree(JoinPath(directory, step_name)));
    }
  }
  return absl::OkStatus();
}

absl::Status WorkDirectory::Quarantine(absl::string_view job_id, CheckpointKey checkpoint) const {
  const std::string path =
      absl::StrCat(AttemptDirectory(job_id, checkpoint.first), "/step-", checkpoint.second);
  if (!FileExists(path)) return absl::OkStatus();
  const std::string aside = path + ".damaged";
  NIBBLE_RETURN_IF_ERROR(RemoveTree(aside));
  return RenameDurably(path, aside);
}

absl::Status WorkDirectory::RemoveUnfinished() const {
  NIBBLE_ASSIGN_OR_RETURN(const std::vector<std::string> jobs, Directories(JobsDirectory()));
  for (const std::string& job : jobs) {
    const std::string job_path = JoinPath(JobsDirectory(), job);
    NIBBLE_ASSIGN_OR_RETURN(const std::vector<std::string> attempts, Directories(job_path));
    for (const std::string& attempt : attempts) {
      const std::string attempt_path = JoinPath(job_path, attempt);
      NIBBLE_ASSIGN_OR_RETURN(const std::vector<std::string> names, Directories(attempt_path));
      for (const std::string& name : names) {
        if (!absl::EndsWith(name, ".tmp")) continue;
        NIBBLE_RETURN_IF_ERROR(RemoveTree(JoinPath(attempt_path, name)));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status WorkDirectory::RemoveJob(absl::string_view job_id) const {
  if (!IsId(job_id)) return absl::InvalidArgumentError("not a job id");
  return RemoveTree(JoinPath(JobsDirectory(), job_id));
}

}  // namespace nibble::agent
