#include "proto/spec/safety_resolution.h"

#include <cmath>
#include <string>

#include "absl/strings/str_cat.h"
#include "proto/spec/field_checks.h"
#include "proto/spec/limits.h"

namespace nibble::spec {
namespace {

void ResolveAction(const char* field, const char* fallback, std::string* action,
                   ErrorList* errors) {
  if (action->empty()) *action = fallback;
  CheckOneOf(absl::StrCat("safety.", field), *action, {"none", "notify", "pause", "rollback"},
             errors);
}

}  // namespace

void ResolveSnapshots(v1::CheckpointSpec* checkpoint, ErrorList* errors) {
  if (!checkpoint->has_snapshot_steps()) checkpoint->set_snapshot_steps(10);
  CheckInteger("checkpoint.snapshot_steps", checkpoint->snapshot_steps(), {0, kMaxSteps}, errors);
  if (!checkpoint->has_snapshot_seconds()) checkpoint->set_snapshot_seconds(10);
  CheckReal("checkpoint.snapshot_seconds", checkpoint->snapshot_seconds(), {0, kMaxSnapshotSeconds},
            errors);
}

void ResolveSafety(v1::SafetySpec* safety, ErrorList* errors) {
  ResolveAction("non_finite", "pause", safety->mutable_non_finite(), errors);
  ResolveAction("loss_spike", "notify", safety->mutable_loss_spike(), errors);
  ResolveAction("gradient_spike", "notify", safety->mutable_gradient_spike(), errors);
  if (!safety->has_window()) safety->set_window(128);
  CheckInteger("safety.window", safety->window(), {kMinSafetyWindow, kMaxSafetyWindow}, errors);
  if (!safety->has_threshold()) safety->set_threshold(10);
  CheckReal("safety.threshold", safety->threshold(), {1, kMaxSafetyThreshold}, errors);
  if (!safety->has_max_rollbacks()) safety->set_max_rollbacks(3);
  CheckInteger("safety.max_rollbacks", safety->max_rollbacks(), {0, kMaxRollbacks}, errors);
  if (safety->precision_recovery().empty()) safety->set_precision_recovery("none");
  CheckOneOf("safety.precision_recovery", safety->precision_recovery(), {"none", "bf16"}, errors);
  if (!safety->has_precision_recovery_steps()) safety->set_precision_recovery_steps(200);
  CheckInteger("safety.precision_recovery_steps", safety->precision_recovery_steps(),
               {1, kMaxSteps}, errors);
  if (safety->hang().empty()) safety->set_hang("notify");
  CheckOneOf("safety.hang", safety->hang(), {"none", "notify", "restart"}, errors);
  if (!safety->has_hang_seconds()) safety->set_hang_seconds(0);
  CheckReal("safety.hang_seconds", safety->hang_seconds(), {0, kMaxHangSeconds}, errors);
}

void KeepSafetyIdentity(v1::JobSpec* spec) {
  v1::SafetySpec* const safety = spec->mutable_safety();
  for (const std::string* action :
       {&safety->non_finite(), &safety->loss_spike(), &safety->gradient_spike()}) {
    if (*action != "rollback") continue;
    safety->clear_hang();
    safety->clear_hang_seconds();
    return;
  }
  spec->clear_safety();
}

}  // namespace nibble::spec
