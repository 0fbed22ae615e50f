#include "server/store/record_codec.h"

#include <type_traits>

#include "absl/strings/str_cat.h"

namespace nibble::store {
namespace {

using scheduler::CheckpointRecord;
using scheduler::JobDocument;
using scheduler::JobEventRecord;
using scheduler::JobRecord;
using scheduler::ProjectUsage;
using scheduler::TrainingResult;
using scheduler::WorkerRecord;
using scheduler::WorkerShare;

// Version 2 added scheduling to jobs, documents and events.
constexpr uint8_t kVersion = 2;

// One list of fields a record, used in both directions, so that they cannot part ways.
struct Writer {
  Encoder& out;
  uint8_t version = kVersion;
  void operator()(const bool& v) { out.U8(v ? 1 : 0); }
  void operator()(const std::string& v) { out.Text(v); }
  void operator()(const int64_t& v) { out.I64(v); }
  void operator()(const int32_t& v) { out.I32(v); }
  void operator()(const double& v) { out.F64(v); }
  template <typename E, typename = std::enable_if_t<std::is_enum_v<E>>>
  void operator()(const E& v) {
    out.I32(static_cast<int32_t>(v));
  }
  void operator()(const std::vector<std::string>& v) {
    out.I32(static_cast<int32_t>(v.size()));
    for (const std::string& s : v) out.Text(s);
  }
  void operator()(const std::map<std::string, std::string>& v) {
    out.I32(static_cast<int32_t>(v.size()));
    for (const auto& [key, value] : v) {
      out.Text(key);
      out.Text(value);
    }
  }
  void operator()(const std::vector<int32_t>& v) {
    out.I32(static_cast<int32_t>(v.size()));
    for (const int32_t value : v) out.I32(value);
  }
  void operator()(const std::vector<WorkerShare>& v) {
    out.I32(static_cast<int32_t>(v.size()));
    for (const WorkerShare& share : v) {
      out.Text(share.worker_id);
      out.Text(share.incarnation);
      out.I32(share.slots);
    }
  }
  void operator()(const std::map<std::string, double>& v) {
    out.I32(static_cast<int32_t>(v.size()));
    for (const auto& [key, value] : v) {
      out.Text(key);
      out.F64(value);
    }
  }
  void operator()(const std::optional<TrainingResult>& v);
};

struct Reader {
  Decoder& in;
  uint8_t version = kVersion;
  void operator()(bool& v) { v = in.U8() != 0; }
  void operator()(std::string& v) { v = in.Text(); }
  void operator()(int64_t& v) { v = in.I64(); }
  void operator()(int32_t& v) { v = in.I32(); }
  void operator()(double& v) { v = in.F64(); }
  template <typename E, typename = std::enable_if_t<std::is_enum_v<E>>>
  void operator()(E& v) {
    v = static_cast<E>(in.I32());
  }
  void operator()(std::vector<std::string>& v) {
    const int32_t count = in.Count(4);
    for (int32_t i = 0; i < count && in.ok(); ++i) v.push_back(in.Text());
  }
  void operator()(std::map<std::string, std::string>& v) {
    const int32_t count = in.Count(8);
    for (int32_t i = 0; i < count && in.ok(); ++i) {
      std::string key = in.Text();
      v[std::move(key)] = in.Text();
    }
  }
  void operator()(std::vector<int32_t>& v) {
    const int32_t count = in.Count(4);
    for (int32_t i = 0; i < count && in.ok(); ++i) v.push_back(in.I32());
  }
  void operator()(std::vector<WorkerShare>& v) {
    if (version == 1) {  // one worker, and its incarnation
      WorkerShare share;
      share.worker_id = in.Text();
      share.incarnation = in.Text();
      if (!share.worker_id.empty()) v.push_back(std::move(share));
      return;
    }
    const int32_t count = in.Count(12);
    for (int32_t i = 0; i < count && in.ok(); ++i) {
      WorkerShare& share = v.emplace_back();
      share.worker_id = in.Text();
      share.incarnation = in.Text();
      share.slots = in.I32();
    }
  }
  void operator()(std::map<std::string, double>& v) {
    const int32_t count = in.Count(12);
    for (int32_t i = 0; i < count && in.ok(); ++i) {
      std::string key = in.Text();
      v[std::move(key)] = in.F64();
    }
  }
  void operator()(std::optional<TrainingResult>& v);
};

template <typename V, typename R>
void Fields(V visit, R& r, const TrainingResult*) {
  visit(r.steps);
  visit(r.tokens);
  visit(r.train_loss);
  visit(r.validation_loss);
  visit(r.validation_bits_per_byte);
  visit(r.tokens_per_second);
  visit(r.digest);
  if (visit.version >= 2) visit(r.efficiency);
}

void Writer::operator()(const std::optional<TrainingResult>& v) {
  out.U8(v.has_value() ? 1 : 0);
  if (v.has_value()) Fields(*this, *v, &*v);
}

void Reader::operator()(std::optional<TrainingResult>& v) {
  if (in.U8() == 0) return;
  v.emplace();
  Fields(*this, *v, &*v);
}

template <typename V, typename R>
void Fields(V visit, R& r, const JobRecord*) {
  visit(r.job_id);
  visit(r.submit_sequence);
  visit(r.state);
  visit(r.reason);
  visit(r.reason_message);
  visit(r.attempt);
  visit(r.placement);
  visit(r.workers);
  visit(r.failures);
  visit(r.failures_without_progress);
  visit(r.losses_without_progress);
  visit(r.last_failure);
  visit(r.reported_attempt);
  visit(r.reported_status);
  visit(r.committed_step);
  visit(r.result);
  visit(r.create_micros);
  visit(r.start_micros);
  visit(r.end_micros);
  visit(r.update_micros);
  visit(r.revision);
  if (visit.version < 2) return;
  visit(r.class_failures);
  visit(r.failed_workers);
  visit(r.preemptions);
  visit(r.retry_delay_nanos);
  visit(r.queued_clock_nanos);
  visit(r.attempt_clock_nanos);
  visit(r.commit_clock_nanos);
}

template <typename V, typename R>
void Fields(V visit, R& r, const JobDocument*) {
  visit(r.name);
  visit(r.labels);
  visit(r.spec);
  visit(r.precision);
  visit(r.priority);
  visit(r.slots);
  visit(r.max_failures);
  visit(r.keep_checkpoints);
  visit(r.total_steps);
  visit(r.parameters);
  visit(r.request_key);
  visit(r.fingerprint);
  if (visit.version < 2) return;
  visit(r.project);
  visit(r.max_run_nanos);
  visit(r.preemptible);
  visit(r.constraints.device_kind);
  visit(r.constraints.min_slot_memory_bytes);
  visit(r.constraints.labels);
}

template <typename V, typename R>
void Fields(V visit, R& r, const JobEventRecord*) {
  visit(r.event_id);
  visit(r.job_id);
  visit(r.attempt);
  visit(r.wall_micros);
  visit(r.actor);
  visit(r.before);
  visit(r.after);
  visit(r.reason);
  visit(r.message);
  if (visit.version < 2) return;
  visit(r.cause);
}

template <typename V, typename R>
void Fields(V visit, R& r, const CheckpointRecord*) {
  visit(r.job_id);
  visit(r.attempt);
  visit(r.step);
  visit(r.path);
  visit(r.manifest_digest);
  visit(r.size_bytes);
  visit(r.create_micros);
  visit(r.worker_id);
}

template <typename V, typename R>
void Fields(V visit, R& r, const WorkerRecord*) {
  visit(r.worker_id);
  visit(r.drained);
  visit(r.drain_reason);
  visit(r.drain_actor);
  visit(r.drain_micros);
  visit(r.failed_jobs);
}

template <typename V, typename R>
void Fields(V visit, R& r, const ProjectUsage*) {
  visit(r.project);
  visit(r.slot_seconds);
  visit(r.clock_nanos);
}

template <typename R>
std::string Encode(const R& record) {
  Encoder out;
  out.U8(kVersion);
  Fields(Writer{out}, record, &record);
  return out.Take();
}

template <typename R>
absl::StatusOr<R> Decode(absl::string_view data, absl::string_view what) {
  Decoder in(data);
  R record;
  const uint8_t version = in.U8();
  const bool known = version >= 1 && version <= kVersion;
  if (known) Fields(Reader{in, version}, record, &record);
  if (!known || !in.AtEnd()) {
    return absl::DataLossError(
        absl::StrCat("not a ", what, " record of version 1 to ", static_cast<int>(kVersion)));
  }
  return record;
}

}  // namespace

std::string EncodeJob(const JobRecord& job) { return Encode(job); }
std::string EncodeDocument(const JobDocument& document) { return Encode(document); }
std::string EncodeEvent(const JobEventRecord& event) { return Encode(event); }
std::string EncodeCheckpoint(const CheckpointRecord& checkpoint) { return Encode(checkpoint); }
std::string EncodeWorker(const WorkerRecord& worker) { return Encode(worker); }
std::string EncodeUsage(const ProjectUsage& usage) { return Encode(usage); }

absl::StatusOr<JobRecord> DecodeJob(absl::string_view data) {
  return Decode<JobRecord>(data, "job");
}
absl::StatusOr<JobDocument> DecodeDocument(absl::string_view data) {
  return Decode<JobDocument>(data, "document");
}
absl::StatusOr<JobEventRecord> DecodeEvent(absl::string_view data) {
  return Decode<JobEventRecord>(data, "event");
}
absl::StatusOr<CheckpointRecord> DecodeCheckpoint(absl::string_view data) {
  return Decode<CheckpointRecord>(data, "checkpoint");
}
absl::StatusOr<WorkerRecord> DecodeWorker(absl::string_view data) {
  return Decode<WorkerRecord>(data, "worker");
}
absl::StatusOr<ProjectUsage> DecodeUsage(absl::string_view data) {
  return Decode<ProjectUsage>(data, "usage");
}

}  // namespace nibble::store
