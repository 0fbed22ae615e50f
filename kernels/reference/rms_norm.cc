// RMS norm (Zhang & Sennrich) with the residual addition before it.
//
// With x the input row, w the weight, r = 1 / sqrt(mean(x^2) + epsilon), y_i = x_i r w_i:
//   dx_i = r (w_i dy_i - x_i r^2 mean_j(w_j dy_j x_j));   dw_i = sum over rows of dy_i x_i r.
#include <cmath>
#include <vector>

#include "kernels/reference/elements.h"
#include "kernels/reference/ops.h"

namespace nibble::kernels::reference {

void RmsNormForward(const RmsNormArgs& args) {
  const int64_t cols = args.residual.cols;
  for (int64_t n = 0; n < args.residual.rows; ++n) {
    const bool add = args.delta.data != nullptr;
    if (add) {
      for (int64_t c = 0; c < cols; ++c) {
        Store(args.residual_out, n, c, Load(args.residual, n, c) + Load(args.delta, n, c));
      }
    }
    // The statistics are those of the rounded sum, which is what backward reads.
    const Matrix& input = add ? args.residual_out : args.residual;
    double sum = 0;
    for (int64_t c = 0; c < cols; ++c) sum += Load(input, n, c) * Load(input, n, c);
    const float reciprocal =
        static_cast<float>(1.0 / std::sqrt(sum / static_cast<double>(cols) + args.epsilon));
    args.reciprocal_rms[n] = reciprocal;
    for (int64_t c = 0; c < cols; ++c) {
      Store(args.normed, n, c, Load(input, n, c) * reciprocal * args.weight[c]);
    }
  }
}

void RmsNormBackward(const RmsNormBackwardArgs& args) {
  const int64_t cols = args.input.cols;
  std::vector<double> d_weight(cols, 0.0);
  for (int64_t n = 0; n < args.input.rows; ++n) {
    const double r = args.reciprocal_rms[n];
    double dot = 0;
    for (int64_t c = 0; c < cols; ++c) {
      const double dy = Load(args.d_normed, n, c);
      const double x = Load(args.input, n, c);
      dot += args.weight[c] * dy * x;
      d_weight[c] += dy * x * r;
    }
    const double mean = dot / static_cast<double>(cols);
    for (int64_t c = 0; c < cols; ++c) {
      const double dy = Load(args.d_normed, n, c);
      const double dx = r * (args.weight[c] * dy - Load(args.input, n, c) * r * r * mean);
      Store(args.d_input, n, c, Load(args.d_input, n, c) + dx);
    }
  }
  for (int64_t c = 0; c < cols; ++c) {
    args.d_weight[c] = static_cast<float>(args.d_weight[c] + d_weight[c]);
  }
}

}  // namespace nibble::kernels::reference
