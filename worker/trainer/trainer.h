// Trains one model: owns its weights and optimiser state on a backend and moves them one step at a
// time. The same configuration, seed and backend give the same bits, wherever the run was stopped
// and resumed.
#ifndef WORKER_TRAINER_TRAINER_H_
#define WORKER_TRAINER_TRAINER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "worker/checkpoint/checkpoint_store.h"
#include "worker/collective/communicator.h"
#include "worker/data/data_source.h"
#include "worker/model/model.h"
#include "worker/model/weights.h"
#include "worker/optimizer/adamw.h"
#include "worker/trainer/training_config.h"

namespace nibble::trainer {

// What a trainer works with; all outlive it.
struct TrainerParts {
  kernels::Backend* backend = nullptr;
  collective::Communicator* communicator = nullptr;
  const data::DataSource* train = nullptr;
  const data::DataSource* validation = nullptr;  // null: there is no validation split
};

struct StepResult {
  double loss = 0;  // nats per token, mean over the step
  double learning_rate = 0;
  double grad_norm = 0;  // before clipping
};

struct Evaluation {
  double loss = 0;           // nats per token, mean over all targets
  double bits_per_byte = 0;  // 0 where the data does not say how long its text is
};

// Not thread-safe.
class Trainer {
 public:
  // Weights and moments are zero until Initialise or Restore. INVALID_ARGUMENT: data and model do
  // not fit. RESOURCE_EXHAUSTED: the device has no such memory.
  static absl::StatusOr<std::unique_ptr<Trainer>> Create(const TrainingConfig& config,
                                                         const TrainerParts& parts);

  // Step 0: weights drawn from the seed.
  absl::Status Initialise();
  // Step 0: weights of the checkpoint in `directory`, moments zero. FAILED_PRECONDITION: it is of
  // another model; otherwise as checkpoint::OpenAndVerify says.
  absl::Status InitialiseFrom(const std::string& directory);
  // The complete state of a checkpoint of this configuration. FAILED_PRECONDITION: it is of another
  // configuration; otherwise as checkpoint::OpenAndVerify says.
  absl::Status Restore(const std::string& directory, const std::string& manifest_digest);
  absl::StatusOr<checkpoint::SavedCheckpoint> Save();

  // One update. Allocates nothing. OUT_OF_RANGE, naming the step, where loss or gradient norm is
  // not finite; the state is lost then. REQUIRES: step() < config.steps.
  absl::StatusOr<StepResult> Step();
  // Mean loss over the first config.validation_sequences sequences of the validation split,
  // computed without quantisation. REQUIRES: parts.validation.
  absl::StatusOr<Evaluation> Evaluate();

  // SHA-256, hex, over the FP32 values (little-endian) of all weights, then all first, then all
  // second moments, each in the order of the parameter table, without alignment gaps.
  absl::StatusOr<std::string> Digest();

  int64_t step() const { return state_.step; }
  int64_t tokens() const { return state_.tokens; }
  // How far the run is in each of its sources.
  std::vector<data::SourceProgress> DataProgress() const {
    return parts_.train->Progress(state_.data_position);
  }
  // Mean loss over the steps made of the last 5 % of the run, at least one step; 0 before them.
  double final_train_loss() const;
  const model::ParameterTable& parameters() const { return table_; }
  // Device pointers; for tests and tools.
  const model::Weights& weights() const { return *weights_; }
  const optimizer::AdamW& optimizer() const { return *optimizer_; }

 private:
  Trainer(const TrainingConfig& config, const TrainerParts& parts);
  absl::Status AllocateState();
  absl::Status ReadTrainBatch(int64_t micro_batch);
  absl::Status ReadValidationBatch(int64_t first_sequence, int64_t sequences);
  absl::Status EnqueueStep(double learning_rate);
  absl::StatusOr<double> MeanOfLosses(int64_t losses, int64_t tokens);
  absl::Status LoadFlat(const checkpoint::TensorFile& file, const std::string& suffix,
                        float* device) const;

  const TrainingConfig config_;
  const TrainerParts parts_;
  kernels::Backend& backend_;
  const model::ParameterTable table_;
  std::unique_ptr<model::Weights> weights_;
  std::unique_ptr<model::Model> model_;
  std::unique_ptr<optimizer::AdamW> optimizer_;
  checkpoint::TrainingState state_;

  // One micro-batch of tokens, and the losses of a whole step.
  std::unique_ptr<kernels::DeviceBuffer> inputs_, targets_, losses_;
  std::vector<int32_t> host_inputs_, host_targets_;
  std::vector<float> host_losses_;
  std::vector<int64_t> host_target_counts_;  // of each micro-batch of the step
  float host_grad_norm_ = 0;
};

}  // namespace nibble::trainer

#endif  // WORKER_TRAINER_TRAINER_H_
