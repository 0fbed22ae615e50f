#include "server/rpc/worker_api.h"

#include <cmath>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "server/rpc/assignment_watch.h"
#include "server/rpc/conversions.h"
#include "server/rpc/request_checks.h"

namespace nibble::rpc {
namespace {

constexpr int kMaxAttempts = 4096;
constexpr int kMaxRank = 1 << 20;
constexpr size_t kMaxTextBytes = 1024;
constexpr int kMaxEfficiencyValues = 64;
constexpr size_t kMaxMessageBytes = 16 * 1024;

void CheckAttempts(const google::protobuf::RepeatedPtrField<v1::AttemptKey>& attempts,
                   absl::string_view field, RequestChecker* check) {
  check->Count(attempts.size(), kMaxAttempts, field);
  for (int i = 0; i < attempts.size(); ++i) {
    check->Attempt(attempts[i], absl::StrCat(field, "[", i, "]"));
  }
}

// "guard:loss_spike".
bool IsCause(const std::string& cause) {
  constexpr size_t kMaxCauseBytes = 64;
  return cause.size() <= kMaxCauseBytes &&
         cause.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_:") ==
             std::string::npos;
}

void CheckNote(const v1::ReportAttemptRequest& request, RequestChecker* check) {
  const bool noted = request.status() == v1::ReportAttemptRequest::NOTED;
  const bool known =
      request.reason() >= v1::GUARD_TRIPPED && request.reason() <= v1::SNAPSHOT_REFUSED;
  if (noted != known) {
    check->Add("reason",
               "must be GUARD_TRIPPED to SNAPSHOT_REFUSED with status NOTED, and only then");
  }
  if (noted) check->InRange(request.note_sequence(), {1, INT64_MAX}, "note_sequence");
  if (!IsCause(request.cause())) {
    check->Add("cause", "has other characters than A-Z a-z _ :, or more than 64");
  }
  if (request.reason() == v1::CHECKPOINT_QUARANTINED) {
    check->InRange(request.damaged().attempt(), {1, INT64_MAX}, "damaged.attempt");
    check->InRange(request.damaged().step(), {0, INT64_MAX}, "damaged.step");
  }
}

void CheckResult(const v1::ReportAttemptRequest& request, RequestChecker* check) {
  const bool succeeded = request.status() == v1::ReportAttemptRequest::SUCCEEDED;
  if (succeeded != request.has_result()) {
    check->Add("result", "must be there with status SUCCEEDED, and only then");
  }
  if (!request.has_result()) return;
  check->InRange(request.result().steps(), {0, INT64_MAX}, "result.steps");
  check->InRange(request.result().tokens(), {0, INT64_MAX}, "result.tokens");
  if (!request.result().digest().empty())
    check->Hex(request.result().digest(), 64, "result.digest");
  const auto& efficiency = request.result().efficiency();
  check->Count(static_cast<int64_t>(efficiency.size()), kMaxEfficiencyValues, "result.efficiency");
  for (const auto& [name, value] : efficiency) {
    check->Text(name, kMaxTextBytes, "result.efficiency");
    if (!std::isfinite(value)) check->Add("result.efficiency", "must be finite numbers");
  }
}

template <typename Records>
void CheckRecords(const Records& records, RequestChecker* check) {
  check->Count(records.size(), store::kMaxRecordsOfAppend, "records");
  for (int i = 0; i < records.size(); ++i) {
    check->InRange(records[i].sequence(), {1, INT64_MAX},
                   absl::StrCat("records[", i, "].sequence"));
  }
}

// The part that both appends share.
template <typename Request>
coordinator::AppendRequest AppendOf(const Request& request) {
  coordinator::AppendRequest append;
  append.worker_id = request.worker_id();
  append.incarnation = request.incarnation();
  append.source = {FromProto(request.key()), request.rank()};
  append.size_bytes = static_cast<int64_t>(request.SpaceUsedLong());
  return append;
}

absl::Status StatusOf(const coordinator::AppendOutcome& outcome) {
  if (!outcome.refusal.ok()) return ToStatus(outcome.refusal);
  const std::optional<int64_t> expected = store::ExpectedSequence(outcome.status);
  if (!expected.has_value()) return outcome.status;
  return WithReason(outcome.status, "SEQUENCE_GAP",
                    {{"expected_sequence", absl::StrCat(*expected)}});
}

// Answers from the outcome of an event: the error, or what `convert` makes of the reply.
template <typename Response, typename Convert>
coordinator::OutcomeCallback AnswerWith(Reply<Response> reply, Convert convert) {
  return [reply = std::move(reply), convert](const coordinator::Outcome& outcome) {
    const absl::Status status = ToStatus(outcome);
    if (!status.ok()) return reply(status);
    reply(convert(outcome.reply));
  };
}

}  // namespace

void WorkerApi::RegisterWorker(const v1::RegisterWorkerRequest& request,
                               Reply<v1::RegisterWorkerResponse> reply) {
  RequestChecker check;
  check.WorkerIdentity(request.worker_id(), request.incarnation());
  check.Text(request.host(), kMaxTextBytes, "host");
  check.Text(request.device_kind(), kMaxTextBytes, "device_kind");
  check.Text(request.device_name(), kMaxTextBytes, "device_name");
  check.Text(request.version(), kMaxTextBytes, "version");
  check.InRange(request.slots(), {0, scheduler::kMaxSlotsOfWorker}, "slots");
  CheckAttempts(request.running(), "running", &check);
  check.InRange(request.slot_memory_bytes(), {0, int64_t{1} << 60}, "slot_memory_bytes");
  check.Labels(request.labels(), "labels");
  const absl::Status checked = check.Result();
  if (!checked.ok()) return reply(checked);
  scheduler::WorkerRegistered event{
      request.worker_id(),   request.incarnation(), request.host(),    request.device_kind(),
      request.device_name(), request.slots(),       request.version(), {}};
  for (const v1::AttemptKey& key : request.running()) event.running.push_back(FromProto(key));
  event.slot_memory_bytes = request.slot_memory_bytes();
  event.labels.insert(request.labels().begin(), request.labels().end());
  parts_.coordinator->Post(
      std::move(event),
      AnswerWith<v1::RegisterWorkerResponse>(reply, [](const scheduler::Reply& answer) {
        const auto& registration = std::get<scheduler::Registration>(answer.answer);
        v1::RegisterWorkerResponse response;
        response.set_lease_term_ms(registration.lease_term_ms);
        for (const auto& adopted : registration.adopted) *response.add_adopted() = ToProto(adopted);
        return response;
      }));
}

void WorkerApi::RenewLeases(const v1::RenewLeasesRequest& request,
                            Reply<v1::RenewLeasesResponse> reply) {
  RequestChecker check;
  check.WorkerIdentity(request.worker_id(), request.incarnation());
  CheckAttempts(request.attempts(), "attempts", &check);
  check.Count(request.purged_job_ids_size(), kMaxAttempts, "purged_job_ids");
  for (int i = 0; i < request.purged_job_ids_size(); ++i) {
    check.JobId(request.purged_job_ids(i), absl::StrCat("purged_job_ids[", i, "]"));
  }
  const absl::Status checked = check.Result();
  if (!checked.ok()) return reply(checked);
  scheduler::LeasesRenewed event{request.worker_id(), request.incarnation(), {}, {}};
  for (const v1::AttemptKey& key : request.attempts()) event.attempts.push_back(FromProto(key));
  event.purged_job_ids.assign(request.purged_job_ids().begin(), request.purged_job_ids().end());
  parts_.coordinator->Post(
      std::move(event),
      AnswerWith<v1::RenewLeasesResponse>(reply, [](const scheduler::Reply& answer) {
        const auto& renewal = std::get<scheduler::Renewal>(answer.answer);
        v1::RenewLeasesResponse response;
        response.set_lease_term_ms(renewal.lease_term_ms);
        for (const auto& renewed : renewal.renewed) *response.add_renewed() = ToProto(renewed);
        for (const auto& stale : renewal.stale) *response.add_stale() = ToProto(stale);
        return response;
      }));
}

void WorkerApi::ReportAttempt(const v1::ReportAttemptRequest& request,
                              Reply<v1::ReportAttemptResponse> reply) {
  RequestChecker check;
  check.WorkerIdentity(request.worker_id(), request.incarnation());
  check.Attempt(request.key(), "key");
  if (request.status() == v1::ReportAttemptRequest::STATUS_UNSPECIFIED) {
    check.Add("status", "is missing; required");
  }
  check.Text(request.message(), kMaxMessageBytes, "message");
  CheckResult(request, &check);
  CheckNote(request, &check);
  const absl::Status checked = check.Result();
  if (!checked.ok()) return reply(checked);
  scheduler::AttemptReported event;
  event.worker_id = request.worker_id();
  event.incarnation = request.incarnation();
  event.attempt = FromProto(request.key());
  event.status = static_cast<scheduler::AttemptStatus>(request.status());
  event.failure_class = static_cast<scheduler::FailureClass>(request.failure_class());
  event.message = request.message();
  if (request.has_result()) event.result = FromProto(request.result());
  event.reason = static_cast<scheduler::JobReason>(request.reason());
  event.cause = request.cause();
  event.note_sequence = request.note_sequence();
  event.damaged_attempt = request.damaged().attempt();
  event.damaged_step = request.damaged().step();
  parts_.coordinator->Post(std::move(event),
                           AnswerWith<v1::ReportAttemptResponse>(
                               reply, [](const auto&) { return v1::ReportAttemptResponse(); }));
}

void WorkerApi::CommitCheckpoint(const v1::CommitCheckpointRequest& request,
                                 Reply<v1::CommitCheckpointResponse> reply) {
  const v1::Checkpoint& checkpoint = request.checkpoint();
  RequestChecker check;
  check.WorkerIdentity(request.worker_id(), request.incarnation());
  check.JobId(checkpoint.job_id(), "checkpoint.job_id");
  check.InRange(checkpoint.attempt(), {1, INT64_MAX}, "checkpoint.attempt");
  check.InRange(checkpoint.step(), {0, INT64_MAX}, "checkpoint.step");
  check.AbsolutePath(checkpoint.path(), "checkpoint.path");
  check.Hex(checkpoint.manifest_digest(), 64, "checkpoint.manifest_digest");
  check.InRange(checkpoint.size_bytes(), {0, INT64_MAX}, "checkpoint.size_bytes");
  const absl::Status checked = check.Result();
  if (!checked.ok()) return reply(checked);
  parts_.coordinator->Post(
      scheduler::CheckpointCommitted{request.worker_id(), request.incarnation(),
                                     FromProto(checkpoint)},
      AnswerWith<v1::CommitCheckpointResponse>(reply, [](const scheduler::Reply& answer) {
        v1::CommitCheckpointResponse response;
        for (const auto& kept : std::get<scheduler::CheckpointAnswer>(answer.answer).retained) {
          *response.add_retained() = ToProto(kept);
        }
        return response;
      }));
}

void WorkerApi::AppendMetrics(const v1::AppendMetricsRequest& request,
                              Reply<v1::AppendMetricsResponse> reply) {
  RequestChecker check;
  check.WorkerIdentity(request.worker_id(), request.incarnation());
  check.Attempt(request.key(), "key");
  check.InRange(request.rank(), {0, kMaxRank}, "rank");
  CheckRecords(request.records(), &check);
  const absl::Status checked = check.Result();
  if (!checked.ok()) return reply(checked);
  coordinator::AppendRequest append = AppendOf(request);
  for (const v1::MetricRecord& record : request.records()) {
    store::MetricRecord& out = append.metrics.emplace_back();
    out.sequence = record.sequence();
    out.step = record.step();
    out.wall_micros = MicrosOf(record.time());
    out.values.assign(record.values().begin(), record.values().end());
  }
  parts_.appender->AppendMetrics(
      std::move(append), [reply](const coordinator::AppendOutcome& outcome) {
        const absl::Status status = StatusOf(outcome);
        if (!status.ok()) return reply(status);
        v1::AppendMetricsResponse response;
        response.set_acknowledged_sequence(outcome.acknowledged_sequence);
        reply(std::move(response));
      });
}

void WorkerApi::AppendLogs(const v1::AppendLogsRequest& request,
                           Reply<v1::AppendLogsResponse> reply) {
  RequestChecker check;
  check.WorkerIdentity(request.worker_id(), request.incarnation());
  check.Attempt(request.key(), "key");
  check.InRange(request.rank(), {0, kMaxRank}, "rank");
  CheckRecords(request.records(), &check);
  const absl::Status checked = check.Result();
  if (!checked.ok()) return reply(checked);
  coordinator::AppendRequest append = AppendOf(request);
  for (const v1::LogRecord& record : request.records()) {
    append.logs.push_back({record.sequence(), MicrosOf(record.time()), record.text()});
  }
  parts_.appender->AppendLogs(std::move(append),
                              [reply](const coordinator::AppendOutcome& outcome) {
                                const absl::Status status = StatusOf(outcome);
                                if (!status.ok()) return reply(status);
                                v1::AppendLogsResponse response;
                                response.set_acknowledged_sequence(outcome.acknowledged_sequence);
                                reply(std::move(response));
                              });
}

absl::StatusOr<std::shared_ptr<MessageSource<v1::AssignmentList>>> WorkerApi::WatchAssignments(
    const v1::WatchAssignmentsRequest& request) {
  RequestChecker check;
  check.WorkerIdentity(request.worker_id(), request.incarnation());
  NIBBLE_RETURN_IF_ERROR(check.Result());
  return MakeAssignmentWatch(parts_, request);
}

}  // namespace nibble::rpc
