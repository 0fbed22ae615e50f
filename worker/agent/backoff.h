// Exponential back-off with full jitter: after the n-th failure in a row a uniform wait in
// [0, min(cap, base * 2^(n-1))], so that many who failed together do not come back together.
#ifndef WORKER_AGENT_BACKOFF_H_
#define WORKER_AGENT_BACKOFF_H_

#include <algorithm>
#include <cstdint>

#include "base/random.h"

namespace nibble::agent {

class Backoff {
 public:
  static constexpr int64_t kBaseNanos = 200'000'000;
  // Below a third of the shortest useful lease term: one failure costs no lease.
  static constexpr int64_t kCapNanos = 4'000'000'000;

  void Failed(int64_t now_nanos, RandomSource& random) {
    const int64_t bound = std::min(kCapNanos, kBaseNanos << std::min(failures_++, 16));
    ready_at_ = now_nanos + static_cast<int64_t>(random.Next() % (bound + 1));
  }
  void Succeeded() {
    failures_ = 0;
    ready_at_ = 0;
  }
  bool Ready(int64_t now_nanos) const { return now_nanos >= ready_at_; }
  int64_t ready_at() const { return ready_at_; }

 private:
  int failures_ = 0;
  int64_t ready_at_ = 0;
};

}  // namespace nibble::agent

#endif  // WORKER_AGENT_BACKOFF_H_
