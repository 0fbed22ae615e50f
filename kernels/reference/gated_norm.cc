// The gated RMS norm of a Mamba-2 layer; forward in kernels/mamba_args.h.
//
// With g = y silu(z), r the group's reciprocal RMS, e_i = w_i dout_i:
//   dg_i = r (e_i - g_i r^2 mean_j(e_j g_j));  dw_i = sum over rows of dout_i g_i r;
//   dy_i = dg_i silu(z_i);  dz_i = dg_i y_i silu'(z_i).
#include <cmath>
#include <vector>

#include "kernels/reference/elements.h"
#include "kernels/reference/ops.h"

namespace nibble::kernels::reference {
namespace {

double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

double Gated(const Matrix& y, const Matrix& projected, int64_t n, int64_t c) {
  const double z = Load(projected, n, c);
  return Load(y, n, c) * z * Sigmoid(z);
}

}  // namespace

void GatedNormForward(const GatedNormArgs& args) {
  const MambaShape& shape = args.shape;
  const int64_t width = shape.group_width();
  for (int64_t n = 0; n < shape.tokens(); ++n) {
    for (int64_t group = 0; group < shape.groups; ++group) {
      const int64_t begin = group * width;
      double squares = 0;
      for (int64_t c = begin; c < begin + width; ++c) {
        squares += std::pow(Gated(args.y, args.projected, n, c), 2);
      }
      const double reciprocal = 1 / std::sqrt(squares / static_cast<double>(width) + args.epsilon);
      args.reciprocal_rms[n * shape.groups + group] = static_cast<float>(reciprocal);
      for (int64_t c = begin; c < begin + width; ++c) {
        Store(args.out, n, c, Gated(args.y, args.projected, n, c) * reciprocal * args.weight[c]);
      }
    }
  }
}

void GatedNormBackward(const GatedNormBackwardArgs& args) {
  const MambaShape& shape = args.shape;
  const int64_t width = shape.group_width();
  std::vector<double> d_weight(shape.inner(), 0.0);
  for (int64_t n = 0; n < shape.tokens(); ++n) {
    for (int64_t group = 0; group < shape.groups; ++group) {
      const int64_t begin = group * width;
      const double r = args.reciprocal_rms[n * shape.groups + group];
      double mean = 0;
      for (int64_t c = begin; c < begin + width; ++c) {
        const double gated = Gated(args.y, args.projected, n, c);
        const double dy = Load(args.d_out, n, c);
        mean += args.weight[c] * dy * gated / static_cast<double>(width);
        d_weight[c] += dy * gated * r;
      }
      for (int64_t c = begin; c < begin + width; ++c) {
        const double gated = Gated(args.y, args.projected, n, c);
        const double d_gated = r * (args.weight[c] * Load(args.d_out, n, c) - gated * r * r * mean);
        const double z = Load(args.projected, n, c), sigmoid = Sigmoid(z);
        Store(args.d_projected, n, c,
              d_gated * Load(args.y, n, c) * sigmoid * (1 + z * (1 - sigmoid)));
        Store(args.d_y, n, c, d_gated * z * sigmoid);
      }
    }
  }
  for (int64_t c = 0; c < shape.inner(); ++c) {
    args.d_weight[c] = static_cast<float>(args.d_weight[c] + d_weight[c]);
  }
}

}  // namespace nibble::kernels::reference
