// Compiled once for each instruction set.
#include "kernels/cpu/ops.h"

namespace nibble::kernels::cpu::NIBBLE_ISA {

extern const OpTable kOpTable;
const OpTable kOpTable = {
    .embedding_forward = EmbeddingForward,
    .embedding_backward = EmbeddingBackward,
    .rms_norm_forward = RmsNormForward,
    .rms_norm_backward = RmsNormBackward,
    .rope = Rope,
    .attention_forward = AttentionForward,
    .attention_backward = AttentionBackward,
    .swiglu_forward = SwiGluForward,
    .swiglu_backward = SwiGluBackward,
    .layer_norm_forward = LayerNormForward,
    .layer_norm_backward = LayerNormBackward,
    .add_rows = AddRows,
    .add_rows_backward = AddRowsBackward,
    .activation_forward = ActivationForward,
    .activation_backward = ActivationBackward,
    .causal_conv_forward = CausalConvForward,
    .causal_conv_backward = CausalConvBackward,
    .scan_forward = ScanForward,
    .scan_backward = ScanBackward,
    .gated_norm_forward = GatedNormForward,
    .gated_norm_backward = GatedNormBackward,
    .lm_head = LmHead,
    .add_in_place = AddInPlace,
    .cast = Cast,
    .norm = Norm,
    .adamw = AdamW,
};

}  // namespace nibble::kernels::cpu::NIBBLE_ISA
