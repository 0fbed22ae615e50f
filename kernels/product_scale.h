// The factor that turns the product of two operands' stored values into the product of their
// values.
#ifndef KERNELS_PRODUCT_SCALE_H_
#define KERNELS_PRODUCT_SCALE_H_

#include "kernels/op_args.h"

namespace nibble::kernels {

// Multiply by `first`, then by `second`.
struct ProductScale {
  float first = 1;
  float second = 1;
  NIBBLE_INLINE bool is_one() const { return first == 1 && second == 1; }
};

// alpha = s_dec_A * s_dec_B as one factor, or the two one after the other where alpha would not be
// a normal number and so would lose digits. Reads the scales: host backends only.
static inline __attribute__((always_inline, unused)) ProductScale ProductScaleOf(const Operand& a,
                                                                                 const Operand& b) {
  const float scale_a = a.tensor_scale == nullptr ? 1.0f : *a.tensor_scale;
  const float scale_b = b.tensor_scale == nullptr ? 1.0f : *b.tensor_scale;
  const float alpha = scale_a * scale_b;
  if (__builtin_isnormal(alpha)) return {alpha, 1.0f};
  return {scale_a, scale_b};
}

}  // namespace nibble::kernels

#endif  // KERNELS_PRODUCT_SCALE_H_
