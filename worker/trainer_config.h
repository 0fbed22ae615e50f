// From a resolved job spec (protobuf) to the plain TrainingConfig of the trainer library.
#ifndef WORKER_TRAINER_CONFIG_H_
#define WORKER_TRAINER_CONFIG_H_

#include <string>

#include "absl/status/statusor.h"
#include "nibble/v1/job.pb.h"
#include "nibble/v1/precision.pb.h"
#include "worker/trainer/training_config.h"

namespace nibble::worker {

struct TrainerPlaces {
  std::string data_directory;    // what a relative data.path is under; absolute
  std::string output_directory;  // of checkpoints; absolute
};

// `spec` and `precision` as spec::ResolveJob returns them. INVALID_ARGUMENT: they do not belong
// together, or a format is none that this build knows.
absl::StatusOr<trainer::TrainingConfig> MakeTrainingConfig(const v1::JobSpec& spec,
                                                           const v1::ResolvedPrecision& precision,
                                                           const TrainerPlaces& places);

// Of NIBBLE_TEST_FAULTS (worker/trainer/fault_plan.h); nothing where it is not set.
absl::StatusOr<trainer::FaultPlan> PlantedFaults();

}  // namespace nibble::worker

#endif  // WORKER_TRAINER_CONFIG_H_
