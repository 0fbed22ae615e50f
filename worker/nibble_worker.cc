// nibble-worker: runs the training jobs that a nibbled assigns to this host.

#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <fstream>
#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/files.h"
#include "base/log.h"
#include "base/paths.h"
#include "base/random.h"
#include "base/status_macros.h"
#include "base/version.h"
#include "worker/agent/agent.h"
#include "worker/agent/event_loop.h"
#include "worker/agent/grpc_daemon_link.h"
#include "worker/agent/process_launcher.h"
#include "worker/agent/task_runner.h"
#include "worker/agent/work_directory.h"

namespace nibble::agent {
namespace {

constexpr int kExitOk = 0;
constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;
constexpr int kExitLocked = 4;

constexpr char kDescription[] =
    "Runs training jobs for a nibbled: connects to it, offers this host's slots, and starts one\n"
    "nibble-trainer for each job that the daemon assigns. Losing the daemon stops no training; "
    "the\n"
    "worker reconnects by itself. SIGTERM or Ctrl-C: every trainer writes a checkpoint and its "
    "job\n"
    "goes back to the queue; a second one kills the trainers.";
constexpr char kFooter[] =
    "\nExamples:\n"
    "  nibble-worker --daemon 127.0.0.1:7878\n"
    "  nibble-worker --daemon unix:/run/nibble/nibbled.sock --slots 2 --work-dir /var/lib/nibble\n"
    "  nibble-worker --daemon train.example:7878 --tls-ca ca.pem --tls-cert w.pem --tls-key w.key\n"
    "\nExit codes: 0 ended when told to, 1 failed, 2 wrong usage, 4 another worker uses "
    "--work-dir.";

struct Flags {
  std::string daemon;
  std::string worker_id;
  std::string work_dir = DefaultStateDirectory() + "/worker";
  std::string data_dir = DefaultDataDirectory();
  std::string trainer;
  std::string host;
  TlsFiles tls;
  int slots = 1;
  std::vector<std::string> labels;
  double orphan_limit_seconds = 1800;
  LogLevel log_level = LogLevel::kInfo;
};

std::string HostName() {
  char name[HOST_NAME_MAX + 1] = {};
  return gethostname(name, sizeof(name) - 1) == 0 ? name : "unknown";
}

// The program `nibble-trainer` in the directory of this one.
std::string TrainerBeside() {
  char self[PATH_MAX];
  const ssize_t n = readlink("/proc/self/exe", self, sizeof(self));
  const std::string path(self, n > 0 ? n : 0);
  return path.substr(0, path.rfind('/') + 1) + "nibble-trainer";
}

std::string AbsolutePath(const std::string& path) {
  char current[PATH_MAX];
  return getcwd(current, sizeof(current)) == nullptr ? path : JoinPath(current, path);
}

std::string ProcessorName() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("model name", 0) == 0 && line.find(": ") != std::string::npos) {
      return line.substr(line.find(": ") + 2);
    }
  }
  return "unknown processor";
}

// Of this machine; 0 for unknown.
int64_t MemoryBytes() {
  const int64_t pages = sysconf(_SC_PHYS_PAGES);
  const int64_t page_bytes = sysconf(_SC_PAGESIZE);
  return pages > 0 && page_bytes > 0 ? pages * page_bytes : 0;
}

absl::StatusOr<std::map<std::string, std::string>> Labels(const std::vector<std::string>& flags) {
  std::map<std::string, std::string> labels;
  for (const std::string& flag : flags) {
    const size_t equals = flag.find('=');
    if (equals == std::string::npos || equals == 0) {
      return absl::InvalidArgumentError(absl::StrCat("--label ", flag, "; allowed: KEY=VALUE"));
    }
    labels[flag.substr(0, equals)] = flag.substr(equals + 1);
  }
  return labels;
}

void AddFlags(CLI::App& app, Flags& flags) {
  app.set_version_flag("--version", absl::StrCat("nibble-worker ", kVersion, " (", kCommit, ")"));
  app.add_option("--daemon", flags.daemon, "Address of the nibbled: host:port or unix:/path")
      ->required();
  app.add_option("--slots", flags.slots, "Slots to offer: jobs that may run here at once")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_option("--label", flags.labels,
                 "KEY=VALUE that scheduling.constraints of jobs may ask for; may be given several "
                 "times")
      ->expected(1)
      ->allow_extra_args(false)
      ->take_all();
  app.add_option("--work-dir", flags.work_dir, "Checkpoints and logs of the jobs; one worker each")
      ->capture_default_str();
  app.add_option("--data-dir", flags.data_dir, "Where relative data paths of jobs are looked up")
      ->capture_default_str();
  app.add_option("--worker-id", flags.worker_id,
                 "Name of this worker, unique at its daemon and stable over restarts; default: a "
                 "random one kept in the work directory");
  app.add_option("--host", flags.host, "Host name to show; default: this machine's");
  app.add_option("--trainer", flags.trainer,
                 "The nibble-trainer to run; default: the one beside this program");
  app.add_option("--tls-ca", flags.tls.ca, "PEM file of the authority that signed the daemon");
  app.add_option("--tls-cert", flags.tls.cert, "PEM file of this worker's certificate");
  app.add_option("--tls-key", flags.tls.key, "PEM file of its private key");
  app.add_option("--orphan-limit", flags.orphan_limit_seconds,
                 "Kill trainers after so many seconds without a daemon")
      ->check(CLI::Range(1.0, 1e6))
      ->capture_default_str();
  const std::map<std::string, LogLevel> levels = {{"debug", LogLevel::kDebug},
                                                  {"info", LogLevel::kInfo},
                                                  {"warning", LogLevel::kWarning},
                                                  {"error", LogLevel::kError}};
  app.add_option("--log-level", flags.log_level, "debug, info, warning or error")
      ->transform(CLI::CheckedTransformer(levels, CLI::ignore_case).description(""))
      ->default_str("info");
}

// Turns SIGTERM, SIGINT and SIGHUP into shutdowns on the loop. Made before any other thread, which
// inherits the blocked signals.
class SignalThread {
 public:
  SignalThread() {
    sigemptyset(&set_);
    for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGUSR1}) sigaddset(&set_, signal);
    pthread_sigmask(SIG_BLOCK, &set_, nullptr);
    signal(SIGPIPE, SIG_IGN);
  }
  void Start(EventLoop& loop, Agent& agent) {
    thread_ = std::thread([this, &loop, &agent] {
      while (true) {
        int number = 0;
        if (sigwait(&set_, &number) != 0 || ending_) return;
        if (number != SIGUSR1) loop.Post([&agent] { agent.ShutDown(); });
      }
    });
  }
  ~SignalThread() {
    if (!thread_.joinable()) return;
    ending_ = true;
    pthread_kill(thread_.native_handle(), SIGUSR1);
    thread_.join();
  }

 private:
  sigset_t set_;
  std::atomic<bool> ending_{false};
  std::thread thread_;
};

absl::Status RunWorker(const Flags& flags, const WorkDirectory& directory) {
  if (access(flags.trainer.c_str(), X_OK) != 0) {
    return absl::NotFoundError(absl::StrCat("no program at ", flags.trainer, ": see --trainer"));
  }
  NIBBLE_RETURN_IF_ERROR(directory.RemoveUnfinished());
  std::string worker_id = flags.worker_id;
  if (worker_id.empty()) {
    NIBBLE_ASSIGN_OR_RETURN(worker_id, directory.WorkerId(SystemRandom()));
  }
  BecomeReaper();
  SignalThread signals;
  EventLoop loop(RealClock());
  ThreadTaskRunner tasks;
  NIBBLE_ASSIGN_OR_RETURN(const std::unique_ptr<DaemonLink> link,
                          MakeGrpcDaemonLink(flags.daemon, flags.tls));
  ProcessLauncher launcher(flags.trainer);
  AttemptContext context;
  context.worker_id = worker_id;
  context.incarnation = MakeId("i-", SystemRandom());
  context.data_directory = flags.data_dir;
  context.clock = &RealClock();
  context.random = &SystemRandom();
  context.loop = &loop;
  context.link = link.get();
  context.launcher = &launcher;
  context.tasks = &tasks;
  context.directory = &directory;
  AgentOptions options;
  options.host = flags.host;
  options.device_kind = "cpu";
  options.device_name = ProcessorName();
  options.version = kVersion;
  options.slots = flags.slots;
  options.slot_memory_bytes = MemoryBytes() / flags.slots;
  NIBBLE_ASSIGN_OR_RETURN(options.labels, Labels(flags.labels));
  options.orphan_limit_nanos = static_cast<int64_t>(flags.orphan_limit_seconds * 1e9);
  Agent agent(options, context);
  signals.Start(loop, agent);
  NIBBLE_LOG(kInfo, absl::StrCat("worker ", worker_id, " of ", flags.slots, " slots, daemon ",
                                 flags.daemon, ", work directory ", directory.path()));
  while (!agent.done()) {
    agent.Tick();
    loop.WaitUntil(agent.NextTick());
    loop.RunPending();
  }
  return agent.result();
}

int Main(int argc, char** argv) {
  Flags flags;
  CLI::App app(kDescription, "nibble-worker");
  app.footer(kFooter);
  AddFlags(app, flags);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kExitOk : kExitUsage;
  }
  if (!flags.worker_id.empty() && !WorkDirectory::IsId(flags.worker_id)) {
    std::cerr << "--worker-id: allowed are 1 to 128 of A-Z a-z 0-9 . _ -\n";
    return kExitUsage;
  }
  if (flags.trainer.empty()) flags.trainer = TrainerBeside();
  if (flags.host.empty()) flags.host = HostName();
  flags.data_dir = AbsolutePath(flags.data_dir);
  flags.trainer = AbsolutePath(flags.trainer);
  SetLogLevel(flags.log_level);
  const absl::StatusOr<WorkDirectory> directory = WorkDirectory::Open(flags.work_dir);
  const absl::Status status = directory.ok() ? RunWorker(flags, *directory) : directory.status();
  if (status.ok()) return kExitOk;
  std::cerr << "nibble-worker: " << EscapeControlCharacters(status.message()) << "\n";
  if (absl::IsFailedPrecondition(directory.status())) return kExitLocked;
  return absl::IsInvalidArgument(status) ? kExitUsage : kExitFailed;
}

}  // namespace
}  // namespace nibble::agent

int main(int argc, char** argv) { return nibble::agent::Main(argc, argv); }
