// Between the records of the control plane and the messages of the API, both ways.
#ifndef SERVER_RPC_CONVERSIONS_H_
#define SERVER_RPC_CONVERSIONS_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "nibble/v1/job.pb.h"
#include "nibble/v1/training_service.pb.h"
#include "nibble/v1/worker_service.pb.h"
#include "proto/spec/job_resolution.h"
#include "server/coordinator/assignment_board.h"
#include "server/scheduler/effects.h"
#include "server/scheduler/scheduler.h"
#include "server/scheduler/types.h"
#include "server/store/metric_store.h"

namespace nibble::rpc {

// A scheduler's refusal, with its reason. REQUIRES: !error.ok().
absl::Status ToStatus(const scheduler::Error& error);

void SetTimestamp(int64_t wall_micros, google::protobuf::Timestamp* out);
// Microseconds since the epoch, clamped to what an int64 holds.
int64_t MicrosOf(const google::protobuf::Timestamp& timestamp);

// `last_step`: newest step whose metrics are durable. DATA_LOSS where the stored spec cannot be
// parsed.
absl::StatusOr<v1::Job> ToProto(const scheduler::JobRecord& record, int64_t last_step);
v1::Checkpoint ToProto(const scheduler::CheckpointRecord& record);
v1::JobEvent ToProto(const scheduler::JobEventRecord& record);
v1::Worker ToProto(const scheduler::WorkerInfo& info);
v1::Project ToProto(const scheduler::ProjectInfo& info);
// Without `job` and `causes`.
v1::ExplainJobResponse ToProto(const scheduler::Explanation& explanation);
v1::AttemptKey ToProto(const scheduler::AttemptId& attempt);
v1::MetricRow ToProto(const store::MetricRow& row);
absl::StatusOr<v1::AssignmentList> ToProto(const coordinator::AssignmentSnapshot& snapshot);

scheduler::AttemptId FromProto(const v1::AttemptKey& key);
scheduler::TrainingResult FromProto(const v1::TrainingResult& result);
scheduler::CheckpointRecord FromProto(const v1::Checkpoint& checkpoint);

// What a submission fixes. `submitted` is the spec as it came, `resolved` what it means.
std::shared_ptr<const scheduler::JobDocument> MakeDocument(const v1::JobSpec& submitted,
                                                           const spec::ResolvedJob& resolved,
                                                           const std::string& request_key);

// The name of the recipe in a stored spec; "" where it cannot be parsed.
std::string RecipeOf(const scheduler::JobDocument& document);

}  // namespace nibble::rpc

#endif  // SERVER_RPC_CONVERSIONS_H_
