// Malformed requests over a loopback connection: the right status, with the field's path.
#include <grpcpp/generic/generic_stub.h>

#include <cmath>
#include <future>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/rpc/rpc_test_server.h"

namespace nibble::rpc {
namespace {

using ::testing::Contains;
using ::testing::IsEmpty;
using ::testing::Not;

class MalformedRequestTest : public ::testing::Test {
 protected:
  TestServer server_;
};

// Bytes as they are, to any method.
grpc::Status CallRaw(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
                     const std::string& bytes) {
  grpc::GenericStub stub(channel);
  const grpc::Slice slice(bytes);
  const grpc::ByteBuffer request(&slice, 1);
  grpc::ByteBuffer response;
  auto context = Context();
  std::promise<grpc::Status> done;
  stub.UnaryCall(context.get(), "/nibble.v1." + method, grpc::StubOptions(), &request, &response,
                 [&](grpc::Status status) { done.set_value(std::move(status)); });
  return done.get_future().get();
}

TEST_F(MalformedRequestTest, MalformedRequestsAreNamedByField) {
  struct Case {
    std::string method;
    std::string bytes;
    std::string field;
  };
  v1::SubmitJobRequest nan, nul, name, heads, no_spec, long_id;
  *nan.mutable_spec() = *nul.mutable_spec() = *name.mutable_spec() = *heads.mutable_spec() =
      *long_id.mutable_spec() = TinySpec();
  nan.mutable_spec()->mutable_optimizer()->set_learning_rate(std::nan(""));
  nul.mutable_spec()->mutable_data()->set_path(std::string("a\0b", 3));
  name.mutable_spec()->set_name("Not A Label");
  heads.mutable_spec()->mutable_model()->set_heads(5);  // does not divide 32
  long_id.set_request_id(std::string(129, 'x'));
  v1::ListJobsRequest page_size, token, state;
  page_size.set_page_size(1001);
  token.set_page_token("AAAA");
  state.add_states(static_cast<v1::JobState>(42));
  v1::GetMetricsRequest points;
  points.set_job_id("j-0000000000000000");
  points.set_max_points(-1);
  v1::WatchJobsRequest cursor;
  cursor.set_cursor("forged");
  v1::RegisterWorkerRequest slots;
  slots.set_worker_id("w");
  slots.set_incarnation("i");
  slots.set_slots(-1);
  v1::CommitCheckpointRequest path;
  path.set_worker_id("w");
  path.set_incarnation("i");
  path.mutable_checkpoint()->set_job_id("j-0000000000000000");
  path.mutable_checkpoint()->set_attempt(1);
  path.mutable_checkpoint()->set_path("../../etc");
  path.mutable_checkpoint()->set_manifest_digest(std::string(64, 'a'));
  const std::vector<Case> cases = {
      {"TrainingService/SubmitJob", nan.SerializeAsString(), "spec.optimizer.learning_rate"},
      {"TrainingService/SubmitJob", nul.SerializeAsString(), "spec.data.path"},
      {"TrainingService/SubmitJob", name.SerializeAsString(), "spec.name"},
      {"TrainingService/SubmitJob", heads.SerializeAsString(), "spec.model.heads"},
      {"TrainingService/SubmitJob", long_id.SerializeAsString(), "request_id"},
      {"TrainingService/SubmitJob", no_spec.SerializeAsString(), "spec"},
      {"TrainingService/SubmitJob", "\x0a\x05\x0a\x03\xff\xfe\xfd", "spec.name"},
      {"TrainingService/SubmitJob", "\x0a\x02\xc8\x06\x01", "spec.105"},  // cut within spec
      {"TrainingService/GetJob", "\x0a\x03j-1", "job_id"},
      {"TrainingService/GetJob", "\x1a\x01x", "3"},
      {"TrainingService/ListJobs", page_size.SerializeAsString(), "page_size"},
      {"TrainingService/ListJobs", token.SerializeAsString(), "page_token"},
      {"TrainingService/ListJobs", state.SerializeAsString(), "states[0]"},
      {"TrainingService/GetMetrics", points.SerializeAsString(), "max_points"},
      {"TrainingService/WatchJobs", cursor.SerializeAsString(), "cursor"},
      {"WorkerService/RegisterWorker", slots.SerializeAsString(), "slots"},
      {"WorkerService/RegisterWorker", "", "worker_id"},
      {"WorkerService/CommitCheckpoint", path.SerializeAsString(), "checkpoint.path"},
      {"WorkerService/ReportAttempt", "", "key.job_id"},
  };
  for (const Case& c : cases) {
    const grpc::Status status = CallRaw(server_.channel(), c.method, c.bytes);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT)
        << c.method << " " << c.field << ": " << status.error_message();
    EXPECT_THAT(DetailsOf(status).fields, Contains(c.field)) << c.method;
  }
}

TEST_F(MalformedRequestTest, RandomBytesNeverGiveInternalErrors) {
  uint64_t state = 12345;
  const auto next = [&] { return state = state * 6364136223846793005u + 1442695040888963407u; };
  v1::SubmitJobRequest good;
  *good.mutable_spec() = TinySpec();
  for (int i = 0; i < 400; ++i) {
    std::string bytes = good.SerializeAsString();
    for (int flips = 0; flips < 1 + i % 4; ++flips) {
      bytes[(next() >> 33) % bytes.size()] = static_cast<char>(next() >> 40);
    }
    const grpc::Status status = CallRaw(server_.channel(), "TrainingService/SubmitJob", bytes);
    EXPECT_TRUE(status.ok() || status.error_code() == grpc::StatusCode::INVALID_ARGUMENT)
        << status.error_code() << " " << status.error_message();
    if (!status.ok()) {
      EXPECT_THAT(DetailsOf(status).fields, Not(IsEmpty())) << status.error_message();
    }
  }
}

TEST_F(MalformedRequestTest, LargeMessagesAreRefused) {
  const std::string large = "\x12\x80\x80\x20" + std::string(512 * 1024, 'x');  // request_id
  const grpc::Status status = CallRaw(server_.channel(), "TrainingService/SubmitJob", large);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(DetailsOf(status).reason, "MESSAGE_TOO_LARGE");
  const grpc::Status huge =
      CallRaw(server_.channel(), "TrainingService/SubmitJob", std::string(8 << 20, 'x'));
  EXPECT_EQ(huge.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

}  // namespace
}  // namespace nibble::rpc
