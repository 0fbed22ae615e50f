// Judges a step by its loss and its gradient norm before any of it is applied to the weights: what
// is not finite, and what lies far above the steps before (docs/training_safety.md).
#ifndef WORKER_TRAINER_GUARD_H_
#define WORKER_TRAINER_GUARD_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "worker/checkpoint/manifest.h"

namespace nibble::trainer {

enum class GuardAction { kNone, kNotify, kPause, kRollback };
enum class GuardKind { kNonFinite, kLossSpike, kGradientSpike };

struct SafetyConfig {
  GuardAction non_finite = GuardAction::kNone;
  GuardAction loss_spike = GuardAction::kNone;
  GuardAction gradient_spike = GuardAction::kNone;
  int64_t window = 128;  // steps
  double threshold = 10;
  int64_t max_rollbacks = 3;
  // After a roll-back the worst layers compute in BF16 for so many steps; 0: no.
  int64_t recovery_steps = 0;
};

struct Verdict {
  bool tripped = false;
  GuardKind kind = GuardKind::kNonFinite;
  GuardAction action = GuardAction::kNone;  // as configured
  // "the loss is 9.1; the median of the last 128 steps is 2.3, and 10 deviations above it are 2.9".
  std::string message;
};

// "guard:loss_spike".
std::string GuardCause(GuardKind kind);

// A value is a spike where it lies above median + threshold * deviation of the steps that the
// window holds, at least a quarter of it and 8. The deviation is 1.4826 times the median absolute
// deviation (the standard deviation, for a normal distribution), and at least 1 % of the median, so
// that a run whose losses hardly vary has room.
class Guard {
 public:
  explicit Guard(const SafetyConfig& config);

  // Allocates nothing unless the step is a spike.
  Verdict Judge(double loss, double gradient_norm) const;
  // The step counts: it is one of those that later ones are compared with.
  void Accept(double loss, double gradient_norm);

  // What Judge depends on, for checkpoints, where it can change the weights or end the run: only
  // then does a resumed run have to judge exactly as one that went through.
  void Save(checkpoint::SafetyState* state) const;
  void Restore(const checkpoint::SafetyState& state);

 private:
  bool IsSpike(const std::vector<double>& window, absl::string_view name, double value,
               std::string* message) const;

  const SafetyConfig config_;
  std::vector<double> losses_, norms_;  // oldest first
  mutable std::vector<double> scratch_;
};

}  // namespace nibble::trainer

#endif  // WORKER_TRAINER_GUARD_H_
