// The form of requests: bytes on the wire, page tokens, single fields, and the errors they give.
#include <grpcpp/support/status.h>

#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "google/rpc/error_details.pb.h"
#include "gtest/gtest.h"
#include "nibble/v1/training_service.pb.h"
#include "nibble/v1/worker_service.pb.h"
#include "server/rpc/conversions.h"
#include "server/rpc/grpc_status.h"
#include "server/rpc/page_token.h"
#include "server/rpc/request_checks.h"
#include "server/rpc/wire_check.h"

namespace nibble::rpc {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

google::rpc::Status DetailsOf(const absl::Status& status) {
  google::rpc::Status details;
  EXPECT_TRUE(details.ParseFromString(ToGrpcStatus(status).error_details()));
  return details;
}

google::rpc::ErrorInfo InfoOf(const absl::Status& status) {
  google::rpc::ErrorInfo info;
  EXPECT_TRUE(DetailsOf(status).details(0).UnpackTo(&info));
  return info;
}

// Paths of the violations, in order.
std::vector<std::string> FieldsOf(const absl::Status& status) {
  std::vector<std::string> fields;
  if (status.ok()) return fields;
  const google::rpc::Status details = DetailsOf(status);
  google::rpc::BadRequest bad_request;
  if (details.details_size() < 2 || !details.details(1).UnpackTo(&bad_request)) return fields;
  for (const auto& violation : bad_request.field_violations()) fields.push_back(violation.field());
  return fields;
}

absl::Status CheckSubmit(const std::string& bytes) {
  return CheckWire(bytes, v1::SubmitJobRequest::descriptor());
}

std::string Tag(int field, int wire_type) {
  const int tag = field << 3 | wire_type;
  if (tag < 128) return std::string(1, static_cast<char>(tag));
  return {static_cast<char>((tag & 127) | 128), static_cast<char>(tag >> 7)};
}

std::string Bytes(int field, const std::string& payload) {
  EXPECT_LT(payload.size(), 128u);
  return Tag(field, 2) + std::string(1, static_cast<char>(payload.size())) + payload;
}

v1::SubmitJobRequest GoodSubmit() {
  v1::SubmitJobRequest request;
  request.set_request_id("r-1");
  request.mutable_spec()->set_name("bible");
  (*request.mutable_spec()->mutable_labels())["team"] = "a";
  request.mutable_spec()->mutable_model()->set_heads(-4);  // ten bytes on the wire
  request.mutable_spec()->mutable_optimizer()->set_learning_rate(1e-3);
  request.mutable_spec()->mutable_model()->set_preset(
      "gr\xc3\xb6\xc3\x9f"
      "e \xe2\x82\xac \xf0\x9f\x90\xb8");
  return request;
}

TEST(WireCheckTest, WellFormedMessagesPass) {
  EXPECT_THAT(CheckSubmit(""), IsOk());
  EXPECT_THAT(CheckSubmit(GoodSubmit().SerializeAsString()), IsOk());
  v1::ListJobsRequest packed;
  packed.add_states(v1::QUEUED);
  packed.add_states(v1::FAILED);
  EXPECT_THAT(CheckWire(packed.SerializeAsString(), v1::ListJobsRequest::descriptor()), IsOk());
}

TEST(WireCheckTest, NamesUnknownFieldsByPath) {
  EXPECT_THAT(FieldsOf(CheckSubmit(Bytes(99, "x"))), ElementsAre("99"));
  const std::string model = Bytes(99, "x");
  EXPECT_THAT(FieldsOf(CheckSubmit(Bytes(1, Bytes(5, model)))), ElementsAre("spec.model.99"));
}

TEST(WireCheckTest, NamesValuesThatProtobufLetsThrough) {
  v1::SubmitJobRequest request = GoodSubmit();
  request.mutable_spec()->mutable_optimizer()->set_learning_rate(
      std::numeric_limits<double>::quiet_NaN());
  request.mutable_spec()->mutable_model()->set_rope_theta(std::numeric_limits<double>::infinity());
  request.mutable_spec()->set_name(std::string("a\0b", 3));
  EXPECT_THAT(FieldsOf(CheckSubmit(request.SerializeAsString())),
              ElementsAre("spec.name", "spec.model.rope_theta", "spec.optimizer.learning_rate"));

  v1::ListJobsRequest list;
  list.add_states(v1::QUEUED);
  list.add_states(static_cast<v1::JobState>(77));
  EXPECT_THAT(FieldsOf(CheckWire(list.SerializeAsString(), v1::ListJobsRequest::descriptor())),
              ElementsAre("states[1]"));
}

TEST(WireCheckTest, NamesTheStringThatIsNotUtf8) {
  // Over-long, surrogate, beyond U+10FFFF, cut, a lone continuation.
  for (const char* bad : {"\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x82", "\x80"}) {
    EXPECT_THAT(FieldsOf(CheckSubmit(Bytes(1, Bytes(1, bad)))), ElementsAre("spec.name"));
  }
}

TEST(WireCheckTest, NamesKeysOfMapsAndIndicesOfLists) {
  v1::AppendMetricsRequest append;
  append.add_records();
  (*append.add_records()->mutable_values())["loss"] = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THAT(
      FieldsOf(CheckWire(append.SerializeAsString(), v1::AppendMetricsRequest::descriptor())),
      ElementsAre("records[1].values[\"loss\"]"));
}

TEST(WireCheckTest, RefusesDamagedMessages) {
  const std::string good = GoodSubmit().SerializeAsString();
  int refused = 0;
  for (size_t size = 1; size < good.size(); ++size) {
    const absl::Status status = CheckSubmit(good.substr(0, size));
    v1::SubmitJobRequest parsed;
    // What the check passes, protobuf parses.
    EXPECT_EQ(status.ok(), parsed.ParseFromString(good.substr(0, size))) << size;
    refused += status.ok() ? 0 : 1;
  }
  EXPECT_GT(refused, 10);
  EXPECT_THAT(CheckSubmit("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(FieldsOf(CheckSubmit(Tag(1, 0) + "\x01")), ElementsAre("spec"));  // wrong wire type
  EXPECT_THAT(FieldsOf(CheckSubmit(Tag(1, 3) + Tag(1, 4))), ElementsAre("spec"));  // a group
}

TEST(WireCheckTest, RefusesAFloodOfElementsBeforeItIsParsed) {
  std::string flood;
  for (int i = 0; i <= kMaxRequestElements; ++i) flood += Bytes(5, "");  // empty records
  const absl::Status status = CheckWire(flood, v1::AppendMetricsRequest::descriptor());
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_EQ(ReasonOf(status), "MESSAGE_TOO_LARGE");
}

TEST(PageTokenTest, ComesBackAsItWent) {
  const std::string token = EncodePageToken(TokenKind::kJobs, "filters", {7, -1, INT64_MAX});
  ASSERT_OK_AND_ASSIGN(const Position position,
                       DecodePageToken(token, TokenKind::kJobs, "filters", "page_token"));
  EXPECT_THAT(position, ElementsAre(7, -1, INT64_MAX));
}

TEST(PageTokenTest, RefusesWhatItDidNotMake) {
  const std::string token = EncodePageToken(TokenKind::kJobs, "filters", {7, 0, 0});
  const auto refused = [](absl::string_view forged, TokenKind kind, absl::string_view filters) {
    const auto position = DecodePageToken(forged, kind, filters, "page_token");
    EXPECT_THAT(FieldsOf(position.status()), ElementsAre("page_token")) << forged;
  };
  refused(token, TokenKind::kEvents, "filters");  // of another list
  refused(token, TokenKind::kJobs, "others");     // of another request
  refused("", TokenKind::kJobs, "filters");
  refused(token + "A", TokenKind::kJobs, "filters");
  refused(token.substr(0, token.size() - 1), TokenKind::kJobs, "filters");
  refused(std::string(100'000, 'A'), TokenKind::kJobs, "filters");
  for (size_t i = 0; i < token.size(); ++i) {
    std::string forged = token;
    forged[i] = forged[i] == 'B' ? 'C' : 'B';
    if (forged != token) refused(forged, TokenKind::kJobs, "filters");
  }
}

TEST(ErrorDetailsTest, EveryErrorHasAReasonInTheDomain) {
  const google::rpc::ErrorInfo plain = InfoOf(absl::NotFoundError("no job"));
  EXPECT_EQ(plain.domain(), "nibble");
  EXPECT_EQ(plain.reason(), "NOT_FOUND");
  const absl::Status status =
      WithReason(absl::FailedPreconditionError("old"), "STALE_ATTEMPT", {{"job_id", "j-1"}});
  EXPECT_EQ(InfoOf(status).reason(), "STALE_ATTEMPT");
  EXPECT_EQ(InfoOf(status).metadata().at("job_id"), "j-1");
  EXPECT_EQ(ToGrpcStatus(status).error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(DetailsOf(status).code(), 9);
  EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).ok());
}

TEST(ErrorDetailsTest, WrongFieldsStayWithinTheSizeOfHeaders) {
  std::vector<spec::FieldError> errors;
  for (int i = 0; i < 10'000; ++i) {
    errors.push_back({absl::StrCat("spec.f", i, std::string(1000, 'x')), std::string(1000, 'y')});
  }
  const grpc::Status status = ToGrpcStatus(InvalidFields(errors));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  // gRPC clients refuse headers beyond 8 KiB, all together.
  EXPECT_LT(status.error_message().size() + status.error_details().size() * 4 / 3, 8192u);
}

TEST(RequestCheckerTest, SaysWhatIsAllowed) {
  struct Case {
    std::function<void(RequestChecker*)> check;
    bool ok;
  };
  const std::vector<Case> cases = {
      {[](auto* c) { c->JobId("j-0123456789abcdef", "f"); }, true},
      {[](auto* c) { c->JobId("j-0123456789abcdeF", "f"); }, false},
      {[](auto* c) { c->JobId("j-0123456789abcde", "f"); }, false},
      {[](auto* c) { c->JobId("../0123456789abcde", "f"); }, false},
      {[](auto* c) { c->JobId("", "f"); }, false},
      {[](auto* c) { c->OptionalJobId("", "f"); }, true},
      {[](auto* c) { c->RequestId("", "f"); }, true},
      {[](auto* c) { c->RequestId(std::string(128, '~'), "f"); }, true},
      {[](auto* c) { c->RequestId(std::string(129, '~'), "f"); }, false},
      {[](auto* c) { c->RequestId("a\nb", "f"); }, false},
      {[](auto* c) { c->WorkerName("node-1.example", "f"); }, true},
      {[](auto* c) { c->WorkerName("../node", "f"); }, false},
      {[](auto* c) { c->WorkerName("", "f"); }, false},
      {[](auto* c) { c->Hex(std::string(64, 'a'), 64, "f"); }, true},
      {[](auto* c) { c->Hex(std::string(63, 'a') + "g", 64, "f"); }, false},
      {[](auto* c) { c->AbsolutePath("/var/lib/nibble/step-1", "f"); }, true},
      {[](auto* c) { c->AbsolutePath("var/lib", "f"); }, false},
      {[](auto* c) { c->AbsolutePath("/var/../etc", "f"); }, false},
      {[](auto* c) { c->AbsolutePath("/var/..", "f"); }, false},
      {[](auto* c) {
         c->InRange(5, {1, 4}, "f");
       },
       false},
      {[](auto* c) {
         c->InRange(4, {1, 4}, "f");
       },
       true},
  };
  for (size_t i = 0; i < cases.size(); ++i) {
    RequestChecker checker;
    cases[i].check(&checker);
    EXPECT_EQ(checker.Result().ok(), cases[i].ok) << "case " << i;
    if (!cases[i].ok) {
      EXPECT_THAT(FieldsOf(checker.Result()), ElementsAre("f"));
      EXPECT_THAT(std::string(checker.Result().message()), HasSubstr("allowed")) << "case " << i;
    }
  }
}

TEST(RequestCheckerTest, ShowsHostileValuesEscapedAndCut) {
  RequestChecker checker;
  checker.JobId("\x1b[31m" + std::string(10'000, 'x'), "job_id");
  const std::string message(checker.Result().message());
  EXPECT_THAT(message, HasSubstr("\\x1b"));
  EXPECT_LT(message.size(), 300u);
}

TEST(ConversionsTest, AJobRecordBecomesAJob) {
  spec::ResolvedJob resolved;
  resolved.spec.set_name("bible");
  resolved.spec.set_priority(7);
  resolved.spec.mutable_precision()->set_recipe("nvfp4");
  resolved.total_steps = 100;
  resolved.parameters = 12345;
  scheduler::JobRecord record;
  record.job_id = "j-0123456789abcdef";
  record.document = MakeDocument(resolved.spec, resolved, "key");
  record.state = scheduler::JobState::kSucceeded;
  record.reason = scheduler::JobReason::kCompleted;
  record.attempt = 2;
  record.create_micros = 1'700'000'000'250'000;
  record.end_micros = 1'700'000'100'000'000;
  record.revision = 9;
  record.result =
      scheduler::TrainingResult{100, 6400, 1.5, 1.6, 2.3, 1000, "d", {{"peak_memory_bytes", 5e8}}};
  ASSERT_OK_AND_ASSIGN(const v1::Job job, ToProto(record, 99));
  EXPECT_EQ(job.spec().name(), "bible");
  EXPECT_EQ(job.state(), v1::SUCCEEDED);
  EXPECT_EQ(job.reason(), v1::COMPLETED);
  EXPECT_EQ(job.step(), 99);
  EXPECT_EQ(job.total_steps(), 100);
  EXPECT_EQ(job.create_time().seconds(), 1'700'000'000);
  EXPECT_EQ(job.create_time().nanos(), 250'000'000);
  EXPECT_FALSE(job.has_start_time());
  EXPECT_EQ(job.result().digest(), "d");
  EXPECT_EQ(job.result().tokens(), 6400);
  EXPECT_EQ(job.result().efficiency().at("peak_memory_bytes"), 5e8);
  EXPECT_EQ(FromProto(job.result()), *record.result);
  EXPECT_EQ(job.etag(), "9");
  EXPECT_EQ(RecipeOf(*record.document), "nvfp4");
}

TEST(ConversionsTest, TheFingerprintIsOfWhatWasSubmitted) {
  spec::ResolvedJob resolved;
  v1::JobSpec a, b;
  for (const char* key : {"x", "y", "z"}) (*a.mutable_labels())[key] = "1";
  for (const char* key : {"z", "y", "x"}) (*b.mutable_labels())[key] = "1";
  EXPECT_EQ(MakeDocument(a, resolved, "k")->fingerprint,
            MakeDocument(b, resolved, "k")->fingerprint);
  b.set_priority(1);
  EXPECT_NE(MakeDocument(a, resolved, "k")->fingerprint,
            MakeDocument(b, resolved, "k")->fingerprint);
  EXPECT_THAT(MakeDocument(a, resolved, "")->fingerprint, IsEmpty());
}

TEST(ConversionsTest, TimesAreClamped) {
  google::protobuf::Timestamp timestamp;
  SetTimestamp(-1, &timestamp);
  EXPECT_EQ(timestamp.seconds(), -1);
  EXPECT_EQ(timestamp.nanos(), 999'999'000);
  EXPECT_EQ(MicrosOf(timestamp), 999'999);
  timestamp.set_seconds(INT64_MAX);
  timestamp.set_nanos(INT32_MIN);
  EXPECT_EQ(MicrosOf(timestamp), 253'402'300'799'000'000);
}

TEST(ConversionsTest, AStoredSpecThatCannotBeReadIsDataLoss) {
  scheduler::JobRecord record;
  auto document = std::make_shared<scheduler::JobDocument>();
  document->spec = "\xff\xff";
  record.document = document;
  EXPECT_THAT(ToProto(record, 0), StatusIs(absl::StatusCode::kDataLoss));
}

}  // namespace
}  // namespace nibble::rpc
