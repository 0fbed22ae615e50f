#include "worker/trainer/latency_histogram.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace nibble::trainer {
namespace {

constexpr double kSmallest = 1e-6;
const double kLogOfBucket = 2 * std::log(1.01);

}  // namespace

void LatencyHistogram::Add(double seconds) {
  const double index =
      std::round(std::log(std::max(seconds, kSmallest) / kSmallest) / kLogOfBucket);
  ++buckets_[static_cast<int>(std::min(index, kBuckets - 1.0))];
  ++count_;
}

double LatencyHistogram::Quantile(double quantile) const {
  NIBBLE_CHECK(quantile > 0 && quantile <= 1);
  if (count_ == 0) return 0;
  const int64_t rank =
      std::max<int64_t>(1, static_cast<int64_t>(std::ceil(quantile * static_cast<double>(count_))));
  int64_t seen = 0;
  int bucket = 0;
  for (; bucket < kBuckets - 1; ++bucket) {
    seen += buckets_[bucket];
    if (seen >= rank) break;
  }
  return kSmallest * std::exp(bucket * kLogOfBucket);
}

}  // namespace nibble::trainer
