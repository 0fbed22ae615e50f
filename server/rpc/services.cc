#include "server/rpc/services.h"

#include <string>

#include "nibble/v1/training_service.grpc.pb.h"
#include "nibble/v1/worker_service.grpc.pb.h"
#include "server/rpc/grpc_service.h"

namespace nibble::rpc {
namespace {

const google::protobuf::ServiceDescriptor* ServiceNamed(
    const google::protobuf::FileDescriptor* file, const std::string& name) {
  return file->FindServiceByName(name);
}

// Binds RPC `name` to the member function `method` of *api.
template <typename Service, typename Api, typename Request, typename Response>
void Bind(Service* service, Api* api, const char* name,
          void (Api::*method)(const Request&, Reply<Response>),
          size_t max_request_bytes = kMaxControlMessageBytes) {
  service->template Unary<Request, Response>(
      name,
      [api, method](const Request& request, Reply<Response> reply) {
        (api->*method)(request, std::move(reply));
      },
      max_request_bytes);
}

template <typename Service, typename Api, typename Request, typename Response>
void Bind(Service* service, Api* api, const char* name,
          absl::StatusOr<std::shared_ptr<MessageSource<Response>>> (Api::*method)(const Request&)) {
  service->template Stream<Request, Response>(
      name, [api, method](const Request& request) { return (api->*method)(request); });
}

}  // namespace

std::unique_ptr<grpc::Service> MakeTrainingService(TrainingApi* api, const Clock* clock,
                                                   telemetry::Telemetry* telemetry) {
  auto service = std::make_unique<BoundService<v1::TrainingService::Service>>(
      ServiceNamed(v1::SubmitJobRequest::descriptor()->file(), "TrainingService"),
      CallEnvironment{telemetry, clock});
  Bind(service.get(), api, "SubmitJob", &TrainingApi::SubmitJob);
  Bind(service.get(), api, "GetJob", &TrainingApi::GetJob);
  Bind(service.get(), api, "ListJobs", &TrainingApi::ListJobs);
  Bind(service.get(), api, "WatchJobs", &TrainingApi::WatchJobs);
  Bind(service.get(), api, "CancelJob", &TrainingApi::CancelJob);
  Bind(service.get(), api, "PauseJob", &TrainingApi::PauseJob);
  Bind(service.get(), api, "ResumeJob", &TrainingApi::ResumeJob);
  Bind(service.get(), api, "UpdateJob", &TrainingApi::UpdateJob);
  Bind(service.get(), api, "ExplainJob", &TrainingApi::ExplainJob);
  Bind(service.get(), api, "DeleteJob", &TrainingApi::DeleteJob);
  Bind(service.get(), api, "GetMetrics", &TrainingApi::GetMetrics);
  Bind(service.get(), api, "WatchMetrics", &TrainingApi::WatchMetrics);
  Bind(service.get(), api, "StreamLogs", &TrainingApi::StreamLogs);
  Bind(service.get(), api, "ListCheckpoints", &TrainingApi::ListCheckpoints);
  Bind(service.get(), api, "ListEvents", &TrainingApi::ListEvents);
  Bind(service.get(), api, "ListWorkers", &TrainingApi::ListWorkers);
  Bind(service.get(), api, "DrainWorker", &TrainingApi::DrainWorker);
  Bind(service.get(), api, "UndrainWorker", &TrainingApi::UndrainWorker);
  Bind(service.get(), api, "ListProjects", &TrainingApi::ListProjects);
  Bind(service.get(), api, "BackupState", &TrainingApi::BackupState);
  Bind(service.get(), api, "GetServerInfo", &TrainingApi::GetServerInfo);
  return service;
}

std::unique_ptr<grpc::Service> MakeWorkerService(WorkerApi* api, const Clock* clock,
                                                 telemetry::Telemetry* telemetry) {
  auto service = std::make_unique<BoundService<v1::WorkerService::Service>>(
      ServiceNamed(v1::RegisterWorkerRequest::descriptor()->file(), "WorkerService"),
      CallEnvironment{telemetry, clock});
  Bind(service.get(), api, "RegisterWorker", &WorkerApi::RegisterWorker);
  Bind(service.get(), api, "WatchAssignments", &WorkerApi::WatchAssignments);
  Bind(service.get(), api, "RenewLeases", &WorkerApi::RenewLeases);
  Bind(service.get(), api, "ReportAttempt", &WorkerApi::ReportAttempt);
  Bind(service.get(), api, "CommitCheckpoint", &WorkerApi::CommitCheckpoint);
  Bind(service.get(), api, "AppendMetrics", &WorkerApi::AppendMetrics, kMaxAppendMessageBytes);
  Bind(service.get(), api, "AppendLogs", &WorkerApi::AppendLogs, kMaxAppendMessageBytes);
  return service;
}

}  // namespace nibble::rpc
