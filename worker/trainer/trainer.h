// Trains one model: owns its weights and optimiser state on a backend and moves them one step at a
// time. The same configuration, seed and backend give the same bits, wherever the run was stopped
// and resumed.
#ifndef WORKER_TRAINER_TRAINER_H_
#define WORKER_TRAINER_TRAINER_H_

#include <cstdint>
#include <functional>
#include <map>
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
#include "worker/optimizer/optimizer.h"
#include "worker/snapshot/trainer_memory.h"
#include "worker/trainer/background_save.h"
#include "worker/trainer/efficiency.h"
#include "worker/trainer/quantisation_health.h"
#include "worker/trainer/snapshot_taker.h"
#include "worker/trainer/training_config.h"

namespace nibble::trainer {

// What a trainer works with; all outlive it.
struct TrainerParts {
  kernels::Backend* backend = nullptr;
  collective::Communicator* communicator = nullptr;
  const data::DataSource* train = nullptr;
  const data::DataSource* validation = nullptr;  // null: there is no validation split
  snapshot::TrainerMemory* memory = nullptr;     // null: nobody holds snapshots
};

struct StepResult {
  double loss = 0;  // nats per token, mean over the step: plain cross-entropy
  // What the gradient is of: the same with sample weights and z-loss.
  double objective = 0;
  double learning_rate = 0;
  double grad_norm = 0;  // before clipping
  // Where the step was measured: what QuantisationHealth::Take says, and health/shadow_loss (nats
  // per token of the step's batch at the same weights, without quantisation) where asked for.
  std::map<std::string, double> health;
  // A guard has something to say of the step: what, and which.
  bool tripped = false;
  std::string guard_cause;
  std::string guard_message;
  // False: nothing of the step was applied, its batch is skipped, and the run goes on (or is to be
  // paused) where it was before.
  bool applied = true;
  bool pause = false;
  // With `pause`: the state is worth a checkpoint; weights that are not finite are not.
  bool state_is_good = true;
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
  // configuration; otherwise as checkpoint::OpenAndVerify says. DATA_LOSS: the state may be lost,
  // and with it nothing but Initialise, InitialiseFrom or another Restore helps.
  absl::Status Restore(const std::string& directory, const std::string& manifest_digest);

  // Goes on from the newest snapshot of parts.memory. NOT_FOUND: there is none. DATA_LOSS or
  // FAILED_PRECONDITION: it is not whole, or of another configuration; the state is lost then.
  absl::Status RestoreSnapshot();
  // Takes the memory for snapshots; without it none is taken. RESOURCE_EXHAUSTED.
  // REQUIRES: parts.memory.
  absl::Status PrepareSnapshots();
  // Begins a snapshot of the state as it is, which the next step's update waits for. Nothing where
  // PrepareSnapshots has not succeeded.
  absl::Status StartSnapshot();

  // Checkpoints are written behind training (background_save.h), one at a time.
  // Takes the memory for them; otherwise the first StartSave does. RESOURCE_EXHAUSTED.
  absl::Status PrepareSaves();
  // Copies the state as it is and begins to write it to config.output_directory. REQUIRES: none is
  // under way.
  absl::Status StartSave();
  // Started and not finished; then, whether FinishSave() need not wait, and of which step it is.
  bool SaveUnderWay() const;
  bool SaveWritten() const;
  int64_t saving_step() const { return saving_step_; }
  // Errors as checkpoint::SaveCheckpoint says.
  absl::StatusOr<checkpoint::SavedCheckpoint> FinishSave();

  // One update, or what config.safety wants instead. Allocates nothing unless the step is measured
  // or a guard trips. OUT_OF_RANGE, naming the step, where loss or gradient norm is not finite and
  // config.safety has no answer; with payload kHardwareFault (training_run.h) where a step that was
  // computed again came out otherwise. Errors leave the state as it was before the step.
  // REQUIRES: step() < config.steps.
  absl::StatusOr<StepResult> Step();
  // Mean loss over the first config.validation_sequences sequences of the validation split,
  // computed without quantisation. REQUIRES: parts.validation.
  absl::StatusOr<Evaluation> Evaluate();

  // SHA-256, hex, over the FP32 values (little-endian) of all weights in the order of the parameter
  // table, then of the optimiser's state in its order, without alignment gaps: the tensor data of a
  // checkpoint's two files.
  absl::StatusOr<std::string> Digest();

  int64_t step() const { return state_.step; }
  int64_t tokens() const { return state_.tokens; }
  int64_t skipped_batches() const { return static_cast<int64_t>(state_.safety.skipped.size()); }
  // How far the run is in each of its sources.
  std::vector<data::SourceProgress> DataProgress() const {
    return parts_.train->Progress(state_.data_position);
  }
  // Mean loss over the steps made of the last 5 % of the run, at least one step; 0 before them.
  double final_train_loss() const;
  // Memory that training takes, the copy for checkpoints included.
  PlannedMemory planned_memory() const;
  const model::ParameterTable& parameters() const { return table_; }
  // Device pointers; for tests and tools.
  const model::Weights& weights() const { return *weights_; }
  const optimizer::Optimizer& optimizer() const { return *optimizer_; }

 private:
  Trainer(const TrainingConfig& config, const TrainerParts& parts);
  absl::Status AllocateState();
  absl::Status ReadTrainBatch(int64_t micro_batch);
  absl::Status ReadValidationBatch(int64_t first_sequence, int64_t sequences);
  // Loss and gradients of the coming step's batch; what they come to.
  struct Measured {
    double loss = 0;
    double gradient_norm = 0;
    bool operator==(const Measured& other) const;  // bit by bit
  };
  absl::Status EnqueueGradients(model::LinearProbe* probe);
  absl::StatusOr<Measured> ComputeGradients(bool measured, std::map<std::string, double>* health);
  // trainer_safety.cc: a guard tripped. Decides, and leaves the gradients as they were.
  absl::Status Examine(const Verdict& verdict, const Measured& first, StepResult* result);
  void SkipBatch();
  // Those whose quantisation is worst by `health`, from the coming step on; their names.
  std::string RaiseWorstLayers(const std::map<std::string, double>& health);
  void ApplyRaised();
  absl::StatusOr<bool> WeightsAreFinite() const;
  checkpoint::TrainingState StateToSave() const;
  // Mean loss of the coming step's batch in high precision.
  absl::StatusOr<double> ShadowLoss();
  model::MicroBatch BatchOf(int64_t micro_batch) const;
  template <typename Run>
  absl::Status ForEachMicroBatch(const Run& run);
  bool WeighsSamples() const;
  absl::Status WeighSamples();
  double Objective(double loss) const;
  // Tokens of the step that have a target (the others' is -1), at least 1.
  int64_t StepTargets() const;
  absl::StatusOr<double> MeanOfLosses(int64_t losses, int64_t tokens);
  std::vector<optimizer::StateTensor> WeightTensors() const;
  std::vector<optimizer::StateTensor> AllTensors() const;
  absl::Status CheckState(const checkpoint::TrainingState& saved, const std::string& what) const;
  void Enter(snapshot::Phase phase) const {
    if (parts_.memory != nullptr) parts_.memory->Enter(phase, state_.step);
  }
  absl::StatusOr<checkpoint::OpenCheckpoint> OpenToRestore(
      const std::string& directory, const std::string& manifest_digest) const;
  absl::Status Load(const checkpoint::TensorFile& file,
                    const std::vector<optimizer::StateTensor>& tensors) const;

  const TrainingConfig config_;
  const TrainerParts parts_;
  kernels::Backend& backend_;
  const model::ParameterTable table_;
  std::unique_ptr<model::Weights> weights_;
  std::unique_ptr<model::Model> model_;
  std::unique_ptr<optimizer::Optimizer> optimizer_;
  std::unique_ptr<QuantisationHealth> health_;  // null: never measured
  checkpoint::TrainingState state_;             // but for what the guard remembers
  Guard guard_;
  int times_computed_ = 0;  // the gradients at hand
  std::function<void()> before_backward_;

  // One micro-batch of tokens; of a whole step the losses, and where the objective asks for them
  // the weights of its tokens and their log sum exp.
  std::unique_ptr<kernels::DeviceBuffer> inputs_, targets_, losses_, row_scales_, log_sum_exp_;
  std::vector<int32_t> host_inputs_, host_targets_;
  std::vector<float> host_losses_, host_row_scales_, host_log_sum_exp_;
  std::vector<int64_t> host_target_counts_;  // of each micro-batch of the step
  std::vector<int64_t> sample_targets_;      // of each sequence, where they are weighed
  std::vector<double> sample_losses_, sample_weights_;
  // Of the step at hand: row_scales_ holds its weights; otherwise all are 1.
  bool weighted_ = false;
  float host_grad_norm_ = 0;

  int64_t saving_step_ = 0;
  std::unique_ptr<SnapshotTaker> snapshots_;
  // Last, so that it goes first: it reads none of the above once it has copied, but ends a thread.
  std::unique_ptr<BackgroundSave> save_;
};

}  // namespace nibble::trainer

#endif  // WORKER_TRAINER_TRAINER_H_
