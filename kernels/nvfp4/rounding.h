// From a scaled element to its E2M1 code: steps 7 and 8 of docs/numerics.md, section 2, and
// stochastic rounding, section 4.
#ifndef KERNELS_NVFP4_ROUNDING_H_
#define KERNELS_NVFP4_ROUNDING_H_

#include <cstdint>

#include "kernels/nvfp4/bits.h"
#include "kernels/nvfp4/e2m1.h"
#include "kernels/nvfp4/philox.h"

namespace nibble::nvfp4 {

// |y| clamped to 6.
NIBBLE_HD float ClampedMagnitude(float y) {
  const float magnitude = AbsOf(y);
  return magnitude < kE2m1Max ? magnitude : kE2m1Max;
}

NIBBLE_HD uint8_t SignBit(float y) { return static_cast<uint8_t>((BitsOf(y) >> 28) & 8u); }

// Nearest, ties to the even code. The sign is y's own, also of zeros.
NIBBLE_HD uint8_t RoundNearest(float y) {
  const float a = ClampedMagnitude(y);
  const uint8_t code = a <= 0.25f   ? 0
                       : a < 0.75f  ? 1
                       : a <= 1.25f ? 2
                       : a < 1.75f  ? 3
                       : a <= 2.5f  ? 4
                       : a < 3.5f   ? 5
                       : a <= 5.0f  ? 6
                                    : 7;
  return static_cast<uint8_t>(SignBit(y) | code);
}

// Up with a probability of (random_byte's share of) the distance from the grid point below:
// floor(t / step) * step, t = |y| + random_byte / 256 * step.
NIBBLE_HD uint8_t RoundStochastic(float y, uint8_t random_byte) {
  const float a = ClampedMagnitude(y);
  const float step = E2m1Step(a);
  const float t = a + static_cast<float>(random_byte) * 0.00390625f * step;
  const float rounded = static_cast<float>(static_cast<int32_t>(t / step)) * step;
  return static_cast<uint8_t>(SignBit(y) |
                              E2m1OfGridPoint(rounded < kE2m1Max ? rounded : kE2m1Max));
}

// The 16 random bytes of a block are the result's words in order, each from its low byte up.
// `block`: row * (columns / 16) + column / 16 in the whole step's matrix as it is quantised.
NIBBLE_HD PhiloxResult BlockRandom(uint64_t seed, uint32_t tensor_id, uint32_t step,
                                   uint64_t block) {
  return Philox4x32(static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32), tensor_id,
                    step, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
}

NIBBLE_HD uint8_t RandomByte(const PhiloxResult& random, int element) {
  return static_cast<uint8_t>(random.v[element / 4] >> (8 * (element % 4)));
}

}  // namespace nibble::nvfp4

#endif  // KERNELS_NVFP4_ROUNDING_H_
