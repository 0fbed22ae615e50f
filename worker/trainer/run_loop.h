// The loop of RunTraining over given parts: what tests drive with data from memory.
#ifndef WORKER_TRAINER_RUN_LOOP_H_
#define WORKER_TRAINER_RUN_LOOP_H_

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "worker/trainer/trainer.h"
#include "worker/trainer/training_config.h"
#include "worker/trainer/training_run.h"

namespace nibble::trainer {

// As RunTraining, with backend and data given instead of named in the configuration.
absl::StatusOr<RunResult> RunLoop(const TrainingConfig& config, const TrainerParts& parts,
                                  TrainingObserver& observer, const Clock& clock);

}  // namespace nibble::trainer

#endif  // WORKER_TRAINER_RUN_LOOP_H_
