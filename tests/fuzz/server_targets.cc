// What arrives at the daemon, and what it finds in its database.
#include <google/protobuf/message.h>

#include <memory>

#include "nibble/v1/training_service.pb.h"
#include "nibble/v1/worker_service.pb.h"
#include "server/rpc/frame_guard.h"
#include "server/rpc/page_token.h"
#include "server/rpc/wire_check.h"
#include "server/store/record_codec.h"
#include "tests/fuzz/fuzz_target.h"

namespace nibble::fuzz {
namespace {

using google::protobuf::Message;

// ---- page tokens ----

bool RunPageToken(absl::string_view input) {
  bool accepted = false;
  for (const auto kind : {rpc::TokenKind::kJobs, rpc::TokenKind::kEvents}) {
    const auto position = rpc::DecodePageToken(input, kind, "filters", "page_token");
    if (!position.ok()) continue;
    accepted = true;
    Require(rpc::EncodePageToken(kind, "filters", *position) == input, "a token has one form");
  }
  return accepted;
}

std::vector<std::string> PageTokenSeeds() {
  return {rpc::EncodePageToken(rpc::TokenKind::kJobs, "filters", {1, 2, 3}),
          rpc::EncodePageToken(rpc::TokenKind::kEvents, "filters", {-1, INT64_MAX, INT64_MIN}),
          rpc::EncodePageToken(rpc::TokenKind::kMetrics, "others", {0, 0, 0})};
}

// ---- requests: the first byte says which ----

const std::vector<const Message*>& Requests() {
  static const auto* const requests =
      new std::vector<const Message*>{&v1::SubmitJobRequest::default_instance(),
                                      &v1::ListJobsRequest::default_instance(),
                                      &v1::UpdateJobRequest::default_instance(),
                                      &v1::WatchJobsRequest::default_instance(),
                                      &v1::RegisterWorkerRequest::default_instance(),
                                      &v1::RenewLeasesRequest::default_instance(),
                                      &v1::ReportAttemptRequest::default_instance(),
                                      &v1::AppendMetricsRequest::default_instance(),
                                      &v1::CommitCheckpointRequest::default_instance()};
  return *requests;
}

bool RunRequest(absl::string_view input) {
  if (input.empty()) return false;
  const Message* kind = Requests()[static_cast<unsigned char>(input[0]) % Requests().size()];
  input.remove_prefix(1);
  if (!rpc::CheckWire(input, kind->GetDescriptor()).ok()) return false;
  const std::unique_ptr<Message> message(kind->New());
  Require(message->ParseFromArray(input.data(), static_cast<int>(input.size())),
          "what passes the check can be parsed");
  Require(message->SpaceUsedLong() < kMaxInputMemoryBytes, "and is small");
  return true;
}

std::vector<std::string> RequestSeeds() {
  std::vector<std::string> seeds;
  v1::SubmitJobRequest submit;
  submit.set_request_id("key");
  submit.mutable_spec()->set_name("seed");
  (*submit.mutable_spec()->mutable_labels())["team"] = "lm";
  submit.mutable_spec()->mutable_model()->set_rope_theta(1e4);
  v1::ListJobsRequest list;
  list.set_page_size(5);
  list.add_states(v1::RUNNING);
  v1::RenewLeasesRequest renew;
  renew.set_worker_id("w");
  renew.add_attempts()->set_job_id("j-0123456789abcdef");
  v1::AppendMetricsRequest append;
  (*append.add_records()->mutable_values())["loss"] = 2.5;
  v1::ReportAttemptRequest report;
  report.set_status(v1::ReportAttemptRequest::SUCCEEDED);
  report.mutable_result()->set_digest("d");
  const std::pair<char, const Message*> messages[] = {
      {0, &submit}, {1, &list}, {5, &renew}, {6, &report}, {7, &append}};
  for (const auto& [kind, message] : messages) {
    seeds.push_back(std::string(1, kind) + message->SerializeAsString());
  }
  return seeds;
}

// ---- HTTP/2 frames ----

bool RunFrames(absl::string_view input) {
  constexpr absl::string_view kPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
  rpc::FrameGuard whole(0);
  rpc::FrameGuard bytes(0);
  whole.FromClient(kPreface, 0);
  bytes.FromClient(kPreface, 0);
  const bool refused = whole.FromClient(input, 1) != nullptr;
  bool refused_by_bytes = false;
  for (size_t i = 0; i < input.size() && !refused_by_bytes; ++i) {
    refused_by_bytes = bytes.FromClient(input.substr(i, 1), 1) != nullptr;
  }
  Require(refused == refused_by_bytes, "pieces make no difference");
  Require(refused || whole.owing_since_nanos() == bytes.owing_since_nanos(), "nor to what is owed");
  rpc::FrameGuard greeting(0);
  greeting.FromClient(input, 0);
  greeting.FromServer(input, 0);
  return !refused;
}

std::vector<std::string> FrameSeeds() {
  const auto frame = [](int length, int type, int flags) {
    std::string out = {0,
                       static_cast<char>(length >> 8),
                       static_cast<char>(length),
                       static_cast<char>(type),
                       static_cast<char>(flags),
                       0,
                       0,
                       0,
                       1};
    return out + std::string(static_cast<size_t>(length), 'x');
  };
  return {frame(6, 4, 0) + frame(40, 1, 4) + frame(300, 0, 1) + frame(4, 8, 0),
          frame(40, 1, 0) + frame(9, 9, 0) + frame(9, 9, 4) + frame(4, 3, 0) + frame(8, 6, 0)};
}

// ---- rows: the first byte says of which table ----

template <typename Record>
bool RunRecord(const absl::StatusOr<Record>& decoded, std::string (*encode)(const Record&),
               absl::StatusOr<Record> (*decode)(absl::string_view)) {
  if (!decoded.ok()) return false;
  const std::string bytes = encode(*decoded);
  const auto again = decode(bytes);
  Require(again.ok() && encode(*again) == bytes, "a record survives being stored");
  return true;
}

bool RunRows(absl::string_view input) {
  if (input.empty()) return false;
  const int kind = static_cast<unsigned char>(input[0]) % 6;
  input.remove_prefix(1);
  switch (kind) {
    case 0:
      return RunRecord(store::DecodeDocument(input), store::EncodeDocument, store::DecodeDocument);
    case 1:
      return RunRecord(store::DecodeEvent(input), store::EncodeEvent, store::DecodeEvent);
    case 2:
      return RunRecord(store::DecodeCheckpoint(input), store::EncodeCheckpoint,
                       store::DecodeCheckpoint);
    case 3:
      return RunRecord(store::DecodeWorker(input), store::EncodeWorker, store::DecodeWorker);
    case 4:
      return RunRecord(store::DecodeUsage(input), store::EncodeUsage, store::DecodeUsage);
    default:
      // Without its document, which is a row of its own.
      return store::DecodeJob(input).ok();
  }
}

std::vector<std::string> RowSeeds() {
  scheduler::JobDocument document;
  document.name = "seed";
  document.labels["team"] = "lm";
  document.spec = "spec";
  document.constraints.labels["rack"] = "a";
  scheduler::JobRecord job;
  job.job_id = "j-0123456789abcdef";
  job.document = std::make_shared<const scheduler::JobDocument>(document);
  job.state = scheduler::JobState::kRunning;
  job.placement = {{"w-1", "one", 1}, {"w-2", "two", 3}};
  job.workers = {"w-1", "w-2"};
  job.result.emplace();
  job.result->efficiency["tokens_per_second"] = 5;
  job.class_failures.assign(scheduler::kFailureClasses, 1);
  job.failed_workers = {"w-1"};
  scheduler::JobEventRecord event;
  event.job_id = job.job_id;
  event.message = "because";
  scheduler::CheckpointRecord checkpoint;
  checkpoint.path = "/checkpoints/step-5";
  scheduler::WorkerRecord worker;
  worker.worker_id = "w-1";
  worker.failed_jobs = {"j-1", "j-2"};
  scheduler::ProjectUsage usage{"default", 1.5, 7};
  return {'\0' + store::EncodeDocument(document),     '\1' + store::EncodeEvent(event),
          '\2' + store::EncodeCheckpoint(checkpoint), '\3' + store::EncodeWorker(worker),
          '\4' + store::EncodeUsage(usage),           '\5' + store::EncodeJob(job)};
}

}  // namespace

std::vector<FuzzTarget> ServerTargets() {
  return {{"page_token", RunPageToken, PageTokenSeeds},
          {"request", RunRequest, RequestSeeds},
          {"http2_frames", RunFrames, FrameSeeds},
          {"database_rows", RunRows, RowSeeds}};
}

}  // namespace nibble::fuzz
