#include "worker/trainer/trainer.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "worker/optimizer/adamw.h"
#include "worker/optimizer/low_rank_adamw.h"
#include "worker/optimizer/schedule.h"

namespace nibble::trainer {
namespace {

bool NeedsBf16Weights(const TrainingConfig& config) {
  if (!config.fp32_activations) return true;
  return PrecisionOf(config).Any([](const kernels::LinearFormat& format) {
    return format.fprop.second.format != kernels::Format::kF32;
  });
}

model::ModelOptions ModelOptions(const TrainingConfig& config) {
  model::ModelOptions options;
  options.config = config.model;
  options.seed = config.seed;
  options.precision = PrecisionOf(config);
  options.fp32_activations = config.fp32_activations;
  options.sequence_length = config.sequence_length;
  options.micro_batch_size = config.micro_batch_size;
  options.batch_size = config.batch_size;
  options.loss = config.loss;
  return options;
}

// First step that counts for the train loss of the result: the last 5 %, rounded up.
int64_t FirstResultStep(int64_t steps) { return steps - (steps + 19) / 20 + 1; }

absl::Status CheckFits(const TrainingConfig& config, const TrainerParts& parts) {
  for (const data::DataSource* source : {parts.train, parts.validation}) {
    if (source == nullptr) continue;
    if (source->vocab_size() > config.model.vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat(
          "model.vocab_size is ", config.model.vocab_size, " but the data in ",
          config.data.phases.empty() ? "memory" : config.data.phases[0].sources[0].path,
          config.data.phases.size() > 1 ? " and others" : "", " has tokens up to ",
          source->vocab_size() - 1));
    }
    NIBBLE_CHECK(source->sequence_length() == config.sequence_length);
  }
  return absl::OkStatus();
}

int64_t CountTargets(const int32_t* targets, int64_t count) {
  return std::count_if(targets, targets + count, [](int32_t target) { return target >= 0; });
}
int64_t CountTargets(const std::vector<int32_t>& targets) {
  return CountTargets(targets.data(), static_cast<int64_t>(targets.size()));
}

}  // namespace

Trainer::Trainer(const TrainingConfig& config, const TrainerParts& parts)
    : config_(config),
      parts_(parts),
      backend_(*parts.backend),
      table_(config.model),
      guard_(config.safety) {
  state_.seed = config.seed;
  state_.config_digest = config.config_digest;
  before_backward_ = [this] { Enter(snapshot::Phase::kBackward); };
}

absl::StatusOr<std::unique_ptr<Trainer>> Trainer::Create(const TrainingConfig& config,
                                                         const TrainerParts& parts) {
  NIBBLE_CHECK(config.linears.size() == model::LinearsOf(config.model).size());
  NIBBLE_CHECK(config.batch_size % config.micro_batch_size == 0);
  NIBBLE_RETURN_IF_ERROR(CheckFits(config, parts));
  std::unique_ptr<Trainer> trainer(new Trainer(config, parts));
  NIBBLE_RETURN_IF_ERROR(trainer->AllocateState());
  return trainer;
}

absl::Status Trainer::AllocateState() {
  NIBBLE_ASSIGN_OR_RETURN(weights_,
                          model::Weights::Create(table_, NeedsBf16Weights(config_), backend_));
  NIBBLE_ASSIGN_OR_RETURN(model_, model::Model::Create(ModelOptions(config_), *weights_, backend_));
  optimizer::FlatParameters flat;
  flat.table = &table_;
  flat.master = weights_->master();
  flat.gradients = weights_->gradients();
  flat.bf16 = weights_->bf16();
  if (config_.optimizer.low_rank.rank > 0) {
    NIBBLE_ASSIGN_OR_RETURN(optimizer_, optimizer::LowRankAdamW::Create(
                                            config_.optimizer, config_.seed, flat, backend_));
  } else {
    NIBBLE_ASSIGN_OR_RETURN(optimizer_,
                            optimizer::AdamW::Create(config_.optimizer, flat, backend_));
  }
  const int64_t tokens = model_->micro_batch_tokens();
  NIBBLE_ASSIGN_OR_RETURN(inputs_, backend_.Allocate(tokens * 4));
  NIBBLE_ASSIGN_OR_RETURN(targets_, backend_.Allocate(tokens * 4));
  NIBBLE_ASSIGN_OR_RETURN(losses_, backend_.Allocate(model_->step_tokens() * 4));
  host_inputs_.resize(tokens);
  host_targets_.resize(tokens);
  host_losses_.resize(model_->step_tokens());
  if (config_.health.interval > 0 || config_.safety.recovery_steps > 0) {
    std::vector<std::string> layers;
    for (const LinearPrecision& linear : config_.linears) layers.push_back(linear.layer);
    health_ = std::make_unique<QuantisationHealth>(backend_, layers);
  }
  if (config_.sample_weights.strategy != WeightStrategy::kUniform) {
    NIBBLE_ASSIGN_OR_RETURN(row_scales_, backend_.Allocate(model_->step_tokens() * 4));
    host_row_scales_.resize(model_->step_tokens());
    sample_losses_.resize(config_.batch_size);
    sample_targets_.resize(config_.batch_size);
    sample_weights_.reserve(config_.batch_size);
  }
  if (config_.loss.z_loss != 0) {
    NIBBLE_ASSIGN_OR_RETURN(log_sum_exp_, backend_.Allocate(model_->step_tokens() * 4));
    host_log_sum_exp_.resize(model_->step_tokens());
  }
  host_target_counts_.resize(config_.batch_size / config_.micro_batch_size);
  return absl::OkStatus();
}

absl::Status Trainer::ReadTrainBatch(int64_t micro_batch) {
  const int64_t length = config_.sequence_length;
  for (int64_t i = 0; i < config_.micro_batch_size; ++i) {
    const int64_t position = state_.data_position + micro_batch * config_.micro_batch_size + i;
    NIBBLE_RETURN_IF_ERROR(parts_.train->ReadShuffled(config_.seed, position,
                                                      host_inputs_.data() + i * length,
                                                      host_targets_.data() + i * length));
    if (!sample_targets_.empty()) {
      sample_targets_[micro_batch * config_.micro_batch_size + i] =
          CountTargets(host_targets_.data() + i * length, length);
    }
  }
  host_target_counts_[micro_batch] = CountTargets(host_targets_);
  const int64_t bytes = model_->micro_batch_tokens() * 4;
  backend_.CopyToDevice(inputs_->data(), host_inputs_.data(), bytes);
  backend_.CopyToDevice(targets_->data(), host_targets_.data(), bytes);
  return absl::OkStatus();
}

model::MicroBatch Trainer::BatchOf(int64_t micro_batch) const {
  const int64_t first_token = micro_batch * model_->micro_batch_tokens();
  model::MicroBatch batch;
  batch.inputs = static_cast<const int32_t*>(inputs_->data());
  batch.targets = static_cast<const int32_t*>(targets_->data());
  batch.losses = static_cast<float*>(losses_->data()) + first_token;
  if (weighted_) batch.row_scales = static_cast<const float*>(row_scales_->data()) + first_token;
  if (log_sum_exp_ != nullptr) {
    batch.log_sum_exp = static_cast<float*>(log_sum_exp_->data()) + first_token;
  }
  batch.first_token = first_token;
  batch.before_backward = &before_backward_;
  batch.step = static_cast<uint32_t>(state_.step);
  return batch;
}

// Ranks take micro-batches in turn; each fills its own part of the step's losses, and all of them
// have them all on return.
template <typename Run>
absl::Status Trainer::ForEachMicroBatch(const Run& run) {
  const int64_t bytes = model_->step_tokens() * 4;
  float* losses = static_cast<float*>(losses_->data());
  backend_.Zero(losses, bytes);
  if (log_sum_exp_ != nullptr) backend_.Zero(log_sum_exp_->data(), bytes);
  const int64_t micro_batches = config_.batch_size / config_.micro_batch_size;
  for (int64_t i = parts_.communicator->rank(); i < micro_batches;
       i += parts_.communicator->size()) {
    Enter(snapshot::Phase::kData);
    NIBBLE_RETURN_IF_ERROR(ReadTrainBatch(i));
    Enter(snapshot::Phase::kForward);
    run(BatchOf(i));
  }
  if (log_sum_exp_ != nullptr) {
    NIBBLE_RETURN_IF_ERROR(parts_.communicator->AllReduceSum(
        static_cast<float*>(log_sum_exp_->data()), model_->step_tokens()));
  }
  return parts_.communicator->AllReduceSum(losses, model_->step_tokens());
}

bool Trainer::WeighsSamples() const {
  return config_.sample_weights.strategy != WeightStrategy::kUniform &&
         state_.step >= config_.sample_weights.warmup_steps;
}

// From the losses of a forward pass over the whole step to row_scales_.
absl::Status Trainer::WeighSamples() {
  backend_.CopyToHost(host_losses_.data(), losses_->data(), model_->step_tokens() * 4);
  NIBBLE_RETURN_IF_ERROR(backend_.Wait(backend_.Record()));
  const int64_t length = config_.sequence_length;
  for (int64_t i = 0; i < config_.batch_size; ++i) {
    double sum = 0;
    for (int64_t n = 0; n < length; ++n) sum += host_losses_[i * length + n];
    // Of the tokens that have a target: where documents are kept apart, not all do.
    sample_losses_[i] = sum / static_cast<double>(std::max<int64_t>(1, sample_targets_[i]));
  }
  SampleWeights(config_.sample_weights, sample_losses_, &sample_weights_);
  for (int64_t i = 0; i < config_.batch_size; ++i) {
    std::fill_n(host_row_scales_.begin() + i * length, length,
                static_cast<float>(sample_weights_[i]));
  }
  backend_.CopyToDevice(row_scales_->data(), host_row_scales_.data(), model_->step_tokens() * 4);
  weighted_ = true;
  return absl::OkStatus();
}

absl::Status Trainer::EnqueueGradients(model::LinearProbe* probe) {
  weighted_ = false;
  model_->PrepareWeights(model::PassKind::kTraining, static_cast<uint32_t>(state_.step));
  backend_.Zero(weights_->gradients(), table_.flat_size() * 4);
  // One micro-batch is sample enough.
  const auto probed = [this, probe](model::MicroBatch batch) {
    const int64_t first = parts_.communicator->rank() * model_->micro_batch_tokens();
    if (batch.first_token == first) batch.probe = probe;
    return batch;
  };
  if (!WeighsSamples()) {
    NIBBLE_RETURN_IF_ERROR(ForEachMicroBatch([this, &probed](const model::MicroBatch& batch) {
      model_->ForwardBackward(probed(batch));
    }));
  } else {
    NIBBLE_RETURN_IF_ERROR(
        ForEachMicroBatch([this](const model::MicroBatch& batch) { model_->Forward(batch); }));
    NIBBLE_RETURN_IF_ERROR(WeighSamples());
    // The activations of the only micro-batch are still there.
    const bool only_one = config_.batch_size == config_.micro_batch_size;
    NIBBLE_RETURN_IF_ERROR(
        ForEachMicroBatch([this, only_one, &probed](const model::MicroBatch& batch) {
          only_one ? model_->Backward(probed(batch)) : model_->ForwardBackward(probed(batch));
        }));
  }
  NIBBLE_RETURN_IF_ERROR(
      parts_.communicator->AllReduceSum(weights_->gradients(), table_.flat_size()));
  optimizer_->MeasureGradients();
  return absl::OkStatus();
}

bool Trainer::Measured::operator==(const Measured& other) const {
  return std::memcmp(this, &other, sizeof(Measured)) == 0;
}

absl::StatusOr<Trainer::Measured> Trainer::ComputeGradients(bool measured,
                                                            std::map<std::string, double>* health) {
  NIBBLE_RETURN_IF_ERROR(EnqueueGradients(measured ? health_.get() : nullptr));
  if (measured) NIBBLE_RETURN_IF_ERROR(health_->Take(health));
  backend_.CopyToHost(&host_grad_norm_, optimizer_->gradient_norm(), 4);
  if (log_sum_exp_ != nullptr) {
    backend_.CopyToHost(host_log_sum_exp_.data(), log_sum_exp_->data(), model_->step_tokens() * 4);
  }
  Measured result;
  // Gradients are divided by all tokens of the step, whether they have a target or not.
  NIBBLE_ASSIGN_OR_RETURN(result.loss, MeanOfLosses(model_->step_tokens(), StepTargets()));
  result.gradient_norm = host_grad_norm_;
  config_.faults.AfterGradients(state_.data_position / config_.batch_size, ++times_computed_,
                                &result.loss, &result.gradient_norm);
  return result;
}

int64_t Trainer::StepTargets() const {
  int64_t targets = 0;
  for (const int64_t count : host_target_counts_) targets += count;
  return std::max<int64_t>(1, targets);
}

// Of the step whose losses host_losses_ holds.
double Trainer::Objective(double loss) const {
  if (!weighted_ && log_sum_exp_ == nullptr) return loss;
  const int64_t tokens = model_->step_tokens();
  double sum = 0;
  for (int64_t n = 0; n < tokens; ++n) {
    double term = host_losses_[n];
    if (log_sum_exp_ != nullptr) {
      term += config_.loss.z_loss * double{host_log_sum_exp_[n]} * host_log_sum_exp_[n];
    }
    sum += weighted_ ? term * host_row_scales_[n] : term;
  }
  return sum / static_cast<double>(StepTargets());
}

// Sum over the first `losses` device losses in FP64 in their order, divided by `tokens`.
absl::StatusOr<double> Trainer::MeanOfLosses(int64_t losses, int64_t tokens) {
  backend_.CopyToHost(host_losses_.data(), losses_->data(), losses * 4);
  NIBBLE_RETURN_IF_ERROR(backend_.Wait(backend_.Record()));
  double sum = 0;
  for (int64_t i = 0; i < losses; ++i) sum += host_losses_[i];
  return sum / static_cast<double>(tokens);
}

absl::StatusOr<double> Trainer::ShadowLoss() {
  model_->PrepareWeights(model::PassKind::kEvaluation, static_cast<uint32_t>(state_.step));
  float* losses = static_cast<float*>(losses_->data());
  backend_.Zero(losses, model_->step_tokens() * 4);
  for (int64_t i = parts_.communicator->rank(); i < config_.batch_size / config_.micro_batch_size;
       i += parts_.communicator->size()) {
    NIBBLE_RETURN_IF_ERROR(ReadTrainBatch(i));
    model_->Forward({static_cast<const int32_t*>(inputs_->data()),
                     static_cast<const int32_t*>(targets_->data()),
                     losses + i * model_->micro_batch_tokens()});
  }
  NIBBLE_RETURN_IF_ERROR(parts_.communicator->AllReduceSum(losses, model_->step_tokens()));
  return MeanOfLosses(model_->step_tokens(), StepTargets());
}

absl::StatusOr<StepResult> Trainer::Step() {
  NIBBLE_CHECK(state_.step < config_.steps);
  Enter(snapshot::Phase::kForward);
  config_.faults.BeforeStep(state_.step + 1, config_.output_directory);
  StepResult result;
  result.learning_rate =
      config_.optimizer.learning_rate *
      optimizer::LearningRateFactor(config_.schedule, state_.step + 1, config_.steps);
  const bool measured =
      config_.health.interval > 0 && (state_.step + 1) % config_.health.interval == 0;
  if (measured && config_.health.shadow) {
    NIBBLE_ASSIGN_OR_RETURN(result.health["health/shadow_loss"], ShadowLoss());
  }
  times_computed_ = 0;
  NIBBLE_ASSIGN_OR_RETURN(const Measured gradients, ComputeGradients(measured, &result.health));
  result.loss = gradients.loss;
  result.objective = Objective(result.loss);
  result.grad_norm = gradients.gradient_norm;
  const Verdict verdict = guard_.Judge(result.loss, result.grad_norm);
  if (verdict.tripped) NIBBLE_RETURN_IF_ERROR(Examine(verdict, gradients, &result));
  if (!result.applied) return result;
  Enter(snapshot::Phase::kOptimizer);
  if (snapshots_ != nullptr) snapshots_->Finish();
  optimizer_->Update(state_.step + 1, result.learning_rate);
  guard_.Accept(result.loss, result.grad_norm);
  state_.step += 1;
  state_.tokens += model_->step_tokens();
  state_.data_position += config_.batch_size;
  if (state_.step >= FirstResultStep(config_.steps)) {
    state_.loss_sum += result.loss;
    state_.loss_count += 1;
  }
  return result;
}

absl::Status Trainer::ReadValidationBatch(int64_t first_sequence, int64_t sequences) {
  const int64_t length = config_.sequence_length;
  // What is missing to a whole micro-batch has no loss.
  std::fill(host_inputs_.begin(), host_inputs_.end(), 0);
  std::fill(host_targets_.begin(), host_targets_.end(), -1);
  for (int64_t i = 0; i < sequences; ++i) {
    NIBBLE_RETURN_IF_ERROR(parts_.validation->ReadInOrder(
        first_sequence + i, host_inputs_.data() + i * length, host_targets_.data() + i * length));
  }
  const int64_t bytes = model_->micro_batch_tokens() * 4;
  backend_.CopyToDevice(inputs_->data(), host_inputs_.data(), bytes);
  backend_.CopyToDevice(targets_->data(), host_targets_.data(), bytes);
  return absl::OkStatus();
}

absl::StatusOr<Evaluation> Trainer::Evaluate() {
  NIBBLE_CHECK(parts_.validation != nullptr);
  int64_t sequences = parts_.validation->sequences();
  if (config_.validation_sequences > 0) {
    sequences = std::min(sequences, config_.validation_sequences);
  }
  model_->PrepareWeights(model::PassKind::kEvaluation, static_cast<uint32_t>(state_.step));
  double sum = 0;
  int64_t targets = 0;
  for (int64_t first = 0; first < sequences; first += config_.micro_batch_size) {
    const int64_t count = std::min(config_.micro_batch_size, sequences - first);
    Enter(snapshot::Phase::kValidation);
    NIBBLE_RETURN_IF_ERROR(ReadValidationBatch(first, count));
    model::MicroBatch batch;
    batch.inputs = static_cast<const int32_t*>(inputs_->data());
    batch.targets = static_cast<const int32_t*>(targets_->data());
    batch.losses = static_cast<float*>(losses_->data());
    model_->Forward(batch);
    NIBBLE_ASSIGN_OR_RETURN(const double batch_sum,
                            MeanOfLosses(count * config_.sequence_length, /*tokens=*/1));
    sum += batch_sum;
    targets += CountTargets(host_targets_);
  }
  Evaluation evaluation;
  evaluation.loss = sum / static_cast<double>(std::max<int64_t>(1, targets));
  const double bytes_per_token = parts_.validation->bytes_per_token();
  if (bytes_per_token > 0) {
    evaluation.bits_per_byte = evaluation.loss / std::log(2.0) / bytes_per_token;
  }
  if (!std::isfinite(evaluation.loss)) {
    return absl::OutOfRangeError(
        absl::StrCat("step ", state_.step, ": the validation loss is not finite"));
  }
  return evaluation;
}

double Trainer::final_train_loss() const {
  return state_.loss_count == 0 ? 0 : state_.loss_sum / static_cast<double>(state_.loss_count);
}

}  // namespace nibble::trainer
