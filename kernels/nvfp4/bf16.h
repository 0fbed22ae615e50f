// BF16: the upper half of an FP32. Held as uint16_t.
#ifndef KERNELS_NVFP4_BF16_H_
#define KERNELS_NVFP4_BF16_H_

#include <cstdint>

#include "kernels/nvfp4/bits.h"

namespace nibble::nvfp4 {

NIBBLE_HD float Bf16ToF32(uint16_t value) { return FloatOf(static_cast<uint32_t>(value) << 16); }

// Nearest, ties to even; overflow gives infinity; a NaN becomes a quiet NaN of the same sign.
NIBBLE_HD uint16_t F32ToBf16(float value) {
  const uint32_t bits = BitsOf(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

NIBBLE_HD float RoundToBf16(float value) { return Bf16ToF32(F32ToBf16(value)); }

}  // namespace nibble::nvfp4

#endif  // KERNELS_NVFP4_BF16_H_
