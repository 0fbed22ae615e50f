// The bits of a float and back.
#ifndef KERNELS_NVFP4_BITS_H_
#define KERNELS_NVFP4_BITS_H_

#include <cstdint>

#include "kernels/nvfp4/hd.h"

namespace nibble::nvfp4 {

NIBBLE_HD uint32_t BitsOf(float value) {
  union {
    float f;
    uint32_t u;
  } bits;
  bits.f = value;
  return bits.u;
}

NIBBLE_HD float FloatOf(uint32_t value) {
  union {
    uint32_t u;
    float f;
  } bits;
  bits.u = value;
  return bits.f;
}

NIBBLE_HD float AbsOf(float value) { return FloatOf(BitsOf(value) & 0x7fffffffu); }

constexpr float kFloatMax = 3.40282346638528859812e+38f;

}  // namespace nibble::nvfp4

#endif  // KERNELS_NVFP4_BITS_H_
