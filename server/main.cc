// nibbled: the daemon. Flags, signals, exit status; everything else is in daemon.cc.
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/log.h"
#include "base/paths.h"
#include "base/version.h"
#include "server/daemon.h"
#include "server/state_care.h"

namespace nibble::daemon {
namespace {

constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;

constexpr char kDescription[] =
    "nibbled takes pretraining jobs over gRPC, keeps them durably, schedules them, and hands them "
    "to\n"
    "nibble-worker processes. With --local-worker it runs one itself: the whole system with one\n"
    "command on one machine.";
constexpr char kFooter[] =
    "\nExamples:\n"
    "  nibbled --local-worker --slots 2\n"
    "      everything on this machine; submit with: nibble submit job.yaml\n"
    "  nibbled --listen 0.0.0.0:7878 --tls-cert d.pem --tls-key d.key --tls-client-ca ca.pem\n"
    "      for workers and users on other machines\n"
    "\nSignals: SIGTERM and SIGINT let the local worker checkpoint its trainers, then stop; a "
    "second\n"
    "one exits at once. kill -9 loses nothing that was acknowledged: trainers go on, and the next\n"
    "nibbled on the same --state-dir adopts them.\n"
    "Exit status: 0 stopped by a signal, 1 failed to start, 2 wrong usage, 74 the disk failed.";

struct Flags {
  DaemonOptions daemon;
  LogLevel log_level = LogLevel::kInfo;
  double lease_term_seconds = 15;
  std::string check_directory;
  std::string backup_name;
};

const std::map<std::string, LogLevel>& LogLevels() {
  static const std::map<std::string, LogLevel> levels = {{"debug", LogLevel::kDebug},
                                                         {"info", LogLevel::kInfo},
                                                         {"warning", LogLevel::kWarning},
                                                         {"error", LogLevel::kError}};
  return levels;
}

void AddServing(CLI::App* app, Flags* flags) {
  DaemonOptions* daemon = &flags->daemon;
  daemon->grpc.listen = {"127.0.0.1:7878"};
  daemon->metrics_listen = "127.0.0.1:7879";
  daemon->state_directory = DefaultStateDirectory();
  app->add_option("--listen", daemon->grpc.listen,
                  "Address of the API, HOST:PORT; may be given several times; port 0 picks a free "
                  "one. The default is reachable from this machine only")
      ->capture_default_str()
      ->group("Serving");
  app->add_option("--metrics-listen", daemon->metrics_listen,
                  "Address of /metrics for Prometheus; empty for none")
      ->capture_default_str()
      ->group("Serving");
  app->add_option("--state-dir", daemon->state_directory,
                  "Where jobs and metrics are kept; one daemon each")
      ->capture_default_str()
      ->group("Serving");
  app->add_option("--port-file", daemon->port_file,
                  "Write the addresses and the process id here as JSON once serving")
      ->group("Serving");
  app->add_flag("--reflection,!--no-reflection", daemon->grpc.reflection,
                "Answer gRPC server reflection (grpcurl and the like); on by default")
      ->group("Serving");
  app->add_option("--projects", daemon->projects_file,
                  "File (YAML, JSON, text proto) with the projects that share the slots")
      ->check(CLI::ExistingFile)
      ->group("Serving");
  app->add_option(
         "--max-job-slots", daemon->max_job_slots,
         "Most slots that a job may ask for; a nibble-worker trains jobs of one slot only, "
         "so more is for other kinds of workers")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str()
      ->group("Serving");
  app->add_option("--lease-term", flags->lease_term_seconds,
                  "Seconds a worker may be silent before its jobs go elsewhere")
      ->check(CLI::Range(0.2, 3600.0))
      ->capture_default_str()
      ->group("Serving");
}

void AddCare(CLI::App* app, Flags* flags) {
  app->add_option("--check", flags->check_directory,
                  "Verify this state directory, which no daemon may be using, say what is wrong, "
                  "and exit: 0 sound, 1 damaged")
      ->group("Care of the state");
  app->add_option("--backup", flags->backup_name,
                  "Copy the databases of --state-dir to backups/NAME in it, whether or not a daemon "
                  "is serving, and exit")
      ->group("Care of the state");
}

void AddSecurity(CLI::App* app, Flags* flags) {
  rpc::GrpcServerOptions* grpc = &flags->daemon.grpc;
  app->add_option("--tls-cert", grpc->tls.certificate, "PEM file of the daemon's certificate chain")
      ->group("Security");
  app->add_option("--tls-key", grpc->tls.key, "PEM file of its private key")->group("Security");
  app->add_option("--tls-client-ca", grpc->tls.client_ca,
                  "PEM file of the authority whose client certificates are demanded")
      ->group("Security");
  app->add_flag("--insecure", grpc->insecure,
                "Listen beyond loopback without TLS: whoever reaches the port can run jobs")
      ->group("Security");
}

void AddLocalWorker(CLI::App* app, Flags* flags) {
  DaemonOptions* daemon = &flags->daemon;
  app->add_flag("--local-worker", daemon->local_worker, "Run a nibble-worker beside the daemon")
      ->group("Local worker");
  app->add_option("--slots", daemon->local_slots, "Its slots: jobs that it trains at once")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str()
      ->group("Local worker");
  app->add_option("--data-dir", daemon->data_directory,
                  "Where it looks up relative data paths; default: " + DefaultDataDirectory())
      ->group("Local worker");
  app->add_option("--checkpoint-dir", daemon->local_work_directory,
                  "Its work directory, with the checkpoints; default: worker/ in --state-dir")
      ->group("Local worker");
}

// Descriptors bound the connections (one each): as many as the system lets us have.
void RaiseDescriptorLimit() {
  rlimit limit;
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

// Blocks SIGTERM and SIGINT in this thread and all that it starts.
sigset_t BlockStopSignals() {
  sigset_t signals;
  ::sigemptyset(&signals);
  ::sigaddset(&signals, SIGTERM);
  ::sigaddset(&signals, SIGINT);
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  return signals;
}

std::string Absolute(const std::string& path) {
  char* current = ::get_current_dir_name();
  const std::string base = current == nullptr ? "." : current;
  std::free(current);
  return path.empty() ? path : JoinPath(base, path);
}

int BackUp(const Flags& flags) {
  const auto copied = BackUpState(Absolute(flags.daemon.state_directory), flags.backup_name);
  if (!copied.ok()) {
    std::fprintf(stderr, "nibbled: %s\n", std::string(copied.status().message()).c_str());
    return kExitFailed;
  }
  std::printf("%s\n", copied->first.c_str());
  return 0;
}

int Run(Flags flags) {
  SetLogLevel(flags.log_level);
  RaiseDescriptorLimit();
  const sigset_t signals = BlockStopSignals();
  DaemonOptions& options = flags.daemon;
  options.lease_term_ms = static_cast<int64_t>(flags.lease_term_seconds * 1000);
  options.state_directory = Absolute(options.state_directory);
  options.data_directory = Absolute(options.data_directory);
  options.local_work_directory = Absolute(options.local_work_directory);
  auto daemon = Daemon::Start(options);
  if (!daemon.ok()) {
    std::fprintf(stderr, "nibbled: %s\n", std::string(daemon.status().message()).c_str());
    return kExitFailed;
  }
  int number = 0;
  ::sigwait(&signals, &number);
  NIBBLE_LOG(kInfo, absl::StrCat("signal ", number, ": shutting down; once more exits at once"));
  std::thread([signals] {
    int again = 0;
    ::sigwait(&signals, &again);
    std::_Exit(128 + again);
  }).detach();
  (*daemon)->ShutDown();
  daemon->reset();
  std::fflush(nullptr);
  std::_Exit(0);  // the thread above may be in sigwait
}

int Main(int argc, char** argv) {
  CLI::App app{kDescription, "nibbled"};
  app.footer(kFooter);
  app.set_version_flag("--version", absl::StrCat("nibbled ", kVersion, " (", kCommit, ")"));
  Flags flags;
  AddServing(&app, &flags);
  AddSecurity(&app, &flags);
  AddLocalWorker(&app, &flags);
  AddCare(&app, &flags);
  app.add_option("--log-level", flags.daemon.log_level, "debug, info, warning or error")
      ->check(CLI::IsMember({"debug", "info", "warning", "error"}))
      ->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kExitUsage;
  }
  flags.log_level = LogLevels().at(flags.daemon.log_level);
  if (!flags.check_directory.empty()) return CheckState(Absolute(flags.check_directory));
  if (!flags.backup_name.empty()) return BackUp(flags);
  return Run(std::move(flags));
}

}  // namespace
}  // namespace nibble::daemon

int main(int argc, char** argv) { return nibble::daemon::Main(argc, argv); }
