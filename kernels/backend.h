// A device: memory, one in-order stream, and one method per operator and direction.
//
// Every operator is enqueued on the backend's stream and may run later (a GPU) or at once (a CPU);
// its inputs must stay unchanged and its outputs unread until the stream has passed it. Data on the
// device is opaque: the host reads and writes it only through the copy methods. Nothing here
// allocates after the first step of a fixed-shape training loop: operators' own scratch memory
// grows on first use and is kept.
//
// Numbers: docs/numerics.md. Activations are BF16, or FP32 where the recipe is fp32 (`Matrix.dtype`
// says which; all activations of one call agree). Reductions and statistics are FP32 with a fixed
// order: results do not depend on the number of threads.
//
// Errors: a wrong shape is a bug (NIBBLE_CHECK). Device errors and exhausted memory are sticky and
// come back from Allocate, Wait and Synchronize; after one, results are undefined.
//
// Not thread-safe: one thread drives a backend.
#ifndef KERNELS_BACKEND_H_
#define KERNELS_BACKEND_H_

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/operand_format.h"

namespace nibble::kernels {

enum class DType : uint8_t { kF32, kBF16, kI32 };
inline int64_t SizeOf(DType dtype) { return dtype == DType::kBF16 ? 2 : 4; }

// A view of a dense row-major matrix in device memory. Does not own.
struct Matrix {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;

  int64_t size() const { return rows * cols; }
  int64_t bytes() const { return size() * SizeOf(dtype); }
};

// Device memory, 256-byte aligned, zeroed, freed when the object goes. The backend must outlive it.
class DeviceBuffer {
 public:
  virtual ~DeviceBuffer() = default;
  virtual void* data() const = 0;
  virtual int64_t bytes() const = 0;
};

// How a device runs a product with operands of a format.
enum class Support : uint8_t { kUnsupported, kEmulated, kNative };

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

// Packed projections: row = [heads * head_size | kv_heads * head_size | kv_heads * head_size] =
// q, k, v; token n belongs to sequence n / sequence_length, position n % sequence_length.
struct AttentionShape {
  int64_t sequences = 0;
  int64_t sequence_length = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_size = 0;

  int64_t tokens() const { return sequences * sequence_length; }
  int64_t qkv_width() const { return (heads + 2 * kv_heads) * head_size; }
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
  Matrix out;          // [N, heads * head_size] out
  float* log_sum_exp;  // [sequences, heads, sequence_length] out: of the scaled, causally masked
                       // scores
};                     // scores are scaled by 1/sqrt(head_size)

struct AttentionBackwardArgs {
  AttentionShape shape;
  Matrix d_out;  // [N, heads * head_size]
  Matrix qkv;
  Matrix out;
  const float* log_sum_exp;
  Matrix d_qkv;  // [N, qkv_width] out (overwritten)
};

// Output head and loss, in chunks of rows so that the logits are never whole in memory.
// logits = x W^T in FP32; loss_n = log sum exp(logits_n) - logits_n[target_n], nats.
// d_logits = (softmax - onehot) * loss_scale, rounded to the activations' type, then
// d_x = d_logits W and d_weight += d_logits^T x. Rows with target < 0 have loss 0 and no gradient.
struct LmHeadArgs {
  Matrix x;                // [N, D]
  Operand weight;          // [V, D], BF16 or FP32 format
  const int32_t* targets;  // [N]
  float* losses;           // [N] out
  // Backward as well where d_x.data is not null:
  float loss_scale = 1;
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

// A point in the stream.
using Fence = uint64_t;

class Backend {
 public:
  virtual ~Backend() = default;

  virtual absl::string_view name() const = 0;  // "reference", "cpu", "cuda"
  virtual absl::string_view description()
      const = 0;  // e.g. "AMD EPYC 9B45, AVX-512 BF16, 2 threads"
  virtual Support Supports(const OperandFormat& format) const = 0;

  // ---- memory and stream ----
  // RESOURCE_EXHAUSTED where the device has no such memory.
  virtual absl::StatusOr<std::unique_ptr<DeviceBuffer>> Allocate(int64_t bytes) = 0;
  virtual void CopyToDevice(void* device, const void* host,
                            int64_t bytes) = 0;  // host may change on return
  // `host` is valid once a fence recorded after it has passed.
  virtual void CopyToHost(void* host, const void* device, int64_t bytes) = 0;
  virtual void CopyOnDevice(void* to, const void* from, int64_t bytes) = 0;
  virtual void Zero(void* device, int64_t bytes) = 0;
  virtual Fence Record() = 0;
  virtual absl::Status Wait(Fence fence) = 0;
  virtual absl::Status Synchronize() = 0;

  // ---- products ----
  // Bytes of storage that PrepareOperand needs for such an operand; 0 where it is only a view of
  // the source.
  virtual int64_t OperandBytes(const OperandFormat& format, DType source, int64_t rows,
                               int64_t cols) const = 0;
  // Quantises request.source into `storage` (OperandBytes, 256-byte aligned). The operand is valid
  // while storage and, where it is a view, the source are.
  virtual Operand PrepareOperand(const OperandRequest& request, void* storage) = 0;
  // Whether Transposed() can serve this operand: its transpose holds the same values, as with BF16
  // and 16x16 tiles on an emulating device.
  virtual bool CanTranspose(const Operand& operand) const = 0;
  // The operand's transpose as a view of the same storage. REQUIRES: CanTranspose(operand).
  virtual Operand Transposed(const Operand& operand) const = 0;
  // c = a b^T, or c += a b^T where `accumulate` (FP32 c only). a [M, K], b [N, K], c [M, N] BF16 or
  // FP32. FP32 accumulation; one rounding to c.
  virtual void Multiply(const Operand& a, const Operand& b, Matrix c, bool accumulate) = 0;

  // ---- operators ----
  // out[n] = table[tokens[n]]; table [V, D] of out's type.
  virtual void EmbeddingForward(const int32_t* tokens, Matrix table, Matrix out) = 0;
  // d_table[tokens[n]] += d_out[n], n ascending; d_table [V, D] FP32.
  virtual void EmbeddingBackward(const int32_t* tokens, Matrix d_out, Matrix d_table) = 0;
  // residual_out = residual + delta; normed = residual_out * reciprocal_rms * weight;
  // reciprocal_rms = 1 / sqrt(mean(residual_out^2) + epsilon).
  virtual void RmsNormForward(const RmsNormArgs& args) = 0;
  virtual void RmsNormBackward(const RmsNormBackwardArgs& args) = 0;
  virtual void Rope(const RopeArgs& args) = 0;
  virtual void AttentionForward(const AttentionArgs& args) = 0;
  virtual void AttentionBackward(const AttentionBackwardArgs& args) = 0;
  // gate_up [N, 2F] = [gate | up]; out [N, F] = silu(gate) * up.
  virtual void SwiGluForward(Matrix gate_up, Matrix out) = 0;
  virtual void SwiGluBackward(Matrix d_out, Matrix gate_up, Matrix d_gate_up) = 0;
  virtual void LmHead(const LmHeadArgs& args) = 0;
  // out += in, rounded once; equal shapes and types.
  virtual void AddInPlace(Matrix out, Matrix in) = 0;
  // to = from in to's type, nearest even.
  virtual void Cast(Matrix from, Matrix to) = 0;
  // *norm = sqrt(sum of squares of values[0..size)), in a fixed order; not finite where any value
  // is not.
  virtual void Norm(const float* values, int64_t size, float* norm) = 0;
  virtual void AdamW(const AdamWArgs& args) = 0;
};

struct BackendOptions {
  // Compute threads; 0: all processors.
  int threads = 0;
};

// "reference" or "cpu". INVALID_ARGUMENT: no such backend in this build.
absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(absl::string_view name,
                                                       const BackendOptions& options);

}  // namespace nibble::kernels

#endif  // KERNELS_BACKEND_H_
