#include "server/rpc/conversions.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/sha256.h"
#include "server/rpc/grpc_status.h"

namespace nibble::rpc {
namespace {

constexpr int64_t kMicros = 1'000'000;
// 9999-12-31T23:59:59Z, the last second that a Timestamp may name.
constexpr int64_t kMaxSeconds = 253'402'300'799;

// The same bytes for equal messages, maps included.
std::string SerializeDeterministically(const google::protobuf::Message& message) {
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);
    message.SerializeToCodedStream(&coded);
  }
  return bytes;
}

absl::Status ParseDocument(const scheduler::JobDocument& document, v1::JobSpec* spec,
                           v1::ResolvedPrecision* precision) {
  if (spec->ParseFromString(document.spec) && precision->ParseFromString(document.precision)) {
    return absl::OkStatus();
  }
  return WithReason(absl::DataLossError(absl::StrCat("the stored spec of job '", document.name,
                                                     "' cannot be read")),
                    "STORED_SPEC_UNREADABLE");
}

void AddShare(const scheduler::WorkerShare& share, v1::WorkerShare* out) {
  out->set_worker_id(share.worker_id);
  out->set_slots(share.slots);
}

void SetResult(const scheduler::TrainingResult& result, v1::TrainingResult* out) {
  out->set_steps(result.steps);
  out->set_tokens(result.tokens);
  out->set_train_loss(result.train_loss);
  out->set_validation_loss(result.validation_loss);
  out->set_validation_bits_per_byte(result.validation_bits_per_byte);
  out->set_tokens_per_second(result.tokens_per_second);
  out->set_digest(result.digest);
  out->mutable_efficiency()->insert(result.efficiency.begin(), result.efficiency.end());
}

}  // namespace

absl::Status ToStatus(const scheduler::Error& error) {
  return WithReason(absl::Status(error.code, error.message), ErrorReasonName(error.reason));
}

void SetTimestamp(int64_t wall_micros, google::protobuf::Timestamp* out) {
  int64_t seconds = wall_micros / kMicros;
  int64_t micros = wall_micros % kMicros;
  if (micros < 0) {
    --seconds;
    micros += kMicros;
  }
  out->set_seconds(seconds);
  out->set_nanos(static_cast<int32_t>(micros * 1000));
}

int64_t MicrosOf(const google::protobuf::Timestamp& timestamp) {
  const int64_t seconds = std::clamp<int64_t>(timestamp.seconds(), 0, kMaxSeconds);
  const int64_t nanos = std::clamp<int64_t>(timestamp.nanos(), 0, 999'999'999);
  return seconds * kMicros + nanos / 1000;
}

absl::StatusOr<v1::Job> ToProto(const scheduler::JobRecord& record, int64_t last_step) {
  v1::Job job;
  const absl::Status parsed =
      ParseDocument(*record.document, job.mutable_spec(), job.mutable_precision());
  if (!parsed.ok()) return parsed;
  // These may have been changed since the submission.
  job.mutable_spec()->set_priority(record.document->priority);
  auto* labels = job.mutable_spec()->mutable_labels();
  labels->clear();
  for (const auto& [key, value] : record.document->labels) (*labels)[key] = value;
  job.set_job_id(record.job_id);
  job.set_state(static_cast<v1::JobState>(record.state));
  job.set_reason(static_cast<v1::JobReason>(record.reason));
  job.set_reason_message(record.reason_message);
  job.set_attempt(record.attempt);
  job.set_failures(record.failures);
  job.set_last_failure(static_cast<v1::FailureClass>(record.last_failure));
  job.set_worker_id(record.worker_id());
  for (const auto& share : record.placement) AddShare(share, job.add_placement());
  job.set_preemptions(record.preemptions);
  job.set_step(last_step);
  job.set_total_steps(record.document->total_steps);
  job.set_parameters(record.document->parameters);
  if (record.result.has_value()) SetResult(*record.result, job.mutable_result());
  if (record.create_micros != 0) SetTimestamp(record.create_micros, job.mutable_create_time());
  if (record.start_micros != 0) SetTimestamp(record.start_micros, job.mutable_start_time());
  if (record.end_micros != 0) SetTimestamp(record.end_micros, job.mutable_end_time());
  if (record.update_micros != 0) SetTimestamp(record.update_micros, job.mutable_update_time());
  job.set_etag(absl::StrCat(record.revision));
  return job;
}

v1::Checkpoint ToProto(const scheduler::CheckpointRecord& record) {
  v1::Checkpoint checkpoint;
  checkpoint.set_job_id(record.job_id);
  checkpoint.set_attempt(record.attempt);
  checkpoint.set_step(record.step);
  checkpoint.set_path(record.path);
  checkpoint.set_manifest_digest(record.manifest_digest);
  checkpoint.set_size_bytes(record.size_bytes);
  SetTimestamp(record.create_micros, checkpoint.mutable_create_time());
  return checkpoint;
}

v1::JobEvent ToProto(const scheduler::JobEventRecord& record) {
  v1::JobEvent event;
  event.set_event_id(record.event_id);
  event.set_job_id(record.job_id);
  event.set_attempt(record.attempt);
  SetTimestamp(record.wall_micros, event.mutable_time());
  event.set_actor(record.actor);
  event.set_before(static_cast<v1::JobState>(record.before));
  event.set_after(static_cast<v1::JobState>(record.after));
  event.set_reason(static_cast<v1::JobReason>(record.reason));
  event.set_message(record.message);
  event.set_cause(record.cause);
  return event;
}

v1::Worker ToProto(const scheduler::WorkerInfo& info) {
  v1::Worker worker;
  worker.set_worker_id(info.worker_id);
  worker.set_host(info.host);
  worker.set_state(info.online ? v1::Worker::ONLINE : v1::Worker::UNREACHABLE);
  worker.set_device_kind(info.device_kind);
  worker.set_device_name(info.device_name);
  worker.set_slots(info.slots);
  worker.set_slots_used(info.slots_used);
  for (const std::string& job_id : info.job_ids) worker.add_job_ids(job_id);
  worker.set_version(info.version);
  SetTimestamp(info.last_seen_micros, worker.mutable_last_seen_time());
  worker.set_drained(info.drained);
  worker.set_drain_reason(info.drain_reason);
  for (const auto& [key, value] : info.labels) (*worker.mutable_labels())[key] = value;
  worker.set_slot_memory_bytes(info.slot_memory_bytes);
  return worker;
}

v1::Project ToProto(const scheduler::ProjectInfo& info) {
  v1::Project project;
  project.set_name(info.options.name);
  project.set_weight(info.options.weight);
  project.set_quota_slots(info.options.quota_slots);
  if (info.options.limit_slots.has_value()) project.set_limit_slots(*info.options.limit_slots);
  project.set_max_jobs(info.options.max_jobs);
  project.set_slots_held(info.held);
  project.set_jobs_queued(info.queued);
  project.set_jobs_unfinished(info.unfinished);
  project.set_usage_slot_seconds(info.slot_seconds);
  return project;
}

v1::ExplainJobResponse ToProto(const scheduler::Explanation& explanation) {
  v1::ExplainJobResponse response;
  for (const scheduler::BlockingReason& reason : explanation.reasons) {
    v1::BlockingReason* out = response.add_reasons();
    out->set_code(static_cast<v1::BlockingReason::Code>(reason.code));
    out->set_message(reason.message);
  }
  for (const scheduler::SlotHolder& holder : explanation.holders) {
    v1::SlotHolder* out = response.add_holders();
    out->set_job_id(holder.job_id);
    out->set_attempt(holder.attempt);
    out->set_project(holder.project);
    out->set_worker_id(holder.worker_id);
    out->set_slots(holder.slots);
    if (holder.remaining_nanos.has_value()) {
      SetTimestamp(explanation.wall_micros + *holder.remaining_nanos / 1000,
                   out->mutable_end_time());
    }
  }
  if (explanation.start_in_nanos.has_value()) {
    SetTimestamp(explanation.wall_micros + *explanation.start_in_nanos / 1000,
                 response.mutable_predicted_start());
  }
  return response;
}

v1::AttemptKey ToProto(const scheduler::AttemptId& attempt) {
  v1::AttemptKey key;
  key.set_job_id(attempt.job_id);
  key.set_attempt(attempt.attempt);
  return key;
}

v1::MetricRow ToProto(const store::MetricRow& row) {
  v1::MetricRow out;
  out.set_step(row.step);
  out.set_attempt(row.attempt);
  out.set_rank(row.rank);
  SetTimestamp(row.wall_micros, out.mutable_time());
  for (const auto& [name, value] : row.values) (*out.mutable_values())[name] = value;
  return out;
}

absl::StatusOr<v1::AssignmentList> ToProto(const coordinator::AssignmentSnapshot& snapshot) {
  v1::AssignmentList list;
  list.set_revision(snapshot.revision);
  list.set_shut_down(snapshot.shut_down);
  for (const std::string& job_id : snapshot.purge_job_ids) list.add_purge_job_ids(job_id);
  for (const scheduler::Assignment& assignment : snapshot.assignments) {
    v1::Assignment* out = list.add_assignments();
    *out->mutable_key() = ToProto(assignment.attempt);
    out->set_action(static_cast<v1::Assignment::Action>(assignment.action));
    const absl::Status parsed =
        ParseDocument(*assignment.document, out->mutable_spec(), out->mutable_precision());
    if (!parsed.ok()) return parsed;
    if (assignment.resume_from.has_value()) {
      *out->mutable_resume_from() = ToProto(*assignment.resume_from);
    }
    for (const auto& older : assignment.fallbacks) *out->add_fallbacks() = ToProto(older);
    for (const auto& share : assignment.placement) AddShare(share, out->add_placement());
  }
  return list;
}

scheduler::AttemptId FromProto(const v1::AttemptKey& key) { return {key.job_id(), key.attempt()}; }

scheduler::TrainingResult FromProto(const v1::TrainingResult& result) {
  scheduler::TrainingResult out;
  out.steps = result.steps();
  out.tokens = result.tokens();
  out.train_loss = result.train_loss();
  out.validation_loss = result.validation_loss();
  out.validation_bits_per_byte = result.validation_bits_per_byte();
  out.tokens_per_second = result.tokens_per_second();
  out.digest = result.digest();
  out.efficiency.insert(result.efficiency().begin(), result.efficiency().end());
  return out;
}

scheduler::CheckpointRecord FromProto(const v1::Checkpoint& checkpoint) {
  scheduler::CheckpointRecord out;
  out.job_id = checkpoint.job_id();
  out.attempt = checkpoint.attempt();
  out.step = checkpoint.step();
  out.path = checkpoint.path();
  out.manifest_digest = checkpoint.manifest_digest();
  out.size_bytes = checkpoint.size_bytes();
  return out;
}

std::shared_ptr<const scheduler::JobDocument> MakeDocument(const v1::JobSpec& submitted,
                                                           const spec::ResolvedJob& resolved,
                                                           const std::string& request_key) {
  auto document = std::make_shared<scheduler::JobDocument>();
  document->name = resolved.spec.name();
  document->labels.insert(resolved.spec.labels().begin(), resolved.spec.labels().end());
  document->spec = SerializeDeterministically(resolved.spec);
  document->precision = SerializeDeterministically(resolved.precision);
  document->priority = resolved.spec.priority();
  document->slots = resolved.spec.resources().slots();
  document->max_failures = resolved.spec.restart().max_failures();
  document->keep_checkpoints = resolved.spec.checkpoint().keep();
  document->total_steps = resolved.total_steps;
  document->parameters = resolved.parameters;
  document->project = resolved.spec.project();
  const v1::SchedulingSpec& scheduling = resolved.spec.scheduling();
  document->max_run_nanos = scheduling.max_run_time() * 1'000'000'000;
  document->preemptible = scheduling.preemptible();
  document->constraints.device_kind = scheduling.constraints().device_kind();
  document->constraints.min_slot_memory_bytes = scheduling.constraints().min_slot_memory_bytes();
  document->constraints.labels.insert(scheduling.constraints().labels().begin(),
                                      scheduling.constraints().labels().end());
  document->request_key = request_key;
  if (!request_key.empty())
    document->fingerprint = Sha256Hex(SerializeDeterministically(submitted));
  return document;
}

std::string RecipeOf(const scheduler::JobDocument& document) {
  v1::JobSpec spec;
  return spec.ParseFromString(document.spec) ? spec.precision().recipe() : "";
}

}  // namespace nibble::rpc
