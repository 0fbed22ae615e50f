#include "worker/data/mixture_plan.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/check.h"
#include "worker/data/shuffle.h"

namespace nibble::data {
namespace {

constexpr int64_t kMaxRound = 1 << 16;
constexpr double kTolerance = 1e-3;

// Samples of each share in a round of `round`; empty where they would be off by more than the
// tolerance.
std::vector<int64_t> Apportion(const std::vector<double>& parts, int64_t round, double tolerance) {
  std::vector<int64_t> counts;
  int64_t sum = 0;
  for (const double part : parts) {
    const double exact = part * static_cast<double>(round);
    const int64_t count = std::max<int64_t>(1, std::llround(exact));
    if (std::abs(static_cast<double>(count) - exact) > tolerance * exact) return {};
    counts.push_back(count);
    sum += count;
  }
  // What rounding left over goes to the largest, where it matters least.
  auto largest = std::max_element(counts.begin(), counts.end());
  if (sum != round && tolerance < 1) return {};
  *largest += round - sum;
  return counts;
}

}  // namespace

MixturePlan::MixturePlan(const std::vector<MixturePhase>& phases, size_t sources, int64_t samples) {
  NIBBLE_CHECK(!phases.empty() && sources < 65536);
  double share = 0;
  std::vector<int64_t> before(sources, 0);
  for (const MixturePhase& phase : phases) {
    Phase& made = phases_.emplace_back();
    made.first = std::llround(share * static_cast<double>(samples));
    share += phase.share;
    if (phases_.size() > 1) {
      const Phase& last = phases_[phases_.size() - 2];
      made.first = std::max(made.first, last.first);
      AddCounts(last, made.first - last.first, &before);
    }
    made.before = before;
    FillRound(phase, sources, &made);
  }
}

void MixturePlan::FillRound(const MixturePhase& phase, size_t sources, Phase* out) {
  double total = 0;
  for (const MixtureShare& share : phase.shares) total += share.weight;
  std::vector<double> parts;
  for (const MixtureShare& share : phase.shares) parts.push_back(share.weight / total);
  std::vector<int64_t> counts;
  for (int64_t round = 1; counts.empty(); ++round) {
    const bool last_try = round == kMaxRound;
    counts = Apportion(parts, round, last_try ? HUGE_VAL : kTolerance);
  }
  out->per_round.assign(sources, 0);
  std::vector<uint16_t> ordered;
  for (size_t i = 0; i < counts.size(); ++i) {
    out->per_round[phase.shares[i].source] += counts[i];
    ordered.insert(ordered.end(), static_cast<size_t>(counts[i]),
                   static_cast<uint16_t>(phase.shares[i].source));
  }
  const auto round = static_cast<int64_t>(ordered.size());
  std::vector<uint16_t> seen(sources, 0);
  for (int64_t i = 0; i < round; ++i) {
    const uint16_t source = ordered[static_cast<size_t>(PermutedIndex(i, round, {}))];
    out->source_of.push_back(source);
    out->rank_of.push_back(seen[source]++);
  }
}

void MixturePlan::AddCounts(const Phase& phase, int64_t samples, std::vector<int64_t>* counts) {
  const auto round = static_cast<int64_t>(phase.source_of.size());
  for (size_t i = 0; i < counts->size(); ++i) {
    (*counts)[i] += samples / round * phase.per_round[i];
  }
  for (int64_t i = 0; i < samples % round; ++i) {
    ++(*counts)[phase.source_of[static_cast<size_t>(i)]];
  }
}

const MixturePlan::Phase& MixturePlan::PhaseOf(int64_t position) const {
  NIBBLE_CHECK(position >= 0);
  size_t i = phases_.size() - 1;
  while (i > 0 && phases_[i].first > position) --i;
  return phases_[i];
}

MixturePlan::Sample MixturePlan::Locate(int64_t position) const {
  const Phase& phase = PhaseOf(position);
  const auto round = static_cast<int64_t>(phase.source_of.size());
  const int64_t offset = position - phase.first;
  const auto slot = static_cast<size_t>(offset % round);
  const size_t source = phase.source_of[slot];
  return {source,
          phase.before[source] + offset / round * phase.per_round[source] + phase.rank_of[slot]};
}

std::vector<int64_t> MixturePlan::Counts(int64_t position) const {
  const Phase& phase = PhaseOf(position);
  std::vector<int64_t> counts = phase.before;
  AddCounts(phase, position - phase.first, &counts);
  return counts;
}

}  // namespace nibble::data
