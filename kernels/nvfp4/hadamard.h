// The random Hadamard transform of 16 elements: g -> g R, R = diag(s) H16 / 4 with Sylvester's H16
// and fixed signs s. R R^T = I, so that it cancels in a product whose two operands both went
// through it along the dot-product dimension. docs/numerics.md, section 3.
#ifndef KERNELS_NVFP4_HADAMARD_H_
#define KERNELS_NVFP4_HADAMARD_H_

#include <cstdint>

#include "kernels/nvfp4/bf16.h"

namespace nibble::nvfp4 {

constexpr int kHadamardSize = 16;
constexpr uint32_t kHadamardSigns = 0xD7E8u;  // bit i: s[i] = -1
constexpr float kHadamardScale = 0.25f;       // 1 / sqrt(16)

// In place; the results are rounded to BF16.
NIBBLE_HD void Hadamard16(float* g) {
  for (int i = 0; i < kHadamardSize; ++i) {
    if ((kHadamardSigns >> i) & 1u) g[i] = -g[i];
  }
  for (int stride = 1; stride < kHadamardSize; stride *= 2) {
    for (int i = 0; i < kHadamardSize; ++i) {
      if ((i & stride) != 0) continue;
      const float a = g[i];
      const float b = g[i + stride];
      g[i] = a + b;
      g[i + stride] = a - b;
    }
  }
  for (int i = 0; i < kHadamardSize; ++i) g[i] = RoundToBf16(g[i] * kHadamardScale);
}

}  // namespace nibble::nvfp4

#endif  // KERNELS_NVFP4_HADAMARD_H_
