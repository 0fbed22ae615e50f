#include "proto/spec/job_resolution.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/spec/data_resolution.h"
#include "proto/spec/deterministic_digest.h"
#include "proto/spec/error_list.h"
#include "proto/spec/evaluation_resolution.h"
#include "proto/spec/field_checks.h"
#include "proto/spec/limits.h"
#include "proto/spec/model_resolution.h"
#include "proto/spec/model_size.h"
#include "proto/spec/optimizer_resolution.h"
#include "proto/spec/precision_resolution.h"
#include "proto/spec/safety_resolution.h"

namespace nibble::spec {
namespace {

// Resolves one spec. Each method fills in and checks one message; what later ones need of earlier
// ones is only used where the earlier ones were good.
class Resolver {
 public:
  explicit Resolver(const v1::JobSpec& spec) { job_.spec = spec; }

  absl::StatusOr<ResolvedJob> Run(std::vector<FieldError>* errors) {
    CheckUnknownFields(job_.spec, &errors_);
    ResolveHead();
    const bool model_good = ResolveModel(job_.spec.mutable_model());
    ResolveData(/*required=*/!OnlyScores(job_.spec), job_.spec.mutable_data(), &errors_);
    const bool training_good = ResolveTraining(job_.spec.mutable_training());
    const bool length_known = job_.total_steps >= 1 && job_.total_steps <= kMaxSteps;
    const int64_t total_steps = length_known ? job_.total_steps : 0;
    ResolveOptimizer(total_steps, job_.spec.mutable_optimizer(), &errors_);
    ResolveLoss(total_steps, job_.spec.mutable_loss(), &errors_);
    ResolveService();
    ResolvePolicy({model_good ? job_.spec.model().blocks() : 0,
                   training_good ? job_.total_steps : 0, job_.spec.seed()},
                  job_.spec.mutable_precision(), &errors_, &job_.warnings);
    ResolveHealth(job_.spec.mutable_health());
    ResolveEvaluation(&job_.spec, &errors_);
    if (model_good && training_good) CheckPositions();
    if (model_good && training_good && errors_.ok()) Derive();
    if (errors != nullptr) *errors = errors_.errors();
    if (!errors_.ok()) return errors_.ToStatus();
    return std::move(job_);
  }

 private:
  void ResolveHead() {
    v1::JobSpec& spec = job_.spec;
    CheckName("name", spec.name(), &errors_);
    if (spec.labels_size() > kMaxLabels) {
      errors_.Add("labels",
                  absl::StrCat("has ", spec.labels_size(), "; allowed: at most ", kMaxLabels));
    } else {
      for (const auto& [key, value] : spec.labels()) {
        CheckLabelText("labels", key, /*may_be_empty=*/false, &errors_);
        CheckLabelText(absl::StrCat("labels.", key), value, /*may_be_empty=*/true, &errors_);
      }
    }
    if (!spec.has_priority()) spec.set_priority(0);
    CheckInteger("priority", spec.priority(), {-kMaxPriority, kMaxPriority}, &errors_);
    if (!spec.has_seed()) spec.set_seed(0);
  }

  bool ResolveModel(v1::ModelSpec* model) {
    if (!ResolveModelSpec(model, &errors_)) return false;
    job_.parameters = *CountParameters(*model);
    return true;
  }

  bool ResolveTraining(v1::TrainingSpec* training) {
    if (!training->has_sequence_length()) training->set_sequence_length(256);
    if (!training->has_batch_size()) training->set_batch_size(16);
    bool good = CheckInteger("training.sequence_length", training->sequence_length(),
                             {1, kMaxSequenceLength}, &errors_);
    const bool batch_good =
        CheckInteger("training.batch_size", training->batch_size(), {1, kMaxBatchSize}, &errors_);
    if (!training->has_micro_batch_size()) training->set_micro_batch_size(training->batch_size());
    if (batch_good) good &= CheckMicroBatch(*training);
    good &= batch_good;
    if (good) {
      job_.tokens_per_step = int64_t{training->batch_size()} * training->sequence_length();
      if (job_.tokens_per_step > kMaxTokensPerStep) {
        errors_.Add("training.batch_size",
                    absl::StrCat("times training.sequence_length is ", job_.tokens_per_step,
                                 " tokens a step; allowed: at most ", kMaxTokensPerStep));
        good = false;
      }
    }
    good &= CheckLength(*training, good);
    if (!training->has_validation_interval()) training->set_validation_interval(100);
    CheckInteger("training.validation_interval", training->validation_interval(), {0, kMaxSteps},
                 &errors_);
    if (!training->has_validation_sequences()) training->set_validation_sequences(128);
    CheckInteger("training.validation_sequences", training->validation_sequences(),
                 {0, kMaxValidationSequences}, &errors_);
    if (!training->init_from().empty()) {
      CheckPath("training.init_from", training->init_from(), PathKind::kAbsoluteOnly, &errors_);
    }
    return good;
  }

  bool CheckMicroBatch(const v1::TrainingSpec& training) {
    if (!CheckInteger("training.micro_batch_size", training.micro_batch_size(),
                      {1, training.batch_size()}, &errors_)) {
      return false;
    }
    if (training.batch_size() % training.micro_batch_size() == 0) return true;
    errors_.Add("training.micro_batch_size",
                absl::StrCat("is ", training.micro_batch_size(),
                             "; allowed: divisors of training.batch_size, which is ",
                             training.batch_size()));
    return false;
  }

  // `steps_known`: tokens_per_step is good.
  bool CheckLength(const v1::TrainingSpec& training, bool steps_known) {
    if (training.has_steps() == training.has_tokens()) {
      errors_.Add("training.steps",
                  absl::StrCat(training.has_steps() ? "and training.tokens are both given"
                                                    : "and training.tokens are both missing",
                               "; required: exactly one of them"));
      return false;
    }
    if (training.has_steps()) {
      job_.total_steps = training.steps();
      if (OnlyScores(job_.spec)) return CheckOnlyScores();
      return CheckInteger("training.steps", training.steps(), {1, kMaxSteps}, &errors_);
    }
    if (!CheckInteger("training.tokens", training.tokens(), {1, kMaxTokens}, &errors_))
      return false;
    if (!steps_known) return false;
    job_.total_steps = (training.tokens() - 1) / job_.tokens_per_step + 1;
    if (job_.total_steps <= kMaxSteps) return true;
    errors_.Add("training.tokens",
                absl::StrCat("is ", training.tokens(), ", which takes ", job_.total_steps,
                             " steps; allowed: at most ", kMaxSteps, " steps"));
    return false;
  }

  bool CheckOnlyScores() {
    if (!job_.spec.training().init_from().empty() && job_.spec.evaluation().tasks_size() > 0) {
      return true;
    }
    errors_.Add("training.steps",
                absl::StrCat("is 0; allowed: 1 to ", kMaxSteps,
                             ", or with training.init_from and evaluation.tasks 0, which scores a "
                             "checkpoint"));
    return false;
  }

  void ResolveService() {
    v1::CheckpointSpec* checkpoint = job_.spec.mutable_checkpoint();
    if (!checkpoint->has_interval()) checkpoint->set_interval(100);
    CheckInteger("checkpoint.interval", checkpoint->interval(), {0, kMaxSteps}, &errors_);
    if (!checkpoint->has_keep()) checkpoint->set_keep(2);
    CheckInteger("checkpoint.keep", checkpoint->keep(), {1, kMaxCheckpointsKept}, &errors_);
    ResolveSnapshots(checkpoint, &errors_);
    ResolveSafety(job_.spec.mutable_safety(), &errors_);
    v1::ResourceSpec* resources = job_.spec.mutable_resources();
    if (!resources->has_slots()) resources->set_slots(1);
    CheckInteger("resources.slots", resources->slots(), {1, kMaxSlots}, &errors_);
    if (!resources->has_threads()) resources->set_threads(0);
    CheckInteger("resources.threads", resources->threads(), {0, kMaxThreads}, &errors_);
    if (resources->backend().empty()) resources->set_backend("cpu");
    CheckOneOf("resources.backend", resources->backend(), {"cpu", "reference", "cuda"}, &errors_);
    v1::RestartSpec* restart = job_.spec.mutable_restart();
    if (!restart->has_max_failures()) restart->set_max_failures(3);
    CheckInteger("restart.max_failures", restart->max_failures(), {0, kMaxFailures}, &errors_);
    if (job_.spec.project().empty()) job_.spec.set_project("default");
    CheckName("project", job_.spec.project(), &errors_);
    ResolveScheduling(job_.spec.mutable_scheduling());
  }

  void ResolveScheduling(v1::SchedulingSpec* scheduling) {
    if (!scheduling->has_max_run_time()) scheduling->set_max_run_time(0);
    CheckInteger("scheduling.max_run_time", scheduling->max_run_time(), {0, kMaxRunTimeSeconds},
                 &errors_);
    if (!scheduling->has_preemptible()) scheduling->set_preemptible(true);
    v1::WorkerConstraints* constraints = scheduling->mutable_constraints();
    const std::string field = "scheduling.constraints.";
    CheckLabelText(absl::StrCat(field, "device_kind"), constraints->device_kind(),
                   /*may_be_empty=*/true, &errors_);
    if (!constraints->has_min_slot_memory_bytes()) constraints->set_min_slot_memory_bytes(0);
    CheckInteger(absl::StrCat(field, "min_slot_memory_bytes"), constraints->min_slot_memory_bytes(),
                 {0, kMaxSlotMemoryBytes}, &errors_);
    if (constraints->labels_size() > kMaxLabels) {
      errors_.Add(absl::StrCat(field, "labels"), absl::StrCat("has ", constraints->labels_size(),
                                                              "; allowed: at most ", kMaxLabels));
      return;
    }
    for (const auto& [key, value] : constraints->labels()) {
      CheckLabelText(absl::StrCat(field, "labels"), key, /*may_be_empty=*/false, &errors_);
      CheckLabelText(absl::StrCat(field, "labels.", key), value, /*may_be_empty=*/true, &errors_);
    }
  }

  void ResolveHealth(v1::HealthSpec* health) {
    if (!health->has_interval()) health->set_interval(0);
    CheckInteger("health.interval", health->interval(), {0, kMaxSteps}, &errors_);
    if (!health->has_shadow()) health->set_shadow(false);
  }

  void CheckPositions() {
    const v1::ModelSpec& model = job_.spec.model();
    const int64_t length = job_.spec.training().sequence_length();
    if (!model.has_max_positions() || model.max_positions() >= length) return;
    errors_.Add("model.max_positions",
                absl::StrCat("is ", model.max_positions(), "; allowed: at least ",
                             "training.sequence_length, which is ", length));
  }

  void Derive() {
    job_.precision = ResolvePrecision(job_.spec, job_.total_steps, &errors_);
    for (const std::string& warning : job_.precision.warnings()) job_.warnings.push_back(warning);
    job_.flops_per_token = FlopsPerToken(job_.spec.model(), job_.spec.training().sequence_length());
    job_.memory = EstimateMemory(job_.spec, job_.precision);
    if (OnlyScores(job_.spec)) {
      job_.memory.gradients = job_.memory.optimizer = job_.memory.activations = 0;
    }
  }

  ResolvedJob job_;
  ErrorList errors_;
};

}  // namespace

absl::StatusOr<ResolvedJob> ResolveJob(const v1::JobSpec& spec, std::vector<FieldError>* errors) {
  return Resolver(spec).Run(errors);
}

std::string ConfigDigest(const v1::JobSpec& spec) {
  v1::JobSpec identity = spec;
  identity.clear_name();
  identity.clear_labels();
  identity.clear_priority();
  identity.clear_resources();
  identity.clear_restart();
  identity.clear_checkpoint();
  KeepSafetyIdentity(&identity);
  identity.clear_evaluation();
  identity.clear_health();
  identity.clear_project();
  identity.clear_scheduling();
  // Only a name for dimensions that are all there.
  identity.mutable_model()->clear_preset();
  // As it was before there was a choice.
  if (identity.data().documents() == "join") identity.mutable_data()->clear_documents();
  return DeterministicDigest(identity);
}

}  // namespace nibble::spec
