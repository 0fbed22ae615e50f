// The gated RMS norm of a Mamba-2 layer; formulas in kernels/reference/gated_norm.cc. A row is read
// twice, the second time from the first-level cache.
#include "kernels/cpu/lanes.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/tile_sums.h"

namespace nibble::kernels::cpu::NIBBLE_ISA {
namespace {

NIBBLE_SIMD F32x16 Sigmoid(F32x16 x) { return Set1(1.0f) / (Set1(1.0f) + Exp(Zero() - x)); }

// The z of `count` columns of row n, and y's gated value.
template <bool kBf16>
NIBBLE_SIMD F32x16 LoadZ(const Matrix& projected, int64_t n, int64_t c, int64_t count) {
  return LoadLanes<kBf16>(projected.data, n * projected.cols + c, count);
}

template <bool kBf16>
void ForwardGroup(const GatedNormArgs& args, int64_t n, int64_t group) {
  const int64_t width = args.shape.group_width();
  const int64_t begin = group * width, at = n * args.y.cols;
  F32x16 squares = Zero();
  const auto gated = [&](int64_t c, int64_t count) NIBBLE_LAMBDA {
    const F32x16 z = LoadZ<kBf16>(args.projected, n, c, count);
    return LoadLanes<kBf16>(args.y.data, at + c, count) * (z * Sigmoid(z));
  };
  ForLanes(begin, begin + width, [&](int64_t c, int64_t count) NIBBLE_LAMBDA {
    const F32x16 g = gated(c, count);
    squares = squares + g * g;
  });
  const float mean = ReduceAdd(squares) / static_cast<float>(width);
  const float reciprocal = 1.0f / __builtin_sqrtf(mean + args.epsilon);
  args.reciprocal_rms[n * args.shape.groups + group] = reciprocal;
  ForLanes(begin, begin + width, [&](int64_t c, int64_t count) NIBBLE_LAMBDA {
    StoreLanes<kBf16>(args.out.data, at + c,
                      gated(c, count) * Set1(reciprocal) * LoadLanes<false>(args.weight, c, count),
                      count);
  });
}

// Adds to d_weight [inner].
template <bool kBf16>
void BackwardGroup(const GatedNormBackwardArgs& args, int64_t n, int64_t group, float* d_weight) {
  const int64_t width = args.shape.group_width();
  const int64_t begin = group * width, at = n * args.y.cols;
  const float r = args.reciprocal_rms[n * args.shape.groups + group];
  F32x16 dot = Zero();
  ForLanes(begin, begin + width, [&](int64_t c, int64_t count) NIBBLE_LAMBDA {
    const F32x16 z = LoadZ<kBf16>(args.projected, n, c, count);
    const F32x16 g = LoadLanes<kBf16>(args.y.data, at + c, count) * (z * Sigmoid(z));
    const F32x16 product = LoadLanes<kBf16>(args.d_out.data, at + c, count) * g;
    dot = dot + product * LoadLanes<false>(args.weight, c, count);
    StoreLanes<false>(d_weight, c, LoadLanes<false>(d_weight, c, count) + product * Set1(r), count);
  });
  const F32x16 slope = Set1(r * r * r * (ReduceAdd(dot) / static_cast<float>(width)));
  ForLanes(begin, begin + width, [&](int64_t c, int64_t count) NIBBLE_LAMBDA {
    const F32x16 one = Set1(1.0f);
    const F32x16 z = LoadZ<kBf16>(args.projected, n, c, count);
    const F32x16 y = LoadLanes<kBf16>(args.y.data, at + c, count);
    const F32x16 sigmoid = Sigmoid(z);
    const F32x16 silu = z * sigmoid;
    const F32x16 e =
        LoadLanes<kBf16>(args.d_out.data, at + c, count) * LoadLanes<false>(args.weight, c, count);
    const F32x16 d_gated = e * Set1(r) - y * silu * slope;
    StoreLanes<kBf16>(args.d_y.data, at + c, d_gated * silu, count);
    StoreLanes<kBf16>(args.d_projected.data, n * args.d_projected.cols + c,
                      d_gated * y * (sigmoid * (one + z * (one - sigmoid))), count);
  });
}

}  // namespace

void GatedNormForward(OpContext& context, const GatedNormArgs& args) {
  const int64_t rows_per_tile = RowsPerTile(args.y.cols);
  ParallelFor(context.pool, TileCount(args.y.rows, rows_per_tile), [&](int64_t tile, int) {
    const int64_t end = Smaller(args.y.rows, (tile + 1) * rows_per_tile);
    for (int64_t n = tile * rows_per_tile; n < end; ++n) {
      for (int64_t group = 0; group < args.shape.groups; ++group) {
        if (args.y.dtype == DType::kBF16) {
          ForwardGroup<true>(args, n, group);
        } else {
          ForwardGroup<false>(args, n, group);
        }
      }
    }
  });
}

void GatedNormBackward(OpContext& context, const GatedNormBackwardArgs& args) {
  const int64_t cols = args.y.cols;
  const int64_t tiles = TileCount(args.y.rows, kGradientRows);
  float* partial = static_cast<float*>(context.scratch.Shared(tiles * cols * 4));
  ParallelFor(context.pool, tiles, [&](int64_t tile, int) {
    float* d_weight = partial + tile * cols;
    __builtin_memset(d_weight, 0, cols * 4);
    const int64_t end = Smaller(args.y.rows, (tile + 1) * kGradientRows);
    for (int64_t n = tile * kGradientRows; n < end; ++n) {
      for (int64_t group = 0; group < args.shape.groups; ++group) {
        if (args.y.dtype == DType::kBF16) {
          BackwardGroup<true>(args, n, group, d_weight);
        } else {
          BackwardGroup<false>(args, n, group, d_weight);
        }
      }
    }
  });
  AddTileSums(context, partial, tiles, cols, cols, args.d_weight);
}

}  // namespace nibble::kernels::cpu::NIBBLE_ISA
