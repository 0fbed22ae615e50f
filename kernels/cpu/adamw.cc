// AdamW: 30 bytes of memory traffic an element (28 without the BF16 copy), one pass, the
// operations of kernels/adamw.h in its order.
#include "kernels/adamw.h"

#include "kernels/cpu/lanes.h"
#include "kernels/cpu/ops.h"
#include "kernels/nvfp4/bf16.h"

namespace nibble::kernels::cpu::NIBBLE_ISA {
namespace {

constexpr int64_t kTile = 16384;

NIBBLE_SIMD void UpdateLanes(const AdamWCoefficients& k, const AdamWArgs& args, int64_t i) {
  const F32x16 parameter = Load(args.parameters + i);
  const F32x16 g = Load(args.gradients + i) * Set1(k.clip);
  const F32x16 m = Set1(k.beta1) * Load(args.first_moment + i) + Set1(k.one_minus_beta1) * g;
  const F32x16 v = Set1(k.beta2) * Load(args.second_moment + i) + Set1(k.one_minus_beta2) * g * g;
  const F32x16 direction =
      (m * Set1(k.inverse_bias1)) / (Sqrt(v * Set1(k.inverse_bias2)) + Set1(k.epsilon));
  const F32x16 updated =
      parameter - Set1(k.learning_rate) * (direction + Set1(k.weight_decay) * parameter);
  Store(args.first_moment + i, m);
  Store(args.second_moment + i, v);
  Store(args.parameters + i, updated);
  if (args.bf16_parameters != nullptr) {
    StoreBf16(static_cast<uint16_t*>(args.bf16_parameters) + i, updated);
  }
}

}  // namespace

void AdamW(OpContext& context, const AdamWArgs& args) {
  const AdamWCoefficients k = MakeAdamWCoefficients(args);
  ParallelFor(context.pool, TileCount(args.size, kTile), [&](int64_t tile, int) {
    const int64_t end = Smaller(args.size, (tile + 1) * kTile);
    int64_t i = tile * kTile;
    for (; i + kLanes <= end; i += kLanes) UpdateLanes(k, args, i);
    for (; i < end; ++i) {
      AdamWUpdate(k, args.gradients[i], args.first_moment[i], args.second_moment[i],
                  args.parameters[i]);
      if (args.bf16_parameters != nullptr) {
        static_cast<uint16_t*>(args.bf16_parameters)[i] = nvfp4::F32ToBf16(args.parameters[i]);
      }
    }
  });
}

}  // namespace nibble::kernels::cpu::NIBBLE_ISA
