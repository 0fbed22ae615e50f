// The random Hadamard transform of n elements, n a power of two up to 128 (by default 16):
// g -> g R, R = diag(s) H / sqrt(n) with Sylvester's H and signs s. R R^T = I, so that it cancels
// in a product whose two operands both went through it along the dot-product dimension.
// docs/numerics.md, section 3.
#ifndef KERNELS_NVFP4_HADAMARD_H_
#define KERNELS_NVFP4_HADAMARD_H_

#include <cstdint>

#include "kernels/nvfp4/bf16.h"
#include "kernels/nvfp4/philox.h"

namespace nibble::nvfp4 {

constexpr int kHadamardSize = 16;
constexpr int kMaxHadamardSize = 128;
constexpr uint32_t kHadamardSigns = 0xD7E8u;  // bit i: s[i] = -1
constexpr float kHadamardScale = 0.25f;       // 1 / sqrt(16)

// Signs of up to 128 elements; bit i % 32 of word i / 32: s[i] = -1.
struct SignBits {
  uint32_t word[4];
};

// The fixed pattern, repeated; shorter transforms take its beginning.
NIBBLE_HD SignBits FixedSigns() {
  constexpr uint32_t kTwice = kHadamardSigns | kHadamardSigns << 16;
  return SignBits{{kTwice, kTwice, kTwice, kTwice}};
}

// 128 fair signs. The tensor id of the counter is none that stochastic rounding has.
NIBBLE_HD SignBits DrawnSigns(uint64_t seed, uint32_t step) {
  const PhiloxResult random = Philox4x32(0, 0, 0xfffffffeu, step, static_cast<uint32_t>(seed),
                                         static_cast<uint32_t>(seed >> 32));
  return SignBits{{random.v[0], random.v[1], random.v[2], random.v[3]}};
}

NIBBLE_HD uint32_t IsNegative(const SignBits& signs, int element) {
  return (signs.word[element / 32] >> (element % 32)) & 1u;
}

// fl32(1 / sqrt(size)).
NIBBLE_HD float HadamardScale(int size) {
  return size == 4    ? 0.5f
         : size == 16 ? 0.25f
         : size == 32 ? 0.17677669529663687f
         : size == 64 ? 0.125f
                      : 0.08838834764831845f;
}

// In place; the results are rounded to BF16.
NIBBLE_HD void Hadamard(float* g, int size, const SignBits& signs) {
  NIBBLE_UNROLL
  for (int i = 0; i < size; ++i) {
    if (IsNegative(signs, i) != 0) g[i] = -g[i];
  }
  NIBBLE_UNROLL
  for (int stride = 1; stride < size; stride *= 2) {
    NIBBLE_UNROLL
    for (int i = 0; i < size; ++i) {
      if ((i & stride) != 0) continue;
      const float a = g[i];
      const float b = g[i + stride];
      g[i] = a + b;
      g[i + stride] = a - b;
    }
  }
  const float scale = HadamardScale(size);
  NIBBLE_UNROLL
  for (int i = 0; i < size; ++i) g[i] = RoundToBf16(g[i] * scale);
}

}  // namespace nibble::nvfp4

#endif  // KERNELS_NVFP4_HADAMARD_H_
