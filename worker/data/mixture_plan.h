// Which source the samples of a run come from, phase by phase: a pure function of the position that
// needs no state. Internal to worker/data.
//
// In each phase the sources come in rounds. A round has at most 2^16 samples, as few as give every
// source its weight within .1 %, in an order that is fixed for the phase; a source's own samples
// are counted through the phases, so that an epoch of it goes on where the phase before left it.
#ifndef WORKER_DATA_MIXTURE_PLAN_H_
#define WORKER_DATA_MIXTURE_PLAN_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace nibble::data {

struct MixtureShare {
  size_t source = 0;
  double weight = 0;  // above 0
};

struct MixturePhase {
  double share = 0;  // of the samples; the last phase has all that are left
  std::vector<MixtureShare> shares;
};

class MixturePlan {
 public:
  // `samples`: of the whole run. REQUIRES: at least one phase, and one source in each.
  MixturePlan(const std::vector<MixturePhase>& phases, size_t sources, int64_t samples);

  struct Sample {
    size_t source = 0;
    int64_t index = 0;  // counted over all samples of the source
  };
  // REQUIRES: position >= 0.
  Sample Locate(int64_t position) const;

  // Samples of each source among the first `position`.
  std::vector<int64_t> Counts(int64_t position) const;

 private:
  struct Phase {
    int64_t first = 0;                // position
    std::vector<int64_t> before;      // samples of each source before the phase
    std::vector<int64_t> per_round;   // samples of each source in a round
    std::vector<uint16_t> source_of;  // [round]
    std::vector<uint16_t> rank_of;    // [round]: among the round's samples of its source
  };
  static void FillRound(const MixturePhase& phase, size_t sources, Phase* out);
  static void AddCounts(const Phase& phase, int64_t samples, std::vector<int64_t>* counts);
  const Phase& PhaseOf(int64_t position) const;

  std::vector<Phase> phases_;
};

}  // namespace nibble::data

#endif  // WORKER_DATA_MIXTURE_PLAN_H_
