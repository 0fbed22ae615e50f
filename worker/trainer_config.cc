#include "worker/trainer_config.h"

#include <stdlib.h>

#include <algorithm>
#include <iterator>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/status_macros.h"
#include "proto/spec/job_resolution.h"
#include "proto/spec/model_size.h"
#include "proto/spec/safety_resolution.h"
#include "worker/model_description.h"

namespace nibble::worker {
namespace {

using kernels::OperandFormat;

// UNSPECIFIED and values of later versions give nothing.
std::optional<kernels::Format> FormatOf(v1::NumberFormat format) {
  switch (format) {
    case v1::FP32:
      return kernels::Format::kF32;
    case v1::BF16:
      return kernels::Format::kBF16;
    case v1::NVFP4:
      return kernels::Format::kNvfp4;
    case v1::FP8_E4M3:
      return kernels::Format::kFp8;
    case v1::FP8_E5M2:
      return kernels::Format::kFp8E5m2;
    case v1::FP8_BLOCKWISE:
      return kernels::Format::kFp8Block;
    case v1::MXFP8:
      return kernels::Format::kMxfp8;
    case v1::MXFP4:
      return kernels::Format::kMxfp4;
    default:
      return std::nullopt;
  }
}

kernels::HadamardSigns SignsOf(v1::HadamardSigns signs) {
  switch (signs) {
    case v1::HADAMARD_SIGNS_NONE:
      return kernels::HadamardSigns::kNone;
    case v1::HADAMARD_SIGNS_DRAWN:
      return kernels::HadamardSigns::kDrawn;
    case v1::HADAMARD_SIGNS_REDRAWN:
      return kernels::HadamardSigns::kRedrawn;
    default:
      return kernels::HadamardSigns::kFixed;
  }
}

kernels::BlockTarget TargetOf(v1::BlockTarget target) {
  switch (target) {
    case v1::FOUR_OR_SIX_ABSOLUTE:
      return kernels::BlockTarget::kFourOrSixByAbsoluteError;
    case v1::FOUR_OR_SIX_SQUARED:
      return kernels::BlockTarget::kFourOrSixBySquaredError;
    default:
      return kernels::BlockTarget::kSix;
  }
}

absl::StatusOr<OperandFormat> FormatOf(const v1::OperandPrecision& operand) {
  OperandFormat format;
  const std::optional<kernels::Format> number = FormatOf(operand.format());
  if (!number.has_value()) {
    return absl::InvalidArgumentError("an operand has no number format that this build knows");
  }
  format.format = *number;
  if (!kernels::IsQuantised(format.format)) return format;
  // The rest of what a combination means for a backend is Backend::Supports' to say.
  constexpr int kBlockRows[] = {0, 1, 16, 128};
  constexpr int kHadamardSizes[] = {0, 4, 16, 32, 64, 128};
  if (std::find(std::begin(kBlockRows), std::end(kBlockRows), operand.block_rows()) ==
          std::end(kBlockRows) ||
      std::find(std::begin(kHadamardSizes), std::end(kHadamardSizes), operand.hadamard_size()) ==
          std::end(kHadamardSizes)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "an operand has block_rows ", operand.block_rows(), " and hadamard_size ",
        operand.hadamard_size(), "; allowed: 0, 1, 16, 128 and 0, 4, 16, 32, 64, 128"));
  }
  format.block_rows = std::max(1, operand.block_rows());
  format.hadamard_size = operand.hadamard_size();
  format.hadamard_signs = SignsOf(operand.hadamard_signs());
  format.hadamard_seed = operand.hadamard_seed();
  format.block_target = TargetOf(operand.block_target());
  format.rounding = operand.rounding() == v1::STOCHASTIC ? kernels::Rounding::kStochastic
                                                         : kernels::Rounding::kNearest;
  return format;
}

absl::StatusOr<kernels::ProductFormat> FormatOf(const v1::ProductPrecision& product) {
  kernels::ProductFormat format;
  NIBBLE_ASSIGN_OR_RETURN(format.first, FormatOf(product.first()));
  NIBBLE_ASSIGN_OR_RETURN(format.second, FormatOf(product.second()));
  return format;
}

absl::StatusOr<kernels::LinearFormat> FormatOf(const v1::LinearPrecision& row) {
  kernels::LinearFormat format;
  NIBBLE_ASSIGN_OR_RETURN(format.fprop, FormatOf(row.fprop()));
  NIBBLE_ASSIGN_OR_RETURN(format.dgrad, FormatOf(row.dgrad()));
  NIBBLE_ASSIGN_OR_RETURN(format.wgrad, FormatOf(row.wgrad()));
  return format;
}

// A phase names the layers that change.
absl::Status ConvertLaterPhases(const v1::ResolvedPrecision& precision,
                                trainer::TrainingConfig* config) {
  model::PrecisionPhase phase;
  for (const trainer::LinearPrecision& linear : config->linears) {
    phase.linears.push_back(linear.format);
  }
  for (const v1::PrecisionPhase& later : precision.later()) {
    if (later.first_step() <= phase.first_step) {
      return absl::InvalidArgumentError("the precision's later phases do not start in order");
    }
    phase.first_step = later.first_step();
    for (const v1::LinearPrecision& row : later.linears()) {
      if (row.index() < 0 || row.index() >= precision.linears_size()) {
        return absl::InvalidArgumentError(
            absl::StrCat("a later phase of the precision has a layer ", row.index(),
                         "; the model has ", precision.linears_size()));
      }
      NIBBLE_ASSIGN_OR_RETURN(phase.linears[row.index()], FormatOf(row));
    }
    config->later_precision.push_back(phase);
  }
  return absl::OkStatus();
}

absl::Status ConvertPrecision(const v1::JobSpec& spec, const v1::ResolvedPrecision& precision,
                              trainer::TrainingConfig* config) {
  const std::vector<model::NamedLinear> linears = model::LinearsOf(config->model);
  if (precision.linears_size() != static_cast<int64_t>(linears.size())) {
    return absl::InvalidArgumentError(absl::StrCat("the precision has ", precision.linears_size(),
                                                   " linear layers; the model has ",
                                                   linears.size()));
  }
  config->fp32_activations = spec.precision().recipe() == "fp32";
  for (const v1::LinearPrecision& row : precision.linears()) {
    trainer::LinearPrecision& linear = config->linears.emplace_back();
    linear.layer = row.layer();
    const std::string& expected = linears[config->linears.size() - 1].name;
    if (linear.layer != expected) {
      return absl::InvalidArgumentError(absl::StrCat("the precision has the layer ", row.layer(),
                                                     " where the model has ", expected));
    }
    NIBBLE_ASSIGN_OR_RETURN(linear.format, FormatOf(row));
  }
  return ConvertLaterPhases(precision, config);
}

absl::Status ConvertFamily(const v1::ModelSpec& spec, trainer::ModelConfig* model) {
  using model::Family;
  using model::MlpActivation;
  if (spec.family() == "llama") {
    model->family = Family::kLlama;
    model->activation = MlpActivation::kSwiGlu;
  } else if (spec.family() == "gpt2") {
    model->family = Family::kGpt2;
    model->activation =
        spec.activation() == "gelu" ? MlpActivation::kGelu : MlpActivation::kGeluTanh;
  } else if (spec.family() == "nemotron" || spec.family() == "nemotron_h") {
    model->family = spec.family() == "nemotron" ? Family::kNemotron : Family::kNemotronH;
    model->activation = MlpActivation::kSquaredRelu;
  } else {
    return absl::InvalidArgumentError("model.family is none that this build knows");
  }
  return absl::OkStatus();
}

absl::StatusOr<trainer::ModelConfig> ConvertModel(const v1::ModelSpec& spec) {
  trainer::ModelConfig model;
  NIBBLE_RETURN_IF_ERROR(ConvertFamily(spec, &model));
  model.vocab_size = spec.vocab_size();
  model.width = spec.width();
  model.blocks = spec.blocks();
  model.heads = spec.heads();
  model.kv_heads = spec.kv_heads();
  model.head_size = spec.head_size();
  model.mlp_width = spec.mlp_width();
  model.max_positions = spec.max_positions();
  model.pattern = spec.pattern();
  if (spec.has_mamba()) {
    const v1::MambaSpec& mamba = spec.mamba();
    if (mamba.head_size() < 1) {
      return absl::InvalidArgumentError("model.mamba is not a resolved job's");
    }
    model.mamba.head_size = mamba.head_size();
    model.mamba.heads = int64_t{mamba.expand()} * spec.width() / mamba.head_size();
    model.mamba.groups = mamba.groups();
    model.mamba.state_size = mamba.state_size();
    model.mamba.conv_width = mamba.conv_width();
    model.mamba.chunk_size = mamba.chunk_size();
  }
  model.rope_theta = spec.rope_theta();
  model.norm_epsilon = spec.norm_epsilon();
  model.tied_embeddings = spec.tied_embeddings();
  model.init_std = spec.init_std();
  return model;
}

absl::Status ConvertOptimizer(const v1::OptimizerSpec& spec, trainer::TrainingConfig* config) {
  config->optimizer.learning_rate = spec.learning_rate();
  config->optimizer.beta1 = spec.beta1();
  config->optimizer.beta2 = spec.beta2();
  config->optimizer.epsilon = spec.epsilon();
  config->optimizer.weight_decay = spec.weight_decay();
  config->optimizer.gradient_clip = spec.gradient_clip();
  config->optimizer.decay_include = {spec.decay_include().begin(), spec.decay_include().end()};
  config->optimizer.decay_exclude = {spec.decay_exclude().begin(), spec.decay_exclude().end()};
  config->optimizer.low_rank.rank = spec.low_rank().rank();
  config->optimizer.low_rank.update_interval = spec.low_rank().update_interval();
  config->optimizer.low_rank.scale = spec.low_rank().scale();
  config->optimizer.low_rank.reset_moments = spec.low_rank().reset_moments();
  if (spec.low_rank().update_interval() < 1) {
    return absl::InvalidArgumentError("optimizer.low_rank is not a resolved job's");
  }
  const v1::ScheduleSpec& schedule = spec.schedule();
  if (schedule.kind() == "constant") {
    config->schedule.kind = trainer::ScheduleKind::kConstant;
  } else if (schedule.kind() == "linear") {
    config->schedule.kind = trainer::ScheduleKind::kLinear;
  } else if (schedule.kind() == "cosine") {
    config->schedule.kind = trainer::ScheduleKind::kCosine;
  } else if (schedule.kind() == "wsd") {
    config->schedule.kind = trainer::ScheduleKind::kWsd;
  } else {
    return absl::InvalidArgumentError("optimizer.schedule.kind is none that this build knows");
  }
  config->schedule.warmup_steps = schedule.warmup_steps();
  config->schedule.decay_fraction = schedule.decay_fraction();
  config->schedule.final_fraction = schedule.final_fraction();
  config->schedule.decay_shape = schedule.decay_shape() == "one_minus_sqrt"
                                     ? optimizer::DecayShape::kOneMinusSqrt
                                     : optimizer::DecayShape::kLinear;
  return absl::OkStatus();
}

absl::Status ConvertLoss(const v1::LossSpec& spec, trainer::TrainingConfig* config) {
  config->loss.z_loss = spec.z_loss();
  config->loss.logit_softcap = spec.logit_softcap();
  const v1::SampleWeightSpec& weights = spec.sample_weights();
  using trainer::WeightStrategy;
  if (weights.strategy() == "uniform") {
    config->sample_weights.strategy = WeightStrategy::kUniform;
  } else if (weights.strategy() == "linear_upper") {
    config->sample_weights.strategy = WeightStrategy::kLinearUpper;
  } else if (weights.strategy() == "quadratic") {
    config->sample_weights.strategy = WeightStrategy::kQuadratic;
  } else if (weights.strategy() == "extremes") {
    config->sample_weights.strategy = WeightStrategy::kExtremes;
  } else {
    return absl::InvalidArgumentError("loss.sample_weights.strategy is none that this build knows");
  }
  config->sample_weights.temperature = weights.temperature();
  config->sample_weights.warmup_steps = weights.warmup_steps();
  return absl::OkStatus();
}

absl::StatusOr<trainer::GuardAction> ActionOf(const std::string& name) {
  // As jobs of earlier versions have it, from before there was a choice.
  if (name.empty() || name == "none") return trainer::GuardAction::kNone;
  if (name == "notify") return trainer::GuardAction::kNotify;
  if (name == "pause") return trainer::GuardAction::kPause;
  if (name == "rollback") return trainer::GuardAction::kRollback;
  return absl::InvalidArgumentError("safety has an action that this build does not know");
}

absl::Status ConvertSafety(const v1::SafetySpec& spec, trainer::SafetyConfig* config) {
  NIBBLE_ASSIGN_OR_RETURN(config->non_finite, ActionOf(spec.non_finite()));
  NIBBLE_ASSIGN_OR_RETURN(config->loss_spike, ActionOf(spec.loss_spike()));
  NIBBLE_ASSIGN_OR_RETURN(config->gradient_spike, ActionOf(spec.gradient_spike()));
  if (spec.window() > 0) config->window = spec.window();
  if (spec.threshold() > 0) config->threshold = spec.threshold();
  config->max_rollbacks = spec.max_rollbacks();
  if (spec.precision_recovery() == "bf16") config->recovery_steps = spec.precision_recovery_steps();
  return absl::OkStatus();
}

absl::Status ConvertTraining(const v1::TrainingSpec& spec, trainer::TrainingConfig* config) {
  config->sequence_length = spec.sequence_length();
  config->batch_size = spec.batch_size();
  config->micro_batch_size = spec.micro_batch_size();
  if (config->sequence_length < 1 || config->micro_batch_size < 1 || config->batch_size < 1 ||
      config->batch_size % config->micro_batch_size != 0) {
    return absl::InvalidArgumentError(
        "training: sequence_length, batch_size and micro_batch_size "
        "are not a resolved job's");
  }
  const int64_t tokens_per_step = config->sequence_length * config->batch_size;
  config->steps = spec.has_steps() ? spec.steps() : (spec.tokens() - 1) / tokens_per_step + 1;
  config->validation_interval = spec.validation_interval();
  config->validation_sequences = spec.validation_sequences();
  config->init_from = spec.init_from();
  return absl::OkStatus();
}

absl::StatusOr<data::SourceConfig> ConvertSource(const v1::DataSourceSpec& spec,
                                                 const std::string& directory) {
  const std::pair<absl::string_view, data::TokenFormat> formats[] = {
      {"auto", data::TokenFormat::kAuto},      {"nibble", data::TokenFormat::kNibble},
      {"llmc", data::TokenFormat::kLlmc},      {"megatron", data::TokenFormat::kMegatron},
      {"raw_u16", data::TokenFormat::kRawU16}, {"raw_u32", data::TokenFormat::kRawU32}};
  data::SourceConfig source;
  bool known = false;
  for (const auto& [name, format] : formats) {
    if (spec.format() != name) continue;
    source.format = format;
    known = true;
  }
  if (!known) {
    return absl::InvalidArgumentError("a data source has a format that this build does not know");
  }
  source.path = JoinPath(directory, spec.path());
  if (!spec.validation_path().empty()) {
    source.validation_path = JoinPath(directory, spec.validation_path());
  }
  source.weight = spec.weight();
  source.sha256 = spec.sha256();
  source.validation_sha256 = spec.validation_sha256();
  source.separator = spec.has_separator() ? spec.separator() : -1;
  return source;
}

absl::Status ConvertPhase(const google::protobuf::RepeatedPtrField<v1::DataSourceSpec>& sources,
                          double share, const std::string& directory, data::DataConfig* config) {
  data::PhaseConfig& phase = config->phases.emplace_back();
  phase.share = share;
  for (const v1::DataSourceSpec& spec : sources) {
    NIBBLE_ASSIGN_OR_RETURN(data::SourceConfig source, ConvertSource(spec, directory));
    phase.sources.push_back(std::move(source));
  }
  return absl::OkStatus();
}

absl::Status ConvertData(const v1::DataSpec& spec, const std::string& directory,
                         data::DataConfig* config) {
  config->documents = spec.documents() == "mask"       ? data::DocumentMode::kMask
                      : spec.documents() == "separate" ? data::DocumentMode::kSeparate
                                                       : data::DocumentMode::kJoin;
  if (spec.phases_size() == 0 && spec.sources_size() == 0) {
    if (spec.path().empty()) return absl::OkStatus();  // a job that trains nothing
    data::SourceConfig& source = config->phases.emplace_back().sources.emplace_back();
    source.format = data::TokenFormat::kNibble;
    source.path = JoinPath(directory, spec.path());
    return absl::OkStatus();
  }
  if (spec.phases_size() == 0) return ConvertPhase(spec.sources(), 1, directory, config);
  for (const v1::DataPhaseSpec& phase : spec.phases()) {
    NIBBLE_RETURN_IF_ERROR(ConvertPhase(phase.sources(), phase.share(), directory, config));
  }
  return absl::OkStatus();
}

void ConvertEvaluation(const v1::JobSpec& spec, const std::string& directory,
                       trainer::EvaluationConfig* config) {
  const v1::EvaluationSpec& evaluation = spec.evaluation();
  for (const v1::EvaluationTaskSpec& task : evaluation.tasks()) {
    config->tasks.push_back(
        {task.task(), JoinPath(directory, task.path()), task.name(), task.limit()});
  }
  if (config->tasks.empty()) return;
  config->interval = evaluation.interval();
  const bool is_path = !evaluation.tokenizer().empty() && evaluation.tokenizer() != "bytes";
  config->tokenizer =
      is_path ? JoinPath(directory, evaluation.tokenizer()) : evaluation.tokenizer();
  config->context = evaluation.context();
  config->forward_flops_per_token = spec::ForwardFlopsPerToken(spec.model(), evaluation.context());
}

}  // namespace

absl::StatusOr<trainer::TrainingConfig> MakeTrainingConfig(const v1::JobSpec& spec,
                                                           const v1::ResolvedPrecision& precision,
                                                           const TrainerPlaces& places) {
  trainer::TrainingConfig config;
  config.seed = spec.seed();
  NIBBLE_ASSIGN_OR_RETURN(config.model, ConvertModel(spec.model()));
  NIBBLE_RETURN_IF_ERROR(ConvertPrecision(spec, precision, &config));
  NIBBLE_RETURN_IF_ERROR(ConvertTraining(spec.training(), &config));
  NIBBLE_RETURN_IF_ERROR(ConvertOptimizer(spec.optimizer(), &config));
  NIBBLE_RETURN_IF_ERROR(ConvertLoss(spec.loss(), &config));
  config.flops_per_token = spec::FlopsPerToken(spec.model(), spec.training().sequence_length());
  NIBBLE_RETURN_IF_ERROR(ConvertData(spec.data(), places.data_directory, &config.data));
  ConvertEvaluation(spec, places.data_directory, &config.evaluation);
  config.checkpoint_interval = spec.checkpoint().interval();
  NIBBLE_RETURN_IF_ERROR(ConvertSafety(spec.safety(), &config.safety));
  config.snapshot_steps = spec.checkpoint().snapshot_steps();
  config.snapshot_seconds = spec.checkpoint().snapshot_seconds();
  config.health = {spec.health().interval(), spec.health().shadow()};
  config.output_directory = places.output_directory;
  config.backend = spec.resources().backend();
  config.threads = spec.resources().threads();
  config.config_digest = spec::ConfigDigest(spec);
  config.model_description = DescribeModel(spec);
  return config;
}

absl::StatusOr<trainer::FaultPlan> PlantedFaults() {
  const char* const text = getenv("NIBBLE_TEST_FAULTS");
  return trainer::FaultPlan::Parse(text == nullptr ? "" : text);
}

}  // namespace nibble::worker
