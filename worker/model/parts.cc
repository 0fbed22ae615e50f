#include "worker/model/parts.h"

namespace nibble::model {

using kernels::Matrix;

void NormPart::Plan(Arena& arena) {
  input_ = context_.TakeActivations(arena, context_.config.width);
  normed_ = context_.TakeActivations(arena, context_.config.width);
  reciprocal_rms_ = arena.TakeFloats(context_.tokens());
}

void NormPart::Forward(const Matrix& residual, const Matrix& delta) {
  kernels::RmsNormArgs args;
  args.residual = residual;
  args.delta = delta;
  args.residual_out = input_;
  args.weight = context_.weights.MasterOf(parameters_.weight);
  args.normed = normed_;
  args.reciprocal_rms = reciprocal_rms_;
  args.epsilon = static_cast<float>(context_.config.norm_epsilon);
  context_.backend.RmsNormForward(args);
}

void NormPart::Backward(const Matrix& d_normed, const Matrix& d_residual) {
  kernels::RmsNormBackwardArgs args;
  args.d_normed = d_normed;
  args.input = input_;
  args.weight = context_.weights.MasterOf(parameters_.weight);
  args.reciprocal_rms = reciprocal_rms_;
  args.d_input = d_residual;
  args.d_weight = context_.weights.GradientOf(parameters_.weight);
  context_.backend.RmsNormBackward(args);
}

void Projection::PrepareWeights(PassKind pass, uint32_t step) {
  layer_.PrepareWeights(
      context_.weights.MatrixOf(parameters_.weight, layer_.WeightType(pass, step)), pass, step);
}

void Projection::Forward(const Matrix& x, const Matrix& y, const TokenRange& tokens) {
  layer_.Forward(x, y, tokens, context_.workspace);
}

void Projection::Backward(const Matrix& d_y, const Matrix& x, const Matrix& d_x,
                          const TokenRange& tokens) {
  layer_.Backward({d_y, x, d_x, context_.weights.GradientOf(parameters_.weight), tokens},
                  context_.workspace);
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

void AttentionMixer::Forward(const Matrix& x, const Matrix& y, const TokenRange& tokens) {
  in_.Forward(x, qkv_, tokens);
  context_.backend.Rope({shape(), qkv_, context_.rope_table, /*inverse=*/false});
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
  context_.backend.Rope({shape(), d_qkv_, context_.rope_table, /*inverse=*/true});
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
  context_.backend.SwiGluForward(projected_, activated_);
  out_.Forward(activated_, y, tokens);
}

void MlpMixer::Backward(const Matrix& d_y, const Matrix& x, const Matrix& d_x,
                        const TokenRange& tokens) {
  out_.Backward(d_y, activated_, d_activated_, tokens);
  context_.backend.SwiGluBackward(d_activated_, projected_, d_projected_);
  in_.Backward(d_projected_, x, d_x, tokens);
}

}  // namespace nibble::model
