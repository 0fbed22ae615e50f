// A whole training run: load or initialise, train, validate, checkpoint, finish. Knows no protobuf
// and no gRPC; who listens is a TrainingObserver.
#ifndef WORKER_TRAINER_TRAINING_RUN_H_
#define WORKER_TRAINER_TRAINING_RUN_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/snapshot/trainer_memory.h"
#include "worker/trainer/training_config.h"

namespace nibble::trainer {

struct StepReport {
  bool trained = true;  // false: of a run that only scores; step is 0, and only `evaluation` counts
  int64_t step = 0;     // 1-based: updates done
  int64_t tokens = 0;   // trained so far
  double loss = 0;      // nats per token, mean over the step
  // What the gradient is of, where that is not the loss: with sample weights and z-loss.
  bool has_objective = false;
  double objective = 0;
  double learning_rate = 0;
  double grad_norm = 0;  // before clipping
  double step_seconds = 0;
  bool has_validation = false;  // a validation was made after this step
  double validation_loss = 0;
  double validation_bits_per_byte = 0;   // 0 where the data does not record its text's length
  std::map<std::string, double> health;  // StepResult::health
  // TaskEvaluator::Evaluate, where the weights were scored after this step.
  std::map<std::string, double> evaluation;
  // efficiency.h: what is known of this step, by name.
  std::map<std::string, double> efficiency;
  std::vector<data::SourceProgress> data;
  int64_t skipped_batches = 0;  // so far, by guards
};

// Payload of a status: the same computation gave two results.
inline constexpr char kHardwareFault[] = "nibble.hardware_fault";

enum class NoteKind {
  kCheckpointDamaged,  // and an older one is used
  kGuardTripped,
  kSnapshotRefused,  // there is no memory for it, or it does not verify; training goes on
};

struct RunNote {
  NoteKind kind = NoteKind::kSnapshotRefused;
  std::string message;
  std::string cause = {};  // of kGuardTripped: "guard:loss_spike"
  std::string path = {};   // of kCheckpointDamaged
};

struct CheckpointReport {
  int64_t step = 0;
  std::string path;             // absolute directory, already renamed into place
  std::string manifest_digest;  // SHA-256 of manifest.json, hex
  int64_t size_bytes = 0;
};

struct RunResult {
  bool paused = false;      // ended early, after a committed checkpoint, on request or by a guard:
  std::string pause_cause;  // then not empty, "guard:loss_spike"
  std::string pause_message;  // and why
  int64_t steps = 0;
  int64_t tokens = 0;
  double train_loss = 0;  // mean over the last 5 % of the steps, at least one
  bool has_validation = false;
  double validation_loss = 0;
  double validation_bits_per_byte = 0;
  std::map<std::string, double> evaluation;  // TaskEvaluator::Evaluate of the final weights
  double tokens_per_second = 0;              // over the steps of this process, validation left out
  // efficiency.h, over the same steps, by name.
  std::map<std::string, double> efficiency;
  // How long training stood still for checkpoints.
  double checkpoint_stall_seconds = 0;
  std::string digest;  // SHA-256 over weights and optimiser state, hex
  std::vector<data::SourceProgress> data;
};

// Hears of a run and steers it. All calls come from the thread of RunTraining. An error status ends
// the run with that status.
class TrainingObserver {
 public:
  virtual ~TrainingObserver() = default;
  // State is loaded; training goes on after `step`.
  virtual absl::Status OnStarted(int64_t step) = 0;
  // Something that the user should hear of.
  virtual absl::Status OnNote(const RunNote& /*note*/) { return absl::OkStatus(); }
  virtual absl::Status OnStep(const StepReport& report) = 0;
  // A checkpoint is in place but not yet committed. They are written behind training: steps after
  // report.step may have been reported already, but never a later checkpoint. `must_commit`: the
  // run is about to end (last step or pause), so return only when it is committed.
  virtual absl::Status OnCheckpoint(const CheckpointReport& report, bool must_commit) = 0;
  // Asked once after every step.
  virtual bool PauseRequested() = 0;
};

// Where config.steps is 0, scoring_run.h; otherwise:
// Runs from config.resume_from (or step 0) to config.steps. Deterministic: the same config gives
// the same digest, whatever config.threads is and wherever it was stopped and resumed.
// Errors: INVALID_ARGUMENT (config and data do not fit), NOT_FOUND / DATA_LOSS (data or
// checkpoint), RESOURCE_EXHAUSTED (memory, disk), OUT_OF_RANGE (loss or gradient not finite),
// INTERNAL.
//
// `memory` (null: none) is kept informed of what the run does, and gets its snapshots. One that it
// holds already is what the run goes on from, unless resume_from is of a later step.
absl::StatusOr<RunResult> RunTraining(const TrainingConfig& config, TrainingObserver& observer,
                                      snapshot::TrainerMemory* memory = nullptr);

}  // namespace nibble::trainer

#endif  // WORKER_TRAINER_TRAINING_RUN_H_
