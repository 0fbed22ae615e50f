// Activations of an MLP without a gate.
//
// squared ReLU: max(x, 0)^2, slope 2 max(x, 0).
// GELU: x Phi(x), Phi the normal distribution's; slope Phi(x) + x phi(x).
// GELU as GPT-2 computes it: x (1 + tanh(u)) / 2, u = sqrt(2 / pi) (x + 0.044715 x^3).
#include <cmath>

#include "kernels/reference/elements.h"
#include "kernels/reference/ops.h"

namespace nibble::kernels::reference {
namespace {

constexpr double kPi = 3.14159265358979323846;
constexpr double kCubic = 0.044715;

double Value(Activation activation, double x) {
  switch (activation) {
    case Activation::kSquaredRelu:
      return x > 0 ? x * x : 0;
    case Activation::kGelu:
      return x * 0.5 * std::erfc(-x / std::sqrt(2.0));
    case Activation::kGeluTanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / kPi) * (x + kCubic * x * x * x)));
  }
  return 0;
}

double Slope(Activation activation, double x) {
  switch (activation) {
    case Activation::kSquaredRelu:
      return x > 0 ? 2 * x : 0;
    case Activation::kGelu:
      return 0.5 * std::erfc(-x / std::sqrt(2.0)) + x * std::exp(-x * x / 2) / std::sqrt(2 * kPi);
    case Activation::kGeluTanh: {
      const double tanh = std::tanh(std::sqrt(2 / kPi) * (x + kCubic * x * x * x));
      const double inner = std::sqrt(2 / kPi) * (1 + 3 * kCubic * x * x);
      return 0.5 * (1 + tanh) + 0.5 * x * (1 - tanh * tanh) * inner;
    }
  }
  return 0;
}

}  // namespace

void ActivationForward(Activation activation, Matrix in, Matrix out) {
  for (int64_t n = 0; n < out.rows; ++n) {
    for (int64_t c = 0; c < out.cols; ++c) Store(out, n, c, Value(activation, Load(in, n, c)));
  }
}

void ActivationBackward(Activation activation, Matrix d_out, Matrix in, Matrix d_in) {
  for (int64_t n = 0; n < in.rows; ++n) {
    for (int64_t c = 0; c < in.cols; ++c) {
      Store(d_in, n, c, Load(d_out, n, c) * Slope(activation, Load(in, n, c)));
    }
  }
}

}  // namespace nibble::kernels::reference
