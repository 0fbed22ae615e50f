// Durations of any number of steps in fixed memory, to within a percent.
#ifndef WORKER_TRAINER_LATENCY_HISTOGRAM_H_
#define WORKER_TRAINER_LATENCY_HISTOGRAM_H_

#include <array>
#include <cstdint>

namespace nibble::trainer {

class LatencyHistogram {
 public:
  // Counts from 1 us to 1e5 s; what lies outside counts as the nearer end.
  void Add(double seconds);
  // The duration that a share `quantile` of all were at most, by nearest rank, within 1 %; 0 where
  // there is none. REQUIRES: 0 < quantile <= 1.
  double Quantile(double quantile) const;
  int64_t count() const { return count_; }

 private:
  // Bucket i holds durations around 1e-6 s * 1.01^(2 i): 1e-6 * 1.01^(2 * 1273) is 1e5 s.
  static constexpr int kBuckets = 1274;
  std::array<int64_t, kBuckets> buckets_{};
  int64_t count_ = 0;
};

}  // namespace nibble::trainer

#endif  // WORKER_TRAINER_LATENCY_HISTOGRAM_H_
