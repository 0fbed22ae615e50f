// What a trainer does about a step that a guard does not trust. Nothing of the step has touched
// weights, moments or data position at that point, so to undo it is to leave it.
#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "worker/trainer/trainer.h"
#include "worker/trainer/training_run.h"

namespace nibble::trainer {

// The same batch, weights and random numbers give the same bits, on a machine that computes
// correctly.
absl::Status Trainer::Examine(const Verdict& verdict, const Measured& first, StepResult* result) {
  const std::string step = absl::StrCat("step ", state_.step + 1, ": ", verdict.message);
  const bool recovers =
      verdict.action == GuardAction::kRollback && config_.safety.recovery_steps > 0;
  std::map<std::string, double> health;
  NIBBLE_ASSIGN_OR_RETURN(const Measured again, ComputeGradients(recovers, &health));
  if (!(again == first)) {
    absl::Status fault = absl::InternalError(
        absl::StrCat(step, "; computed again, loss and gradient norm are ", again.loss, " and ",
                     again.gradient_norm, ": the hardware does not compute reliably"));
    fault.SetPayload(kHardwareFault, absl::Cord());
    return fault;
  }
  result->tripped = true;
  result->guard_cause = GuardCause(verdict.kind);
  result->guard_message = absl::StrCat(step, "; computed again it is the same: data or model");
  GuardAction action = verdict.action;
  if (action == GuardAction::kNone || action == GuardAction::kNotify) {
    if (verdict.kind != GuardKind::kNonFinite) return absl::OkStatus();
    return absl::OutOfRangeError(result->guard_message);
  }
  result->applied = false;
  if (verdict.kind == GuardKind::kNonFinite) {
    NIBBLE_ASSIGN_OR_RETURN(result->state_is_good, WeightsAreFinite());
  }
  if (!result->state_is_good) {
    absl::StrAppend(&result->guard_message,
                    "; weights are not finite: paused at the last checkpoint");
    result->pause = true;
    return absl::OkStatus();
  }
  if (state_.safety.skipped.size() >= checkpoint::SafetyState::kMaxSkipped) {
    return absl::OutOfRangeError(absl::StrCat(result->guard_message, "; ",
                                              checkpoint::SafetyState::kMaxSkipped,
                                              " batches have been skipped already"));
  }
  absl::StrAppend(&result->guard_message, "; its batch is skipped");
  if (action == GuardAction::kRollback && state_.safety.rollbacks >= config_.safety.max_rollbacks) {
    absl::StrAppend(&result->guard_message, "; paused after ", state_.safety.rollbacks,
                    " roll-backs");
    action = GuardAction::kPause;
  }
  result->pause = action == GuardAction::kPause;
  state_.safety.rollbacks = result->pause ? 0 : state_.safety.rollbacks + 1;
  if (recovers && !result->pause) result->guard_message += RaiseWorstLayers(health);
  SkipBatch();
  return absl::OkStatus();
}

void Trainer::SkipBatch() {
  state_.safety.skipped.push_back({state_.step + 1, state_.data_position});
  state_.data_position += config_.batch_size;
}

// By the largest relative error of any operand or weight gradient; what is not finite, as
// everything of the backward pass may be, says nothing. A layer that is raised has no such values.
std::string Trainer::RaiseWorstLayers(const std::map<std::string, double>& health) {
  constexpr size_t kOneOf = 8;
  std::vector<std::pair<double, int>> errors;  // negative, so that the worst comes first
  for (size_t i = 0; i < config_.linears.size(); ++i) {
    const std::string prefix = absl::StrCat("health/", config_.linears[i].layer, "/");
    double worst = -1;
    for (auto at = health.lower_bound(prefix); at != health.end(); ++at) {
      if (!absl::StartsWith(at->first, prefix)) break;
      if (absl::EndsWith(at->first, "/error") && std::isfinite(at->second)) {
        worst = std::max(worst, at->second);
      }
    }
    if (worst >= 0) errors.push_back({-worst, static_cast<int>(i)});
  }
  if (errors.empty()) return "; no layer is quantised";
  std::sort(errors.begin(), errors.end());
  errors.resize(std::max<size_t>(errors.size() / kOneOf, 1));
  const int64_t first = state_.step + 1;
  const int64_t last = state_.step + config_.safety.recovery_steps;
  std::vector<checkpoint::RaisedLayer>& raised = state_.safety.raised;
  raised.erase(std::remove_if(raised.begin(), raised.end(),
                              [&](const auto& old) { return old.last_step < first; }),
               raised.end());
  std::vector<std::string> names;
  for (const auto& [error, layer] : errors) {
    if (raised.size() >= checkpoint::SafetyState::kMaxRaised) break;
    raised.push_back({layer, first, last});
    names.push_back(config_.linears[layer].layer);
  }
  ApplyRaised();
  return absl::StrCat("; up to step ", last, " in bf16: ", absl::StrJoin(names, ", "));
}

void Trainer::ApplyRaised() {
  if (config_.safety.recovery_steps == 0) return;
  std::vector<model::RaisedLayer> raised;
  for (const checkpoint::RaisedLayer& one : state_.safety.raised) {
    raised.push_back({static_cast<int>(one.layer), one.first_step - 1, one.last_step - 1});
  }
  model_->SetRaised(std::move(raised));
}

absl::StatusOr<bool> Trainer::WeightsAreFinite() const {
  std::vector<float> staging(model::kStagingElements);
  for (const optimizer::StateTensor& tensor : AllTensors()) {
    for (int64_t first = 0; first < tensor.size; first += model::kStagingElements) {
      const int64_t count = std::min(model::kStagingElements, tensor.size - first);
      backend_.CopyToHost(staging.data(), tensor.values + first, count * 4);
      NIBBLE_RETURN_IF_ERROR(backend_.Wait(backend_.Record()));
      if (!std::all_of(staging.begin(), staging.begin() + count,
                       [](float value) { return std::isfinite(value); })) {
        return false;
      }
    }
  }
  return true;
}

checkpoint::TrainingState Trainer::StateToSave() const {
  checkpoint::TrainingState state = state_;
  guard_.Save(&state.safety);
  return state;
}

}  // namespace nibble::trainer
