// E4M3, the 8-bit float of NVFP4's block scales: sign, 4 exponent bits (bias 7), 3 mantissa bits.
// No infinity; the largest value is 448, 0x7f is NaN. OCP 8-bit Floating Point Specification 1.0.
#ifndef KERNELS_NVFP4_E4M3_H_
#define KERNELS_NVFP4_E4M3_H_

#include <cstdint>

#include "kernels/nvfp4/bits.h"

namespace nibble::nvfp4 {

constexpr float kE4m3Max = 448.0f;
constexpr float kE4m3MinNormal = 0.015625f;  // 2^-6; subnormals are multiples of 2^-9

NIBBLE_HD float E4m3ToF32(uint8_t code) {
  const uint32_t exponent = (code >> 3) & 15u;
  const uint32_t mantissa = code & 7u;
  float magnitude;
  if ((code & 0x7fu) == 0x7fu) {
    magnitude = FloatOf(0x7fc00000u);
  } else if (exponent == 0) {
    magnitude = static_cast<float>(mantissa) * 0.001953125f;
  } else {
    magnitude = FloatOf(((exponent + 120u) << 23) | (mantissa << 20));
  }
  return (code & 0x80u) != 0 ? -magnitude : magnitude;
}

// Nearest, ties to even, saturating at +-448; NaN gives NaN.
NIBBLE_HD uint8_t F32ToE4m3(float value) {
  const uint32_t bits = BitsOf(value);
  const uint8_t sign = static_cast<uint8_t>((bits >> 24) & 0x80u);
  const float magnitude = AbsOf(value);
  if (magnitude != magnitude) return static_cast<uint8_t>(sign | 0x7fu);
  if (magnitude >= kE4m3Max) return static_cast<uint8_t>(sign | 0x7eu);
  // Adding 1.5 * 2^23 steps rounds to a multiple of the step in FP32's own rounding, nearest even,
  // and leaves the multiple in the low bits. The step is 2^-3 of the power of two below.
  const uint32_t power =
      BitsOf(magnitude < kE4m3MinNormal ? kE4m3MinNormal : magnitude) & 0x7f800000u;
  const uint32_t magic = power + (20u << 23) + 0x400000u;
  const uint32_t multiple = BitsOf(magnitude + FloatOf(magic)) - magic;
  // A multiple of 8..15 is mantissa 0..7 of the exponent; one of 16 carries into the next, as does
  // 8 out of the subnormals.
  return static_cast<uint8_t>(sign | (multiple + ((power - (121u << 23)) >> 20)));
}

}  // namespace nibble::nvfp4

#endif  // KERNELS_NVFP4_E4M3_H_
