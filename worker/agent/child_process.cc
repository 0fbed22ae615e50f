#include "worker/agent/child_process.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "base/files.h"

namespace nibble::agent {
namespace {

constexpr int kLinkFd = 3;
constexpr int kMemoryFd = 4;

// Runs in the child between fork and exec: only async-signal-safe calls. Never returns.
[[noreturn]] void Execute(const char* program, const ChildFiles& files, int error_pipe,
                          pid_t parent) {
  setpgid(0, 0);
  // The parent may be dead before the request was made: then there is nobody to die with.
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent) _exit(127);
  sigset_t none;
  sigemptyset(&none);
  for (int signal = 1; signal < NSIG; ++signal) ::signal(signal, SIG_DFL);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  // gRPC's descriptors, above all: a trainer must not hold its worker's connections open.
  close_range(kLinkFd + 1, ~0u, CLOSE_RANGE_CLOEXEC);
  // Above them first, so that no dup2 overwrites a descriptor that is still to be placed.
  const int link = fcntl(files.link, F_DUPFD_CLOEXEC, 10);
  const int output = fcntl(files.output, F_DUPFD_CLOEXEC, 10);
  const int memory = files.memory < 0 ? -1 : fcntl(files.memory, F_DUPFD_CLOEXEC, 10);
  const int error = fcntl(error_pipe, F_DUPFD_CLOEXEC, 10);
  const int input = open("/dev/null", O_RDONLY | O_CLOEXEC);
  // dup2 clears close-on-exec.
  if (link >= 0 && output >= 0 && error >= 0 && input >= 0 && chdir(files.directory.c_str()) == 0 &&
      dup2(input, 0) == 0 && dup2(output, 1) == 1 && dup2(output, 2) == 2 &&
      dup2(link, kLinkFd) == kLinkFd && (memory < 0 || dup2(memory, kMemoryFd) == kMemoryFd)) {
    char link_option[] = "--link-fd";
    char link_value[] = "3";
    char memory_option[] = "--memory-fd";
    char memory_value[] = "4";
    char* arguments[] = {const_cast<char*>(program),           link_option,  link_value,
                         memory < 0 ? nullptr : memory_option, memory_value, nullptr};
    execv(program, arguments);
  }
  const int code = errno;
  if (write(error < 0 ? error_pipe : error, &code, sizeof(code)) < 0) _exit(126);
  _exit(127);
}

}  // namespace

absl::StatusOr<pid_t> StartChild(const std::string& program, const ChildFiles& files) {
  int error_pipe[2];  // closed by a successful exec
  if (pipe2(error_pipe, O_CLOEXEC) != 0) return ErrnoStatus(errno, "pipe for", program);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid == 0) Execute(program.c_str(), files, error_pipe[1], parent);
  const int fork_error = errno;
  close(error_pipe[1]);
  int code = pid < 0 ? fork_error : 0;
  if (pid > 0) {
    // Also here: whoever comes first, a signal to the group must find it.
    setpgid(pid, pid);
    ssize_t n;
    do {
      n = read(error_pipe[0], &code, sizeof(code));
    } while (n < 0 && errno == EINTR);
    if (n <= 0) code = 0;
  }
  close(error_pipe[0]);
  if (code == 0) return pid;
  if (pid > 0) waitpid(pid, nullptr, 0);
  return ErrnoStatus(code, pid < 0 ? "fork for" : "execute", program);
}

void AwaitDeath(pid_t pid) {
  siginfo_t info;
  while (waitid(P_PID, pid, &info, WEXITED | WNOWAIT) != 0 && errno == EINTR) {
  }
}

int ReapGroup(pid_t pid) {
  // The dead leader is not reaped yet, so its number cannot belong to a stranger's group.
  kill(-pid, SIGKILL);
  int leader_status = 0;
  while (true) {
    int status = 0;
    const pid_t reaped = waitpid(-pid, &status, 0);
    if (reaped == pid) leader_status = status;
    if (reaped < 0 && errno != EINTR) return leader_status;  // ECHILD: none is left
  }
}

int64_t OutOfMemoryKills() {
  // /proc files have no size, so base/files.h does not read them.
  FILE* file = fopen("/proc/vmstat", "re");
  if (file == nullptr) return 0;
  char line[128];
  int64_t kills = 0;
  while (fgets(line, sizeof(line), file) != nullptr) {
    const std::pair<std::string, std::string> field = absl::StrSplit(line, absl::MaxSplits(' ', 1));
    if (field.first == "oom_kill" && !absl::SimpleAtoi(field.second, &kills)) kills = 0;
  }
  fclose(file);
  return kills;
}

}  // namespace nibble::agent
