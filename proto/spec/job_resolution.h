// Checks a JobSpec completely and fills in what it leaves open: the one place that knows defaults,
// presets and limits. Used by the daemon on submission, by `nibble validate`, and by a trainer that
// runs alone, so all three agree.
#ifndef PROTO_SPEC_JOB_RESOLUTION_H_
#define PROTO_SPEC_JOB_RESOLUTION_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "nibble/v1/job.pb.h"
#include "nibble/v1/precision.pb.h"
#include "proto/spec/field_error.h"

namespace nibble::spec {

// Bytes. Estimates: left out are operators' working memory and what a device keeps of operands (up
// to 8 bytes a weight on a CPU without BF16 products).
struct MemoryEstimate {
  int64_t weights = 0;      // FP32 master weights, and their BF16 copy where there is one
  int64_t gradients = 0;    // FP32
  int64_t optimizer = 0;    // two FP32 moments
  int64_t activations = 0;  // of a micro-batch, kept for backward
  int64_t total() const { return weights + gradients + optimizer + activations; }
};

struct ResolvedJob {
  v1::JobSpec spec;                 // every field present; model.preset kept as written
  v1::ResolvedPrecision precision;  // one row a linear layer, and what changes later
  int64_t parameters = 0;           // trainable
  int64_t total_steps = 0;
  int64_t tokens_per_step = 0;
  double flops_per_token = 0;         // forward and backward
  MemoryEstimate memory;              // of a trainer on one device
  std::vector<std::string> warnings;  // e.g. a layer that falls back to BF16
};

// INVALID_ARGUMENT with every wrong field in the message, and in *errors (may be null). Never
// trusts the message: enums, strings, sizes and products (checked multiplication) are all examined,
// and fields unknown to this version are refused.
absl::StatusOr<ResolvedJob> ResolveJob(const v1::JobSpec& spec, std::vector<FieldError>* errors);

// What makes a run what it is: SHA-256, in hex, over a resolved spec without name, labels,
// priority, resources, restart, checkpoint, evaluation, health, project and scheduling (and the
// preset's name, whose dimensions are all there). A checkpoint of another digest is refused on
// resume.
std::string ConfigDigest(const v1::JobSpec& spec);

// Of EvaluationTaskSpec.task, in the order of docs/evaluation.md.
const std::vector<std::string>& EvaluationTaskNames();

struct ModelPreset {
  std::string name;
  std::string description;
  v1::ModelSpec model;
};

// In the order in which they should be shown.
const std::vector<ModelPreset>& ModelPresets();

}  // namespace nibble::spec

#endif  // PROTO_SPEC_JOB_RESOLUTION_H_
