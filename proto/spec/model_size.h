// Sizes of a model, with checked arithmetic. Internal to proto/spec.
#ifndef PROTO_SPEC_MODEL_SIZE_H_
#define PROTO_SPEC_MODEL_SIZE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "nibble/v1/job.pb.h"
#include "nibble/v1/precision.pb.h"
#include "proto/spec/job_resolution.h"

namespace nibble::spec {

// One linear layer: Y = X W^T, W [out_features, in_features].
struct LinearShape {
  std::string name;  // without its block: "attention.qkv"
  int block;
  int64_t in_features;
  int64_t out_features;
};
// In forward order, two a residual branch, as the trainer numbers them. REQUIRES: dimensions
// present and within limits.h.
std::vector<LinearShape> LinearsOf(const v1::ModelSpec& model);

// Trainable values: embedding vocab * width (and as much again for the head where not tied),
// learned positions, the weights of all linear layers, norms, biases, and what Mamba-2 layers have
// beside (docs/job_spec.md has the terms). Nothing where it exceeds kMaxParameters. REQUIRES: as
// above.
std::optional<int64_t> CountParameters(const v1::ModelSpec& model);

// Forward and backward floating-point operations a token: 6 for every weight of a matrix product
// (the head included, the embedding look-up not); 12 * heads * head_size * T for the attention
// products of a block over the whole square, as PaLM's appendix B counts (arXiv 2204.02311); and
// for a Mamba-2 layer 12 * inner * state_size (the scan as a recurrence: state and output) and 6
// for every weight of the convolution.
double FlopsPerToken(const v1::ModelSpec& model, int64_t sequence_length);

// Forward operations of a token alone, the mean over the positions of a sequence: attention looks
// at half of it.
double ForwardFlopsPerToken(const v1::ModelSpec& model, int64_t sequence_length);

// REQUIRES: a complete spec and its precision.
MemoryEstimate EstimateMemory(const v1::JobSpec& spec, const v1::ResolvedPrecision& precision);

}  // namespace nibble::spec

#endif  // PROTO_SPEC_MODEL_SIZE_H_
