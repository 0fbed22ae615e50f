// What the operators of a Mamba-2 layer take (Dao & Gu, arXiv 2405.21060). The same rules as for
// op_args.h.
//
// The in-projection gives a token's row [z | x | B | C | dt] of inner, inner, groups * state_size,
// groups * state_size and heads columns. x, B and C go through a causal convolution and SiLU; the
// scan runs over them; its output, gated by z and normalised, goes to the out-projection.
#ifndef KERNELS_MAMBA_ARGS_H_
#define KERNELS_MAMBA_ARGS_H_

#include <cstdint>

#include "kernels/op_args.h"

namespace nibble::kernels {

struct MambaShape {
  int64_t sequences = 0;
  int64_t sequence_length = 0;
  int64_t heads = 0;
  int64_t head_size = 0;
  int64_t groups = 0;      // divides heads; heads of a group share B and C
  int64_t state_size = 0;  // columns of B and C a group
  int64_t conv_width = 0;
  int64_t chunk_size = 0;  // tokens of a chunk of the scan

  NIBBLE_INLINE int64_t tokens() const { return sequences * sequence_length; }
  NIBBLE_INLINE int64_t inner() const { return heads * head_size; }
  NIBBLE_INLINE int64_t group_width() const { return inner() / groups; }
  // Of the convolution: [x | B | C].
  NIBBLE_INLINE int64_t channels() const { return inner() + 2 * groups * state_size; }
  NIBBLE_INLINE int64_t projected_width() const { return inner() + channels() + heads; }
  NIBBLE_INLINE int64_t dt_column() const { return inner() + channels(); }
};

// pre[t, c] = bias[c] + sum over k < conv_width of weight[c, k] * in[t - (conv_width - 1) + k, c],
// in = the columns [x | B | C] of `projected`, zero before a sequence's first token;
// out = silu(pre).
struct CausalConvArgs {
  MambaShape shape;
  Matrix projected;     // [N, projected_width]
  const float* weight;  // [channels, conv_width]
  const float* bias;    // [channels]
  Matrix out;           // [N, channels] out
};

struct CausalConvBackwardArgs {
  MambaShape shape;
  Matrix d_out;  // [N, channels]
  Matrix projected;
  const float* weight;
  const float* bias;
  Matrix d_projected;  // [N, projected_width]: its columns [x | B | C] are overwritten
  float* d_weight;     // accumulated
  float* d_bias;       // accumulated
};

// Per head, with the state h [head_size, state_size] zero before a sequence's first token, or what
// `state` holds:
//   dt = softplus(projected dt + dt_bias);  a = exp(-exp(a_log) dt)
//   h_t = a_t h_{t-1} + dt_t x_t B_t^T;  y_t = h_t C_t + d x_t
// State, decay and sums are FP32 or better. The CPU takes chunk_size tokens at a time as matrix
// products (the paper's section 6): its results depend on chunk_size only by rounding.
struct ScanArgs {
  MambaShape shape;
  Matrix xbc;            // [N, channels], of the convolution
  Matrix projected;      // [N, projected_width]: dt is read
  const float* dt_bias;  // [heads]
  const float* a_log;    // [heads]
  const float* d;        // [heads]
  Matrix out;            // [N, inner] out: y
  // [sequences, heads, head_size, state_size]: the states before the first token, then those after
  // the last. Null: zero, and not kept.
  float* state = nullptr;
};

struct ScanBackwardArgs {
  MambaShape shape;
  Matrix d_out;  // [N, inner]
  Matrix xbc;
  Matrix projected;
  const float* dt_bias;
  const float* a_log;
  const float* d;
  Matrix d_xbc;        // [N, channels] out
  Matrix d_projected;  // its columns dt are overwritten
  float* d_dt_bias;    // [heads] accumulated
  float* d_a_log;      // likewise
  float* d_d;          // likewise
};

// g = y silu(z); out = g * reciprocal_rms * weight, reciprocal_rms = 1 / sqrt(mean(g^2) + epsilon),
// the mean over each group's inner / groups columns.
struct GatedNormArgs {
  MambaShape shape;
  Matrix y;               // [N, inner]
  Matrix projected;       // [N, projected_width]: z is read
  const float* weight;    // [inner]
  Matrix out;             // [N, inner] out
  float* reciprocal_rms;  // [N, groups] out, for backward
  float epsilon;
};

struct GatedNormBackwardArgs {
  MambaShape shape;
  Matrix d_out;  // [N, inner]
  Matrix y;
  Matrix projected;
  const float* weight;
  const float* reciprocal_rms;
  Matrix d_y;          // [N, inner] out
  Matrix d_projected;  // its columns z are overwritten
  float* d_weight;     // [inner] accumulated
};

}  // namespace nibble::kernels

#endif  // KERNELS_MAMBA_ARGS_H_
