// Rotary position embedding in place: q and k read and written once. Four products and two sums in
// FP32, as in the reference, bit for bit.
#include "kernels/cpu/lanes.h"
#include "kernels/cpu/ops.h"

namespace nibble::kernels::cpu::NIBBLE_ISA {
namespace {

template <bool kBf16>
void RotateHead(void* qkv, int64_t at, int64_t half, const float* cosines, const float* sines) {
  ForLanes(0, half, [&](int64_t i, int64_t count) NIBBLE_LAMBDA {
    const F32x16 a = LoadLanes<kBf16>(qkv, at + i, count);
    const F32x16 b = LoadLanes<kBf16>(qkv, at + half + i, count);
    const F32x16 cosine = LoadLanes<false>(cosines, i, count);
    const F32x16 sine = LoadLanes<false>(sines, i, count);
    StoreLanes<kBf16>(qkv, at + i, a * cosine - b * sine, count);
    StoreLanes<kBf16>(qkv, at + half + i, b * cosine + a * sine, count);
  });
}

}  // namespace

void Rope(OpContext& context, const RopeArgs& args) {
  const AttentionShape shape = args.shape;
  const int64_t half = shape.head_size / 2;
  const int64_t rows_per_tile = RowsPerTile(shape.qkv_width());
  ParallelFor(context.pool, TileCount(shape.tokens(), rows_per_tile),
              [&](int64_t tile, int thread) {
                // The table interleaves cosines and sines; the lanes want them apart.
                float* cosines = static_cast<float*>(context.scratch.ForThread(thread, half * 8));
                float* sines = cosines + half;
                const int64_t end = Smaller(shape.tokens(), (tile + 1) * rows_per_tile);
                for (int64_t n = tile * rows_per_tile; n < end; ++n) {
                  const float* pairs = args.cos_sin + n % shape.sequence_length * half * 2;
                  for (int64_t i = 0; i < half; ++i) {
                    cosines[i] = pairs[2 * i];
                    sines[i] = args.inverse ? -pairs[2 * i + 1] : pairs[2 * i + 1];
                  }
                  for (int64_t head = 0; head < shape.heads + shape.kv_heads; ++head) {
                    const int64_t at = n * shape.qkv_width() + head * shape.head_size;
                    if (args.qkv.dtype == DType::kBF16) {
                      RotateHead<true>(args.qkv.data, at, half, cosines, sines);
                    } else {
                      RotateHead<false>(args.qkv.data, at, half, cosines, sines);
                    }
                  }
                }
              });
}

}  // namespace nibble::kernels::cpu::NIBBLE_ISA
