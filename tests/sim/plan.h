// What a simulated job is and does, and the arithmetic of its weights: a hash chain over (seed,
// step, sample), so that a sample left out, repeated or taken from elsewhere shows in the end.
#ifndef TESTS_SIM_PLAN_H_
#define TESTS_SIM_PLAN_H_

#include <cstdint>
#include <map>
#include <string>

#include "server/scheduler/types.h"

namespace nibble::sim {

struct Plan {
  uint64_t seed = 0;
  int64_t steps = 10;
  int64_t checkpoint_interval = 3;
  int64_t step_nanos = 0;
  // Before this step every attempt fails, in this class; 0 for never.
  int64_t fails_at = 0;
  scheduler::FailureClass failure = scheduler::FailureClass::kNumeric;
  // Does not checkpoint when it is told to pause.
  bool deaf = false;
};
// By the job's name.
using Plans = std::map<std::string, Plan>;

uint64_t FirstWeights(uint64_t seed);
// After training `step` (from 1) on the sample at that position of the shuffled stream.
uint64_t NextWeights(uint64_t weights, uint64_t seed, int64_t step);
uint64_t WeightsAfter(uint64_t seed, int64_t steps);
// 64 hex digits.
std::string DigestOf(uint64_t weights);
double LossOf(uint64_t weights);

}  // namespace nibble::sim

#endif  // TESTS_SIM_PLAN_H_
