// Handlers of nibble.v1.TrainingService; each method is the RPC of that name. Requests arrive
// checked for form (CheckWire); the handlers check what the fields mean.
#ifndef SERVER_RPC_TRAINING_API_H_
#define SERVER_RPC_TRAINING_API_H_

#include <memory>

#include "absl/status/statusor.h"
#include "nibble/v1/training_service.pb.h"
#include "server/rpc/api_parts.h"
#include "server/rpc/call.h"
#include "server/rpc/job_reader.h"

namespace nibble::rpc {

// Thread-safe.
class TrainingApi {
 public:
  explicit TrainingApi(ApiParts parts)
      : parts_(std::move(parts)), reader_(parts_.store, parts_.metric_store) {}

  void SubmitJob(const v1::SubmitJobRequest& request, Reply<v1::SubmitJobResponse> reply);
  void GetJob(const v1::GetJobRequest& request, Reply<v1::Job> reply);
  void ListJobs(const v1::ListJobsRequest& request, Reply<v1::ListJobsResponse> reply);
  void CancelJob(const v1::CancelJobRequest& request, Reply<v1::Job> reply);
  void PauseJob(const v1::PauseJobRequest& request, Reply<v1::Job> reply);
  void ResumeJob(const v1::ResumeJobRequest& request, Reply<v1::Job> reply);
  void UpdateJob(const v1::UpdateJobRequest& request, Reply<v1::Job> reply);
  void ExplainJob(const v1::ExplainJobRequest& request, Reply<v1::ExplainJobResponse> reply);
  void DeleteJob(const v1::DeleteJobRequest& request, Reply<v1::DeleteJobResponse> reply);
  void GetMetrics(const v1::GetMetricsRequest& request, Reply<v1::GetMetricsResponse> reply);
  void ListCheckpoints(const v1::ListCheckpointsRequest& request,
                       Reply<v1::ListCheckpointsResponse> reply);
  void ListEvents(const v1::ListEventsRequest& request, Reply<v1::ListEventsResponse> reply);
  void ListWorkers(const v1::ListWorkersRequest& request, Reply<v1::ListWorkersResponse> reply);
  void DrainWorker(const v1::DrainWorkerRequest& request, Reply<v1::Worker> reply);
  void UndrainWorker(const v1::UndrainWorkerRequest& request, Reply<v1::Worker> reply);
  void ListProjects(const v1::ListProjectsRequest& request, Reply<v1::ListProjectsResponse> reply);
  void BackupState(const v1::BackupStateRequest& request, Reply<v1::BackupStateResponse> reply);
  void GetServerInfo(const v1::GetServerInfoRequest& request, Reply<v1::ServerInfo> reply);

  template <typename Response>
  using Source = absl::StatusOr<std::shared_ptr<MessageSource<Response>>>;
  Source<v1::WatchJobsResponse> WatchJobs(const v1::WatchJobsRequest& request);
  Source<v1::WatchMetricsResponse> WatchMetrics(const v1::WatchMetricsRequest& request);
  Source<v1::StreamLogsResponse> StreamLogs(const v1::StreamLogsRequest& request);

 private:
  // Posts a request of a user about a job and answers with the job as it then is.
  template <typename Requested>
  void ChangeJob(const std::string& job_id, Reply<v1::Job> reply);
  absl::StatusOr<v1::ExplainJobResponse> Explain(const std::string& job_id) const;
  void AnswerWithJob(const coordinator::Outcome& outcome, Reply<v1::Job> reply);

  ApiParts parts_;
  JobReader reader_;
};

}  // namespace nibble::rpc

#endif  // SERVER_RPC_TRAINING_API_H_
