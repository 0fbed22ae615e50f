#include "proto/spec/job_resolution.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/spec/deterministic_digest.h"
#include "proto/spec/error_list.h"
#include "proto/spec/field_checks.h"
#include "proto/spec/limits.h"
#include "proto/spec/model_size.h"
#include "proto/spec/precision_resolution.h"

namespace nibble::spec {
namespace {

constexpr int32_t kDefaultVocabSize = 256;  // bytes

// Resolves one spec. Each method fills in and checks one message; what later ones need of earlier
// ones is only used where the earlier ones were good.
class Resolver {
 public:
  explicit Resolver(const v1::JobSpec& spec) { job_.spec = spec; }

  absl::StatusOr<ResolvedJob> Run(std::vector<FieldError>* errors) {
    CheckUnknownFields(job_.spec, &errors_);
    ResolveHead();
    const bool model_good = ResolveModel(job_.spec.mutable_model());
    CheckPath("data.path", job_.spec.data().path(), PathKind::kAbsoluteOrRelative, &errors_);
    job_.spec.mutable_data();
    const bool training_good = ResolveTraining(job_.spec.mutable_training());
    ResolveOptimizer(job_.spec.mutable_optimizer());
    ResolveService();
    ResolvePolicy(model_good ? job_.spec.model().blocks() : 0, job_.spec.mutable_precision(),
                  &errors_, &job_.warnings);
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

  // A required dimension: given, or from the preset.
  bool CheckDimension(const char* name, bool given, int64_t value, IntegerRange range) {
    const std::string field = absl::StrCat("model.", name);
    if (given) return CheckInteger(field, value, range, &errors_);
    errors_.Add(field, absl::StrCat("is missing; required: ", range.min, " to ", range.max,
                                    ", or a model.preset"));
    return false;
  }

  bool ApplyPreset(v1::ModelSpec* model) {
    if (model->preset().empty()) return true;
    std::vector<std::string> names;
    for (const ModelPreset& preset : ModelPresets()) {
      names.push_back(preset.name);
      if (preset.name != model->preset()) continue;
      v1::ModelSpec merged = preset.model;
      merged.MergeFrom(*model);  // what the job gives wins
      *model = std::move(merged);
    }
    return CheckOneOf("model.preset", model->preset(), names, &errors_);
  }

  bool ResolveModel(v1::ModelSpec* model) {
    if (model->family().empty()) model->set_family("llama");
    bool good = CheckOneOf("model.family", model->family(), {"llama"}, &errors_);
    if (!ApplyPreset(model)) return false;
    if (!model->has_vocab_size()) model->set_vocab_size(kDefaultVocabSize);
    good &= CheckInteger("model.vocab_size", model->vocab_size(), {2, kMaxVocabSize}, &errors_);
    const bool width_good =
        CheckDimension("width", model->has_width(), model->width(), {1, kMaxWidth});
    good &= CheckDimension("blocks", model->has_blocks(), model->blocks(), {1, kMaxBlocks});
    const bool heads_good =
        CheckDimension("heads", model->has_heads(), model->heads(), {1, kMaxHeads});
    good &= width_good && heads_good;
    if (width_good && heads_good) good &= ResolveHeads(model);
    // SwiGLU's usual 8/3 of the width, in whole NVFP4 blocks.
    if (!model->has_mlp_width() && width_good) model->set_mlp_width((model->width() + 5) / 6 * 16);
    if (model->has_mlp_width()) {
      good &= CheckInteger("model.mlp_width", model->mlp_width(), {1, kMaxMlpWidth}, &errors_);
    }
    if (!model->has_rope_theta()) model->set_rope_theta(10000);
    CheckReal("model.rope_theta", model->rope_theta(), {1, 1e9}, &errors_);
    if (!model->has_norm_epsilon()) model->set_norm_epsilon(1e-5);
    CheckReal("model.norm_epsilon", model->norm_epsilon(), {1e-12, 0.1}, &errors_);
    if (!model->has_tied_embeddings()) model->set_tied_embeddings(false);
    if (!model->has_init_std()) model->set_init_std(0.02);
    CheckReal("model.init_std", model->init_std(), {1e-6, 1}, &errors_);
    return good && CheckParameters(*model);
  }

  bool ResolveHeads(v1::ModelSpec* model) {
    bool good = true;
    if (!model->has_kv_heads()) model->set_kv_heads(model->heads());
    if (!CheckInteger("model.kv_heads", model->kv_heads(), {1, kMaxHeads}, &errors_)) {
      good = false;
    } else if (model->heads() % model->kv_heads() != 0) {
      errors_.Add("model.kv_heads",
                  absl::StrCat("is ", model->kv_heads(),
                               "; allowed: divisors of model.heads, which is ", model->heads()));
      good = false;
    }
    if (!model->has_head_size()) {
      if (model->width() % model->heads() != 0) {
        errors_.Add("model.heads", absl::StrCat("is ", model->heads(),
                                                "; allowed: divisors of model.width, which is ",
                                                model->width(), ", or set model.head_size"));
        return false;
      }
      model->set_head_size(model->width() / model->heads());
    }
    if (!CheckInteger("model.head_size", model->head_size(), {2, kMaxHeadSize}, &errors_)) {
      return false;
    }
    if (model->head_size() % 2 != 0) {
      errors_.Add("model.head_size",
                  absl::StrCat("is ", model->head_size(), "; allowed: even numbers from 2 to ",
                               kMaxHeadSize, " (rotary embeddings turn pairs)"));
      return false;
    }
    return good;
  }

  bool CheckParameters(const v1::ModelSpec& model) {
    const std::optional<int64_t> parameters = CountParameters(model);
    if (!parameters.has_value()) {
      errors_.Add("model",
                  absl::StrCat("has too many parameters; allowed: at most ", kMaxParameters));
      return false;
    }
    job_.parameters = *parameters;
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

  void ResolveOptimizer(v1::OptimizerSpec* optimizer) {
    if (optimizer->name().empty()) optimizer->set_name("adamw");
    CheckOneOf("optimizer.name", optimizer->name(), {"adamw"}, &errors_);
    if (!optimizer->has_learning_rate()) optimizer->set_learning_rate(1e-3);
    CheckReal("optimizer.learning_rate", optimizer->learning_rate(), {0, 10, false}, &errors_);
    if (!optimizer->has_beta1()) optimizer->set_beta1(0.9);
    CheckReal("optimizer.beta1", optimizer->beta1(), {0, 1, true, false}, &errors_);
    if (!optimizer->has_beta2()) optimizer->set_beta2(0.95);
    CheckReal("optimizer.beta2", optimizer->beta2(), {0, 1, true, false}, &errors_);
    if (!optimizer->has_epsilon()) optimizer->set_epsilon(1e-8);
    CheckReal("optimizer.epsilon", optimizer->epsilon(), {0, 1, false}, &errors_);
    if (!optimizer->has_weight_decay()) optimizer->set_weight_decay(0.1);
    CheckReal("optimizer.weight_decay", optimizer->weight_decay(), {0, 10}, &errors_);
    if (!optimizer->has_gradient_clip()) optimizer->set_gradient_clip(1);
    CheckReal("optimizer.gradient_clip", optimizer->gradient_clip(), {0, 1e6}, &errors_);
    ResolveSchedule(optimizer->mutable_schedule());
  }

  void ResolveSchedule(v1::ScheduleSpec* schedule) {
    if (schedule->kind().empty()) schedule->set_kind("cosine");
    CheckOneOf("optimizer.schedule.kind", schedule->kind(), {"constant", "cosine", "wsd"},
               &errors_);
    if (!schedule->has_decay_fraction()) schedule->set_decay_fraction(0.2);
    const bool decay_good = CheckReal("optimizer.schedule.decay_fraction",
                                      schedule->decay_fraction(), {0, 1}, &errors_);
    if (!schedule->has_final_fraction()) schedule->set_final_fraction(0.1);
    CheckReal("optimizer.schedule.final_fraction", schedule->final_fraction(), {0, 1}, &errors_);
    if (job_.total_steps < 1 || job_.total_steps > kMaxSteps || !decay_good) {
      // The number of steps is already an error.
      if (!schedule->has_warmup_steps()) schedule->set_warmup_steps(0);
      CheckInteger("optimizer.schedule.warmup_steps", schedule->warmup_steps(), {0, kMaxSteps},
                   &errors_);
      return;
    }
    // Steps before the decay starts.
    int64_t available = job_.total_steps;
    if (schedule->kind() == "wsd") {
      available -= static_cast<int64_t>(
          std::ceil(schedule->decay_fraction() * static_cast<double>(job_.total_steps)));
    }
    if (!schedule->has_warmup_steps()) {
      // 5 % of the run, at most 1,000 steps.
      schedule->set_warmup_steps(std::min({job_.total_steps / 20, int64_t{1000}, available}));
    }
    CheckInteger("optimizer.schedule.warmup_steps", schedule->warmup_steps(), {0, available},
                 &errors_);
  }

  void ResolveService() {
    v1::CheckpointSpec* checkpoint = job_.spec.mutable_checkpoint();
    if (!checkpoint->has_interval()) checkpoint->set_interval(100);
    CheckInteger("checkpoint.interval", checkpoint->interval(), {0, kMaxSteps}, &errors_);
    if (!checkpoint->has_keep()) checkpoint->set_keep(2);
    CheckInteger("checkpoint.keep", checkpoint->keep(), {1, kMaxCheckpointsKept}, &errors_);
    v1::ResourceSpec* resources = job_.spec.mutable_resources();
    if (!resources->has_slots()) resources->set_slots(1);
    CheckInteger("resources.slots", resources->slots(), {1, kMaxSlots}, &errors_);
    if (!resources->has_threads()) resources->set_threads(0);
    CheckInteger("resources.threads", resources->threads(), {0, kMaxThreads}, &errors_);
    if (resources->backend().empty()) resources->set_backend("cpu");
    CheckOneOf("resources.backend", resources->backend(), {"cpu", "reference"}, &errors_);
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

  void Derive() {
    job_.precision = ResolvePrecision(job_.spec, &errors_);
    for (const std::string& warning : job_.precision.warnings()) job_.warnings.push_back(warning);
    job_.flops_per_token = FlopsPerToken(job_.spec.model(), job_.spec.training().sequence_length());
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
  identity.clear_project();
  identity.clear_scheduling();
  // Only a name for dimensions that are all there.
  identity.mutable_model()->clear_preset();
  return DeterministicDigest(identity);
}

}  // namespace nibble::spec
