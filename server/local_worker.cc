#include "server/local_worker.h"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/files.h"
#include "base/log.h"
#include "base/status_macros.h"

extern char** environ;

namespace nibble::daemon {
namespace {

constexpr int64_t kMillis = 1'000'000;
constexpr int64_t kPollNanos = 100 * kMillis;
constexpr int64_t kFirstBackoffNanos = 500 * kMillis;
constexpr int64_t kMaxBackoffNanos = 30'000 * kMillis;
// A worker that ran this long is not in a crash loop.
constexpr int64_t kHealthyNanos = 60'000 * kMillis;
constexpr int64_t kMaxLogBytes = 16 << 20;

int64_t Now() { return RealClock().MonotonicNanos(); }

// One earlier log is kept.
void RotateLog(const std::string& path) {
  struct stat info;
  if (::stat(path.c_str(), &info) == 0 && info.st_size > kMaxLogBytes) {
    ::rename(path.c_str(), (path + ".1").c_str());
  }
}

// The attributes and file actions of a worker: a session of its own, so that a terminal's Ctrl-C
// reaches the daemon alone; no signal blocked or ignored; no descriptor of ours, of which one is
// the lock of the state directory; output to a file, since the daemon's may go with the daemon.
class SpawnSettings {
 public:
  explicit SpawnSettings(const std::string& log_path) {
    ::posix_spawnattr_init(&attributes_);
    sigset_t none, all;
    ::sigemptyset(&none);
    ::sigfillset(&all);
    ::posix_spawnattr_setsigmask(&attributes_, &none);
    ::posix_spawnattr_setsigdefault(&attributes_, &all);
    ::posix_spawnattr_setflags(&attributes_,
                               POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    ::posix_spawn_file_actions_init(&actions_);
    ::posix_spawn_file_actions_addopen(&actions_, 0, "/dev/null", O_RDONLY, 0);
    ::posix_spawn_file_actions_addopen(&actions_, 1, log_path.c_str(),
                                       O_WRONLY | O_CREAT | O_APPEND, 0644);
    ::posix_spawn_file_actions_adddup2(&actions_, 1, 2);
    ::posix_spawn_file_actions_addclosefrom_np(&actions_, 3);
  }
  ~SpawnSettings() {
    ::posix_spawn_file_actions_destroy(&actions_);
    ::posix_spawnattr_destroy(&attributes_);
  }
  SpawnSettings(const SpawnSettings&) = delete;
  SpawnSettings& operator=(const SpawnSettings&) = delete;

  posix_spawnattr_t attributes_;
  posix_spawn_file_actions_t actions_;
};

}  // namespace

std::string ProgramBeside(const std::string& name) {
  char self[PATH_MAX];
  const ssize_t size = ::readlink("/proc/self/exe", self, sizeof(self));
  const std::string path(self, size > 0 ? static_cast<size_t>(size) : 0);
  return path.substr(0, path.rfind('/') + 1) + name;
}

absl::StatusOr<std::unique_ptr<LocalWorker>> LocalWorker::Start(LocalWorkerOptions options) {
  if (::access(options.program.c_str(), X_OK) != 0) {
    return absl::NotFoundError(absl::StrCat("no program at ", options.program,
                                            ", which --local-worker needs beside nibbled"));
  }
  NIBBLE_RETURN_IF_ERROR(MakeDirectories(options.work_directory));
  auto worker = std::unique_ptr<LocalWorker>(new LocalWorker(std::move(options)));
  worker->thread_ = std::thread([raw = worker.get()] { raw->Watch(); });
  return worker;
}

LocalWorker::~LocalWorker() {
  {
    MutexLock lock(mutex_);
    stopped_ = true;
    wake_.SignalAll();
  }
  thread_.join();
}

void LocalWorker::StopRestarting() {
  MutexLock lock(mutex_);
  restarting_ = false;
}

void LocalWorker::Watch() {
  MutexLock lock(mutex_);
  while (!stopped_) {
    WatchOnce();
    wake_.WaitForNanos(mutex_, kPollNanos);
  }
}

void LocalWorker::WatchOnce() {
  Reap();
  if (child_ != 0 || !restarting_ || Now() < next_spawn_nanos_) return;
  if (LockIsHeld()) {
    if (!adopted_logged_) {
      NIBBLE_LOG(kInfo, absl::StrCat("the local worker of an earlier daemon still runs (process ",
                                     ProcessId(), "); it will register again"));
    }
    adopted_logged_ = true;
    return;
  }
  adopted_logged_ = false;
  const absl::Status spawned = Spawn();
  spawned_nanos_ = Now();
  if (!spawned.ok()) {
    NIBBLE_LOG(kError, absl::StrCat("cannot start the local worker: ", spawned.message()));
    backoff_nanos_ = std::clamp(backoff_nanos_ * 2, kFirstBackoffNanos, kMaxBackoffNanos);
    next_spawn_nanos_ = Now() + backoff_nanos_;
  }
}

void LocalWorker::Reap() {
  if (child_ == 0) return;
  int status = 0;
  const pid_t ended = ::waitpid(child_, &status, WNOHANG);
  if (ended == 0 || (ended < 0 && errno == EINTR)) return;
  backoff_nanos_ = Now() - spawned_nanos_ >= kHealthyNanos
                       ? kFirstBackoffNanos
                       : std::clamp(backoff_nanos_ * 2, kFirstBackoffNanos, kMaxBackoffNanos);
  next_spawn_nanos_ = Now() + backoff_nanos_;
  const std::string how = WIFSIGNALED(status)
                              ? absl::StrCat("was killed by signal ", WTERMSIG(status))
                              : absl::StrCat("exited with status ", WEXITSTATUS(status));
  const std::string message = absl::StrCat("the local worker (process ", child_, ") ", how);
  child_ = 0;
  if (restarting_) {
    NIBBLE_LOG(kWarning, absl::StrCat(message, "; the next starts in ", backoff_nanos_ / kMillis,
                                      " ms. Its log: ", options_.work_directory, "/worker.log"));
  } else {
    NIBBLE_LOG(kInfo, message);
  }
}

absl::Status LocalWorker::Spawn() {
  std::vector<std::string> arguments = {
      options_.program,        "--daemon",        options_.daemon_address,
      "--worker-id",           kLocalWorkerId,    "--work-dir",
      options_.work_directory, "--slots",         absl::StrCat(options_.slots),
      "--log-level",           options_.log_level};
  if (!options_.data_directory.empty()) {
    arguments.insert(arguments.end(), {"--data-dir", options_.data_directory});
  }
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  const std::string log_path = options_.work_directory + "/worker.log";
  RotateLog(log_path);
  const SpawnSettings settings(log_path);
  const int error = ::posix_spawn(&child_, options_.program.c_str(), &settings.actions_,
                                  &settings.attributes_, argv.data(), environ);
  if (error != 0) {
    child_ = 0;
    return ErrnoStatus(error, "start", options_.program);
  }
  NIBBLE_LOG(kInfo, absl::StrCat("started the local worker, process ", child_, ", ", options_.slots,
                                 " slots, log ", log_path));
  return absl::OkStatus();
}

bool LocalWorker::LockIsHeld() const {
  const int fd = ::open((options_.work_directory + "/lock").c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  // Shared, and given back at once. A worker that starts in this very moment would find it taken
  // and be started again.
  const bool held = ::flock(fd, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
  ::close(fd);
  return held;
}

pid_t LocalWorker::ProcessId() {
  if (child_ != 0) return child_;
  const absl::StatusOr<std::string> text = ReadFile(options_.work_directory + "/lock", 64);
  int pid = 0;
  if (!text.ok() || !absl::SimpleAtoi(absl::StripAsciiWhitespace(*text), &pid) || pid <= 1)
    return 0;
  return pid;
}

bool LocalWorker::IsRunning() {
  Reap();
  return child_ != 0 || LockIsHeld();
}

void LocalWorker::WaitForExit(int64_t patience_nanos) {
  const int64_t start = Now();
  int sent = 0;
  MutexLock lock(mutex_);
  while (IsRunning()) {
    const int64_t waited = Now() - start;
    const int signal = waited >= patience_nanos * 3 / 2 ? SIGKILL
                       : waited >= patience_nanos       ? SIGTERM
                                                        : 0;
    const pid_t pid = ProcessId();
    if (signal != sent && signal != 0 && pid != 0) {
      NIBBLE_LOG(kWarning, absl::StrCat("the local worker (process ", pid, ") still runs: ",
                                        signal == SIGKILL ? "killing it" : "sending SIGTERM"));
      ::kill(pid, signal);
      sent = signal;
    }
    if (waited >= patience_nanos * 2) return;
    wake_.WaitForNanos(mutex_, kPollNanos / 4);
  }
}

}  // namespace nibble::daemon
