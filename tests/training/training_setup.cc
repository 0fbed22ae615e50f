#include "tests/training/training_setup.h"

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace nibble::testing {

using kernels::Format;
using kernels::OperandFormat;
using kernels::Rounding;

kernels::LinearFormat FormatOf(Recipe recipe) {
  kernels::LinearFormat format;
  if (recipe == Recipe::kNvfp4) {
    const OperandFormat rows{Format::kNvfp4, 1, 0, Rounding::kNearest};
    const OperandFormat tiles{Format::kNvfp4, 16, 0, Rounding::kNearest};
    format.fprop = {rows, tiles};
    format.dgrad = {{Format::kNvfp4, 1, 0, Rounding::kStochastic}, tiles};
    format.wgrad = {{Format::kNvfp4, 1, 16, Rounding::kStochastic},
                    {Format::kNvfp4, 1, 16, Rounding::kNearest}};
    return format;
  }
  if (recipe == Recipe::kMxfp4) {
    const OperandFormat nearest{Format::kMxfp4, 1, 0, Rounding::kNearest};
    format.fprop = {nearest, nearest};
    format.dgrad = {{Format::kMxfp4, 1, 0, Rounding::kStochastic}, nearest};
    format.wgrad = {{Format::kMxfp4, 1, 16, Rounding::kStochastic},
                    {Format::kMxfp4, 1, 16, Rounding::kNearest}};
    return format;
  }
  OperandFormat plain;
  plain.format = recipe == Recipe::kFp32       ? Format::kF32
                 : recipe == Recipe::kMxfp8    ? Format::kMxfp8
                 : recipe == Recipe::kFp8      ? Format::kFp8
                 : recipe == Recipe::kFp8Block ? Format::kFp8Block
                                               : Format::kBF16;
  format.fprop = format.dgrad = format.wgrad = {plain, plain};
  if (recipe == Recipe::kFp8Block) {
    format.fprop.second.block_rows = format.dgrad.second.block_rows = 128;
  }
  return format;
}

namespace {

void FillLinears(Recipe recipe, int64_t quantised_blocks, trainer::TrainingConfig* config) {
  config->fp32_activations = recipe == Recipe::kFp32;
  const std::vector<model::Branch> branches = model::BranchesOf(config->model);
  for (const model::NamedLinear& linear : model::LinearsOf(config->model)) {
    const int64_t block = branches[config->linears.size() / 2].block;
    const bool high_precision = recipe == Recipe::kNvfp4 && block >= quantised_blocks;
    config->linears.push_back({linear.name, FormatOf(high_precision ? Recipe::kBf16 : recipe)});
  }
}

void SetFamily(model::Family family, model::ModelConfig* model) {
  model->family = family;
  switch (family) {
    case model::Family::kLlama:
      return;
    case model::Family::kGpt2:
      model->activation = model::MlpActivation::kGeluTanh;
      model->max_positions = 8;
      return;
    case model::Family::kNemotron:
      model->activation = model::MlpActivation::kSquaredRelu;
      return;
    case model::Family::kNemotronH:
      model->activation = model::MlpActivation::kSquaredRelu;
      model->pattern = "M*-M";
      model->blocks = 4;
      model->mamba = {.heads = 4,
                      .head_size = 5,
                      .groups = 2,
                      .state_size = 3,
                      .conv_width = 4,
                      .chunk_size = 4};
      return;
  }
}

}  // namespace

trainer::TrainingConfig MicroscopicConfig(model::Family family) {
  trainer::TrainingConfig config;
  config.seed = 0x123456789abcdef0;
  config.model.vocab_size = 11;
  config.model.width = 10;
  config.model.blocks = 2;
  config.model.heads = 4;
  config.model.kv_heads = 2;
  config.model.head_size = 4;
  config.model.mlp_width = 14;
  config.model.init_std = 0.4;
  SetFamily(family, &config.model);
  config.steps = 5;
  config.sequence_length = 6;
  config.batch_size = 4;
  config.micro_batch_size = 2;
  config.schedule.warmup_steps = 2;
  config.optimizer.learning_rate = 0.01;
  // Large enough that an element whose gradient is all rounding noise moves by noise, not by a
  // whole learning rate.
  config.optimizer.epsilon = 1e-4;
  config.config_digest = "microscopic";
  FillLinears(Recipe::kFp32, 0, &config);
  return config;
}

trainer::TrainingConfig SmallConfig(Recipe recipe, model::Family family) {
  trainer::TrainingConfig config;
  config.seed = 42;
  config.model.vocab_size = 48;
  config.model.width = 32;
  config.model.blocks = 3;
  config.model.heads = 2;
  config.model.kv_heads = 1;
  config.model.head_size = 16;
  config.model.mlp_width = 48;
  config.model.init_std = 0.1;
  SetFamily(family, &config.model);
  if (family == model::Family::kGpt2) config.model.max_positions = 16;
  if (family == model::Family::kNemotronH) {
    config.model.mamba = {.heads = 16,
                          .head_size = 4,
                          .groups = 2,
                          .state_size = 16,
                          .conv_width = 4,
                          .chunk_size = 8};
  }
  config.steps = 6;
  config.sequence_length = 16;
  config.batch_size = 4;
  config.micro_batch_size = 2;
  config.validation_interval = 4;
  config.schedule.warmup_steps = 1;
  config.optimizer.learning_rate = 0.01;
  config.config_digest = "small";
  FillLinears(recipe, /*quantised_blocks=*/config.model.blocks - 1, &config);
  return config;
}

Bench::Bench(const trainer::TrainingConfig& config, const std::string& backend_name, int threads,
             int64_t train_sequences)
    : config(config),
      train(MemoryData::Learnable(train_sequences, config.model.vocab_size, config.sequence_length,
                                  /*seed=*/1)),
      validation(MemoryData::Learnable(/*sequences=*/3, config.model.vocab_size,
                                       config.sequence_length, /*seed=*/2)) {
  kernels::BackendOptions options;
  options.threads = threads;
  auto made = kernels::CreateBackend(backend_name, options);
  NIBBLE_CHECK(made.ok());
  backend = *std::move(made);
  communicator = collective::SingleProcessCommunicator(*backend);
}

trainer::TrainerParts Bench::parts() const {
  return {backend.get(), communicator.get(), &train, &validation};
}

std::unique_ptr<trainer::Trainer> Bench::MakeTrainer() const {
  auto trainer = trainer::Trainer::Create(config, parts());
  NIBBLE_CHECK(trainer.ok());
  NIBBLE_CHECK((*trainer)->Initialise().ok());
  return *std::move(trainer);
}

std::vector<float> ReadDevice(kernels::Backend& backend, const float* device, int64_t size) {
  std::vector<float> values(size);
  backend.CopyToHost(values.data(), device, size * 4);
  NIBBLE_CHECK(backend.Wait(backend.Record()).ok());
  return values;
}

}  // namespace nibble::testing
