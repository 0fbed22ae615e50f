// Sizes of a llama model, with checked arithmetic. Internal to proto/spec.
#ifndef PROTO_SPEC_MODEL_SIZE_H_
#define PROTO_SPEC_MODEL_SIZE_H_

#include <cstdint>
#include <optional>

#include "nibble/v1/job.pb.h"

namespace nibble::spec {

// The four linear layers of a block: Y = X W^T, W [out_features, in_features].
struct LinearShape {
  const char* name;  // "attention.qkv", ...
  int64_t in_features;
  int64_t out_features;
};
inline constexpr int kLinearsPerBlock = 4;
struct BlockShapes {
  LinearShape linears[kLinearsPerBlock];  // in forward order
};
// REQUIRES: dimensions present and within limits.h.
BlockShapes LlamaBlockShapes(const v1::ModelSpec& model);

// Trainable values: embedding vocab * width (and as much again for the head where not tied), per
// block (heads + 2 kv_heads) head_size * width + width * heads * head_size + 3 * mlp_width * width
// + 2 * width (norms), and the last norm, width. Nothing where it exceeds kMaxParameters.
// REQUIRES: as above.
std::optional<int64_t> LlamaParameters(const v1::ModelSpec& model);

// Forward and backward floating-point operations a token: 6 for every weight of a matrix product
// (the head included, the embedding look-up not), and 12 * blocks * heads * head_size * T for the
// attention products over the whole square, as PaLM's appendix B counts (arXiv 2204.02311).
double LlamaFlopsPerToken(const v1::ModelSpec& model, int64_t sequence_length);

}  // namespace nibble::spec

#endif  // PROTO_SPEC_MODEL_SIZE_H_
