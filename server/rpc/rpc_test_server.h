// A daemon without its processes, for tests: stores in memory, coordinator, both services over a
// loopback port, and a worker written against the generated stubs.
#ifndef SERVER_RPC_RPC_TEST_SERVER_H_
#define SERVER_RPC_RPC_TEST_SERVER_H_

#include <grpcpp/create_channel.h>
#include <grpcpp/impl/codegen/service_type.h>

#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/random.h"
#include "base/status_matchers.h"
#include "google/rpc/error_details.pb.h"
#include "gtest/gtest.h"
#include "nibble/v1/training_service.grpc.pb.h"
#include "nibble/v1/worker_service.grpc.pb.h"
#include "server/coordinator/coordinator.h"
#include "server/coordinator/record_appender.h"
#include "server/rpc/conversions.h"
#include "server/rpc/grpc_server.h"
#include "server/rpc/services.h"
#include "server/store/memory_store.h"
#include "server/telemetry/prometheus_telemetry.h"

namespace nibble::rpc {

// With a deadline: a stream that never ends must not hang the test.
inline std::unique_ptr<grpc::ClientContext> Context() {
  auto context = std::make_unique<grpc::ClientContext>();
  context->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
  return context;
}

inline v1::JobSpec TinySpec() {
  v1::JobSpec spec;
  spec.set_name("tiny");
  spec.mutable_model()->set_family("llama");
  spec.mutable_model()->set_vocab_size(256);
  spec.mutable_model()->set_width(32);
  spec.mutable_model()->set_blocks(2);
  spec.mutable_model()->set_heads(2);
  spec.mutable_model()->set_mlp_width(64);
  spec.mutable_data()->set_path("text");
  spec.mutable_training()->set_steps(3);
  spec.mutable_training()->set_sequence_length(16);
  spec.mutable_training()->set_batch_size(2);
  spec.mutable_optimizer()->set_learning_rate(1e-3);
  spec.mutable_precision()->set_recipe("bf16");
  spec.mutable_checkpoint()->set_keep(2);
  return spec;
}

class TestServer {
 public:
  TestServer() { Start(); }
  ~TestServer() { Stop(); }

  // As a kill and a new start: everything but the stores is made anew.
  void Restart() {
    Stop();
    Start();
  }

  std::shared_ptr<grpc::Channel> channel() const { return channel_; }
  v1::TrainingService::Stub* training() { return training_stub_.get(); }
  v1::WorkerService::Stub* worker() { return worker_stub_.get(); }
  coordinator::Coordinator* coordinator() { return coordinator_.get(); }
  telemetry::PrometheusTelemetry* telemetry() { return telemetry_.get(); }

 private:
  void Start() {
    telemetry_ = std::make_unique<telemetry::PrometheusTelemetry>();
    pool_ = std::make_unique<coordinator::WorkPool>(4, 10'000);
    coordinator::CoordinatorParts parts;
    parts.store = store_.get();
    parts.metric_store = metric_store_.get();
    parts.telemetry = telemetry_.get();
    parts.clock = &RealClock();
    parts.pool = pool_.get();
    parts.recipe_of = RecipeOf;
    parts.on_fatal = [](const absl::Status& status) { ADD_FAILURE() << status; };
    auto started = coordinator::Coordinator::Start({}, std::move(parts));
    ASSERT_THAT(started, IsOk());
    coordinator_ = *std::move(started);
    appender_ = std::make_unique<coordinator::RecordAppender>(
        coordinator_.get(), metric_store_.get(), telemetry_.get(), pool_.get());
    ApiParts api;
    api.coordinator = coordinator_.get();
    api.appender = appender_.get();
    api.store = store_.get();
    api.metric_store = metric_store_.get();
    api.pool = pool_.get();
    api.random = &SystemRandom();
    api.state_directory = "/state";
    training_api_ = std::make_unique<TrainingApi>(api);
    worker_api_ = std::make_unique<WorkerApi>(api);
    training_ = MakeTrainingService(training_api_.get(), &RealClock(), telemetry_.get());
    worker_ = MakeWorkerService(worker_api_.get(), &RealClock(), telemetry_.get());
    GrpcServerOptions options;
    options.listen = {"127.0.0.1:0"};
    auto server = GrpcServer::Start(options, {training_.get(), worker_.get()});
    ASSERT_THAT(server, IsOk());
    server_ = *std::move(server);
    channel_ = grpc::CreateChannel(server_->addresses()[0], grpc::InsecureChannelCredentials());
    training_stub_ = v1::TrainingService::NewStub(channel_);
    worker_stub_ = v1::WorkerService::NewStub(channel_);
  }

  void Stop() {
    if (server_ != nullptr) server_->ShutDown(0.1);
    if (coordinator_ != nullptr) coordinator_->Stop();
    if (pool_ != nullptr) pool_->Stop();
    server_.reset();
    coordinator_.reset();
  }

  std::unique_ptr<store::Store> store_ = store::MakeMemoryStore();
  std::unique_ptr<store::MetricStore> metric_store_ = store::MakeMemoryMetricStore();
  std::unique_ptr<telemetry::PrometheusTelemetry> telemetry_;
  std::unique_ptr<coordinator::WorkPool> pool_;
  std::unique_ptr<coordinator::Coordinator> coordinator_;
  std::unique_ptr<coordinator::RecordAppender> appender_;
  std::unique_ptr<TrainingApi> training_api_;
  std::unique_ptr<WorkerApi> worker_api_;
  std::unique_ptr<grpc::Service> training_;
  std::unique_ptr<grpc::Service> worker_;
  std::unique_ptr<GrpcServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::TrainingService::Stub> training_stub_;
  std::unique_ptr<v1::WorkerService::Stub> worker_stub_;
};

// What the trailer of a failed call says.
struct ErrorDetails {
  std::string reason;
  std::vector<std::string> fields;
};
inline ErrorDetails DetailsOf(const grpc::Status& status) {
  ErrorDetails out;
  google::rpc::Status details;
  if (!details.ParseFromString(status.error_details())) return out;
  for (const auto& any : details.details()) {
    google::rpc::ErrorInfo info;
    google::rpc::BadRequest bad_request;
    if (any.UnpackTo(&info)) out.reason = info.reason();
    if (any.UnpackTo(&bad_request)) {
      for (const auto& v : bad_request.field_violations()) out.fields.push_back(v.field());
    }
  }
  return out;
}

// A worker that does what a test says. Each call fails the test where the daemon refuses it.
class FakeWorker {
 public:
  FakeWorker(TestServer* server, std::string incarnation)
      : server_(server), incarnation_(std::move(incarnation)) {}

  v1::RegisterWorkerResponse Register(int slots, const std::vector<v1::AttemptKey>& running = {}) {
    v1::RegisterWorkerRequest request;
    Identify(&request);
    request.set_slots(slots);
    request.set_device_kind("cpu");
    for (const auto& key : running) *request.add_running() = key;
    v1::RegisterWorkerResponse response;
    grpc::ClientContext context;
    const grpc::Status status = server_->worker()->RegisterWorker(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }

  void OpenAssignments() {
    v1::WatchAssignmentsRequest request;
    Identify(&request);
    watch_context_ = std::make_unique<grpc::ClientContext>();
    watch_ = server_->worker()->WatchAssignments(watch_context_.get(), request);
  }
  // The next list that has `count` assignments.
  v1::AssignmentList AwaitAssignments(int count) {
    v1::AssignmentList list;
    while (watch_->Read(&list)) {
      if (list.assignments_size() == count) return list;
    }
    ADD_FAILURE() << "the stream ended";
    return list;
  }
  // The next list whose one assignment has this action.
  v1::AssignmentList AwaitAction(v1::Assignment::Action action) {
    v1::AssignmentList list = AwaitAssignments(1);
    while (list.assignments_size() == 1 && list.assignments(0).action() != action) {
      list = AwaitAssignments(1);
    }
    return list;
  }
  grpc::Status EndOfAssignments() {
    v1::AssignmentList list;
    while (watch_->Read(&list)) {
    }
    return watch_->Finish();
  }
  void CloseAssignments() {
    watch_context_->TryCancel();
    EndOfAssignments();
  }

  grpc::Status Report(const v1::AttemptKey& key, v1::ReportAttemptRequest::Status status) {
    v1::ReportAttemptRequest request;
    Identify(&request);
    *request.mutable_key() = key;
    request.set_status(status);
    if (status == v1::ReportAttemptRequest::SUCCEEDED) {
      request.mutable_result()->set_steps(3);
      request.mutable_result()->set_digest(std::string(64, 'a'));
    }
    v1::ReportAttemptResponse response;
    grpc::ClientContext context;
    return server_->worker()->ReportAttempt(&context, request, &response);
  }

  // One record for each step, with that number as its sequence.
  grpc::Status Append(const v1::AttemptKey& key, int first, int last,
                      v1::AppendMetricsResponse* response) {
    v1::AppendMetricsRequest request;
    Identify(&request);
    *request.mutable_key() = key;
    for (int step = first; step <= last; ++step) {
      v1::MetricRecord* record = request.add_records();
      record->set_sequence(step);
      record->set_step(step);
      record->mutable_time()->set_seconds(1'700'000'000 + step);
      (*record->mutable_values())["loss"] = 5.0 / step;
      (*record->mutable_values())["tokens"] = 64.0 * step;
    }
    grpc::ClientContext context;
    return server_->worker()->AppendMetrics(&context, request, response);
  }

  grpc::Status AppendLog(const v1::AttemptKey& key, int64_t sequence, const std::string& text) {
    v1::AppendLogsRequest request;
    Identify(&request);
    *request.mutable_key() = key;
    v1::LogRecord* record = request.add_records();
    record->set_sequence(sequence);
    record->set_text(text);
    v1::AppendLogsResponse response;
    grpc::ClientContext context;
    return server_->worker()->AppendLogs(&context, request, &response);
  }

  grpc::Status Commit(const v1::AttemptKey& key, int64_t step,
                      v1::CommitCheckpointResponse* response) {
    v1::CommitCheckpointRequest request;
    Identify(&request);
    v1::Checkpoint* checkpoint = request.mutable_checkpoint();
    checkpoint->set_job_id(key.job_id());
    checkpoint->set_attempt(key.attempt());
    checkpoint->set_step(step);
    checkpoint->set_path(absl::StrCat("/checkpoints/", key.job_id(), "/step-", step));
    checkpoint->set_manifest_digest(std::string(64, 'b'));
    checkpoint->set_size_bytes(1000);
    grpc::ClientContext context;
    return server_->worker()->CommitCheckpoint(&context, request, response);
  }

  v1::RenewLeasesResponse Renew(const std::vector<v1::AttemptKey>& attempts) {
    v1::RenewLeasesRequest request;
    Identify(&request);
    for (const auto& key : attempts) *request.add_attempts() = key;
    v1::RenewLeasesResponse response;
    grpc::ClientContext context;
    const grpc::Status status = server_->worker()->RenewLeases(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }

 private:
  template <typename Request>
  void Identify(Request* request) {
    request->set_worker_id("w1");
    request->set_incarnation(incarnation_);
  }

  TestServer* server_;
  std::string incarnation_;
  std::unique_ptr<grpc::ClientContext> watch_context_;
  std::unique_ptr<grpc::ClientReader<v1::AssignmentList>> watch_;
};

}  // namespace nibble::rpc

#endif  // SERVER_RPC_RPC_TEST_SERVER_H_
