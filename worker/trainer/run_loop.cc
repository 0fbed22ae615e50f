#include "worker/trainer/run_loop.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "worker/checkpoint/checkpoint_store.h"
#include "worker/trainer/efficiency.h"
#include "worker/trainer/task_evaluator.h"

namespace nibble::trainer {
namespace {

class Loop {
 public:
  Loop(const TrainingConfig& config, const TrainerParts& parts, TrainingObserver& observer,
       const Clock& clock, Trainer& trainer, TaskEvaluator* evaluator)
      : config_(config),
        parts_(parts),
        observer_(observer),
        clock_(clock),
        trainer_(trainer),
        evaluator_(evaluator),
        efficiency_(config, *parts.backend, trainer.planned_memory()) {}

  absl::StatusOr<RunResult> Run() {
    NIBBLE_RETURN_IF_ERROR(observer_.OnStarted(trainer_.step()));
    NIBBLE_RETURN_IF_ERROR(PrepareSnapshots());
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
    if (step.tripped) {
      NIBBLE_RETURN_IF_ERROR(
          observer_.OnNote({NoteKind::kGuardTripped, step.guard_message, step.guard_cause}));
    }
    if (!step.applied) return BatchSkipped(step);
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
    report.skipped_batches = trainer_.skipped_batches();
    const bool last = trainer_.step() == config_.steps;
    if (parts_.validation != nullptr && (last || Every(config_.validation_interval))) {
      NIBBLE_RETURN_IF_ERROR(Validate());
      report.has_validation = true;
      report.validation_loss = result_.validation_loss;
      report.validation_bits_per_byte = result_.validation_bits_per_byte;
    }
    if (evaluator_ != nullptr && (last || Every(config_.evaluation.interval))) {
      NIBBLE_RETURN_IF_ERROR(Score());
      report.evaluation = result_.evaluation;
    }
    // Whoever takes the report may make it wait.
    Enter(snapshot::Phase::kWaiting);
    NIBBLE_RETURN_IF_ERROR(observer_.OnStep(report));
    // Only now: a trainer that goes on from here does not say what was said before.
    if (!last) NIBBLE_RETURN_IF_ERROR(TakeSnapshotIfDue());
    const bool pause = observer_.PauseRequested() && !last;
    const bool end = last || pause;
    const int64_t save_nanos = clock_.MonotonicNanos();
    NIBBLE_RETURN_IF_ERROR(ReportCheckpoint(/*wait=*/end, /*must_commit=*/false));
    if (end || Every(config_.checkpoint_interval)) {
      // One at a time: where the disk is slower than the interval, training waits for it.
      NIBBLE_RETURN_IF_ERROR(ReportCheckpoint(/*wait=*/true, /*must_commit=*/false));
      NIBBLE_RETURN_IF_ERROR(trainer_.StartSave());
    }
    // Others are reported when the step that follows them has been judged: where a guard pauses the
    // run there, the checkpoint is written once more and says so.
    if (end) NIBBLE_RETURN_IF_ERROR(ReportCheckpoint(/*wait=*/true, /*must_commit=*/true));
    result_.checkpoint_stall_seconds +=
        static_cast<double>(clock_.MonotonicNanos() - save_nanos) * 1e-9;
    result_.paused = pause;
    return absl::OkStatus();
  }

  // A guard undid the step: the state is that from before it, but for the place in the data.
  absl::Status BatchSkipped(const StepResult& step) {
    if (!step.pause) return TakeSnapshot();
    result_.paused = true;
    result_.pause_cause = step.guard_cause;
    result_.pause_message = step.guard_message;
    if (trainer_.SaveUnderWay() && trainer_.saving_step() == trainer_.step()) {
      NIBBLE_RETURN_IF_ERROR(trainer_.FinishSave().status());
    }
    NIBBLE_RETURN_IF_ERROR(ReportCheckpoint(/*wait=*/true, /*must_commit=*/!step.state_is_good));
    if (!step.state_is_good) return absl::OkStatus();
    NIBBLE_RETURN_IF_ERROR(trainer_.StartSave());
    return ReportCheckpoint(/*wait=*/true, /*must_commit=*/true);
  }

  // Runs without snapshots where there is no memory for them.
  absl::Status PrepareSnapshots() {
    if (parts_.memory == nullptr || config_.snapshot_steps == 0) return absl::OkStatus();
    const absl::Status prepared = trainer_.PrepareSnapshots();
    if (!prepared.ok()) {
      return observer_.OnNote({NoteKind::kSnapshotRefused,
                               absl::StrCat("a crash will cost what the last checkpoint does not "
                                            "have: ",
                                            prepared.message())});
    }
    return TakeSnapshot();
  }

  absl::Status TakeSnapshotIfDue() {
    const int64_t nanos = clock_.MonotonicNanos() - snapshot_nanos_;
    if (trainer_.step() - snapshot_step_ < config_.snapshot_steps &&
        static_cast<double>(nanos) * 1e-9 < config_.snapshot_seconds) {
      return absl::OkStatus();
    }
    return TakeSnapshot();
  }

  absl::Status TakeSnapshot() {
    snapshot_step_ = trainer_.step();
    snapshot_nanos_ = clock_.MonotonicNanos();
    return trainer_.StartSnapshot();
  }

  void Enter(snapshot::Phase phase) {
    if (parts_.memory != nullptr) parts_.memory->Enter(phase, trainer_.step());
  }

  absl::Status Validate() {
    NIBBLE_ASSIGN_OR_RETURN(const Evaluation evaluation, trainer_.Evaluate());
    validated_step_ = trainer_.step();
    result_.has_validation = true;
    result_.validation_loss = evaluation.loss;
    result_.validation_bits_per_byte = evaluation.bits_per_byte;
    return absl::OkStatus();
  }

  absl::Status Score() {
    // Every item is progress: scoring may take as long as it takes.
    const auto progress = [this] { Enter(snapshot::Phase::kValidation); };
    NIBBLE_ASSIGN_OR_RETURN(result_.evaluation, evaluator_->Evaluate(progress));
    scored_step_ = trainer_.step();
    return absl::OkStatus();
  }

  // Reports the checkpoint that is under way, if it is written or with `wait`.
  absl::Status ReportCheckpoint(bool wait, bool must_commit) {
    if (!trainer_.SaveUnderWay() || !(wait || trainer_.SaveWritten())) return absl::OkStatus();
    Enter(snapshot::Phase::kCheckpoint);
    NIBBLE_ASSIGN_OR_RETURN(checkpoint::SavedCheckpoint saved, trainer_.FinishSave());
    if (must_commit) Enter(snapshot::Phase::kWaiting);
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
    if (evaluator_ != nullptr && scored_step_ != trainer_.step()) NIBBLE_RETURN_IF_ERROR(Score());
    NIBBLE_ASSIGN_OR_RETURN(result_.digest, trainer_.Digest());
    return absl::OkStatus();
  }

  const TrainingConfig& config_;
  const TrainerParts& parts_;
  TrainingObserver& observer_;
  const Clock& clock_;
  Trainer& trainer_;
  TaskEvaluator* const evaluator_;  // null: nothing to score on
  EfficiencyMeter efficiency_;
  RunResult result_;
  int64_t validated_step_ = -1;
  int64_t snapshot_step_ = 0;
  int64_t snapshot_nanos_ = 0;
  int64_t scored_step_ = -1;
  int64_t tokens_ = 0;  // of this process
  double seconds_ = 0;  // of its steps
};

bool IsDamaged(const absl::Status& status) {
  return absl::IsDataLoss(status) || absl::IsNotFound(status);
}

// From the newest checkpoint that verifies. Where none does (a file system that is not there, above
// all) the error is that of the newest, and no other is held to be damaged.
absl::Status RestoreNewest(const TrainingConfig& config, TrainingObserver& observer,
                           Trainer& trainer) {
  const absl::Status first = trainer.Restore(config.resume_from, config.resume_digest);
  if (first.ok() || !IsDamaged(first)) return first;
  std::vector<RunNote> damaged = {{NoteKind::kCheckpointDamaged, std::string(first.message()),
                                   /*cause=*/"", config.resume_from}};
  for (const ResumePoint& older : config.fallbacks) {
    const absl::Status restored = trainer.Restore(older.path, older.digest);
    if (!restored.ok() && !IsDamaged(restored)) return restored;
    if (!restored.ok()) {
      damaged.push_back({NoteKind::kCheckpointDamaged, std::string(restored.message()),
                         /*cause=*/"", older.path});
      continue;
    }
    for (RunNote& note : damaged) {
      absl::StrAppend(&note.message, "; training goes on from ", older.path);
      NIBBLE_RETURN_IF_ERROR(observer.OnNote(note));
    }
    return restored;
  }
  return first;
}

// From the snapshot, or else the checkpoint, or else the seed.
absl::Status LoadState(const TrainingConfig& config, const TrainerParts& parts,
                       TrainingObserver& observer, Trainer& trainer) {
  const int64_t held = parts.memory == nullptr ? -1 : parts.memory->snapshot_step();
  if (held >= config.resume_step && held >= 0) {
    const absl::Status restored = trainer.RestoreSnapshot();
    if (restored.ok()) return restored;
    NIBBLE_RETURN_IF_ERROR(observer.OnNote(
        {NoteKind::kSnapshotRefused,
         absl::StrCat("the snapshot of step ", held, " is not used, training goes on from ",
                      config.resume_from.empty() ? "the start" : config.resume_from, ": ",
                      restored.message())}));
  }
  if (!config.resume_from.empty()) return RestoreNewest(config, observer, trainer);
  if (!config.init_from.empty()) return trainer.InitialiseFrom(config.init_from);
  return trainer.Initialise();
}

}  // namespace

absl::StatusOr<RunResult> RunLoop(const TrainingConfig& config, const TrainerParts& parts,
                                  TrainingObserver& observer, const Clock& clock) {
  NIBBLE_ASSIGN_OR_RETURN(const std::unique_ptr<Trainer> trainer, Trainer::Create(config, parts));
  std::unique_ptr<TaskEvaluator> evaluator;
  if (!config.evaluation.tasks.empty()) {
    NIBBLE_ASSIGN_OR_RETURN(evaluator,
                            TaskEvaluator::Create(config, trainer->weights(), *parts.backend));
  }
  NIBBLE_RETURN_IF_ERROR(LoadState(config, parts, observer, *trainer));
  NIBBLE_RETURN_IF_ERROR(checkpoint::RemoveTemporaries(config.output_directory));
  NIBBLE_RETURN_IF_ERROR(trainer->PrepareSaves());
  return Loop(config, parts, observer, clock, *trainer, evaluator.get()).Run();
}

}  // namespace nibble::trainer
