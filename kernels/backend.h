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
#include "kernels/mamba_args.h"
#include "kernels/op_args.h"
#include "kernels/operand_format.h"

namespace nibble::kernels {

// Device memory, 256-byte aligned, zeroed, freed when the object goes. The backend must outlive it.
class DeviceBuffer {
 public:
  virtual ~DeviceBuffer() = default;
  virtual void* data() const = 0;
  virtual int64_t bytes() const = 0;
};

// How a device runs a product with operands of a format.
enum class Support : uint8_t { kUnsupported, kEmulated, kNative };

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
  virtual void LayerNormForward(const LayerNormArgs& args) = 0;
  virtual void LayerNormBackward(const LayerNormBackwardArgs& args) = 0;
  // out[n] += table[n % period]; table [period, out.cols] FP32. A bias has period 1, positions have
  // that of a sequence.
  virtual void AddRows(Matrix out, const float* table, int64_t period) = 0;
  // d_table[n % period] += d_out[n].
  virtual void AddRowsBackward(Matrix d_out, float* d_table, int64_t period) = 0;
  virtual void Rope(const RopeArgs& args) = 0;
  virtual void AttentionForward(const AttentionArgs& args) = 0;
  virtual void AttentionBackward(const AttentionBackwardArgs& args) = 0;
  // gate_up [N, 2F] = [gate | up]; out [N, F] = silu(gate) * up.
  virtual void SwiGluForward(Matrix gate_up, Matrix out) = 0;
  virtual void SwiGluBackward(Matrix d_out, Matrix gate_up, Matrix d_gate_up) = 0;
  // Element by element; equal shapes and types.
  virtual void ActivationForward(Activation activation, Matrix in, Matrix out) = 0;
  virtual void ActivationBackward(Activation activation, Matrix d_out, Matrix in, Matrix d_in) = 0;
  virtual void CausalConvForward(const CausalConvArgs& args) = 0;
  virtual void CausalConvBackward(const CausalConvBackwardArgs& args) = 0;
  virtual void ScanForward(const ScanArgs& args) = 0;
  virtual void ScanBackward(const ScanBackwardArgs& args) = 0;
  virtual void GatedNormForward(const GatedNormArgs& args) = 0;
  virtual void GatedNormBackward(const GatedNormBackwardArgs& args) = 0;
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

// "reference", "cpu" or "cuda". INVALID_ARGUMENT: no such backend. FAILED_PRECONDITION, naming what
// is missing: "cuda" in a build without it, or on a machine without driver, GPU or cuBLASLt.
absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(absl::string_view name,
                                                       const BackendOptions& options);

}  // namespace nibble::kernels

#endif  // KERNELS_BACKEND_H_
