#include "server/state_care.h"

#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <memory>

#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/status_macros.h"
#include "nibble/v1/training_service.grpc.pb.h"
#include "server/rpc/request_checks.h"
#include "server/store/check.h"
#include "server/store/sqlite_store.h"
#include "server/store/state_directory.h"

namespace nibble::daemon {
namespace {

constexpr auto kBackupPatience = std::chrono::minutes(30);

int64_t SizeOf(const std::string& path) {
  struct stat info;
  return ::stat(path.c_str(), &info) == 0 ? info.st_size : 0;
}

absl::StatusOr<std::pair<std::string, int64_t>> AskDaemon(const std::string& socket,
                                                          const std::string& name) {
  const auto stub = v1::TrainingService::NewStub(
      grpc::CreateChannel("unix:" + socket, grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kBackupPatience);
  v1::BackupStateRequest request;
  request.set_name(name);
  v1::BackupStateResponse response;
  const grpc::Status status = stub->BackupState(&context, request, &response);
  if (!status.ok()) {
    return absl::Status(static_cast<absl::StatusCode>(status.error_code()),
                        status.error_message());
  }
  return std::make_pair(response.path(), response.size_bytes());
}

}  // namespace

absl::StatusOr<std::pair<std::string, int64_t>> BackUpStores(store::Store* store,
                                                             store::MetricStore* metric_store,
                                                             const std::string& state_directory,
                                                             const std::string& name) {
  const std::string directory = JoinPath(JoinPath(state_directory, "backups"), name);
  if (FileExists(directory)) {
    return absl::AlreadyExistsError(absl::StrCat("there is a backup ", name, " already"));
  }
  NIBBLE_RETURN_IF_ERROR(MakeDirectories(directory));
  const std::string jobs = JoinPath(directory, "jobs.db");
  const std::string metrics = JoinPath(directory, "metrics.db");
  absl::Status copied = store->BackUp(jobs);
  if (copied.ok()) copied = metric_store->BackUp(metrics);
  if (copied.ok()) copied = FsyncDirectory(JoinPath(state_directory, "backups"));
  if (!copied.ok()) {
    ::unlink(jobs.c_str());
    ::unlink(metrics.c_str());
    ::rmdir(directory.c_str());
    return copied;
  }
  return std::make_pair(directory, SizeOf(jobs) + SizeOf(metrics));
}

absl::StatusOr<std::pair<std::string, int64_t>> BackUpState(const std::string& state_directory,
                                                            const std::string& name) {
  rpc::RequestChecker check;
  check.Name(name, "--backup");
  NIBBLE_RETURN_IF_ERROR(check.Result());
  if (!FileExists(JoinPath(state_directory, "jobs.db"))) {
    return absl::NotFoundError(absl::StrCat("there is no jobs.db in ", state_directory));
  }
  const auto lock = store::StateDirectoryLock::Acquire(state_directory);
  if (absl::IsFailedPrecondition(lock.status())) {
    return AskDaemon(JoinPath(state_directory, "nibbled.sock"), name);
  }
  NIBBLE_RETURN_IF_ERROR(lock.status());
  NIBBLE_ASSIGN_OR_RETURN(const auto store, store::OpenSqliteStore(lock->jobs_database()));
  NIBBLE_ASSIGN_OR_RETURN(const auto metric_store,
                          store::OpenSqliteMetricStore(lock->metrics_database()));
  return BackUpStores(store.get(), metric_store.get(), state_directory, name);
}

int CheckState(const std::string& state_directory) {
  const auto report = store::CheckStateDirectory(state_directory);
  if (!report.ok()) {
    std::fprintf(stderr, "nibbled: %s\n", std::string(report.status().message()).c_str());
    return 1;
  }
  for (const std::string& problem : report->problems) std::printf("%s\n", problem.c_str());
  std::printf("%s: %lld jobs, %lld events, %lld rows of metrics: %s\n", state_directory.c_str(),
              static_cast<long long>(report->jobs), static_cast<long long>(report->events),
              static_cast<long long>(report->metric_rows),
              report->problems.empty() ? "sound" : "damaged");
  return report->problems.empty() ? 0 : 1;
}

}  // namespace nibble::daemon
