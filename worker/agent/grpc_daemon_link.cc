#include "worker/agent/grpc_daemon_link.h"

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "base/tls_files.h"
#include "google/rpc/error_details.pb.h"
#include "nibble/v1/worker_service.grpc.pb.h"

namespace nibble::agent {
namespace {

// A renewal must have failed before the next is due, a third of a lease term (15 s) later.
constexpr std::chrono::seconds kRenewalDeadline(5);
// Everything else may wait for a slow disk at the daemon.
constexpr std::chrono::seconds kCallDeadline(10);
constexpr int kMaxMessageBytes = 16 << 20;  // an AssignmentList of many jobs

absl::Status ToStatus(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  // absl and gRPC number the codes alike.
  absl::Status result(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
  google::rpc::Status details;
  if (!details.ParseFromString(status.error_details())) return result;
  for (const google::protobuf::Any& detail : details.details()) {
    if (absl::EndsWith(detail.type_url(), "/google.rpc.ErrorInfo")) {
      AttachErrorInfo(detail.value(), &result);
    }
  }
  return result;
}

// Calls in flight, to cancel and to wait for.
class Calls {
 public:
  void Add(grpc::ClientContext* context) {
    MutexLock lock(mutex_);
    contexts_.insert(context);
  }
  void Remove(grpc::ClientContext* context) {
    MutexLock lock(mutex_);
    contexts_.erase(context);
    changed_.SignalAll();
  }
  // False where it is over already.
  bool Cancel(grpc::ClientContext* context) {
    MutexLock lock(mutex_);
    if (!contexts_.contains(context)) return false;
    context->TryCancel();
    return true;
  }
  void CancelAll() {
    MutexLock lock(mutex_);
    for (grpc::ClientContext* context : contexts_) context->TryCancel();
  }
  void AwaitAll() {
    MutexLock lock(mutex_);
    while (!contexts_.empty()) changed_.Wait(mutex_);
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  std::set<grpc::ClientContext*> contexts_ GUARDED_BY(mutex_);
};

struct Connection {
  explicit Connection(std::shared_ptr<grpc::Channel> channel)
      : stub(v1::WorkerService::NewStub(std::move(channel))) {}
  const std::unique_ptr<v1::WorkerService::Stub> stub;
};

// Deletes itself when the stream is over.
class Watch : public grpc::ClientReadReactor<v1::AssignmentList> {
 public:
  Watch(std::shared_ptr<Connection> connection, const v1::WatchAssignmentsRequest& request,
        std::function<void(v1::AssignmentList)> on_list, std::function<void(absl::Status)> on_end,
        Calls* calls)
      : connection_(std::move(connection)),
        request_(request),
        on_list_(std::move(on_list)),
        on_end_(std::move(on_end)),
        calls_(calls) {}

  void Start() {
    connection_->stub->async()->WatchAssignments(&context_, &request_, this);
    StartRead(&list_);
    StartCall();
  }
  void OnReadDone(bool ok) override {
    if (!ok) return;
    on_list_(std::move(list_));
    list_.Clear();
    StartRead(&list_);
  }
  void OnDone(const grpc::Status& status) override {
    absl::Status end = ToStatus(status);
    if (end.ok()) end = absl::UnavailableError("the daemon ended the list of assignments");
    on_end_(end);
    calls_->Remove(&context_);
    delete this;
  }
  grpc::ClientContext* context() { return &context_; }

 private:
  const std::shared_ptr<Connection> connection_;
  const v1::WatchAssignmentsRequest request_;
  const std::function<void(v1::AssignmentList)> on_list_;
  const std::function<void(absl::Status)> on_end_;
  Calls* const calls_;
  grpc::ClientContext context_;
  v1::AssignmentList list_;
};

class GrpcDaemonLink : public DaemonLink {
 public:
  GrpcDaemonLink(std::string address, std::shared_ptr<grpc::ChannelCredentials> credentials)
      : address_(std::move(address)), credentials_(std::move(credentials)) {
    Reconnect();
  }
  ~GrpcDaemonLink() override {
    calls_.CancelAll();
    calls_.AwaitAll();
  }

  void Register(const v1::RegisterWorkerRequest& request,
                Done<v1::RegisterWorkerResponse> done) override {
    // A new connection: the old one may be dead without knowing.
    calls_.CancelAll();
    Reconnect();
    Start(request, std::move(done), kCallDeadline, &Async::RegisterWorker);
  }
  void RenewLeases(const v1::RenewLeasesRequest& request,
                   Done<v1::RenewLeasesResponse> done) override {
    Start(request, std::move(done), kRenewalDeadline, &Async::RenewLeases);
  }
  void ReportAttempt(const v1::ReportAttemptRequest& request,
                     Done<v1::ReportAttemptResponse> done) override {
    Start(request, std::move(done), kCallDeadline, &Async::ReportAttempt);
  }
  void CommitCheckpoint(const v1::CommitCheckpointRequest& request,
                        Done<v1::CommitCheckpointResponse> done) override {
    Start(request, std::move(done), kCallDeadline, &Async::CommitCheckpoint);
  }
  void AppendMetrics(const v1::AppendMetricsRequest& request,
                     Done<v1::AppendMetricsResponse> done) override {
    Start(request, std::move(done), kCallDeadline, &Async::AppendMetrics);
  }
  void AppendLogs(const v1::AppendLogsRequest& request,
                  Done<v1::AppendLogsResponse> done) override {
    Start(request, std::move(done), kCallDeadline, &Async::AppendLogs);
  }

  void WatchAssignments(const v1::WatchAssignmentsRequest& request,
                        std::function<void(v1::AssignmentList)> on_list,
                        std::function<void(absl::Status)> on_end) override {
    StopWatching();
    auto* watch = new Watch(connection_, request, std::move(on_list), std::move(on_end), &calls_);
    watch_context_ = watch->context();
    calls_.Add(watch_context_);
    watch->Start();
  }
  void StopWatching() override {
    if (watch_context_ != nullptr) calls_.Cancel(watch_context_);
    watch_context_ = nullptr;
  }

 private:
  using Async = v1::WorkerService::StubInterface::async_interface;

  template <typename Request, typename Response>
  struct Call {
    std::shared_ptr<Connection> connection;
    grpc::ClientContext context;
    Request request;
    Response response;
    Done<Response> done;
  };

  void Reconnect() {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
    // Else channels to one address share a connection, and a new one is not new.
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    connection_ =
        std::make_shared<Connection>(grpc::CreateCustomChannel(address_, credentials_, arguments));
  }

  template <typename Request, typename Response>
  void Start(const Request& request, Done<Response> done, std::chrono::seconds deadline,
             void (Async::*method)(grpc::ClientContext*, const Request*, Response*,
                                   std::function<void(grpc::Status)>)) {
    auto* call = new Call<Request, Response>;
    call->connection = connection_;
    call->request = request;
    call->done = std::move(done);
    call->context.set_deadline(std::chrono::system_clock::now() + deadline);
    calls_.Add(&call->context);
    (connection_->stub->async()->*method)(&call->context, &call->request, &call->response,
                                          [this, call](grpc::Status status) {
                                            if (status.ok()) {
                                              call->done(std::move(call->response));
                                            } else {
                                              call->done(ToStatus(status));
                                            }
                                            calls_.Remove(&call->context);
                                            delete call;
                                          });
  }

  const std::string address_;
  const std::shared_ptr<grpc::ChannelCredentials> credentials_;
  std::shared_ptr<Connection> connection_;
  grpc::ClientContext* watch_context_ = nullptr;
  Calls calls_;
};

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> Credentials(const TlsFiles& tls) {
  if (tls.ca.empty() && tls.cert.empty() && tls.key.empty()) {
    return grpc::InsecureChannelCredentials();
  }
  if (tls.cert.empty() != tls.key.empty()) {
    return absl::InvalidArgumentError("a TLS certificate and its key go together");
  }
  grpc::SslCredentialsOptions options;
  NIBBLE_ASSIGN_OR_RETURN(TlsContents contents, ReadTlsFiles({tls.ca, tls.cert, tls.key}));
  options.pem_root_certs = std::move(contents.authority);
  options.pem_cert_chain = std::move(contents.certificate);
  options.pem_private_key = std::move(contents.key);
  return grpc::SslCredentials(options);
}

}  // namespace

absl::StatusOr<std::unique_ptr<DaemonLink>> MakeGrpcDaemonLink(const std::string& address,
                                                               const TlsFiles& tls) {
  if (!absl::StartsWith(address, "unix:") && !absl::StrContains(address, ":")) {
    return absl::InvalidArgumentError(absl::StrCat("the daemon's address is \"", address,
                                                   "\"; allowed: host:port or unix:/path"));
  }
  NIBBLE_ASSIGN_OR_RETURN(auto credentials, Credentials(tls));
  return std::unique_ptr<DaemonLink>(new GrpcDaemonLink(address, std::move(credentials)));
}

}  // namespace nibble::agent
