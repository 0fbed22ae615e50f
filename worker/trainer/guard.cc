#include "worker/trainer/guard.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"

namespace nibble::trainer {
namespace {

constexpr double kDeviationsOfMad = 1.4826;
constexpr double kLeastDeviation = 0.01;  // of the median
// Of the window, and in steps, before anything is judged.
constexpr int64_t kLeastShare = 4;
constexpr int64_t kLeastSteps = 8;

// Reorders them. REQUIRES: at least one.
double Median(std::vector<double>& values) {
  const auto middle = values.begin() + values.size() / 2;
  std::nth_element(values.begin(), middle, values.end());
  const double upper = *middle;
  if (values.size() % 2 != 0) return upper;
  return (*std::max_element(values.begin(), middle) + upper) / 2;
}

bool ChangesTheRun(GuardAction action) {
  return action == GuardAction::kPause || action == GuardAction::kRollback;
}

}  // namespace

std::string GuardCause(GuardKind kind) {
  switch (kind) {
    case GuardKind::kNonFinite:
      return "guard:non_finite";
    case GuardKind::kLossSpike:
      return "guard:loss_spike";
    case GuardKind::kGradientSpike:
      return "guard:gradient_spike";
  }
  return "guard:unknown";
}

Guard::Guard(const SafetyConfig& config) : config_(config) {
  for (std::vector<double>* values : {&losses_, &norms_, &scratch_}) {
    values->reserve(static_cast<size_t>(config.window));
  }
}

bool Guard::IsSpike(const std::vector<double>& window, absl::string_view name, double value,
                    std::string* message) const {
  const int64_t size = static_cast<int64_t>(window.size());
  if (size < std::max(config_.window / kLeastShare, kLeastSteps)) return false;
  scratch_.assign(window.begin(), window.end());
  const double median = Median(scratch_);
  // Most steps are nowhere near: the second median is then not needed.
  if (value <= median * (1 + config_.threshold * kLeastDeviation)) return false;
  for (double& one : scratch_) one = std::abs(one - median);
  const double deviation = std::max(kDeviationsOfMad * Median(scratch_), kLeastDeviation * median);
  const double limit = median + config_.threshold * deviation;
  if (value <= limit) return false;
  *message =
      absl::StrCat("the ", name, " is ", value, "; the median of the last ", size, " steps is ",
                   median, ", and ", config_.threshold, " deviations above it are ", limit);
  return true;
}

Verdict Guard::Judge(double loss, double gradient_norm) const {
  Verdict verdict;
  if (!std::isfinite(loss) || !std::isfinite(gradient_norm)) {
    verdict.tripped = true;
    verdict.action = config_.non_finite;
    verdict.message =
        absl::StrCat("the ", std::isfinite(loss) ? "gradient norm" : "loss", " is not finite");
    return verdict;
  }
  if (config_.loss_spike != GuardAction::kNone &&
      IsSpike(losses_, "loss", loss, &verdict.message)) {
    verdict.tripped = true;
    verdict.kind = GuardKind::kLossSpike;
    verdict.action = config_.loss_spike;
    return verdict;
  }
  if (config_.gradient_spike != GuardAction::kNone &&
      IsSpike(norms_, "gradient norm", gradient_norm, &verdict.message)) {
    verdict.tripped = true;
    verdict.kind = GuardKind::kGradientSpike;
    verdict.action = config_.gradient_spike;
  }
  return verdict;
}

void Guard::Accept(double loss, double gradient_norm) {
  const auto add = [this](double value, std::vector<double>& window) {
    if (static_cast<int64_t>(window.size()) >= config_.window) window.erase(window.begin());
    window.push_back(value);
  };
  if (config_.loss_spike != GuardAction::kNone) add(loss, losses_);
  if (config_.gradient_spike != GuardAction::kNone) add(gradient_norm, norms_);
}

void Guard::Save(checkpoint::SafetyState* state) const {
  state->losses.clear();
  state->gradient_norms.clear();
  if (ChangesTheRun(config_.loss_spike)) state->losses = losses_;
  if (ChangesTheRun(config_.gradient_spike)) state->gradient_norms = norms_;
}

void Guard::Restore(const checkpoint::SafetyState& state) {
  losses_ = state.losses;
  norms_ = state.gradient_norms;
}

}  // namespace nibble::trainer
