// What the operators of a Backend take: matrices, operands and argument structs. Apart from
// backend.h, so that code compiled for a particular instruction set can include it: nothing here
// emits a symbol.
#ifndef KERNELS_OP_ARGS_H_
#define KERNELS_OP_ARGS_H_

#include <cstdint>

#include "kernels/operand_format.h"

// Never out of line: see kernels/cpu/simd.h. For host and device where nvcc compiles.
#if defined(__CUDACC__)
#define NIBBLE_INLINE __host__ __device__ __forceinline__
#else
#define NIBBLE_INLINE inline __attribute__((always_inline))
#endif

namespace nibble::kernels {

enum class DType : uint8_t { kF32, kBF16, kI32 };
NIBBLE_INLINE int64_t SizeOf(DType dtype) { return dtype == DType::kBF16 ? 2 : 4; }

// A view of a dense row-major matrix in device memory. Does not own.
struct Matrix {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;

  NIBBLE_INLINE int64_t size() const { return rows * cols; }
  NIBBLE_INLINE int64_t bytes() const { return size() * SizeOf(dtype); }
};

// One side of a product, in a form private to the backend (dequantised values, packed codes with
// swizzled scales, ...). `cols` is the dot-product dimension. Points into memory of the caller.
struct Operand {
  const void* data = nullptr;
  // On the device: the factor that turns stored values into values (s_dec of NVFP4); null for 1.
  const float* tensor_scale = nullptr;
  OperandFormat format;
  DType storage = DType::kBF16;
  int64_t rows = 0;
  int64_t cols = 0;
  bool transposed = false;  // stored as [cols, rows]
};

// What stochastic rounding draws from: see docs/numerics.md, section 4. Rows and columns are those
// of the matrix as it is quantised, after any transposition.
struct StochasticKey {
  uint64_t seed = 0;
  uint32_t tensor_id = 0;
  uint32_t step = 0;       // from 0
  int64_t first_row = 0;   // of this piece within the whole step's matrix
  int64_t first_col = 0;   // likewise, a multiple of 16
  int64_t total_cols = 0;  // of the whole step's matrix
};

struct OperandRequest {
  Matrix source;           // [R, C], BF16 or FP32, high precision
  bool transpose = false;  // the operand is source^T: [C, R]
  OperandFormat format;
  StochasticKey key;  // read where format.rounding is kStochastic
};

struct RmsNormArgs {
  Matrix residual;        // [N, D] in
  Matrix delta;           // [N, D] in; data may be null: nothing is added
  Matrix residual_out;    // [N, D] out: residual + delta, rounded; may be `residual` itself; unused
                          // without delta
  const float* weight;    // [D]
  Matrix normed;          // [N, D] out
  float* reciprocal_rms;  // [N] out, for backward
  float epsilon;
};

struct RmsNormBackwardArgs {
  Matrix d_normed;              // [N, D] in
  Matrix input;                 // [N, D] in: what forward normalised (residual_out, or residual)
  const float* weight;          // [D]
  const float* reciprocal_rms;  // [N]
  Matrix d_input;   // [N, D] in/out: the norm's gradient is added to what is there, in FP32, then
                    // rounded once
  float* d_weight;  // [D] accumulated
};

// normed = (x - mean(x)) / sqrt(mean((x - mean(x))^2) + epsilon) * weight + bias, x = residual +
// delta.
struct LayerNormArgs {
  Matrix residual;              // [N, D] in
  Matrix delta;                 // [N, D] in; data may be null: nothing is added
  Matrix residual_out;          // as in RmsNormArgs
  const float* weight;          // [D]
  const float* bias;            // [D]
  Matrix normed;                // [N, D] out
  float* mean;                  // [N] out, for backward
  float* reciprocal_deviation;  // [N] out, for backward
  float epsilon;
};

struct LayerNormBackwardArgs {
  Matrix d_normed;      // [N, D] in
  Matrix input;         // [N, D] in: what forward normalised (residual_out, or residual)
  const float* weight;  // [D]
  const float* mean;    // [N]
  const float* reciprocal_deviation;  // [N]
  Matrix d_input;   // [N, D] in/out: the norm's gradient is added to what is there, in FP32, then
                    // rounded once
  float* d_weight;  // [D] accumulated
  float* d_bias;    // [D] accumulated
};

// kGelu: x Phi(x), Phi the normal distribution's function. kGeluTanh: GPT-2's approximation of it,
// x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2. kSquaredRelu: max(x, 0)^2.
enum class Activation : uint8_t { kSquaredRelu, kGelu, kGeluTanh };

// Packed projections: row = [heads * head_size | kv_heads * head_size | kv_heads * head_size] =
// q, k, v; token n belongs to sequence n / sequence_length, position n % sequence_length.
struct AttentionShape {
  int64_t sequences = 0;
  int64_t sequence_length = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_size = 0;

  NIBBLE_INLINE int64_t tokens() const { return sequences * sequence_length; }
  NIBBLE_INLINE int64_t qkv_width() const { return (heads + 2 * kv_heads) * head_size; }
};

struct RopeArgs {
  AttentionShape shape;
  Matrix qkv;            // [N, qkv_width] in/out: q and k are rotated, v is left
  const float* cos_sin;  // [sequence_length, head_size / 2, 2]: cosine, sine
  bool inverse = false;  // rotate back: the gradient
};
// Pairs are (x[i], x[i + head_size/2]), the layout of Hugging Face Llama:
//   x[i]' = x[i] c - x[i+h] s;  x[i+h]' = x[i+h] c + x[i] s.

struct AttentionArgs {
  AttentionShape shape;
  Matrix qkv;          // [N, qkv_width], rotated
  Matrix out;          // [sequences * queries, heads * head_size] out, with queries =
                       // sequence_length - first_query
  float* log_sum_exp;  // [sequences, heads, queries] out: of the scaled, causally masked scores
  // Only the queries of the positions from here on: with `qkv` as a cache that grows by rows, the
  // new tokens attend to all. Their results have the bits that a call for all queries gives where
  // first_query is a multiple of 64; else products of other shapes may round otherwise.
  int64_t first_query = 0;
};  // scores are scaled by 1/sqrt(head_size)

struct AttentionBackwardArgs {
  AttentionShape shape;
  Matrix d_out;  // [N, heads * head_size]
  Matrix qkv;
  Matrix out;
  const float* log_sum_exp;
  Matrix d_qkv;  // [N, qkv_width] out (overwritten)
};

// Output head and loss, in chunks of rows so that the logits are never whole in memory.
//   logits = x W^T in FP32, or c tanh(x W^T / c) with c = logit_softcap where that is not 0;
//   z_n = log sum exp(logits_n);  loss_n = z_n - logits_n[target_n], nats.
// Backward is that of scale_n (loss_n + z_loss z_n^2), scale_n = loss_scale row_scales[n]:
//   d_logits_n = scale_n ((1 + 2 z_loss z_n) softmax - onehot), times 1 - (logits / c)^2 where
//   capped, rounded to the activations' type; d_x = d_logits W and d_weight += d_logits^T x.
// Rows with target < 0 have loss 0 and no gradient.
struct LmHeadArgs {
  Matrix x;                      // [N, D]
  Operand weight;                // [V, D], BF16 or FP32 format
  const int32_t* targets;        // [N]
  float* losses;                 // [N] out
  float* log_sum_exp = nullptr;  // [N] out: z; 0 where the target is < 0. Null: not wanted
  float logit_softcap = 0;
  // Backward as well where d_x.data is not null:
  float loss_scale = 1;
  const float* row_scales = nullptr;  // [N]; null: all 1
  float z_loss = 0;
  Matrix d_x;                 // [N, D] out (overwritten)
  float* d_weight = nullptr;  // [V, D] FP32, accumulated
};

// AdamW with decoupled weight decay on flat FP32 arrays (Loshchilov & Hutter):
//   g = grad * clip;  clip = min(1, max_norm / (norm + 1e-6)), 1 where max_norm is 0
//   m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2
//   p = p - lr (m/(1 - b1^t) / (sqrt(v/(1 - b2^t)) + eps) + wd p)
struct AdamWArgs {
  int64_t size = 0;
  float* parameters;  // [size] in/out
  const float* gradients;
  float* first_moment;         // in/out
  float* second_moment;        // in/out
  void* bf16_parameters;       // [size] out, nearest even; null: none
  const float* gradient_norm;  // one float on the device; may be null where max_gradient_norm is 0
  float max_gradient_norm = 0;
  float learning_rate = 0;
  float beta1 = 0, beta2 = 0, epsilon = 0, weight_decay = 0;
  int64_t step = 1;  // t, from 1
};

}  // namespace nibble::kernels

#endif  // KERNELS_OP_ARGS_H_
