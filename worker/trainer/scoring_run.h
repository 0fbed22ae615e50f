// A run that trains nothing: it scores the checkpoint config.init_from on config.evaluation.
#ifndef WORKER_TRAINER_SCORING_RUN_H_
#define WORKER_TRAINER_SCORING_RUN_H_

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "worker/snapshot/trainer_memory.h"
#include "worker/trainer/training_config.h"
#include "worker/trainer/training_run.h"

namespace nibble::trainer {

// `memory`: where it says that it goes on; may be null. Reports one step, 0, which has the scores and nothing else. The result's digest is over the
// weights alone. FAILED_PRECONDITION: the checkpoint is of another model; otherwise as
// checkpoint::OpenWeights and TaskEvaluator::Create say.
absl::StatusOr<RunResult> RunScoring(const TrainingConfig& config, kernels::Backend& backend,
                                     TrainingObserver& observer,
                                     snapshot::TrainerMemory* memory);

}  // namespace nibble::trainer

#endif  // WORKER_TRAINER_SCORING_RUN_H_
