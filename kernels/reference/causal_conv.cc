// Depthwise causal convolution and SiLU of a Mamba-2 layer; formulas in kernels/mamba_args.h.
//   d_pre = d_out silu'(pre);  d_in[t, c] = sum over k of weight[c, k] d_pre[t + conv_width - 1 -
//   k] d_weight[c, k] = sum over t of d_pre[t, c] in[t - (conv_width - 1) + k, c];  d_bias = sum
//   d_pre
#include <cmath>
#include <vector>

#include "kernels/reference/elements.h"
#include "kernels/reference/ops.h"

namespace nibble::kernels::reference {
namespace {

// The input at token `t` (of the sequence) and channel c; zero before the sequence.
double Input(const MambaShape& shape, const Matrix& projected, int64_t sequence, int64_t t,
             int64_t c) {
  if (t < 0) return 0;
  return Load(projected, sequence * shape.sequence_length + t, shape.inner() + c);
}

double Pre(const MambaShape& shape, const Matrix& projected, const float* weight, const float* bias,
           int64_t sequence, int64_t t, int64_t c) {
  double sum = bias[c];
  for (int64_t k = 0; k < shape.conv_width; ++k) {
    sum += weight[c * shape.conv_width + k] *
           Input(shape, projected, sequence, t - (shape.conv_width - 1) + k, c);
  }
  return sum;
}

}  // namespace

void CausalConvForward(const CausalConvArgs& args) {
  const MambaShape& shape = args.shape;
  for (int64_t n = 0; n < shape.tokens(); ++n) {
    for (int64_t c = 0; c < shape.channels(); ++c) {
      const double pre = Pre(shape, args.projected, args.weight, args.bias,
                             n / shape.sequence_length, n % shape.sequence_length, c);
      Store(args.out, n, c, pre / (1 + std::exp(-pre)));
    }
  }
}

void CausalConvBackward(const CausalConvBackwardArgs& args) {
  const MambaShape& shape = args.shape;
  const int64_t length = shape.sequence_length, width = shape.conv_width;
  for (int64_t c = 0; c < shape.channels(); ++c) {
    std::vector<double> d_weight(width, 0.0);
    double d_bias = 0;
    for (int64_t s = 0; s < shape.sequences; ++s) {
      std::vector<double> d_in(length, 0.0);
      for (int64_t t = 0; t < length; ++t) {
        const double pre = Pre(shape, args.projected, args.weight, args.bias, s, t, c);
        const double sigmoid = 1 / (1 + std::exp(-pre));
        const double d_pre =
            Load(args.d_out, s * length + t, c) * sigmoid * (1 + pre * (1 - sigmoid));
        d_bias += d_pre;
        for (int64_t k = 0; k < width; ++k) {
          const int64_t from = t - (width - 1) + k;
          if (from < 0) continue;
          d_weight[k] += d_pre * Input(shape, args.projected, s, from, c);
          d_in[from] += d_pre * args.weight[c * width + k];
        }
      }
      for (int64_t t = 0; t < length; ++t) {
        Store(args.d_projected, s * length + t, shape.inner() + c, d_in[t]);
      }
    }
    args.d_bias[c] = static_cast<float>(args.d_bias[c] + d_bias);
    for (int64_t k = 0; k < width; ++k) {
      float& gradient = args.d_weight[c * width + k];
      gradient = static_cast<float>(gradient + d_weight[k]);
    }
  }
}

}  // namespace nibble::kernels::reference
