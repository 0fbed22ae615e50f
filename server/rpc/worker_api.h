// Handlers of nibble.v1.WorkerService; each method is the RPC of that name.
#ifndef SERVER_RPC_WORKER_API_H_
#define SERVER_RPC_WORKER_API_H_

#include <memory>

#include "absl/status/statusor.h"
#include "nibble/v1/worker_service.pb.h"
#include "server/rpc/api_parts.h"
#include "server/rpc/call.h"

namespace nibble::rpc {

// Thread-safe.
class WorkerApi {
 public:
  explicit WorkerApi(ApiParts parts) : parts_(std::move(parts)) {}

  void RegisterWorker(const v1::RegisterWorkerRequest& request,
                      Reply<v1::RegisterWorkerResponse> reply);
  void RenewLeases(const v1::RenewLeasesRequest& request, Reply<v1::RenewLeasesResponse> reply);
  void ReportAttempt(const v1::ReportAttemptRequest& request,
                     Reply<v1::ReportAttemptResponse> reply);
  void CommitCheckpoint(const v1::CommitCheckpointRequest& request,
                        Reply<v1::CommitCheckpointResponse> reply);
  void AppendMetrics(const v1::AppendMetricsRequest& request,
                     Reply<v1::AppendMetricsResponse> reply);
  void AppendLogs(const v1::AppendLogsRequest& request, Reply<v1::AppendLogsResponse> reply);

  absl::StatusOr<std::shared_ptr<MessageSource<v1::AssignmentList>>> WatchAssignments(
      const v1::WatchAssignmentsRequest& request);

 private:
  ApiParts parts_;
};

}  // namespace nibble::rpc

#endif  // SERVER_RPC_WORKER_API_H_
