// The operators of the CPU backend: plain functions behind Backend's methods, whose comments in
// kernels/backend.h say what each computes. One file pair an operator family; each source is
// compiled once for each instruction set (nibble_isa_sources in CMakeLists.txt) and defines its
// functions in namespace NIBBLE_ISA; the backend picks a table once, at creation. See simd.h for
// what such a source must not do.
#ifndef KERNELS_CPU_OPS_H_
#define KERNELS_CPU_OPS_H_

#include <cstdint>

#include "kernels/cpu/scratch.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/mamba_args.h"
#include "kernels/op_args.h"

namespace nibble::kernels::cpu {

// What every operator works with.
struct OpContext {
  ThreadPool& pool;
  Scratch& scratch;
  // Products of BF16 tiles are native (gemm.h): keep BF16 sides as they are. Otherwise a side that
  // is used more than once is better widened to FP32 first.
  bool native_bf16;
};

// An Operand of this backend is dense and row-major: [rows, cols], or [cols, rows] where
// `transposed`, elements of `storage` (kF32 or kBF16), to be multiplied by *tensor_scale.

struct OpTable {
  void (*embedding_forward)(OpContext&, const int32_t* tokens, Matrix table, Matrix out);
  void (*embedding_backward)(OpContext&, const int32_t* tokens, Matrix d_out, Matrix d_table);
  void (*rms_norm_forward)(OpContext&, const RmsNormArgs&);
  void (*rms_norm_backward)(OpContext&, const RmsNormBackwardArgs&);
  void (*rope)(OpContext&, const RopeArgs&);
  void (*attention_forward)(OpContext&, const AttentionArgs&);
  void (*attention_backward)(OpContext&, const AttentionBackwardArgs&);
  void (*swiglu_forward)(OpContext&, Matrix gate_up, Matrix out);
  void (*swiglu_backward)(OpContext&, Matrix d_out, Matrix gate_up, Matrix d_gate_up);
  void (*layer_norm_forward)(OpContext&, const LayerNormArgs&);
  void (*layer_norm_backward)(OpContext&, const LayerNormBackwardArgs&);
  void (*add_rows)(OpContext&, Matrix out, const float* table, int64_t period);
  void (*add_rows_backward)(OpContext&, Matrix d_out, float* d_table, int64_t period);
  void (*activation_forward)(OpContext&, Activation activation, Matrix in, Matrix out);
  void (*activation_backward)(OpContext&, Activation activation, Matrix d_out, Matrix in,
                              Matrix d_in);
  void (*causal_conv_forward)(OpContext&, const CausalConvArgs&);
  void (*causal_conv_backward)(OpContext&, const CausalConvBackwardArgs&);
  void (*scan_forward)(OpContext&, const ScanArgs&);
  void (*scan_backward)(OpContext&, const ScanBackwardArgs&);
  void (*gated_norm_forward)(OpContext&, const GatedNormArgs&);
  void (*gated_norm_backward)(OpContext&, const GatedNormBackwardArgs&);
  void (*lm_head)(OpContext&, const LmHeadArgs&);
  void (*add_in_place)(OpContext&, Matrix out, Matrix in);
  void (*cast)(OpContext&, Matrix from, Matrix to);
  void (*norm)(OpContext&, const float* values, int64_t size, float* norm);
  void (*adamw)(OpContext&, const AdamWArgs&);
};

#ifdef NIBBLE_ISA
namespace NIBBLE_ISA {
void EmbeddingForward(OpContext& context, const int32_t* tokens, Matrix table, Matrix out);
void EmbeddingBackward(OpContext& context, const int32_t* tokens, Matrix d_out, Matrix d_table);
void RmsNormForward(OpContext& context, const RmsNormArgs& args);
void RmsNormBackward(OpContext& context, const RmsNormBackwardArgs& args);
void Rope(OpContext& context, const RopeArgs& args);
void AttentionForward(OpContext& context, const AttentionArgs& args);
void AttentionBackward(OpContext& context, const AttentionBackwardArgs& args);
void SwiGluForward(OpContext& context, Matrix gate_up, Matrix out);
void SwiGluBackward(OpContext& context, Matrix d_out, Matrix gate_up, Matrix d_gate_up);
void LayerNormForward(OpContext& context, const LayerNormArgs& args);
void LayerNormBackward(OpContext& context, const LayerNormBackwardArgs& args);
void AddRows(OpContext& context, Matrix out, const float* table, int64_t period);
void AddRowsBackward(OpContext& context, Matrix d_out, float* d_table, int64_t period);
void ActivationForward(OpContext& context, Activation activation, Matrix in, Matrix out);
void ActivationBackward(OpContext& context, Activation activation, Matrix d_out, Matrix in,
                        Matrix d_in);
void CausalConvForward(OpContext& context, const CausalConvArgs& args);
void CausalConvBackward(OpContext& context, const CausalConvBackwardArgs& args);
void ScanForward(OpContext& context, const ScanArgs& args);
void ScanBackward(OpContext& context, const ScanBackwardArgs& args);
void GatedNormForward(OpContext& context, const GatedNormArgs& args);
void GatedNormBackward(OpContext& context, const GatedNormBackwardArgs& args);
void LmHead(OpContext& context, const LmHeadArgs& args);
void AddInPlace(OpContext& context, Matrix out, Matrix in);
void Cast(OpContext& context, Matrix from, Matrix to);
void Norm(OpContext& context, const float* values, int64_t size, float* norm);
void AdamW(OpContext& context, const AdamWArgs& args);
}  // namespace NIBBLE_ISA
#endif

}  // namespace nibble::kernels::cpu

#endif  // KERNELS_CPU_OPS_H_
