// Activations of an MLP without a gate; formulas in kernels/reference/activation.cc. One pass over
// memory.
//
// (1 + tanh(u)) / 2 is the sigmoid of 2 u. The normal distribution's tail is by Abramowitz & Stegun
// 7.1.26, within 7.5e-8 of it: below FP32's own error of the products around it.
#include "kernels/cpu/lanes.h"
#include "kernels/cpu/ops.h"

namespace nibble::kernels::cpu::NIBBLE_ISA {
namespace {

struct ValueAndSlope {
  F32x16 value;
  F32x16 slope;
};

NIBBLE_SIMD ValueAndSlope SquaredRelu(F32x16 x) {
  const F32x16 positive = Select(Less(Zero(), x), x, Zero());
  // NaN is passed on, as the reference does with its products.
  return {positive * positive, positive + positive};
}

NIBBLE_SIMD ValueAndSlope GeluTanh(F32x16 x) {
  const F32x16 one = Set1(1.0f);
  const F32x16 square = x * x;
  const F32x16 doubled = Set1(1.5957691216057308f) * x * (one + Set1(0.044715f) * square);
  const F32x16 sigmoid = one / (one + Exp(Zero() - doubled));
  const F32x16 inner = Set1(1.5957691216057308f) * (one + Set1(0.134145f) * square);
  return {x * sigmoid, sigmoid + x * sigmoid * (one - sigmoid) * inner};
}

NIBBLE_SIMD ValueAndSlope Gelu(F32x16 x) {
  const F32x16 one = Set1(1.0f);
  const F32x16 t = one / (one + Set1(0.3275911f * 0.70710678118654752f) * Abs(x));
  const F32x16 bell = Exp(Set1(-0.5f) * x * x);
  F32x16 poly = Set1(1.061405429f) * t + Set1(-1.453152027f);
  poly = (poly * t + Set1(1.421413741f)) * t + Set1(-0.284496736f);
  poly = (poly * t + Set1(0.254829592f)) * t;
  const F32x16 tail = Set1(0.5f) * poly * bell;
  const F32x16 below = Select(Less(x, Zero()), tail, one - tail);
  return {x * below, below + x * bell * Set1(0.39894228040143268f)};
}

template <Activation kActivation>
NIBBLE_SIMD ValueAndSlope Evaluate(F32x16 x) {
  if constexpr (kActivation == Activation::kSquaredRelu) return SquaredRelu(x);
  if constexpr (kActivation == Activation::kGelu) return Gelu(x);
  return GeluTanh(x);
}

constexpr int64_t kTile = 16384;

template <Activation kActivation, bool kBf16>
void ForwardTiles(OpContext& context, const Matrix& in, const Matrix& out) {
  const int64_t size = in.size();
  ParallelFor(context.pool, TileCount(size, kTile), [&](int64_t tile, int) {
    ForLanes(tile * kTile, Smaller(size, (tile + 1) * kTile),
             [&](int64_t i, int64_t count) NIBBLE_LAMBDA {
               const F32x16 x = LoadLanes<kBf16>(in.data, i, count);
               StoreLanes<kBf16>(out.data, i, Evaluate<kActivation>(x).value, count);
             });
  });
}

template <Activation kActivation, bool kBf16>
void BackwardTiles(OpContext& context, const Matrix& d_out, const Matrix& in, const Matrix& d_in) {
  const int64_t size = in.size();
  ParallelFor(context.pool, TileCount(size, kTile), [&](int64_t tile, int) {
    ForLanes(tile * kTile, Smaller(size, (tile + 1) * kTile),
             [&](int64_t i, int64_t count) NIBBLE_LAMBDA {
               const F32x16 x = LoadLanes<kBf16>(in.data, i, count);
               const F32x16 dy = LoadLanes<kBf16>(d_out.data, i, count);
               StoreLanes<kBf16>(d_in.data, i, dy * Evaluate<kActivation>(x).slope, count);
             });
  });
}

template <Activation kActivation>
void ForwardAs(OpContext& context, const Matrix& in, const Matrix& out) {
  if (in.dtype == DType::kBF16) {
    ForwardTiles<kActivation, true>(context, in, out);
  } else {
    ForwardTiles<kActivation, false>(context, in, out);
  }
}

template <Activation kActivation>
void BackwardAs(OpContext& context, const Matrix& d_out, const Matrix& in, const Matrix& d_in) {
  if (in.dtype == DType::kBF16) {
    BackwardTiles<kActivation, true>(context, d_out, in, d_in);
  } else {
    BackwardTiles<kActivation, false>(context, d_out, in, d_in);
  }
}

}  // namespace

void ActivationForward(OpContext& context, Activation activation, Matrix in, Matrix out) {
  switch (activation) {
    case Activation::kSquaredRelu:
      return ForwardAs<Activation::kSquaredRelu>(context, in, out);
    case Activation::kGelu:
      return ForwardAs<Activation::kGelu>(context, in, out);
    case Activation::kGeluTanh:
      return ForwardAs<Activation::kGeluTanh>(context, in, out);
  }
}

void ActivationBackward(OpContext& context, Activation activation, Matrix d_out, Matrix in,
                        Matrix d_in) {
  switch (activation) {
    case Activation::kSquaredRelu:
      return BackwardAs<Activation::kSquaredRelu>(context, d_out, in, d_in);
    case Activation::kGelu:
      return BackwardAs<Activation::kGelu>(context, d_out, in, d_in);
    case Activation::kGeluTanh:
      return BackwardAs<Activation::kGeluTanh>(context, d_out, in, d_in);
  }
}

}  // namespace nibble::kernels::cpu::NIBBLE_ISA
