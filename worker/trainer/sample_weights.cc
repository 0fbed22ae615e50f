#include "worker/trainer/sample_weights.h"

#include <algorithm>
#include <cmath>

namespace nibble::trainer {
namespace {

double Preference(WeightStrategy strategy, double h) {
  switch (strategy) {
    case WeightStrategy::kUniform:
      return 0;
    case WeightStrategy::kLinearUpper:
      return std::min(h + 1, 1.0);
    case WeightStrategy::kQuadratic:
      return 1 - h * h;
    case WeightStrategy::kExtremes:
      return std::abs(h);
  }
  return 0;
}

}  // namespace

void SampleWeights(const SampleWeightConfig& config, const std::vector<double>& losses,
                   std::vector<double>* weights) {
  weights->assign(losses.size(), 1.0);
  if (losses.empty()) return;
  for (const double loss : losses) {
    if (!std::isfinite(loss)) return;
  }
  const auto [min, max] = std::minmax_element(losses.begin(), losses.end());
  const double range = std::max(*max - *min, 1e-6);
  double largest = 0;  // no preference is negative
  for (size_t i = 0; i < losses.size(); ++i) {
    const double h = (2 * losses[i] - (*max + *min)) / range;
    (*weights)[i] = Preference(config.strategy, h);
    largest = std::max(largest, (*weights)[i]);
  }
  double sum = 0;
  for (double& weight : *weights) {
    weight = std::exp((weight - largest) / config.temperature);
    sum += weight;
  }
  for (double& weight : *weights) weight *= static_cast<double>(losses.size()) / sum;
}

}  // namespace nibble::trainer
