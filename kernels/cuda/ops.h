// The kernels' launchers. Each enqueues on `stream` (a cudaStream_t) and returns; errors are
// collected by Device::CheckLaunch. Arguments, formulas and shapes: kernels/backend.h. `scratch`:
// device memory of the bytes that the function beside says, 256-byte aligned, any content, free
// again once the stream has passed.
#ifndef KERNELS_CUDA_OPS_H_
#define KERNELS_CUDA_OPS_H_

#include <cstdint>

#include "kernels/cuda/target.h"
#include "kernels/mamba_args.h"
#include "kernels/nvfp4/hadamard.h"
#include "kernels/op_args.h"

namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET {

using Stream = void*;

// f with a value of the elements' type: BF16 is held as uint16_t.
template <class F>
void WithType(DType dtype, const F& f) {
  if (dtype == DType::kBF16) {
    f(uint16_t{});
  } else {
    f(float{});
  }
}

// ---- elementwise.cu ----
void Cast(Stream stream, const Matrix& from, const Matrix& to);
void AddInPlace(Stream stream, const Matrix& out, const Matrix& in);
void ActivationForward(Stream stream, Activation activation, const Matrix& in, const Matrix& out);
void ActivationBackward(Stream stream, Activation activation, const Matrix& d_out, const Matrix& in,
                        const Matrix& d_in);
void SwiGluForward(Stream stream, const Matrix& gate_up, const Matrix& out);
void SwiGluBackward(Stream stream, const Matrix& d_out, const Matrix& gate_up,
                    const Matrix& d_gate_up);
void Rope(Stream stream, const RopeArgs& args);
void AddRows(Stream stream, const Matrix& out, const float* table, int64_t period);
int64_t AddRowsScratchBytes(const Matrix& d_out, int64_t period);
void AddRowsBackward(Stream stream, const Matrix& d_out, float* d_table, int64_t period,
                     void* scratch);
// out[i] += the sum over p of partial[p, i], p ascending.
void AddPartials(Stream stream, const float* partial, float* out, int64_t size, int64_t parts);

// ---- optimizer.cu ----
int64_t NormScratchBytes(int64_t size);
void Norm(Stream stream, const float* values, int64_t size, float* norm, void* scratch);
void AdamW(Stream stream, const AdamWArgs& args);

// ---- embedding.cu ----
void EmbeddingForward(Stream stream, const int32_t* tokens, const Matrix& table, const Matrix& out);
int64_t EmbeddingScratchBytes(int64_t tokens);
void EmbeddingBackward(Stream stream, const int32_t* tokens, const Matrix& d_out,
                       const Matrix& d_table, void* scratch);

// ---- norms.cu, gated_norm.cu ----
int64_t NormBackwardScratchBytes(int64_t rows, int64_t cols);  // of all three backward functions
void RmsNormForward(Stream stream, const RmsNormArgs& args);
void RmsNormBackward(Stream stream, const RmsNormBackwardArgs& args, void* scratch);
void LayerNormForward(Stream stream, const LayerNormArgs& args);
void LayerNormBackward(Stream stream, const LayerNormBackwardArgs& args, void* scratch);
void GatedNormForward(Stream stream, const GatedNormArgs& args);
void GatedNormBackward(Stream stream, const GatedNormBackwardArgs& args, void* scratch);

// ---- attention.cu, attention_backward.cu ----
// Largest head; bytes of a block's shared memory with heads of such a size.
inline constexpr int64_t kMaxHeadSize = 256;
int64_t AttentionSharedBytes(DType dtype, int64_t head_size);
void AttentionForward(Stream stream, const AttentionArgs& args);
int64_t AttentionBackwardSharedBytes(DType dtype, int64_t head_size);
int64_t AttentionBackwardScratchBytes(const AttentionShape& shape);
void AttentionBackward(Stream stream, const AttentionBackwardArgs& args, void* scratch);

// ---- causal_conv.cu ----
void CausalConvForward(Stream stream, const CausalConvArgs& args);
int64_t CausalConvScratchBytes(const MambaShape& shape);
void CausalConvBackward(Stream stream, const CausalConvBackwardArgs& args, void* scratch);

// ---- scan.cu, scan_backward.cu ----
// Of a block's shared memory, in either direction.
int64_t ScanSharedBytes(const MambaShape& shape);
int64_t ScanScratchBytes(const MambaShape& shape);
void ScanForward(Stream stream, const ScanArgs& args, void* scratch);
int64_t ScanBackwardScratchBytes(const MambaShape& shape);
void ScanBackward(Stream stream, const ScanBackwardArgs& args, void* scratch);

// ---- lm_head.cu ----
// Rows [first_row, first_row + rows) of the head's losses, and where args asks for it their
// gradient in place of the logits: rows of args.x's type, still `stride` FP32 apart.
struct LossRows {
  float* logits = nullptr;  // x W^T
  int64_t stride = 0;       // floats between rows
  int64_t first_row = 0;
  int64_t rows = 0;
};
void CrossEntropy(Stream stream, const LmHeadArgs& args, const LossRows& rows);

// ---- quantize.cu, scaled.cu, hadamard.cu, product_scale.cu ----
enum class QuantizeOutput : uint8_t { kBF16, kF32, kCodes };

// Quantises a matrix [rows, cols], or the transpose of the source; blocks run along cols.
struct QuantizeJob {
  const void* source = nullptr;
  DType source_type = DType::kBF16;
  bool transpose = false;  // the source is [cols, rows]
  int64_t rows = 0;
  int64_t cols = 0;
  OperandFormat format;
  nvfp4::SignBits signs = {};
  StochasticKey key;
  // On the device: bits of the largest magnitude, written by MeasureAmax.
  uint32_t* amax_bits = nullptr;
  float* decode = nullptr;  // out: the tensor scale
  QuantizeOutput output = QuantizeOutput::kBF16;
  void* out = nullptr;        // [rows, cols] of kBF16 or kF32; kCodes: packed, or bytes of FP8
  uint8_t* scales = nullptr;  // kCodes of NVFP4: E4M3 [rows, cols / 16]
  bool swizzled = false;      // the scales are laid out as cuBLASLt reads them (padding zeroed)
};

// *amax_bits = the bits of the largest magnitude after any Hadamard transform of 4 or 16.
void MeasureAmax(Stream stream, const QuantizeJob& job);
// NVFP4. REQUIRES: MeasureAmax; a Hadamard transform of 4 or 16, or none.
void QuantizeNvfp4(Stream stream, const QuantizeJob& job);
// Every other format, without a Hadamard transform. Tensor-wise ones REQUIRE MeasureAmax.
int64_t ScaledScratchBytes(const QuantizeJob& job);
void QuantizeScaled(Stream stream, const QuantizeJob& job, void* scratch);
// job.out [rows, cols] = the transform of any size along cols, BF16 or FP32, rounded to BF16.
void HadamardTransform(Stream stream, const QuantizeJob& job);

// Packed NVFP4 with swizzled scales, or FP8 codes, as BF16 without the tensor scale.
struct DequantizeJob {
  OperandFormat format;
  int64_t rows = 0;
  int64_t cols = 0;
  const uint8_t* codes = nullptr;
  const uint8_t* scales = nullptr;  // NVFP4
  uint16_t* out = nullptr;          // [rows, cols]
};
void Dequantize(Stream stream, const DequantizeJob& job);

// What a product of two operands is scaled by: scales[0] = s_a s_b, or 0 where that is no normal
// number and so would lose digits; then ScaleProduct takes the two one after the other.
struct ScaleJob {
  const float* a = nullptr;  // null: 1
  const float* b = nullptr;
  float* alpha = nullptr;        // out
  bool keep_subnormals = false;  // the product of the scales as it is
};
void CombineScales(Stream stream, const ScaleJob& job);
// c += (or =) the product of the unscaled `product` [m, n] with both scales, where *alpha is 0;
// does nothing elsewhere.
struct LateScaleJob {
  ScaleJob scales;
  const void* a = nullptr;  // BF16 [m, k], or [k, m] where a_transposed
  const void* b = nullptr;
  bool a_transposed = false, b_transposed = false;
  int64_t m = 0, n = 0, k = 0;
  Matrix c;
  bool accumulate = false;
};
void MultiplyLateScaled(Stream stream, const LateScaleJob& job);

}  // namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET

#endif  // KERNELS_CUDA_OPS_H_
