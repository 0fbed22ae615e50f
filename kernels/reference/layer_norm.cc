// Layer norm (Ba, Kiros & Hinton) with the residual addition before it.
//
// With x the input row, w the weight, b the bias, u = mean(x), r = 1 / sqrt(mean((x - u)^2) +
// epsilon), n_i = (x_i - u) r, y_i = n_i w_i + b_i, e_i = w_i dy_i:
//   dx_i = r (e_i - mean_j(e_j) - n_i mean_j(e_j n_j));
//   dw_i = sum over rows of dy_i n_i;   db_i = sum over rows of dy_i.
#include <cmath>
#include <vector>

#include "kernels/reference/elements.h"
#include "kernels/reference/ops.h"

namespace nibble::kernels::reference {

void LayerNormForward(const LayerNormArgs& args) {
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
    for (int64_t c = 0; c < cols; ++c) sum += Load(input, n, c);
    const double mean = sum / static_cast<double>(cols);
    double squares = 0;
    for (int64_t c = 0; c < cols; ++c) squares += std::pow(Load(input, n, c) - mean, 2);
    const double reciprocal = 1 / std::sqrt(squares / static_cast<double>(cols) + args.epsilon);
    args.mean[n] = static_cast<float>(mean);
    args.reciprocal_deviation[n] = static_cast<float>(reciprocal);
    for (int64_t c = 0; c < cols; ++c) {
      const double value = (Load(input, n, c) - mean) * reciprocal;
      Store(args.normed, n, c, value * args.weight[c] + args.bias[c]);
    }
  }
}

void LayerNormBackward(const LayerNormBackwardArgs& args) {
  const int64_t cols = args.input.cols;
  std::vector<double> d_weight(cols, 0.0), d_bias(cols, 0.0);
  for (int64_t n = 0; n < args.input.rows; ++n) {
    const double r = args.reciprocal_deviation[n];
    const auto normed = [&](int64_t c) { return (Load(args.input, n, c) - args.mean[n]) * r; };
    double sum = 0, dot = 0;
    for (int64_t c = 0; c < cols; ++c) {
      const double dy = Load(args.d_normed, n, c);
      sum += args.weight[c] * dy;
      dot += args.weight[c] * dy * normed(c);
      d_weight[c] += dy * normed(c);
      d_bias[c] += dy;
    }
    sum /= static_cast<double>(cols);
    dot /= static_cast<double>(cols);
    for (int64_t c = 0; c < cols; ++c) {
      const double e = args.weight[c] * Load(args.d_normed, n, c);
      Store(args.d_input, n, c, Load(args.d_input, n, c) + r * (e - sum - normed(c) * dot));
    }
  }
  for (int64_t c = 0; c < cols; ++c) {
    args.d_weight[c] = static_cast<float>(args.d_weight[c] + d_weight[c]);
    args.d_bias[c] = static_cast<float>(args.d_bias[c] + d_bias[c]);
  }
}

}  // namespace nibble::kernels::reference
