// RMS norm with the residual addition before it; formulas in kernels/reference/rms_norm.cc.
//
// A row is read twice, the second time from the first-level cache. Sums are FP32: sixteen lanes
// along the row, then across lanes. The weight's gradient is summed over tiles of kGradientRows
// rows, and the tiles' sums in their order.
#include "kernels/cpu/lanes.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/tile_sums.h"

namespace nibble::kernels::cpu::NIBBLE_ISA {
namespace {

// residual_out = residual + delta; returns the sum of squares.
template <bool kBf16>
NIBBLE_SIMD float AddRow(const RmsNormArgs& args, int64_t at, int64_t cols) {
  F32x16 sum = Zero();
  ForLanes(at, at + cols, [&](int64_t i, int64_t count) NIBBLE_LAMBDA {
    F32x16 x = LoadLanes<kBf16>(args.residual.data, i, count) +
               LoadLanes<kBf16>(args.delta.data, i, count);
    if constexpr (kBf16) x = RoundToBf16(x);
    StoreLanes<kBf16>(args.residual_out.data, i, x, count);
    sum = sum + x * x;
  });
  return ReduceAdd(sum);
}

template <bool kBf16>
NIBBLE_SIMD float SquareRow(const void* input, int64_t at, int64_t cols) {
  F32x16 sum = Zero();
  ForLanes(at, at + cols, [&](int64_t i, int64_t count) NIBBLE_LAMBDA {
    const F32x16 x = LoadLanes<kBf16>(input, i, count);
    sum = sum + x * x;
  });
  return ReduceAdd(sum);
}

template <bool kBf16>
void ForwardRows(const RmsNormArgs& args, int64_t begin, int64_t end) {
  const int64_t cols = args.residual.cols;
  const bool add = args.delta.data != nullptr;
  const void* input = add ? args.residual_out.data : args.residual.data;
  for (int64_t n = begin; n < end; ++n) {
    const int64_t at = n * cols;
    const float squares = add ? AddRow<kBf16>(args, at, cols) : SquareRow<kBf16>(input, at, cols);
    const float mean = squares / static_cast<float>(cols);
    const float reciprocal = 1.0f / __builtin_sqrtf(mean + args.epsilon);
    args.reciprocal_rms[n] = reciprocal;
    ForLanes(0, cols, [&](int64_t c, int64_t count) NIBBLE_LAMBDA {
      const F32x16 x = LoadLanes<kBf16>(input, at + c, count);
      StoreLanes<kBf16>(args.normed.data, at + c,
                        x * Set1(reciprocal) * LoadLanes<false>(args.weight, c, count), count);
    });
  }
}

// Adds the rows' weight gradient to d_weight [cols].
template <bool kBf16>
void BackwardRows(const RmsNormBackwardArgs& args, int64_t begin, int64_t end, float* d_weight) {
  const int64_t cols = args.input.cols;
  for (int64_t n = begin; n < end; ++n) {
    const int64_t at = n * cols;
    const float r = args.reciprocal_rms[n];
    F32x16 sum = Zero();
    ForLanes(0, cols, [&](int64_t c, int64_t count) NIBBLE_LAMBDA {
      const F32x16 dy_x = LoadLanes<kBf16>(args.d_normed.data, at + c, count) *
                          LoadLanes<kBf16>(args.input.data, at + c, count);
      sum = sum + dy_x * LoadLanes<false>(args.weight, c, count);
      StoreLanes<false>(d_weight, c, LoadLanes<false>(d_weight, c, count) + dy_x * Set1(r), count);
    });
    const float mean = ReduceAdd(sum) / static_cast<float>(cols);
    const F32x16 slope = Set1(r * r * r * mean);
    ForLanes(0, cols, [&](int64_t c, int64_t count) NIBBLE_LAMBDA {
      const F32x16 dy = LoadLanes<kBf16>(args.d_normed.data, at + c, count);
      const F32x16 x = LoadLanes<kBf16>(args.input.data, at + c, count);
      const F32x16 dx = dy * LoadLanes<false>(args.weight, c, count) * Set1(r) - x * slope;
      StoreLanes<kBf16>(args.d_input.data, at + c,
                        LoadLanes<kBf16>(args.d_input.data, at + c, count) + dx, count);
    });
  }
}

}  // namespace

void RmsNormForward(OpContext& context, const RmsNormArgs& args) {
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

void RmsNormBackward(OpContext& context, const RmsNormBackwardArgs& args) {
  const int64_t rows = args.input.rows;
  const int64_t cols = args.input.cols;
  const int64_t tiles = TileCount(rows, kGradientRows);
  float* partial = static_cast<float*>(context.scratch.Shared(tiles * cols * 4));
  ParallelFor(context.pool, tiles, [&](int64_t tile, int) {
    float* d_weight = partial + tile * cols;
    __builtin_memset(d_weight, 0, cols * 4);
    const int64_t begin = tile * kGradientRows;
    const int64_t end = Smaller(rows, begin + kGradientRows);
    if (args.input.dtype == DType::kBF16) {
      BackwardRows<true>(args, begin, end, d_weight);
    } else {
      BackwardRows<false>(args, begin, end, d_weight);
    }
  });
  AddTileSums(context, partial, tiles, cols, cols, args.d_weight);
}

}  // namespace nibble::kernels::cpu::NIBBLE_ISA
