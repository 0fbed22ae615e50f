#include "proto/spec/optimizer_resolution.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "proto/spec/field_checks.h"
#include "proto/spec/limits.h"

namespace nibble::spec {
namespace {

using Patterns = google::protobuf::RepeatedPtrField<std::string>;

void CheckPatterns(const std::string& field, const Patterns& patterns, ErrorList* errors) {
  if (patterns.size() > kMaxDecayPatterns) {
    errors->Add(field, absl::StrCat("has ", patterns.size(), "; allowed: at most ",
                                    kMaxDecayPatterns, " patterns"));
    return;
  }
  for (int i = 0; i < patterns.size(); ++i) {
    const std::string& pattern = patterns[i];
    const bool printable =
        std::all_of(pattern.begin(), pattern.end(), [](char c) { return absl::ascii_isgraph(c); });
    if (pattern.empty() || pattern.size() > kMaxPatternBytes || !printable) {
      errors->Add(absl::StrCat(field, "[", i, "]"),
                  absl::StrCat("is no pattern; allowed: 1 to ", kMaxPatternBytes,
                               " printable ASCII characters without spaces"));
    }
  }
}

// 5 % of the run, at most 1,000 steps.
int64_t DefaultWarmup(int64_t total_steps) { return std::min(total_steps / 20, int64_t{1000}); }

void ResolveSchedule(int64_t total_steps, v1::ScheduleSpec* schedule, ErrorList* errors) {
  if (schedule->kind().empty()) schedule->set_kind("cosine");
  CheckOneOf("optimizer.schedule.kind", schedule->kind(), {"constant", "linear", "cosine", "wsd"},
             errors);
  if (schedule->decay_shape().empty()) schedule->set_decay_shape("linear");
  CheckOneOf("optimizer.schedule.decay_shape", schedule->decay_shape(),
             {"linear", "one_minus_sqrt"}, errors);
  if (!schedule->has_decay_fraction()) schedule->set_decay_fraction(0.2);
  const bool decay_good =
      CheckReal("optimizer.schedule.decay_fraction", schedule->decay_fraction(), {0, 1}, errors);
  if (!schedule->has_final_fraction()) schedule->set_final_fraction(0.1);
  CheckReal("optimizer.schedule.final_fraction", schedule->final_fraction(), {0, 1}, errors);
  // Steps before the decay starts; the limit where that is not known.
  int64_t available = kMaxSteps;
  int64_t warmup = 0;
  if (total_steps > 0 && decay_good) {
    available = total_steps;
    if (schedule->kind() == "wsd") {
      available -= static_cast<int64_t>(
          std::ceil(schedule->decay_fraction() * static_cast<double>(total_steps)));
    }
    warmup = std::min(DefaultWarmup(total_steps), available);
  }
  if (!schedule->has_warmup_steps()) schedule->set_warmup_steps(warmup);
  CheckInteger("optimizer.schedule.warmup_steps", schedule->warmup_steps(), {0, available}, errors);
}

void ResolveLowRank(v1::LowRankSpec* low_rank, ErrorList* errors) {
  if (!low_rank->has_rank()) low_rank->set_rank(0);
  CheckInteger("optimizer.low_rank.rank", low_rank->rank(), {0, kMaxWidth}, errors);
  if (!low_rank->has_update_interval()) low_rank->set_update_interval(200);
  CheckInteger("optimizer.low_rank.update_interval", low_rank->update_interval(), {1, kMaxSteps},
               errors);
  if (!low_rank->has_scale()) low_rank->set_scale(0.25);
  CheckReal("optimizer.low_rank.scale", low_rank->scale(), {0, 1000, false}, errors);
  if (!low_rank->has_reset_moments()) low_rank->set_reset_moments(false);
}

}  // namespace

void ResolveOptimizer(int64_t total_steps, v1::OptimizerSpec* optimizer, ErrorList* errors) {
  if (optimizer->name().empty()) optimizer->set_name("adamw");
  CheckOneOf("optimizer.name", optimizer->name(), {"adamw"}, errors);
  if (!optimizer->has_learning_rate()) optimizer->set_learning_rate(1e-3);
  CheckReal("optimizer.learning_rate", optimizer->learning_rate(), {0, 10, false}, errors);
  if (!optimizer->has_beta1()) optimizer->set_beta1(0.9);
  CheckReal("optimizer.beta1", optimizer->beta1(), {0, 1, true, false}, errors);
  if (!optimizer->has_beta2()) optimizer->set_beta2(0.95);
  CheckReal("optimizer.beta2", optimizer->beta2(), {0, 1, true, false}, errors);
  if (!optimizer->has_epsilon()) optimizer->set_epsilon(1e-8);
  CheckReal("optimizer.epsilon", optimizer->epsilon(), {0, 1, false}, errors);
  if (!optimizer->has_weight_decay()) optimizer->set_weight_decay(0.1);
  CheckReal("optimizer.weight_decay", optimizer->weight_decay(), {0, 10}, errors);
  if (!optimizer->has_gradient_clip()) optimizer->set_gradient_clip(1);
  CheckReal("optimizer.gradient_clip", optimizer->gradient_clip(), {0, 1e6}, errors);
  CheckPatterns("optimizer.decay_include", optimizer->decay_include(), errors);
  CheckPatterns("optimizer.decay_exclude", optimizer->decay_exclude(), errors);
  ResolveLowRank(optimizer->mutable_low_rank(), errors);
  ResolveSchedule(total_steps, optimizer->mutable_schedule(), errors);
}

void ResolveLoss(int64_t total_steps, v1::LossSpec* loss, ErrorList* errors) {
  if (!loss->has_z_loss()) loss->set_z_loss(0);
  CheckReal("loss.z_loss", loss->z_loss(), {0, 1}, errors);
  if (!loss->has_logit_softcap()) loss->set_logit_softcap(0);
  // A cap far below the logits that a vocabulary needs leaves nothing to learn.
  if (loss->logit_softcap() != 0) {
    CheckReal("loss.logit_softcap", loss->logit_softcap(), {1, 1e4}, errors);
  }
  v1::SampleWeightSpec* weights = loss->mutable_sample_weights();
  if (weights->strategy().empty()) weights->set_strategy("uniform");
  CheckOneOf("loss.sample_weights.strategy", weights->strategy(),
             {"uniform", "linear_upper", "quadratic", "extremes"}, errors);
  if (!weights->has_temperature()) weights->set_temperature(1);
  CheckReal("loss.sample_weights.temperature", weights->temperature(), {0.01, 1000}, errors);
  if (!weights->has_warmup_steps()) weights->set_warmup_steps(DefaultWarmup(total_steps));
  CheckInteger("loss.sample_weights.warmup_steps", weights->warmup_steps(), {0, kMaxSteps}, errors);
}

}  // namespace nibble::spec
