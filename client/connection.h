// The daemon, as the verbs call it: TrainingService with deadlines, retries and absl::Status.
#ifndef CLIENT_CONNECTION_H_
#define CLIENT_CONNECTION_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "nibble/v1/training_service.pb.h"

namespace grpc {
class ClientContext;
}

namespace nibble::client {

struct ConnectionOptions {
  // "host:port", "host" (port 7878), or "unix:PATH".
  std::string server = "127.0.0.1:7878";
  // Deadline of one unary call, retries included.
  absl::Duration timeout = absl::Seconds(10);
  // PEM files. Any of them turns TLS on; without tls_ca the system's authorities are trusted;
  // tls_cert and tls_key go together.
  std::string tls_ca;
  std::string tls_cert;
  std::string tls_key;
};

// Ends a stream from another thread; before or while it runs. Thread-safe.
class StreamCanceller {
 public:
  void Cancel();
  bool cancelled() const;

 private:
  friend class Connection;
  // False where it is cancelled already.
  bool Attach(grpc::ClientContext* context);
  void Detach();
  mutable Mutex mutex_;
  bool cancelled_ GUARDED_BY(mutex_) = false;
  grpc::ClientContext* context_ GUARDED_BY(mutex_) = nullptr;
};

// Every unary call has a deadline and is repeated only on UNAVAILABLE, with the same message, so a
// submission keeps its request_id. Errors keep the server's code and details (client/status.h).
// UNAVAILABLE: no server there. DEADLINE_EXCEEDED: it did not answer in time. Thread-safe.
class Connection {
 public:
  // Does not connect yet. INVALID_ARGUMENT: malformed server, or TLS files that cannot be read.
  static absl::StatusOr<std::unique_ptr<Connection>> Open(const ConnectionOptions& options);
  ~Connection();

  absl::StatusOr<v1::SubmitJobResponse> SubmitJob(const v1::SubmitJobRequest& request);
  absl::StatusOr<v1::Job> GetJob(const std::string& job_id);
  absl::StatusOr<v1::ListJobsResponse> ListJobs(const v1::ListJobsRequest& request);
  absl::StatusOr<v1::Job> CancelJob(const std::string& job_id);
  absl::StatusOr<v1::Job> PauseJob(const std::string& job_id);
  absl::StatusOr<v1::Job> ResumeJob(const std::string& job_id);
  absl::StatusOr<v1::Job> UpdateJob(const v1::UpdateJobRequest& request);
  absl::StatusOr<v1::ExplainJobResponse> ExplainJob(const std::string& job_id);
  absl::StatusOr<v1::DeleteJobResponse> DeleteJob(const std::string& job_id);
  absl::StatusOr<v1::GetMetricsResponse> GetMetrics(const v1::GetMetricsRequest& request);
  absl::StatusOr<v1::ListCheckpointsResponse> ListCheckpoints(const std::string& job_id);
  absl::StatusOr<v1::ListEventsResponse> ListEvents(const v1::ListEventsRequest& request);
  absl::StatusOr<v1::ListWorkersResponse> ListWorkers();
  absl::StatusOr<v1::Worker> DrainWorker(const v1::DrainWorkerRequest& request);
  absl::StatusOr<v1::Worker> UndrainWorker(const std::string& worker_id);
  absl::StatusOr<v1::ListProjectsResponse> ListProjects();
  absl::StatusOr<v1::BackupStateResponse> BackupState(const std::string& name);
  absl::StatusOr<v1::ServerInfo> GetServerInfo();

  // Streams call `each` for every message on the caller's thread until it returns false (then OK),
  // the server ends the stream (its status) or the canceller is used (CANCELLED). No deadline, no
  // retries: the caller knows where to go on. `canceller` may be null.
  absl::Status WatchJobs(const v1::WatchJobsRequest& request, StreamCanceller* canceller,
                         const std::function<bool(const v1::WatchJobsResponse&)>& each);
  absl::Status WatchMetrics(const v1::WatchMetricsRequest& request, StreamCanceller* canceller,
                            const std::function<bool(const v1::WatchMetricsResponse&)>& each);
  absl::Status StreamLogs(const v1::StreamLogsRequest& request, StreamCanceller* canceller,
                          const std::function<bool(const v1::StreamLogsResponse&)>& each);

  const std::string& server() const;

 private:
  struct Impl;
  explicit Connection(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace nibble::client

#endif  // CLIENT_CONNECTION_H_
