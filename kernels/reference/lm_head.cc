// Output head with cross-entropy, one row of logits at a time.
//
// Logits are rounded to FP32, and their gradient to the activations' type, because both are stored
// so on every backend; all sums are doubles.
#include <algorithm>
#include <cmath>
#include <vector>

#include "base/check.h"
#include "kernels/reference/elements.h"
#include "kernels/reference/ops.h"

namespace nibble::kernels::reference {
namespace {

float Rounded(float value, DType dtype) {
  return dtype == DType::kBF16 ? nvfp4::RoundToBf16(value) : value;
}

void ComputeLogits(const LmHeadArgs& args, const Operand& weight, int64_t n,
                   std::vector<float>& logits) {
  for (int64_t v = 0; v < weight.rows; ++v) {
    double sum = 0;
    for (int64_t c = 0; c < weight.cols; ++c) sum += Load(args.x, n, c) * Get(weight, v, c);
    logits[v] = static_cast<float>(sum);
    const double cap = args.logit_softcap;
    if (cap != 0) logits[v] = static_cast<float>(cap * std::tanh(logits[v] / cap));
  }
}

double LogSumExp(const std::vector<float>& logits) {
  const double max = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - max);
  return max + std::log(sum);
}

}  // namespace

void LmHead(const LmHeadArgs& args) {
  const Operand& weight = args.weight;
  NIBBLE_CHECK(weight.tensor_scale == nullptr);
  const bool backward = args.d_x.data != nullptr;
  std::vector<float> logits(weight.rows);
  std::vector<double> d_x(weight.cols);
  std::vector<double> d_weight(backward ? weight.rows * weight.cols : 0, 0.0);
  for (int64_t n = 0; n < args.x.rows; ++n) {
    const int32_t target = args.targets[n];
    std::fill(d_x.begin(), d_x.end(), 0.0);
    args.losses[n] = 0;
    double log_sum_exp = 0;
    if (target >= 0) {
      ComputeLogits(args, weight, n, logits);
      log_sum_exp = LogSumExp(logits);
      args.losses[n] = static_cast<float>(log_sum_exp - logits[target]);
      const double scale =
          double{args.loss_scale} * (args.row_scales == nullptr ? 1 : args.row_scales[n]);
      const double softmax_factor = 1 + 2 * double{args.z_loss} * log_sum_exp;
      for (int64_t v = 0; backward && v < weight.rows; ++v) {
        const double p = std::exp(logits[v] - log_sum_exp);
        double exact = (softmax_factor * p - (v == target ? 1 : 0)) * scale;
        if (args.logit_softcap != 0) {
          const double capped = logits[v] / double{args.logit_softcap};
          exact *= 1 - capped * capped;
        }
        const double d_logit = Rounded(static_cast<float>(exact), args.x.dtype);
        for (int64_t c = 0; c < weight.cols; ++c) {
          d_x[c] += d_logit * Get(weight, v, c);
          d_weight[v * weight.cols + c] += d_logit * Load(args.x, n, c);
        }
      }
    }
    if (args.log_sum_exp != nullptr) args.log_sum_exp[n] = static_cast<float>(log_sum_exp);
    for (int64_t c = 0; backward && c < weight.cols; ++c) Store(args.d_x, n, c, d_x[c]);
  }
  for (int64_t i = 0; i < static_cast<int64_t>(d_weight.size()); ++i) {
    args.d_weight[i] = static_cast<float>(args.d_weight[i] + d_weight[i]);
  }
}

}  // namespace nibble::kernels::reference
