// E2M1, the 4-bit float of NVFP4: bit 3 the sign, magnitudes 0, .5, 1, 1.5, 2, 3, 4, 6 by code.
// Two elements a byte, the even one in the low nibble.
#ifndef KERNELS_NVFP4_E2M1_H_
#define KERNELS_NVFP4_E2M1_H_

#include <cstdint>

#include "kernels/nvfp4/bits.h"

namespace nibble::nvfp4 {

constexpr float kE2m1Max = 6.0f;

// `code` 0..15.
NIBBLE_HD float E2m1ToF32(uint8_t code) {
  // exponent 0: 0 or .5; else (1 + mantissa / 2) * 2^(exponent - 1)
  const uint32_t exponent = (code >> 1) & 3u;
  const uint32_t mantissa = code & 1u;
  const float magnitude = exponent == 0
                              ? 0.5f * static_cast<float>(mantissa)
                              : 0.5f * static_cast<float>((2u + mantissa) << (exponent - 1u));
  return (code & 8u) != 0 ? -magnitude : magnitude;
}

// Distance to the next magnitude at `magnitude` (|y| <= 6): .5 below 2, 1 below 4, 2 above.
NIBBLE_HD float E2m1Step(float magnitude) {
  return magnitude < 2.0f ? 0.5f : magnitude < 4.0f ? 1.0f : 2.0f;
}

// The code of a magnitude that is on the grid.
NIBBLE_HD uint8_t E2m1OfGridPoint(float magnitude) {
  const float scaled = magnitude < 2.0f   ? magnitude * 2.0f
                       : magnitude < 4.0f ? magnitude + 2.0f
                                          : magnitude * 0.5f + 4.0f;
  return static_cast<uint8_t>(scaled);
}

NIBBLE_HD uint8_t PackE2m1(uint8_t even, uint8_t odd) {
  return static_cast<uint8_t>((even & 15u) | (odd << 4));
}
NIBBLE_HD uint8_t UnpackE2m1(const uint8_t* packed, int64_t element) {
  return static_cast<uint8_t>((packed[element >> 1] >> (4 * (element & 1))) & 15);
}

}  // namespace nibble::nvfp4

#endif  // KERNELS_NVFP4_E2M1_H_
