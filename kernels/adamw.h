// The AdamW update of one element and its per-step coefficients, shared by the backends: all
// operations are FP32 in the order written here, so that every backend gets the same bits.
//
// Source: Loshchilov & Hutter, Decoupled Weight Decay Regularization, algorithm 2; the bias
// corrections are multiplications with reciprocals that are computed once, in double.
#ifndef KERNELS_ADAMW_H_
#define KERNELS_ADAMW_H_

#include <math.h>

#include "kernels/nvfp4/hd.h"
#include "kernels/op_args.h"

namespace nibble::kernels {

struct AdamWCoefficients {
  float clip;  // factor of the gradient; NaN where the gradient's norm is NaN
  float beta1;
  float beta2;
  float one_minus_beta1;
  float one_minus_beta2;
  float inverse_bias1;  // 1 / (1 - beta1^t)
  float inverse_bias2;  // 1 / (1 - beta2^t)
  float learning_rate;
  float epsilon;
  float weight_decay;
};

// The factor of a gradient of this norm; NaN where the norm is.
NIBBLE_HD float AdamWClip(float max_norm, float norm) {
  const float ratio = max_norm / (norm + 1e-6f);
  return ratio > 1 ? 1 : ratio;
}

// With `clip` given: the norm may be where the caller cannot read it.
NIBBLE_HD AdamWCoefficients MakeAdamWCoefficients(const AdamWArgs& args, float clip) {
  AdamWCoefficients result;
  result.clip = clip;
  const double step = static_cast<double>(args.step);
  result.beta1 = args.beta1;
  result.beta2 = args.beta2;
  result.one_minus_beta1 = 1 - args.beta1;
  result.one_minus_beta2 = 1 - args.beta2;
  result.inverse_bias1 = static_cast<float>(1 / (1 - pow(double{args.beta1}, step)));
  result.inverse_bias2 = static_cast<float>(1 / (1 - pow(double{args.beta2}, step)));
  result.learning_rate = args.learning_rate;
  result.epsilon = args.epsilon;
  result.weight_decay = args.weight_decay;
  return result;
}

// Reads the norm: host backends only.
NIBBLE_HD AdamWCoefficients MakeAdamWCoefficients(const AdamWArgs& args) {
  return MakeAdamWCoefficients(args, args.max_gradient_norm == 0
                                         ? 1.0f
                                         : AdamWClip(args.max_gradient_norm, *args.gradient_norm));
}

NIBBLE_HD void AdamWUpdate(const AdamWCoefficients& k, float gradient, float& first_moment,
                           float& second_moment, float& parameter) {
  const float g = gradient * k.clip;
  const float m = k.beta1 * first_moment + k.one_minus_beta1 * g;
  const float v = k.beta2 * second_moment + k.one_minus_beta2 * g * g;
  const float direction = (m * k.inverse_bias1) / (sqrtf(v * k.inverse_bias2) + k.epsilon);
  first_moment = m;
  second_moment = v;
  parameter = parameter - k.learning_rate * (direction + k.weight_decay * parameter);
}

}  // namespace nibble::kernels

#endif  // KERNELS_ADAMW_H_
