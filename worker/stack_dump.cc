#include "worker/stack_dump.h"

#include <execinfo.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>

#include "absl/debugging/symbolize.h"

// Everything that runs in a handler here is async-signal-safe: system calls, backtrace() after its
// first call (which loads libgcc), absl::Symbolize.
namespace nibble::worker {
namespace {

constexpr int kMaxFrames = 64;
constexpr int kAnswerMillis = 500;

std::atomic<bool> dumping{false};
std::atomic<bool> answered{false};

// A line that is written as a whole.
class Line {
 public:
  Line& Text(const char* text) {
    while (*text != '\0' && size_ < sizeof(buffer_) - 1) buffer_[size_++] = *text++;
    return *this;
  }
  Line& Number(int64_t value) {
    char digits[24];
    size_t n = sizeof(digits);
    digits[--n] = '\0';
    do {
      digits[--n] = static_cast<char>('0' + value % 10);
      value /= 10;
    } while (value > 0);
    return Text(digits + n);
  }
  void Write() {
    buffer_[size_++] = '\n';
    size_t done = 0;
    while (done < size_) {
      const ssize_t n = write(STDERR_FILENO, buffer_ + done, size_ - done);
      if (n < 0 && errno != EINTR) return;
      if (n > 0) done += static_cast<size_t>(n);
    }
  }

 private:
  char buffer_[512];
  size_t size_ = 0;
};

pid_t ThreadId() { return static_cast<pid_t>(syscall(SYS_gettid)); }

// The name of a thread.
void ReadName(pid_t thread, char* name, size_t size) {
  char path[64];
  std::memcpy(path, "/proc/self/task/", 17);
  size_t n = 16;
  char digits[16];
  size_t d = sizeof(digits);
  for (pid_t rest = thread; rest > 0; rest /= 10) digits[--d] = static_cast<char>('0' + rest % 10);
  while (d < sizeof(digits)) path[n++] = digits[d++];
  std::memcpy(path + n, "/comm", 6);
  name[0] = '\0';
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  const ssize_t got = read(fd, name, size - 1);
  close(fd);
  name[got > 0 ? got - 1 : 0] = '\0';  // without the line end
}

void DumpThisThread() {
  void* frames[kMaxFrames];
  const int count = backtrace(frames, kMaxFrames);
  char name[64];
  ReadName(ThreadId(), name, sizeof(name));
  Line().Text("thread ").Number(ThreadId()).Text(" (").Text(name).Text(")").Write();
  // The first two are this function and the handler.
  for (int i = 2; i < count; ++i) {
    char symbol[256];
    // A return address may be that of the next function.
    const char* const pc = static_cast<const char*>(frames[i]) - 1;
    const bool known = absl::Symbolize(pc, symbol, sizeof(symbol));
    Line().Text("    ").Text(known ? symbol : "(unknown)").Write();
  }
}

void DumpOtherThread(pid_t thread) {
  answered.store(false);
  if (syscall(SYS_tgkill, getpid(), thread, SIGUSR2) != 0) return;  // it has just ended
  for (int i = 0; i < kAnswerMillis && !answered.load(); ++i) {
    const timespec millisecond = {0, 1'000'000};
    nanosleep(&millisecond, nullptr);
  }
  if (!answered.load()) Line().Text("thread ").Number(thread).Text(" does not answer").Write();
}

void DumpAllThreads() {
  const int directory = open("/proc/self/task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (directory < 0) return;
  alignas(8) char entries[4096];
  long bytes;
  while ((bytes = syscall(SYS_getdents64, directory, entries, sizeof(entries))) > 0) {
    for (long at = 0; at < bytes;) {
      // struct linux_dirent64: inode (8 bytes), offset (8), record length (2), type (1), name.
      uint16_t length;
      std::memcpy(&length, entries + at + 16, sizeof(length));
      pid_t thread = 0;
      for (const char* c = entries + at + 19; *c >= '0' && *c <= '9'; ++c) {
        thread = thread * 10 + (*c - '0');
      }
      if (thread == ThreadId()) {
        DumpThisThread();
      } else if (thread != 0) {
        DumpOtherThread(thread);
      }
      at += length;
    }
  }
  close(directory);
}

void OnRequest(int) {
  const int saved = errno;
  if (!dumping.exchange(true)) {
    Line().Text("stacks of all threads, as asked for by signal:").Write();
    DumpAllThreads();
    Line().Text("end of the stacks").Write();
    dumping.store(false);
  }
  errno = saved;
}

void OnThread(int) {
  const int saved = errno;
  if (dumping.load()) DumpThisThread();
  answered.store(true);
  errno = saved;
}

}  // namespace

void DumpStacksOnSignal(const char* program) {
  absl::InitializeSymbolizer(program);
  void* frames[1];
  backtrace(frames, 1);
  struct sigaction action = {};
  action.sa_flags = SA_RESTART;
  action.sa_handler = OnThread;
  sigaction(SIGUSR2, &action, nullptr);
  action.sa_handler = OnRequest;
  sigaction(SIGUSR1, &action, nullptr);
}

}  // namespace nibble::worker
