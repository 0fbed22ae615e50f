// The scales of MXFP4, MXFP8 and FP8 (docs/numerics.md, section 1). FP32, each operation rounded
// once; powers of two are made of exponent bits.
//
// A NaN or an infinity under a block scale has no code: a NaN makes the block's decoding factor
// NaN, as 0xff does in E8M0; an infinity saturates.
#ifndef KERNELS_NVFP4_BLOCK_SCALES_H_
#define KERNELS_NVFP4_BLOCK_SCALES_H_

#include <cstdint>

#include "kernels/nvfp4/bits.h"

namespace nibble::nvfp4 {

constexpr int kMxBlockSize = 32;
constexpr int kFp8BlockSize = 128;

// Elements are multiplied by `encode` and rounded; `decode` turns what comes out into values.
struct BlockScale {
  float encode;
  float decode;
};

// 2^exponent for -127..127, of which the first is subnormal.
NIBBLE_HD float PowerOfTwo(int exponent) {
  const uint32_t biased = static_cast<uint32_t>(exponent + 127);
  return FloatOf(biased == 0 ? 0x00400000u : biased << 23);
}

// E8M0: 2^E, E smallest with 2^E >= fl(amax * reciprocal_of_largest), within -127..127.
// `reciprocal_of_largest`: fl32(1/6) for E2M1, fl32(1/448) for E4M3.
NIBBLE_HD BlockScale E8m0ScaleOf(float amax, float reciprocal_of_largest) {
  const float least = amax * reciprocal_of_largest;
  if (least != least) return BlockScale{1.0f, least};
  const uint32_t bits = BitsOf(least);
  // Rounds the exponent up where there is a mantissa; at most 2^-127 is a subnormal's half.
  int exponent = static_cast<int>((bits + 0x7fffffu) >> 23) - 127;
  if (bits <= 0x00400000u) exponent = -127;
  if (exponent > 127) exponent = 127;
  return BlockScale{PowerOfTwo(-exponent), PowerOfTwo(exponent)};
}

// FP8 block-wise: s = 2^floor(log2(448 / amax)), at most 2^127; 1 where amax is 0 or infinite. The
// quotient never rounds up to a power of two that it is below: floats just above 448 2^k are
// further apart, in proportion, than those just below one.
NIBBLE_HD BlockScale PowerOfTwoScaleOf(float amax, float largest) {
  if (amax != amax) return BlockScale{1.0f, amax};
  const float quotient = largest / amax;
  const uint32_t bits = BitsOf(quotient < kFloatMax ? quotient : kFloatMax) & 0x7f800000u;
  if (amax == 0.0f || bits == 0) return BlockScale{1.0f, 1.0f};
  const int exponent = static_cast<int>(bits >> 23) - 127;
  return BlockScale{FloatOf(bits), PowerOfTwo(-exponent)};
}

// FP8 tensor-wise: s = min(largest / amax, FLT_MAX), 1 where amax is 0 or infinite; values are
// codes times fl(1 / s). A NaN amax makes `decode` NaN.
NIBBLE_HD BlockScale TensorWiseScaleOf(float amax, float largest) {
  float encode = largest / amax;
  if (encode > kFloatMax) encode = kFloatMax;
  if (amax == 0.0f || encode == 0.0f) encode = 1.0f;
  return BlockScale{encode, 1.0f / encode};
}

}  // namespace nibble::nvfp4

#endif  // KERNELS_NVFP4_BLOCK_SCALES_H_
