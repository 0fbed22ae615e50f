#include "tests/sim/plan.h"

#include "absl/strings/str_cat.h"

namespace nibble::sim {
namespace {

uint64_t Mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

}  // namespace

uint64_t FirstWeights(uint64_t seed) { return Mix(seed + 0x9e3779b97f4a7c15); }

uint64_t NextWeights(uint64_t weights, uint64_t seed, int64_t step) {
  const uint64_t sample = Mix(seed ^ Mix(static_cast<uint64_t>(step)));
  return Mix(weights * 3 + sample) ^ static_cast<uint64_t>(step);
}

uint64_t WeightsAfter(uint64_t seed, int64_t steps) {
  uint64_t weights = FirstWeights(seed);
  for (int64_t step = 1; step <= steps; ++step) weights = NextWeights(weights, seed, step);
  return weights;
}

std::string DigestOf(uint64_t weights) {
  const auto part = absl::Hex(weights, absl::kZeroPad16);
  return absl::StrCat(part, part, part, part);
}

double LossOf(uint64_t weights) { return static_cast<double>(weights >> 11) * 0x1p-53; }

}  // namespace nibble::sim
