#include "worker/model/parts.h"

#include "base/check.h"

namespace nibble::model {

kernels::Activation PlainActivation(MlpActivation activation) {
  switch (activation) {
    case MlpActivation::kSquaredRelu:
      return kernels::Activation::kSquaredRelu;
    case MlpActivation::kGelu:
      return kernels::Activation::kGelu;
    case MlpActivation::kGeluTanh:
      return kernels::Activation::kGeluTanh;
    case MlpActivation::kSwiGlu:
      break;
  }
  NIBBLE_CHECK(false);
}

using kernels::Matrix;

void NormPart::Plan(Arena& arena) {
  input_ = context_.TakeActivations(arena, context_.config.width);
  normed_ = context_.TakeActivations(arena, context_.config.width);
  reciprocal_ = arena.TakeFloats(context_.tokens());
  if (context_.config.layer_norm()) mean_ = arena.TakeFloats(context_.tokens());
}

void NormPart::Forward(const Matrix& residual, const Matrix& delta) {
  const Weights& weights = context_.weights;
  const float epsilon = static_cast<float>(context_.config.norm_epsilon);
  if (context_.config.layer_norm()) {
    context_.backend.LayerNormForward(
        {residual, delta, input_, weights.MasterOf(parameters_.weight),
         weights.MasterOf(parameters_.bias), normed_, mean_, reciprocal_, epsilon});
  } else {
    context_.backend.RmsNormForward({residual, delta, input_, weights.MasterOf(parameters_.weight),
                                     normed_, reciprocal_, epsilon});
  }
}

void NormPart::Backward(const Matrix& d_normed, const Matrix& d_residual) {
  const Weights& weights = context_.weights;
  if (context_.config.layer_norm()) {
    context_.backend.LayerNormBackward(
        {d_normed, input_, weights.MasterOf(parameters_.weight), mean_, reciprocal_, d_residual,
         weights.GradientOf(parameters_.weight), weights.GradientOf(parameters_.bias)});
  } else {
    context_.backend.RmsNormBackward({d_normed, input_, weights.MasterOf(parameters_.weight),
                                      reciprocal_, d_residual,
                                      weights.GradientOf(parameters_.weight)});
  }
}

void Projection::PrepareWeights(PassKind pass, uint32_t step) {
  layer_.PrepareWeights(
      context_.weights.MatrixOf(parameters_.weight, layer_.WeightType(pass, step)), pass, step);
}

void Projection::Forward(const Matrix& x, const Matrix& y, const TokenRange& tokens) {
  layer_.Forward(x, y, tokens, context_.workspace);
  if (parameters_.bias == kNone) return;
  context_.backend.AddRows(y, context_.weights.MasterOf(parameters_.bias), /*period=*/1);
}

void Projection::Backward(const Matrix& d_y, const Matrix& x, const Matrix& d_x,
                          const TokenRange& tokens) {
  layer_.Backward({d_y, x, d_x, context_.weights.GradientOf(parameters_.weight), tokens},
                  context_.workspace);
  if (parameters_.bias == kNone) return;
  context_.backend.AddRowsBackward(d_y, context_.weights.GradientOf(parameters_.bias),
                                   /*period=*/1);
}

kernels::AttentionShape AttentionMixer::shape() const {
  const ModelConfig& config = context_.config;
  return {context_.sequences, context_.sequence_length, config.heads, config.kv_heads,
          config.head_size};
}

void AttentionMixer::PlanKept(Arena& arena) {
  qkv_ = context_.TakeActivations(arena, context_.config.qkv_width());
  attended_ = context_.TakeActivations(arena, context_.config.attention_width());
  log_sum_exp_ = arena.TakeFloats(context_.tokens() * context_.config.heads);
}

void AttentionMixer::PlanScratch(Arena& arena) {
  d_qkv_ = context_.TakeActivations(arena, context_.config.qkv_width());
  d_attended_ = context_.TakeActivations(arena, context_.config.attention_width());
}

void AttentionMixer::Rotate(const Matrix& qkv, bool inverse) {
  if (context_.config.rotary()) {
    context_.backend.Rope({shape(), qkv, context_.rope_table, inverse});
  }
}

void AttentionMixer::Forward(const Matrix& x, const Matrix& y, const TokenRange& tokens) {
  in_.Forward(x, qkv_, tokens);
  Rotate(qkv_, /*inverse=*/false);
  context_.backend.AttentionForward({shape(), qkv_, attended_, log_sum_exp_});
  out_.Forward(attended_, y, tokens);
}

void AttentionMixer::Backward(const Matrix& d_y, const Matrix& x, const Matrix& d_x,
                              const TokenRange& tokens) {
  out_.Backward(d_y, attended_, d_attended_, tokens);
  kernels::AttentionBackwardArgs attention;
  attention.shape = shape();
  attention.d_out = d_attended_;
  attention.qkv = qkv_;
  attention.out = attended_;
  attention.log_sum_exp = log_sum_exp_;
  attention.d_qkv = d_qkv_;
  context_.backend.AttentionBackward(attention);
  Rotate(d_qkv_, /*inverse=*/true);
  in_.Backward(d_qkv_, x, d_x, tokens);
}

void MlpMixer::PlanKept(Arena& arena) {
  projected_ = context_.TakeActivations(arena, context_.config.mlp_in_width());
  activated_ = context_.TakeActivations(arena, context_.config.mlp_width);
}

void MlpMixer::PlanScratch(Arena& arena) {
  d_projected_ = context_.TakeActivations(arena, context_.config.mlp_in_width());
  d_activated_ = context_.TakeActivations(arena, context_.config.mlp_width);
}

void MlpMixer::Forward(const Matrix& x, const Matrix& y, const TokenRange& tokens) {
  in_.Forward(x, projected_, tokens);
  if (context_.config.gated()) {
    context_.backend.SwiGluForward(projected_, activated_);
  } else {
    context_.backend.ActivationForward(PlainActivation(context_.config.activation), projected_,
                                       activated_);
  }
  out_.Forward(activated_, y, tokens);
}

void MlpMixer::Backward(const Matrix& d_y, const Matrix& x, const Matrix& d_x,
                        const TokenRange& tokens) {
  out_.Backward(d_y, activated_, d_activated_, tokens);
  if (context_.config.gated()) {
    context_.backend.SwiGluBackward(d_activated_, projected_, d_projected_);
  } else {
    context_.backend.ActivationBackward(PlainActivation(context_.config.activation), d_activated_,
                                        projected_, d_projected_);
  }
  in_.Backward(d_projected_, x, d_x, tokens);
}

}  // namespace nibble::model
