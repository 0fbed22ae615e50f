// Addition, casts, the norm of a flat array: one pass over memory each.
#include "kernels/cpu/lanes.h"
#include "kernels/cpu/ops.h"

namespace nibble::kernels::cpu::NIBBLE_ISA {
namespace {

constexpr int64_t kTile = 32768;
// Partial sums of the norm: one per tile, added in tile order.
constexpr int64_t kNormTile = 65536;

template <bool kFromBf16, bool kToBf16>
void CastTiles(OpContext& context, Matrix from, Matrix to) {
  const int64_t size = from.size();
  ParallelFor(context.pool, TileCount(size, kTile), [&](int64_t tile, int) {
    ForLanes(tile * kTile, Smaller(size, (tile + 1) * kTile),
             [&](int64_t i, int64_t count) NIBBLE_LAMBDA {
               StoreLanes<kToBf16>(to.data, i, LoadLanes<kFromBf16>(from.data, i, count), count);
             });
  });
}

template <bool kBf16>
void AddTiles(OpContext& context, Matrix out, Matrix in) {
  const int64_t size = out.size();
  ParallelFor(context.pool, TileCount(size, kTile), [&](int64_t tile, int) {
    ForLanes(tile * kTile, Smaller(size, (tile + 1) * kTile),
             [&](int64_t i, int64_t count) NIBBLE_LAMBDA {
               const F32x16 sum =
                   LoadLanes<kBf16>(out.data, i, count) + LoadLanes<kBf16>(in.data, i, count);
               StoreLanes<kBf16>(out.data, i, sum, count);
             });
  });
}

// Squares are exact in doubles, so that neither tiny nor huge gradients are lost.
double SumOfSquares(const float* values, int64_t size) {
  double lanes[16] = {};
  int64_t i = 0;
  for (; i + 16 <= size; i += 16) {
    for (int64_t j = 0; j < 16; ++j) {
      const double value = values[i + j];
      lanes[j] += value * value;
    }
  }
  for (int64_t j = 0; i + j < size; ++j) {
    const double value = values[i + j];
    lanes[j] += value * value;
  }
  double sum = 0;
  for (int64_t j = 0; j < 16; ++j) sum += lanes[j];
  return sum;
}

}  // namespace

void AddInPlace(OpContext& context, Matrix out, Matrix in) {
  if (out.dtype == DType::kBF16) {
    AddTiles<true>(context, out, in);
  } else {
    AddTiles<false>(context, out, in);
  }
}

void Cast(OpContext& context, Matrix from, Matrix to) {
  const bool from_bf16 = from.dtype == DType::kBF16;
  const bool to_bf16 = to.dtype == DType::kBF16;
  if (from_bf16 && to_bf16) CastTiles<true, true>(context, from, to);
  if (from_bf16 && !to_bf16) CastTiles<true, false>(context, from, to);
  if (!from_bf16 && to_bf16) CastTiles<false, true>(context, from, to);
  if (!from_bf16 && !to_bf16) CastTiles<false, false>(context, from, to);
}

void Norm(OpContext& context, const float* values, int64_t size, float* norm) {
  const int64_t tiles = TileCount(size, kNormTile);
  double* partial = static_cast<double*>(context.scratch.Shared(tiles * 8));
  ParallelFor(context.pool, tiles, [&](int64_t tile, int) {
    const int64_t begin = tile * kNormTile;
    partial[tile] = SumOfSquares(values + begin, Smaller(kNormTile, size - begin));
  });
  double sum = 0;
  for (int64_t tile = 0; tile < tiles; ++tile) sum += partial[tile];
  *norm = static_cast<float>(__builtin_sqrt(sum));
}

}  // namespace nibble::kernels::cpu::NIBBLE_ISA
