#include "worker/trainer/run_loop.h"

#include <memory>
#include <utility>

#include "base/status_macros.h"
#include "worker/checkpoint/checkpoint_store.h"
#include "worker/trainer/efficiency.h"

namespace nibble::trainer {
namespace {

class Loop {
 public:
  Loop(const TrainingConfig& config, const TrainerParts& parts, TrainingObserver& observer,
       const Clock& clock, Trainer& trainer)
      : config_(config),
        parts_(parts),
        observer_(observer),
        clock_(clock),
        trainer_(trainer),
        efficiency_(config, *parts.backend, trainer.planned_memory()) {}

  absl::StatusOr<RunResult> Run() {
    NIBBLE_RETURN_IF_ERROR(observer_.OnStarted(trainer_.step()));
    while (trainer_.step() < config_.steps && !result_.paused) {
      const absl::Status trained = TrainOneStep();
      if (trained.ok()) continue;
      // What was saved before the failure is worth keeping; the failure is what to tell.
      ReportCheckpoint(/*wait=*/true, /*must_commit=*/false).IgnoreError();
      return trained;
    }
    if (!result_.paused) NIBBLE_RETURN_IF_ERROR(Finish());
    result_.steps = trainer_.step();
    result_.tokens = trainer_.tokens();
    result_.data = trainer_.DataProgress();
    result_.train_loss = trainer_.final_train_loss();
    result_.efficiency = efficiency_.OfRun();
    if (seconds_ > 0) result_.tokens_per_second = static_cast<double>(tokens_) / seconds_;
    return result_;
  }

 private:
  bool Every(int64_t interval) const { return interval > 0 && trainer_.step() % interval == 0; }

  absl::Status TrainOneStep() {
    const int64_t tokens_before = trainer_.tokens();
    const int64_t start_nanos = clock_.MonotonicNanos();
    NIBBLE_ASSIGN_OR_RETURN(const StepResult step, trainer_.Step());
    StepReport report;
    report.step_seconds = static_cast<double>(clock_.MonotonicNanos() - start_nanos) * 1e-9;
    seconds_ += report.step_seconds;
    tokens_ += trainer_.tokens() - tokens_before;
    NIBBLE_RETURN_IF_ERROR(
        efficiency_.AddStep(report.step_seconds, trainer_.tokens() - tokens_before));
    report.efficiency = efficiency_.OfStep();
    report.step = trainer_.step();
    report.tokens = trainer_.tokens();
    report.data = trainer_.DataProgress();
    report.loss = step.loss;
    report.has_objective =
        config_.loss.z_loss != 0 || config_.sample_weights.strategy != WeightStrategy::kUniform;
    report.objective = step.objective;
    report.learning_rate = step.learning_rate;
    report.grad_norm = step.grad_norm;
    report.health = step.health;
    const bool last = trainer_.step() == config_.steps;
    if (parts_.validation != nullptr && (last || Every(config_.validation_interval))) {
      NIBBLE_RETURN_IF_ERROR(Validate());
      report.has_validation = true;
      report.validation_loss = result_.validation_loss;
      report.validation_bits_per_byte = result_.validation_bits_per_byte;
    }
    NIBBLE_RETURN_IF_ERROR(observer_.OnStep(report));
    const bool pause = observer_.PauseRequested() && !last;
    const bool end = last || pause;
    const int64_t save_nanos = clock_.MonotonicNanos();
    NIBBLE_RETURN_IF_ERROR(ReportCheckpoint(/*wait=*/end, /*must_commit=*/false));
    if (end || Every(config_.checkpoint_interval)) {
      // One at a time: where the disk is slower than the interval, training waits for it.
      NIBBLE_RETURN_IF_ERROR(ReportCheckpoint(/*wait=*/true, /*must_commit=*/false));
      NIBBLE_RETURN_IF_ERROR(trainer_.StartSave());
    }
    NIBBLE_RETURN_IF_ERROR(ReportCheckpoint(/*wait=*/end, /*must_commit=*/end));
    result_.checkpoint_stall_seconds +=
        static_cast<double>(clock_.MonotonicNanos() - save_nanos) * 1e-9;
    result_.paused = pause;
    return absl::OkStatus();
  }

  absl::Status Validate() {
    NIBBLE_ASSIGN_OR_RETURN(const Evaluation evaluation, trainer_.Evaluate());
    validated_step_ = trainer_.step();
    result_.has_validation = true;
    result_.validation_loss = evaluation.loss;
    result_.validation_bits_per_byte = evaluation.bits_per_byte;
    return absl::OkStatus();
  }

  // Reports the checkpoint that is under way, if it is written or with `wait`.
  absl::Status ReportCheckpoint(bool wait, bool must_commit) {
    if (!trainer_.SaveUnderWay() || !(wait || trainer_.SaveWritten())) return absl::OkStatus();
    NIBBLE_ASSIGN_OR_RETURN(checkpoint::SavedCheckpoint saved, trainer_.FinishSave());
    CheckpointReport report;
    report.step = trainer_.saving_step();
    report.path = std::move(saved.path);
    report.manifest_digest = std::move(saved.manifest_digest);
    report.size_bytes = saved.size_bytes;
    return observer_.OnCheckpoint(report, must_commit);
  }

  absl::Status Finish() {
    // A run that was killed after its last checkpoint comes back with no step to train.
    if (parts_.validation != nullptr && validated_step_ != trainer_.step()) {
      NIBBLE_RETURN_IF_ERROR(Validate());
    }
    NIBBLE_ASSIGN_OR_RETURN(result_.digest, trainer_.Digest());
    return absl::OkStatus();
  }

  const TrainingConfig& config_;
  const TrainerParts& parts_;
  TrainingObserver& observer_;
  const Clock& clock_;
  Trainer& trainer_;
  EfficiencyMeter efficiency_;
  RunResult result_;
  int64_t validated_step_ = -1;
  int64_t tokens_ = 0;  // of this process
  double seconds_ = 0;  // of its steps
};

}  // namespace

absl::StatusOr<RunResult> RunLoop(const TrainingConfig& config, const TrainerParts& parts,
                                  TrainingObserver& observer, const Clock& clock) {
  NIBBLE_ASSIGN_OR_RETURN(const std::unique_ptr<Trainer> trainer, Trainer::Create(config, parts));
  if (!config.resume_from.empty()) {
    NIBBLE_RETURN_IF_ERROR(trainer->Restore(config.resume_from, config.resume_digest));
  } else if (!config.init_from.empty()) {
    NIBBLE_RETURN_IF_ERROR(trainer->InitialiseFrom(config.init_from));
  } else {
    NIBBLE_RETURN_IF_ERROR(trainer->Initialise());
  }
  NIBBLE_RETURN_IF_ERROR(checkpoint::RemoveTemporaries(config.output_directory));
  NIBBLE_RETURN_IF_ERROR(trainer->PrepareSaves());
  return Loop(config, parts, observer, clock, *trainer).Run();
}

}  // namespace nibble::trainer
