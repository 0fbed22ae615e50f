// Layer norm with the residual addition before it; formulas in kernels/reference/layer_norm.cc.
//
// A row is read three times, the later ones from the first-level cache: the variance is that of the
// differences from the mean, since the mean of squares less the square of the mean cancels. Sums
// are FP32: sixteen lanes along the row, then across lanes.
#include "kernels/cpu/lanes.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/tile_sums.h"

namespace nibble::kernels::cpu::NIBBLE_ISA {
namespace {

// The lanes from `count` on zeroed.
NIBBLE_SIMD F32x16 FirstLanes(F32x16 a, int64_t count) {
  if (count == kLanes) return a;
  float lanes[kLanes];
  Store(lanes, a);
  return LoadPartial(lanes, count);
}

// residual_out = residual + delta.
template <bool kBf16>
NIBBLE_SIMD void AddRow(const LayerNormArgs& args, int64_t at, int64_t cols) {
  ForLanes(at, at + cols, [&](int64_t i, int64_t count) NIBBLE_LAMBDA {
    const F32x16 x = LoadLanes<kBf16>(args.residual.data, i, count) +
                     LoadLanes<kBf16>(args.delta.data, i, count);
    StoreLanes<kBf16>(args.residual_out.data, i, x, count);
  });
}

template <bool kBf16>
void ForwardRows(const LayerNormArgs& args, int64_t begin, int64_t end) {
  const int64_t cols = args.residual.cols;
  const bool add = args.delta.data != nullptr;
  const void* input = add ? args.residual_out.data : args.residual.data;
  for (int64_t n = begin; n < end; ++n) {
    const int64_t at = n * cols;
    if (add) AddRow<kBf16>(args, at, cols);
    F32x16 sum = Zero();
    ForLanes(at, at + cols, [&](int64_t i, int64_t count) NIBBLE_LAMBDA {
      sum = sum + LoadLanes<kBf16>(input, i, count);
    });
    const float mean = ReduceAdd(sum) / static_cast<float>(cols);
    F32x16 squares = Zero();
    ForLanes(at, at + cols, [&](int64_t i, int64_t count) NIBBLE_LAMBDA {
      const F32x16 x = FirstLanes(LoadLanes<kBf16>(input, i, count) - Set1(mean), count);
      squares = squares + x * x;
    });
    const float variance = ReduceAdd(squares) / static_cast<float>(cols);
    const float reciprocal = 1.0f / __builtin_sqrtf(variance + args.epsilon);
    args.mean[n] = mean;
    args.reciprocal_deviation[n] = reciprocal;
    ForLanes(0, cols, [&](int64_t c, int64_t count) NIBBLE_LAMBDA {
      const F32x16 x = LoadLanes<kBf16>(input, at + c, count) - Set1(mean);
      StoreLanes<kBf16>(args.normed.data, at + c,
                        x * Set1(reciprocal) * LoadLanes<false>(args.weight, c, count) +
                            LoadLanes<false>(args.bias, c, count),
                        count);
    });
  }
}

// Adds the rows' gradients to d_weight and d_bias [cols].
template <bool kBf16>
void BackwardRows(const LayerNormBackwardArgs& args, int64_t begin, int64_t end, float* d_weight,
                  float* d_bias) {
  const int64_t cols = args.input.cols;
  for (int64_t n = begin; n < end; ++n) {
    const int64_t at = n * cols;
    const F32x16 r = Set1(args.reciprocal_deviation[n]);
    const F32x16 mean = Set1(args.mean[n]);
    F32x16 sum = Zero(), dot = Zero();
    ForLanes(0, cols, [&](int64_t c, int64_t count) NIBBLE_LAMBDA {
      const F32x16 dy = LoadLanes<kBf16>(args.d_normed.data, at + c, count);
      const F32x16 normed = (LoadLanes<kBf16>(args.input.data, at + c, count) - mean) * r;
      const F32x16 e = dy * LoadLanes<false>(args.weight, c, count);
      sum = sum + e;
      dot = dot + e * normed;
      StoreLanes<false>(d_weight, c, LoadLanes<false>(d_weight, c, count) + dy * normed, count);
      StoreLanes<false>(d_bias, c, LoadLanes<false>(d_bias, c, count) + dy, count);
    });
    const F32x16 mean_e = Set1(ReduceAdd(sum) / static_cast<float>(cols));
    const F32x16 mean_dot = Set1(ReduceAdd(dot) / static_cast<float>(cols));
    ForLanes(0, cols, [&](int64_t c, int64_t count) NIBBLE_LAMBDA {
      const F32x16 dy = LoadLanes<kBf16>(args.d_normed.data, at + c, count);
      const F32x16 normed = (LoadLanes<kBf16>(args.input.data, at + c, count) - mean) * r;
      const F32x16 e = dy * LoadLanes<false>(args.weight, c, count);
      const F32x16 dx = r * (e - mean_e - normed * mean_dot);
      StoreLanes<kBf16>(args.d_input.data, at + c,
                        LoadLanes<kBf16>(args.d_input.data, at + c, count) + dx, count);
    });
  }
}

}  // namespace

void LayerNormForward(OpContext& context, const LayerNormArgs& args) {
  const int64_t rows = args.residual.rows;
  const int64_t rows_per_tile = RowsPerTile(args.residual.cols);
  ParallelFor(context.pool, TileCount(rows, rows_per_tile), [&](int64_t tile, int) {
    const int64_t begin = tile * rows_per_tile;
    const int64_t end = Smaller(rows, begin + rows_per_tile);
    if (args.residual.dtype == DType::kBF16) {
      ForwardRows<true>(args, begin, end);
    } else {
      ForwardRows<false>(args, begin, end);
    }
  });
}

void LayerNormBackward(OpContext& context, const LayerNormBackwardArgs& args) {
  const int64_t rows = args.input.rows;
  const int64_t cols = args.input.cols;
  const int64_t tiles = TileCount(rows, kGradientRows);
  float* partial = static_cast<float*>(context.scratch.Shared(2 * tiles * cols * 4));
  ParallelFor(context.pool, tiles, [&](int64_t tile, int) {
    float* sums = partial + 2 * tile * cols;
    __builtin_memset(sums, 0, 2 * cols * 4);
    const int64_t begin = tile * kGradientRows;
    const int64_t end = Smaller(rows, begin + kGradientRows);
    if (args.input.dtype == DType::kBF16) {
      BackwardRows<true>(args, begin, end, sums, sums + cols);
    } else {
      BackwardRows<false>(args, begin, end, sums, sums + cols);
    }
  });
  AddTileSums(context, partial, tiles, 2 * cols, cols, args.d_weight);
  AddTileSums(context, partial + cols, tiles, 2 * cols, cols, args.d_bias);
}

}  // namespace nibble::kernels::cpu::NIBBLE_ISA
