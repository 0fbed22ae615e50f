#include "worker/trainer_config.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/status_macros.h"
#include "proto/spec/deterministic_digest.h"

namespace nibble::worker {
namespace {

using kernels::OperandFormat;

absl::StatusOr<OperandFormat> FormatOf(const v1::OperandPrecision& operand) {
  OperandFormat format;
  switch (operand.format()) {
    case v1::FP32:
      format.format = kernels::Format::kF32;
      return format;
    case v1::BF16:
      format.format = kernels::Format::kBF16;
      return format;
    case v1::NVFP4:
      format.format = kernels::Format::kNvfp4;
      break;
    default:
      return absl::InvalidArgumentError("an operand has no number format");
  }
  if ((operand.block_rows() != 1 && operand.block_rows() != 16) ||
      (operand.hadamard_size() != 0 && operand.hadamard_size() != 16)) {
    return absl::InvalidArgumentError(
        absl::StrCat("an NVFP4 operand has block_rows ", operand.block_rows(),
                     " and hadamard_size ", operand.hadamard_size(), "; allowed: 1, 16 and 0, 16"));
  }
  format.block_rows = operand.block_rows();
  format.hadamard_size = operand.hadamard_size();
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
    NIBBLE_ASSIGN_OR_RETURN(linear.format.fprop, FormatOf(row.fprop()));
    NIBBLE_ASSIGN_OR_RETURN(linear.format.dgrad, FormatOf(row.dgrad()));
    NIBBLE_ASSIGN_OR_RETURN(linear.format.wgrad, FormatOf(row.wgrad()));
  }
  return absl::OkStatus();
}

trainer::ModelConfig ConvertModel(const v1::ModelSpec& spec) {
  trainer::ModelConfig model;
  model.vocab_size = spec.vocab_size();
  model.width = spec.width();
  model.blocks = spec.blocks();
  model.heads = spec.heads();
  model.kv_heads = spec.kv_heads();
  model.head_size = spec.head_size();
  model.mlp_width = spec.mlp_width();
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
  const v1::ScheduleSpec& schedule = spec.schedule();
  if (schedule.kind() == "constant") {
    config->schedule.kind = trainer::ScheduleKind::kConstant;
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

std::string ConfigDigest(v1::JobSpec spec) {
  spec.clear_name();
  spec.clear_labels();
  spec.clear_priority();
  spec.clear_resources();
  spec.clear_restart();
  // As it was before there was a choice.
  if (spec.data().documents() == "join") spec.mutable_data()->clear_documents();
  return spec::DeterministicDigest(spec);
}

}  // namespace

absl::StatusOr<trainer::TrainingConfig> MakeTrainingConfig(const v1::JobSpec& spec,
                                                           const v1::ResolvedPrecision& precision,
                                                           const TrainerPlaces& places) {
  trainer::TrainingConfig config;
  config.seed = spec.seed();
  config.model = ConvertModel(spec.model());
  NIBBLE_RETURN_IF_ERROR(ConvertPrecision(spec, precision, &config));
  NIBBLE_RETURN_IF_ERROR(ConvertTraining(spec.training(), &config));
  NIBBLE_RETURN_IF_ERROR(ConvertOptimizer(spec.optimizer(), &config));
  NIBBLE_RETURN_IF_ERROR(ConvertData(spec.data(), places.data_directory, &config.data));
  config.checkpoint_interval = spec.checkpoint().interval();
  config.output_directory = places.output_directory;
  config.backend = spec.resources().backend();
  config.threads = spec.resources().threads();
  config.config_digest = ConfigDigest(spec);
  return config;
}

}  // namespace nibble::worker
