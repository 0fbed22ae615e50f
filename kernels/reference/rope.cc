// Rotary position embedding in place on the packed q, k, v rows.
#include "kernels/reference/ops.h"

namespace nibble::kernels::reference {

void Rope(const RopeArgs& args) {
  const AttentionShape& shape = args.shape;
  const int64_t half = shape.head_size / 2;
  for (int64_t n = 0; n < shape.tokens(); ++n) {
    const int64_t position = n % shape.sequence_length;
    for (int64_t head = 0; head < shape.heads + shape.kv_heads; ++head) {
      for (int64_t i = 0; i < half; ++i) {
        const int64_t low = head * shape.head_size + i;
        const float cosine = args.cos_sin[(position * half + i) * 2];
        const float sine = args.inverse ? -args.cos_sin[(position * half + i) * 2 + 1]
                                        : args.cos_sin[(position * half + i) * 2 + 1];
        const float a = Get(args.qkv, n, low);
        const float b = Get(args.qkv, n, low + half);
        // Four products and two sums in FP32, nothing fused: every backend gets these bits.
        Set(args.qkv, n, low, a * cosine - b * sine);
        Set(args.qkv, n, low + half, b * cosine + a * sine);
      }
    }
  }
}

}  // namespace nibble::kernels::reference
