// E5M2, the 8-bit float with more range: sign, 5 exponent bits (bias 15), 2 mantissa bits. It has
// infinities (0x7c), which conversion never gives; the largest value is 57344. OCP 8-bit Floating
// Point Specification 1.0.
#ifndef KERNELS_NVFP4_E5M2_H_
#define KERNELS_NVFP4_E5M2_H_

#include <cstdint>

#include "kernels/nvfp4/bits.h"

namespace nibble::nvfp4 {

constexpr float kE5m2Max = 57344.0f;
constexpr float kE5m2MinNormal = 6.103515625e-05f;  // 2^-14; subnormals are multiples of 2^-16

NIBBLE_HD float E5m2ToF32(uint8_t code) {
  const uint32_t exponent = (code >> 2) & 31u;
  const uint32_t mantissa = code & 3u;
  float magnitude;
  if (exponent == 31u) {
    magnitude = FloatOf(0x7f800000u | (mantissa << 21));
  } else if (exponent == 0) {
    magnitude = static_cast<float>(mantissa) * 1.52587890625e-05f;
  } else {
    magnitude = FloatOf(((exponent + 112u) << 23) | (mantissa << 21));
  }
  return (code & 0x80u) != 0 ? -magnitude : magnitude;
}

// Nearest, ties to even, saturating at +-57344; NaN gives NaN.
NIBBLE_HD uint8_t F32ToE5m2(float value) {
  const uint32_t bits = BitsOf(value);
  const uint8_t sign = static_cast<uint8_t>((bits >> 24) & 0x80u);
  const float magnitude = AbsOf(value);
  if (magnitude != magnitude) return static_cast<uint8_t>(sign | 0x7fu);
  if (magnitude >= kE5m2Max) return static_cast<uint8_t>(sign | 0x7bu);
  // As in F32ToE4m3, with a step of 2^-2 of the power of two below: multiples are 4..8.
  const uint32_t power =
      BitsOf(magnitude < kE5m2MinNormal ? kE5m2MinNormal : magnitude) & 0x7f800000u;
  const uint32_t magic = power + (21u << 23) + 0x400000u;
  const uint32_t multiple = BitsOf(magnitude + FloatOf(magic)) - magic;
  return static_cast<uint8_t>(sign | (multiple + ((power - (113u << 23)) >> 21)));
}

}  // namespace nibble::nvfp4

#endif  // KERNELS_NVFP4_E5M2_H_
