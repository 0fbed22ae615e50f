#include "worker/inference/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/check.h"
#include "kernels/nvfp4/philox.h"

namespace nibble::inference {
namespace {

constexpr uint32_t kSamplingStep = 0xfffffffe;

double UniformOf(uint64_t seed, int64_t position) {
  const uint64_t bits = static_cast<uint64_t>(position);
  const PhiloxResult random =
      Philox4x32(static_cast<uint32_t>(bits), static_cast<uint32_t>(bits >> 32), 0, kSamplingStep,
                 static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
  return (random.v[0] + 0.5) / 4294967296.0;
}

}  // namespace

int32_t SampleToken(const std::vector<float>& logits, const SamplingOptions& options,
                    int64_t position) {
  NIBBLE_CHECK(!logits.empty());
  const auto logit = [&](int32_t id) {
    return std::isnan(logits[id]) ? -std::numeric_limits<float>::infinity() : logits[id];
  };
  const auto better = [&](int32_t a, int32_t b) {
    return logit(a) != logit(b) ? logit(a) > logit(b) : a < b;
  };
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  if (options.temperature == 0) return *std::min_element(ids.begin(), ids.end(), better);

  const int64_t all = static_cast<int64_t>(ids.size());
  const int64_t kept = options.top_k == 0 ? all : std::min(options.top_k, all);
  std::partial_sort(ids.begin(), ids.begin() + kept, ids.end(), better);
  ids.resize(kept);

  std::vector<double> cumulated(kept);
  const double largest = logit(ids[0]);
  double sum = 0;
  for (int64_t i = 0; i < kept; ++i) {
    // The largest of all is minus infinity only where every logit is: then they are equal.
    const double distance = std::isinf(largest) ? 0 : logit(ids[i]) - largest;
    cumulated[i] = sum += std::exp(distance / options.temperature);
  }
  int64_t nucleus = 1;
  while (nucleus < kept && cumulated[nucleus - 1] < options.top_p * sum) ++nucleus;
  const double target = UniformOf(options.seed, position) * cumulated[nucleus - 1];
  int64_t chosen = 0;
  while (chosen + 1 < nucleus && cumulated[chosen] <= target) ++chosen;
  return ids[chosen];
}

}  // namespace nibble::inference
