#include "worker/agent/process_launcher.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <deque>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/log.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "worker/agent/child_process.h"
#include "worker/agent/log_capture.h"
#include "worker/agent/process_state.h"
#include "worker/link/frame.h"

namespace nibble::agent {
namespace {

// Reports that wait to be taken before the trainer is held up.
constexpr size_t kMaxWaitingReports = 1024;
// Log lines that wait to be taken before the oldest are dropped.
constexpr size_t kMaxWaitingLogs = 4096;

// Threads of one trainer: a supervisor that starts the child, waits for it and reaps it; and while
// it runs one that reads reports, one that writes commands and one that reads output.
class ChildTrainer : public TrainerProcess {
 public:
  ChildTrainer(std::string program, const Clock& clock, LaunchRequest request,
               std::function<void()> notify)
      : program_(std::move(program)),
        clock_(clock),
        request_(std::move(request)),
        notify_(std::move(notify)) {
    supervisor_ = std::thread([this] { Supervise(); });
  }

  ~ChildTrainer() override {
    {
      MutexLock lock(mutex_);
      discarding_ = true;
      changed_.SignalAll();
    }
    Signal(SIGKILL);
    supervisor_.join();
  }

  void Send(const v1::TrainerCommand& command) override {
    MutexLock lock(mutex_);
    if (over_) return;
    commands_.push_back(command);
    changed_.SignalAll();
  }

  std::vector<v1::TrainerReport> TakeReports(size_t max) override {
    MutexLock lock(mutex_);
    return Take(max, &reports_);
  }

  std::vector<LogEntry> TakeLogs(size_t max) override {
    MutexLock lock(mutex_);
    if (dropped_logs_ > 0) {
      logs_.push_front({clock_.WallMicros(), absl::StrCat("[", dropped_logs_, " lines dropped]")});
      dropped_logs_ = 0;
    }
    return Take(max, &logs_);
  }

  void Signal(int signal) override {
    MutexLock lock(mutex_);
    if (over_) return;
    if (pid_ > 0) {
      kill(-pid_, signal);
    } else {
      early_signal_ = signal;
    }
  }

  std::string DumpStacks() override {
    pid_t pid = 0;
    {
      MutexLock lock(mutex_);
      if (over_ || pid_ == 0) return "";
      pid = pid_;
    }
    const ProcessState state = ReadProcessState(pid, SIGUSR1);
    for (const std::string& line : state.threads) AddLog({clock_.WallMicros(), line});
    MutexLock lock(mutex_);
    // Only the trainer itself, and only if it has a handler: another would die of it.
    if (!over_ && state.handles_signal) kill(pid_, SIGUSR1);
    return state.stopped ? "stopped by a signal" : "";
  }

  std::optional<TrainerExit> exit() override {
    MutexLock lock(mutex_);
    return exit_;
  }

 private:
  template <typename T>
  std::vector<T> Take(size_t max, std::deque<T>* from) REQUIRES(mutex_) {
    const size_t n = std::min(max, from->size());
    std::vector<T> taken(std::make_move_iterator(from->begin()),
                         std::make_move_iterator(from->begin() + n));
    from->erase(from->begin(), from->begin() + n);
    changed_.SignalAll();
    return taken;
  }

  void Supervise() {
    TrainerExit end;
    end.launch_error = Run(&end);
    {
      MutexLock lock(mutex_);
      over_ = true;
      end.link_error = link_error_;
      exit_ = end;
    }
    notify_();
  }

  absl::Status Run(TrainerExit* end) {
    NIBBLE_RETURN_IF_ERROR(MakeDirectories(request_.attempt_directory));
    LogCapture logs(JoinPath(request_.attempt_directory, "trainer.log"), clock_,
                    [this](LogEntry entry) { AddLog(std::move(entry)); });
    NIBBLE_ASSIGN_OR_RETURN(const int output, logs.Open());
    int link[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, link) != 0) {
      close(output);
      return ErrnoStatus(errno, "socketpair for", program_);
    }
    const int64_t memory_kills = OutOfMemoryKills();
    const absl::StatusOr<pid_t> pid =
        StartChild(program_, {.link = link[1],
                              .output = output,
                              .memory = request_.memory == nullptr ? -1 : request_.memory->fd(),
                              .directory = request_.attempt_directory});
    // Only the child may hold these, or its end would not be seen.
    close(link[1]);
    close(output);
    if (pid.ok()) {
      Serve(*pid, link[0], logs, end);
      end->out_of_memory = OutOfMemoryKills() > memory_kills;
    }
    close(link[0]);
    return pid.status();
  }

  // From the start of the child until it and its group are reaped.
  void Serve(pid_t pid, int link, LogCapture& logs, TrainerExit* end) {
    {
      MutexLock lock(mutex_);
      pid_ = pid;
      v1::TrainerCommand start;
      *start.mutable_start() = request_.start;
      commands_.push_front(std::move(start));
      if (early_signal_ != 0) kill(-pid_, early_signal_);
    }
    std::thread reader([this, link] { ReadReports(link); });
    std::thread writer([this, link] { WriteCommands(link); });
    std::thread log_reader([&logs] { logs.Read(); });
    AwaitDeath(pid);
    {
      MutexLock lock(mutex_);
      over_ = true;  // from here on the process id may come to mean another process
      changed_.SignalAll();
    }
    const int status = ReapGroup(pid);
    if (WIFSIGNALED(status)) end->signal = WTERMSIG(status);
    if (WIFEXITED(status)) end->exit_code = WEXITSTATUS(status);
    // What was sent before stays readable; a process that escaped the group cannot hold this up.
    shutdown(link, SHUT_RDWR);
    logs.Finish();
    reader.join();
    writer.join();
    log_reader.join();
  }

  void ReadReports(int link) {
    while (true) {
      v1::TrainerReport report;
      const absl::StatusOr<bool> read = link::ReadFrame(link, &report);
      if (!read.ok()) {
        // A peer that died with unread commands shows as a reset: an ordinary end.
        if (!absl::IsUnavailable(read.status())) BreakLink(read.status());
        return;
      }
      if (!*read) return;
      bool first = false;
      {
        MutexLock lock(mutex_);
        while (reports_.size() >= kMaxWaitingReports && !discarding_) changed_.Wait(mutex_);
        if (discarding_) return;
        first = reports_.empty();
        reports_.push_back(std::move(report));
      }
      if (first) notify_();
    }
  }

  void BreakLink(const absl::Status& status) {
    {
      MutexLock lock(mutex_);
      // Killed in the middle of a frame: the kill is what to report.
      if (over_) return;
      link_error_ = status;
    }
    Signal(SIGKILL);
  }

  void WriteCommands(int link) {
    while (true) {
      v1::TrainerCommand command;
      {
        MutexLock lock(mutex_);
        while (commands_.empty() && !over_) changed_.Wait(mutex_);
        if (over_) return;
        command = std::move(commands_.front());
        commands_.pop_front();
      }
      const absl::Status status = link::WriteFrame(link, command);
      if (absl::IsInvalidArgument(status)) BreakLink(status);
      if (!status.ok()) return;  // the trainer is gone, or soon will be
    }
  }

  void AddLog(LogEntry entry) {
    bool first = false;
    {
      MutexLock lock(mutex_);
      first = logs_.empty();
      logs_.push_back(std::move(entry));
      if (logs_.size() > kMaxWaitingLogs) {
        logs_.pop_front();
        ++dropped_logs_;
      }
    }
    if (first) notify_();
  }

  const std::string program_;
  const Clock& clock_;
  const LaunchRequest request_;
  const std::function<void()> notify_;

  Mutex mutex_;
  CondVar changed_;
  pid_t pid_ GUARDED_BY(mutex_) = 0;
  bool over_ GUARDED_BY(mutex_) = false;        // dead: no signal, no command
  bool discarding_ GUARDED_BY(mutex_) = false;  // being destroyed: nobody takes reports
  int early_signal_ GUARDED_BY(mutex_) = 0;     // sent before there was a process
  absl::Status link_error_ GUARDED_BY(mutex_);
  std::deque<v1::TrainerCommand> commands_ GUARDED_BY(mutex_);
  std::deque<v1::TrainerReport> reports_ GUARDED_BY(mutex_);
  std::deque<LogEntry> logs_ GUARDED_BY(mutex_);
  int64_t dropped_logs_ GUARDED_BY(mutex_) = 0;
  std::optional<TrainerExit> exit_ GUARDED_BY(mutex_);
  std::thread supervisor_;
};

}  // namespace

void BecomeReaper() { prctl(PR_SET_CHILD_SUBREAPER, 1); }

std::shared_ptr<snapshot::TrainerMemory> ProcessLauncher::MakeMemory() {
  auto memory = snapshot::TrainerMemory::Create();
  if (memory.ok()) return *std::move(memory);
  NIBBLE_LOG(kWarning, absl::StrCat("no snapshots: ", memory.status().ToString()));
  return nullptr;
}

std::unique_ptr<TrainerProcess> ProcessLauncher::Launch(const LaunchRequest& request,
                                                        std::function<void()> notify) {
  return std::make_unique<ChildTrainer>(trainer_, clock_, request, std::move(notify));
}

}  // namespace nibble::agent
