// The operators of the reference backend: plain scalar functions, FP64 accumulation, on the
// caller's thread. kernels/backend.h says what each computes.
#ifndef KERNELS_REFERENCE_OPS_H_
#define KERNELS_REFERENCE_OPS_H_

#include <cstdint>

#include "kernels/mamba_args.h"
#include "kernels/nvfp4/bf16.h"
#include "kernels/op_args.h"

namespace nibble::kernels::reference {

inline float Get(const Matrix& m, int64_t row, int64_t col) {
  const int64_t i = row * m.cols + col;
  return m.dtype == DType::kBF16 ? nvfp4::Bf16ToF32(static_cast<const uint16_t*>(m.data)[i])
                                 : static_cast<const float*>(m.data)[i];
}
// Rounded to the matrix's type, nearest even.
inline void Set(const Matrix& m, int64_t row, int64_t col, float value) {
  const int64_t i = row * m.cols + col;
  if (m.dtype == DType::kBF16) {
    static_cast<uint16_t*>(m.data)[i] = nvfp4::F32ToBf16(value);
  } else {
    static_cast<float*>(m.data)[i] = value;
  }
}

// An Operand of this backend is dense and row-major: [rows, cols], or [cols, rows] where
// `transposed`, elements of `storage` (kF32 or kBF16). Its value at (row, col), without the tensor
// scale.
inline float Get(const Operand& o, int64_t row, int64_t col) {
  const int64_t i = o.transposed ? col * o.rows + row : row * o.cols + col;
  return o.storage == DType::kBF16 ? nvfp4::Bf16ToF32(static_cast<const uint16_t*>(o.data)[i])
                                   : static_cast<const float*>(o.data)[i];
}

void EmbeddingForward(const int32_t* tokens, Matrix table, Matrix out);
void EmbeddingBackward(const int32_t* tokens, Matrix d_out, Matrix d_table);
void RmsNormForward(const RmsNormArgs& args);
void RmsNormBackward(const RmsNormBackwardArgs& args);
void Rope(const RopeArgs& args);
void AttentionForward(const AttentionArgs& args);
void AttentionBackward(const AttentionBackwardArgs& args);
void SwiGluForward(Matrix gate_up, Matrix out);
void SwiGluBackward(Matrix d_out, Matrix gate_up, Matrix d_gate_up);
void LayerNormForward(const LayerNormArgs& args);
void LayerNormBackward(const LayerNormBackwardArgs& args);
void AddRows(Matrix out, const float* table, int64_t period);
void AddRowsBackward(Matrix d_out, float* d_table, int64_t period);
void ActivationForward(Activation activation, Matrix in, Matrix out);
void ActivationBackward(Activation activation, Matrix d_out, Matrix in, Matrix d_in);
void CausalConvForward(const CausalConvArgs& args);
void CausalConvBackward(const CausalConvBackwardArgs& args);
void ScanForward(const ScanArgs& args);
void ScanBackward(const ScanBackwardArgs& args);
void GatedNormForward(const GatedNormArgs& args);
void GatedNormBackward(const GatedNormBackwardArgs& args);
void LmHead(const LmHeadArgs& args);
void AddInPlace(Matrix out, Matrix in);
void Cast(Matrix from, Matrix to);
void Norm(const float* values, int64_t size, float* norm);
void AdamW(const AdamWArgs& args);

}  // namespace nibble::kernels::reference

#endif  // KERNELS_REFERENCE_OPS_H_
