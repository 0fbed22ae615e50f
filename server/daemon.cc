#include "server/daemon.h"

#include <grpcpp/impl/codegen/service_type.h>
#include <unistd.h>

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/clock.h"
#include "base/files.h"
#include "base/log.h"
#include "base/random.h"
#include "base/status_macros.h"
#include "base/version.h"
#include "server/coordinator/coordinator.h"
#include "server/coordinator/record_appender.h"
#include "server/projects_file.h"
#include "server/rpc/conversions.h"
#include "server/rpc/services.h"
#include "server/state_care.h"
#include "server/store/sqlite_store.h"
#include "server/store/state_directory.h"
#include "server/telemetry/prometheus_telemetry.h"

namespace nibble::daemon {
namespace {

// Reads and appends that block on SQLite. Its two threads (one a database) do the work; more of
// ours only let more calls share a commit.
constexpr int kPoolThreads = 8;
constexpr size_t kMaxWaitingWork = 4096;
constexpr int64_t kWorkerPatienceNanos = 20'000'000'000;
constexpr double kCallGraceSeconds = 0.5;

std::string SocketPath(const std::string& state_directory) {
  return state_directory + "/nibbled.sock";
}

// R4: nothing is flushed or answered any more; the next start recovers from what is on disk.
void ExitStoreFailed(const absl::Status& status) {
  NIBBLE_LOG(kError, absl::StrCat("the store failed, exiting: ", status.ToString()));
  std::_Exit(kExitStoreFailed);
}

absl::Status WritePortFile(const DaemonOptions& options, const std::vector<std::string>& addresses,
                           const std::string& metrics_address) {
  if (options.port_file.empty()) return absl::OkStatus();
  nlohmann::json ports;
  ports["grpc"] = addresses.empty() ? "" : addresses[0];
  ports["grpc_all"] = addresses;
  ports["unix"] = options.grpc.unix_socket;
  ports["metrics"] = metrics_address;
  ports["pid"] = ::getpid();
  return ReplaceFileDurably(options.port_file, ports.dump(2) + "\n");
}

absl::StatusOr<std::string> ServeMetrics(const std::string& address,
                                         telemetry::PrometheusTelemetry* telemetry) {
  if (address.empty()) return std::string();
  NIBBLE_ASSIGN_OR_RETURN(const int port, telemetry->Serve(address));
  return absl::StrCat(address.substr(0, address.rfind(':')), ":", port);
}

}  // namespace

// In the order of construction; destroyed in reverse.
struct Daemon::Parts {
  explicit Parts(store::StateDirectoryLock state_lock) : lock(std::move(state_lock)) {}

  store::StateDirectoryLock lock;
  telemetry::PrometheusTelemetry telemetry{{kVersion, kCommit}};
  std::string metrics_address;
  std::vector<std::string> projects = {scheduler::kDefaultProject};
  std::unique_ptr<store::Store> store;
  std::unique_ptr<store::MetricStore> metric_store;
  std::unique_ptr<coordinator::WorkPool> pool;
  std::unique_ptr<coordinator::Coordinator> coordinator;
  std::unique_ptr<coordinator::RecordAppender> appender;
  std::unique_ptr<rpc::TrainingApi> training_api;
  std::unique_ptr<rpc::WorkerApi> worker_api;
  std::unique_ptr<grpc::Service> training_service;
  std::unique_ptr<grpc::Service> worker_service;
  std::unique_ptr<rpc::GrpcServer> server;
  std::unique_ptr<LocalWorker> local_worker;

  absl::Status OpenStores();
  absl::Status StartCoordinator(const DaemonOptions& options);
  absl::Status StartServer(const DaemonOptions& options);
  absl::Status StartLocalWorker(const DaemonOptions& options);
};

absl::Status Daemon::Parts::OpenStores() {
  NIBBLE_ASSIGN_OR_RETURN(store, store::OpenSqliteStore(lock.jobs_database()));
  NIBBLE_ASSIGN_OR_RETURN(metric_store, store::OpenSqliteMetricStore(lock.metrics_database()));
  return absl::OkStatus();
}

absl::Status Daemon::Parts::StartCoordinator(const DaemonOptions& options) {
  pool = std::make_unique<coordinator::WorkPool>(kPoolThreads, kMaxWaitingWork);
  coordinator::CoordinatorOptions coordinator_options;
  coordinator_options.scheduler.lease_term_nanos = options.lease_term_ms * 1'000'000;
  if (!options.projects_file.empty()) {
    NIBBLE_RETURN_IF_ERROR(ReadProjectsFile(options.projects_file, &coordinator_options.scheduler));
  }
  for (const auto& project : coordinator_options.scheduler.projects) {
    if (project.name != scheduler::kDefaultProject) projects.push_back(project.name);
  }
  coordinator::CoordinatorParts parts;
  parts.store = store.get();
  parts.metric_store = metric_store.get();
  parts.telemetry = &telemetry;
  parts.clock = &RealClock();
  parts.pool = pool.get();
  parts.random = &SystemRandom();
  parts.recipe_of = rpc::RecipeOf;
  parts.on_fatal = ExitStoreFailed;
  NIBBLE_ASSIGN_OR_RETURN(coordinator,
                          coordinator::Coordinator::Start(coordinator_options, std::move(parts)));
  appender = std::make_unique<coordinator::RecordAppender>(coordinator.get(), metric_store.get(),
                                                           &telemetry, pool.get());
  return absl::OkStatus();
}

absl::Status Daemon::Parts::StartServer(const DaemonOptions& options) {
  rpc::ApiParts parts;
  parts.coordinator = coordinator.get();
  parts.appender = appender.get();
  parts.store = store.get();
  parts.metric_store = metric_store.get();
  parts.pool = pool.get();
  parts.version = kVersion;
  parts.commit = kCommit;
  parts.random = &SystemRandom();
  parts.start_micros = RealClock().WallMicros();
  parts.metrics_address = metrics_address;
  parts.state_directory = lock.path();
  parts.max_job_slots = options.max_job_slots;
  parts.projects = projects;
  parts.back_up = [this](const std::string& name) {
    return BackUpStores(store.get(), metric_store.get(), lock.path(), name);
  };
  training_api = std::make_unique<rpc::TrainingApi>(parts);
  worker_api = std::make_unique<rpc::WorkerApi>(parts);
  training_service = rpc::MakeTrainingService(training_api.get(), &RealClock(), &telemetry);
  worker_service = rpc::MakeWorkerService(worker_api.get(), &RealClock(), &telemetry);
  NIBBLE_ASSIGN_OR_RETURN(
      server, rpc::GrpcServer::Start(options.grpc, {training_service.get(), worker_service.get()}));
  return absl::OkStatus();
}

absl::Status Daemon::Parts::StartLocalWorker(const DaemonOptions& options) {
  if (!options.local_worker) return absl::OkStatus();
  LocalWorkerOptions worker;
  worker.program = ProgramBeside("nibble-worker");
  worker.daemon_address = "unix:" + options.grpc.unix_socket;
  worker.work_directory = options.local_work_directory;
  worker.data_directory = options.data_directory;
  worker.log_level = options.log_level;
  worker.slots = options.local_slots;
  NIBBLE_ASSIGN_OR_RETURN(local_worker, LocalWorker::Start(std::move(worker)));
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Daemon>> Daemon::Start(const DaemonOptions& requested) {
  const int64_t start = RealClock().MonotonicNanos();
  DaemonOptions options = requested;
  NIBBLE_ASSIGN_OR_RETURN(store::StateDirectoryLock lock,
                          store::StateDirectoryLock::Acquire(options.state_directory));
  options.grpc.unix_socket = SocketPath(lock.path());
  if (options.local_work_directory.empty()) options.local_work_directory = lock.path() + "/worker";
  auto parts = std::make_unique<Parts>(std::move(lock));
  NIBBLE_RETURN_IF_ERROR(parts->OpenStores());
  NIBBLE_ASSIGN_OR_RETURN(parts->metrics_address,
                          ServeMetrics(options.metrics_listen, &parts->telemetry));
  NIBBLE_RETURN_IF_ERROR(parts->StartCoordinator(options));
  NIBBLE_RETURN_IF_ERROR(parts->StartServer(options));
  NIBBLE_RETURN_IF_ERROR(parts->StartLocalWorker(options));
  NIBBLE_RETURN_IF_ERROR(
      WritePortFile(options, parts->server->addresses(), parts->metrics_address));
  NIBBLE_LOG(kInfo,
             absl::StrCat("nibbled ", kVersion, " serves ",
                          absl::StrJoin(parts->server->addresses(), ", "),
                          " and unix:", options.grpc.unix_socket, "; metrics on ",
                          parts->metrics_address.empty() ? "no address" : parts->metrics_address,
                          "; state in ", parts->lock.path(), "; started in ",
                          (RealClock().MonotonicNanos() - start) / 1'000'000, " ms"));
  return std::unique_ptr<Daemon>(new Daemon(std::move(parts)));
}

Daemon::Daemon(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
Daemon::~Daemon() = default;

const std::vector<std::string>& Daemon::addresses() const { return parts_->server->addresses(); }
const std::string& Daemon::metrics_address() const { return parts_->metrics_address; }

void Daemon::ShutDown() {
  parts_->server->StopServing();
  if (parts_->local_worker != nullptr) {
    parts_->local_worker->StopRestarting();
    parts_->coordinator->assignments().ShutDownWorker(kLocalWorkerId);
    parts_->local_worker->WaitForExit(kWorkerPatienceNanos);
  }
  parts_->server->ShutDown(kCallGraceSeconds);
  parts_->coordinator->Stop();
  parts_->pool->Stop();
  NIBBLE_LOG(kInfo, "nibbled has stopped");
}

}  // namespace nibble::daemon
