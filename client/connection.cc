#include "client/connection.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include <algorithm>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "base/tls_files.h"
#include "client/status.h"
#include "nibble/v1/training_service.grpc.pb.h"

namespace nibble::client {
namespace {

constexpr char kDefaultPort[] = "7878";
// Pages of jobs and metrics are asked for in sizes far below this.
constexpr int kMaxMessageBytes = 64 * 1024 * 1024;
// Long enough for a daemon that restarts, short enough for a person who forgot to start it.
constexpr absl::Duration kRetryWindow = absl::Seconds(3);
constexpr absl::Duration kFirstRetryDelay = absl::Milliseconds(50);
constexpr absl::Duration kLargestRetryDelay = absl::Milliseconds(800);
// Servers of gRPC's defaults close a connection that pings more often than every five minutes.
constexpr int kKeepaliveMs = 310'000;

absl::StatusOr<std::string> Target(const std::string& server) {
  if (absl::StartsWith(server, "unix:")) {
    if (server.size() == 5)
      return absl::InvalidArgumentError("--server is \"unix:\" without a path");
    return server;
  }
  if (server.empty() || absl::StrContains(server, "/")) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--server is \"", server, "\"; allowed: HOST, HOST:PORT, [IPV6]:PORT or unix:PATH"));
  }
  const size_t bracket = server.rfind(']');
  const size_t colon = server.rfind(':');
  const bool has_port =
      colon != std::string::npos &&
      (bracket == std::string::npos ? server.find(':') == colon : colon > bracket);
  return has_port ? server : absl::StrCat(server, ":", kDefaultPort);
}

bool SpeaksTls(const ConnectionOptions& options) {
  return !options.tls_ca.empty() || !options.tls_cert.empty();
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> Credentials(
    const ConnectionOptions& options) {
  if (options.tls_cert.empty() != options.tls_key.empty()) {
    return absl::InvalidArgumentError("--tls-cert and --tls-key go together");
  }
  if (!SpeaksTls(options)) return grpc::InsecureChannelCredentials();
  absl::StatusOr<TlsContents> contents =
      ReadTlsFiles({options.tls_ca, options.tls_cert, options.tls_key});
  // Also where a file is missing: the command line names it, so that is what is wrong.
  if (!contents.ok()) return absl::InvalidArgumentError(contents.status().message());
  grpc::SslCredentialsOptions tls;
  tls.pem_root_certs = std::move(contents->authority);
  tls.pem_cert_chain = std::move(contents->certificate);
  tls.pem_private_key = std::move(contents->key);
  return grpc::SslCredentials(tls);
}

absl::Status Convert(const grpc::Status& status, const ConnectionOptions& options) {
  if (status.ok()) return absl::OkStatus();
  // The code's numbers are the same in gRPC and Abseil.
  const auto code = static_cast<absl::StatusCode>(status.error_code());
  std::string message = status.error_message();
  // A server that answers so itself (it is overloaded or shutting down) says more in its details.
  if ((code == absl::StatusCode::kUnavailable || code == absl::StatusCode::kDeadlineExceeded) &&
      status.error_details().empty()) {
    message = absl::StrCat("no answer from nibbled at ", options.server,
                           SpeaksTls(options) ? " over TLS: " : " (without TLS): ", message,
                           "; is it running? --server or NIBBLE_SERVER says where",
                           !SpeaksTls(options)        ? ", --tls-ca turns TLS on"
                           : options.tls_cert.empty() ? ", --tls-cert shows a client certificate"
                                                      : "");
  }
  absl::Status result(code, message);
  if (!status.error_details().empty()) {
    result.SetPayload(kDetailsPayload, absl::Cord(status.error_details()));
  }
  return result;
}

}  // namespace

void StreamCanceller::Cancel() {
  MutexLock lock(mutex_);
  cancelled_ = true;
  if (context_ != nullptr) context_->TryCancel();
}

bool StreamCanceller::cancelled() const {
  MutexLock lock(mutex_);
  return cancelled_;
}

bool StreamCanceller::Attach(grpc::ClientContext* context) {
  MutexLock lock(mutex_);
  if (!cancelled_) context_ = context;
  return !cancelled_;
}

void StreamCanceller::Detach() {
  MutexLock lock(mutex_);
  context_ = nullptr;
}

struct Connection::Impl {
  ConnectionOptions options;
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<v1::TrainingService::Stub> stub;

  template <typename Request, typename Response>
  using Method = grpc::Status (v1::TrainingService::Stub::*)(grpc::ClientContext*, const Request&,
                                                             Response*);

  template <typename Request, typename Response>
  absl::StatusOr<Response> Call(Method<Request, Response> method, const Request& request) {
    const absl::Time start = absl::Now();
    const absl::Time deadline = start + options.timeout;
    for (absl::Duration delay = kFirstRetryDelay;;
         delay = std::min(2 * delay, kLargestRetryDelay)) {
      grpc::ClientContext context;
      context.set_deadline(absl::ToChronoTime(deadline));
      Response response;
      const grpc::Status status = (stub.get()->*method)(&context, request, &response);
      if (status.ok()) return response;
      const absl::Time next = absl::Now() + delay;
      if (status.error_code() != grpc::StatusCode::UNAVAILABLE || next >= deadline ||
          next >= start + kRetryWindow) {
        return Convert(status, options);
      }
      absl::SleepFor(delay);
    }
  }

  template <typename Request, typename Response, typename Open>
  absl::Status Stream(Open open, const Request& request, StreamCanceller* canceller,
                      const std::function<bool(const Response&)>& each) {
    grpc::ClientContext context;
    if (canceller != nullptr && !canceller->Attach(&context)) return absl::CancelledError();
    const auto reader = open(&context, request);
    Response response;
    bool stopped = false;
    while (!stopped && reader->Read(&response)) {
      if (each(response)) continue;
      stopped = true;
      context.TryCancel();
      while (reader->Read(&response)) {
      }
    }
    const grpc::Status status = reader->Finish();
    if (canceller != nullptr) canceller->Detach();
    return stopped ? absl::OkStatus() : Convert(status, options);
  }
};

Connection::Connection(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Connection::~Connection() = default;

const std::string& Connection::server() const { return impl_->options.server; }

absl::StatusOr<std::unique_ptr<Connection>> Connection::Open(const ConnectionOptions& options) {
  NIBBLE_ASSIGN_OR_RETURN(const std::string target, Target(options.server));
  NIBBLE_ASSIGN_OR_RETURN(const auto credentials, Credentials(options));
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  // Reconnect as soon as a restarted daemon listens again. The "minimum" is also how long one try
  // to connect may take: a loaded machine needs more than a moment.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 50);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 5000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  // gRPC's own retries would repeat calls that this class does not.
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  auto impl = std::make_unique<Impl>();
  impl->options = options;
  impl->channel = grpc::CreateCustomChannel(target, credentials, arguments);
  impl->stub = v1::TrainingService::NewStub(impl->channel);
  return std::unique_ptr<Connection>(new Connection(std::move(impl)));
}

using Stub = v1::TrainingService::Stub;

absl::StatusOr<v1::SubmitJobResponse> Connection::SubmitJob(const v1::SubmitJobRequest& request) {
  return impl_->Call(&Stub::SubmitJob, request);
}

absl::StatusOr<v1::Job> Connection::GetJob(const std::string& job_id) {
  v1::GetJobRequest request;
  request.set_job_id(job_id);
  return impl_->Call(&Stub::GetJob, request);
}

absl::StatusOr<v1::ListJobsResponse> Connection::ListJobs(const v1::ListJobsRequest& request) {
  return impl_->Call(&Stub::ListJobs, request);
}

absl::StatusOr<v1::Job> Connection::CancelJob(const std::string& job_id) {
  v1::CancelJobRequest request;
  request.set_job_id(job_id);
  return impl_->Call(&Stub::CancelJob, request);
}

absl::StatusOr<v1::Job> Connection::PauseJob(const std::string& job_id) {
  v1::PauseJobRequest request;
  request.set_job_id(job_id);
  return impl_->Call(&Stub::PauseJob, request);
}

absl::StatusOr<v1::Job> Connection::ResumeJob(const std::string& job_id) {
  v1::ResumeJobRequest request;
  request.set_job_id(job_id);
  return impl_->Call(&Stub::ResumeJob, request);
}

absl::StatusOr<v1::Job> Connection::UpdateJob(const v1::UpdateJobRequest& request) {
  return impl_->Call(&Stub::UpdateJob, request);
}

absl::StatusOr<v1::ExplainJobResponse> Connection::ExplainJob(const std::string& job_id) {
  v1::ExplainJobRequest request;
  request.set_job_id(job_id);
  return impl_->Call(&Stub::ExplainJob, request);
}

absl::StatusOr<v1::DeleteJobResponse> Connection::DeleteJob(const std::string& job_id) {
  v1::DeleteJobRequest request;
  request.set_job_id(job_id);
  return impl_->Call(&Stub::DeleteJob, request);
}

absl::StatusOr<v1::GetMetricsResponse> Connection::GetMetrics(
    const v1::GetMetricsRequest& request) {
  return impl_->Call(&Stub::GetMetrics, request);
}

absl::StatusOr<v1::ListCheckpointsResponse> Connection::ListCheckpoints(const std::string& job_id) {
  v1::ListCheckpointsRequest request;
  request.set_job_id(job_id);
  return impl_->Call(&Stub::ListCheckpoints, request);
}

absl::StatusOr<v1::ListEventsResponse> Connection::ListEvents(
    const v1::ListEventsRequest& request) {
  return impl_->Call(&Stub::ListEvents, request);
}

absl::StatusOr<v1::ListWorkersResponse> Connection::ListWorkers() {
  return impl_->Call(&Stub::ListWorkers, v1::ListWorkersRequest());
}

absl::StatusOr<v1::Worker> Connection::DrainWorker(const v1::DrainWorkerRequest& request) {
  return impl_->Call(&Stub::DrainWorker, request);
}

absl::StatusOr<v1::Worker> Connection::UndrainWorker(const std::string& worker_id) {
  v1::UndrainWorkerRequest request;
  request.set_worker_id(worker_id);
  return impl_->Call(&Stub::UndrainWorker, request);
}

absl::StatusOr<v1::ListProjectsResponse> Connection::ListProjects() {
  return impl_->Call(&Stub::ListProjects, v1::ListProjectsRequest());
}

absl::StatusOr<v1::BackupStateResponse> Connection::BackupState(const std::string& name) {
  v1::BackupStateRequest request;
  request.set_name(name);
  return impl_->Call(&Stub::BackupState, request);
}

absl::StatusOr<v1::ServerInfo> Connection::GetServerInfo() {
  return impl_->Call(&Stub::GetServerInfo, v1::GetServerInfoRequest());
}

absl::Status Connection::WatchJobs(const v1::WatchJobsRequest& request, StreamCanceller* canceller,
                                   const std::function<bool(const v1::WatchJobsResponse&)>& each) {
  const auto open = [this](auto* context, const auto& r) {
    return impl_->stub->WatchJobs(context, r);
  };
  return impl_->Stream<v1::WatchJobsRequest, v1::WatchJobsResponse>(open, request, canceller, each);
}

absl::Status Connection::WatchMetrics(
    const v1::WatchMetricsRequest& request, StreamCanceller* canceller,
    const std::function<bool(const v1::WatchMetricsResponse&)>& each) {
  const auto open = [this](auto* context, const auto& r) {
    return impl_->stub->WatchMetrics(context, r);
  };
  return impl_->Stream<v1::WatchMetricsRequest, v1::WatchMetricsResponse>(open, request, canceller,
                                                                          each);
}

absl::Status Connection::StreamLogs(
    const v1::StreamLogsRequest& request, StreamCanceller* canceller,
    const std::function<bool(const v1::StreamLogsResponse&)>& each) {
  const auto open = [this](auto* context, const auto& r) {
    return impl_->stub->StreamLogs(context, r);
  };
  return impl_->Stream<v1::StreamLogsRequest, v1::StreamLogsResponse>(open, request, canceller,
                                                                      each);
}

}  // namespace nibble::client
