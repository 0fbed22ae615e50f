// Gradients of parameters that all rows share: sums over tiles of rows, and the tiles' sums in
// their order, so that no thread's share shows. The same rules as for simd.h.
#ifndef KERNELS_CPU_TILE_SUMS_H_
#define KERNELS_CPU_TILE_SUMS_H_

#include <cstdint>

#include "kernels/cpu/lanes.h"
#include "kernels/cpu/ops.h"

namespace nibble::kernels::cpu {
namespace NIBBLE_ISA {

// Rows of a tile whose sum is one partial sum.
constexpr int64_t kGradientRows = 64;

// sums [cols] += the partial sums, tile t's at partial + t * stride, in tile order.
NIBBLE_SIMD void AddTileSums(OpContext& context, const float* partial, int64_t tiles,
                             int64_t stride, int64_t cols, float* sums) {
  constexpr int64_t kReduceColumns = 64;
  ParallelFor(context.pool, TileCount(cols, kReduceColumns), [&](int64_t tile, int) {
    const int64_t begin = tile * kReduceColumns;
    ForLanes(begin, Smaller(cols, begin + kReduceColumns),
             [&](int64_t c, int64_t count) NIBBLE_LAMBDA {
               F32x16 sum = LoadLanes<false>(sums, c, count);
               for (int64_t t = 0; t < tiles; ++t) {
                 sum = sum + LoadLanes<false>(partial, t * stride + c, count);
               }
               StoreLanes<false>(sums, c, sum, count);
             });
  });
}

}  // namespace NIBBLE_ISA
}  // namespace nibble::kernels::cpu

#endif  // KERNELS_CPU_TILE_SUMS_H_
