#include "worker/model/mamba_mixer.h"

namespace nibble::model {

using kernels::Matrix;

kernels::MambaShape MambaMixer::shape() const {
  const MambaConfig& mamba = context_.config.mamba;
  return {context_.sequences, context_.sequence_length, mamba.heads,      mamba.head_size,
          mamba.groups,       mamba.state_size,         mamba.conv_width, mamba.chunk_size};
}

void MambaMixer::PlanKept(Arena& arena) {
  const kernels::MambaShape s = shape();
  projected_ = context_.TakeActivations(arena, s.projected_width());
  xbc_ = context_.TakeActivations(arena, s.channels());
  scanned_ = context_.TakeActivations(arena, s.inner());
  gated_ = context_.TakeActivations(arena, s.inner());
  reciprocal_rms_ = arena.TakeFloats(s.tokens() * s.groups);
}

void MambaMixer::PlanScratch(Arena& arena) {
  const kernels::MambaShape s = shape();
  d_projected_ = context_.TakeActivations(arena, s.projected_width());
  d_xbc_ = context_.TakeActivations(arena, s.channels());
  d_scanned_ = context_.TakeActivations(arena, s.inner());
  d_gated_ = context_.TakeActivations(arena, s.inner());
}

void MambaMixer::Forward(const Matrix& x, const Matrix& y, const TokenRange& tokens) {
  const Weights& weights = context_.weights;
  kernels::Backend& backend = context_.backend;
  in_.Forward(x, projected_, tokens);
  backend.CausalConvForward({shape(), projected_, weights.MasterOf(parameters_.conv_weight),
                             weights.MasterOf(parameters_.conv_bias), xbc_});
  backend.ScanForward({shape(), xbc_, projected_, weights.MasterOf(parameters_.dt_bias),
                       weights.MasterOf(parameters_.a_log), weights.MasterOf(parameters_.d),
                       scanned_});
  backend.GatedNormForward({shape(), scanned_, projected_, weights.MasterOf(parameters_.norm),
                            gated_, reciprocal_rms_,
                            static_cast<float>(context_.config.norm_epsilon)});
  out_.Forward(gated_, y, tokens);
}

void MambaMixer::Backward(const Matrix& d_y, const Matrix& x, const Matrix& d_x,
                          const TokenRange& tokens) {
  const Weights& weights = context_.weights;
  kernels::Backend& backend = context_.backend;
  out_.Backward(d_y, gated_, d_gated_, tokens);
  backend.GatedNormBackward({shape(), d_gated_, scanned_, projected_,
                             weights.MasterOf(parameters_.norm), reciprocal_rms_, d_scanned_,
                             d_projected_, weights.GradientOf(parameters_.norm)});
  backend.ScanBackward({shape(), d_scanned_, xbc_, projected_,
                        weights.MasterOf(parameters_.dt_bias), weights.MasterOf(parameters_.a_log),
                        weights.MasterOf(parameters_.d), d_xbc_, d_projected_,
                        weights.GradientOf(parameters_.dt_bias),
                        weights.GradientOf(parameters_.a_log), weights.GradientOf(parameters_.d)});
  backend.CausalConvBackward(
      {shape(), d_xbc_, projected_, weights.MasterOf(parameters_.conv_weight),
       weights.MasterOf(parameters_.conv_bias), d_projected_,
       weights.GradientOf(parameters_.conv_weight), weights.GradientOf(parameters_.conv_bias)});
  in_.Backward(d_projected_, x, d_x, tokens);
}

}  // namespace nibble::model
