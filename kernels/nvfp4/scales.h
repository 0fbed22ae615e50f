// The scales of NVFP4: steps 2 to 6 of docs/numerics.md, section 2. All FP32, each operation
// rounded once: the numbers of Transformer Engine's quantiser.
#ifndef KERNELS_NVFP4_SCALES_H_
#define KERNELS_NVFP4_SCALES_H_

#include <cstdint>

#include "kernels/nvfp4/bits.h"
#include "kernels/nvfp4/e4m3.h"

namespace nibble::nvfp4 {

constexpr int kBlockSize = 16;

// What the tensor's amax is mapped to: 448 * 6; with "four over six" 256 * 6, so that the scale of
// a block mapped to 4 instead of 6, one and a half times as large, is still an E4M3 (arXiv
// 2512.02010).
constexpr float kTensorRange = 2688.0f;
constexpr float kFourOverSixTensorRange = 1536.0f;

struct TensorScale {
  float encode;              // s_enc
  float decode;              // s_dec = 1 / s_enc: stored value * s_dec = value
  float multiplier;          // s_enc / 6: block amax -> block scale
  float multiplier_to_four;  // s_enc / 4: the scale that maps a block's amax to 4
};

// `amax`: the largest magnitude of the tensor; infinity is allowed. A NaN (the tensor has one)
// makes `decode` NaN and with it every product: codes cannot say it.
NIBBLE_HD TensorScale TensorScaleOf(float amax, float range = kTensorRange) {
  float encode = range / amax;
  if (encode > kFloatMax) encode = kFloatMax;
  if (amax == 0.0f || encode == 0.0f) encode = 1.0f;
  // The reciprocal of 6 is rounded first: a division by 6 differs in the last place.
  constexpr float kSixth = 1.0f / 6.0f;
  return TensorScale{encode, 1.0f / encode, encode * kSixth, encode * 0.25f};
}

// The E4M3 code of a block's scale; 0 for a small enough block (no lower clamp: one has been seen
// to explode gradients).
NIBBLE_HD uint8_t BlockScaleOf(float block_amax, float multiplier) {
  const float scale = block_amax * multiplier;
  return F32ToE4m3(scale < kFloatMax ? scale : kFloatMax);
}

// What the block's elements are multiplied by: the inverse of the *quantised* scale.
NIBBLE_HD float BlockEncode(float block_scale, float decode) {
  const float encode = 1.0f / (block_scale * decode);
  return encode < kFloatMax ? encode : kFloatMax;
}

}  // namespace nibble::nvfp4

#endif  // KERNELS_NVFP4_SCALES_H_
