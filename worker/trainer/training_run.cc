#include "worker/trainer/training_run.h"

#include <memory>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status_macros.h"
#include "kernels/backend.h"
#include "worker/collective/communicator.h"
#include "worker/data/data_source.h"
#include "worker/trainer/run_loop.h"
#include "worker/trainer/scoring_run.h"

namespace nibble::trainer {

absl::StatusOr<RunResult> RunTraining(const TrainingConfig& config, TrainingObserver& observer,
                                      snapshot::TrainerMemory* memory) {
  kernels::BackendOptions options;
  options.threads = config.threads;
  NIBBLE_ASSIGN_OR_RETURN(const std::unique_ptr<kernels::Backend> backend,
                          kernels::CreateBackend(config.backend, options));
  if (config.steps == 0) return RunScoring(config, *backend, observer, memory);
  const auto unsupported = [&](const kernels::OperandFormat& format) {
    return backend->Supports(format) == kernels::Support::kUnsupported;
  };
  if (PrecisionOf(config).Any([&](const kernels::LinearFormat& format) {
        return unsupported(format.fprop.first) || unsupported(format.fprop.second) ||
               unsupported(format.dgrad.first) || unsupported(format.dgrad.second) ||
               unsupported(format.wgrad.first) || unsupported(format.wgrad.second);
      })) {
    return absl::InvalidArgumentError(absl::StrCat(
        "backend ", config.backend, " has no products of some formats of the precision policy"));
  }
  const data::DataOptions data_options = {.sequence_length = config.sequence_length,
                                          .vocab_size = config.model.vocab_size,
                                          .samples = config.steps * config.batch_size};
  NIBBLE_ASSIGN_OR_RETURN(const std::unique_ptr<data::DataSource> train,
                          data::DataSource::Open(config.data, data::Split::kTrain, data_options));
  absl::StatusOr<std::unique_ptr<data::DataSource>> validation =
      data::DataSource::Open(config.data, data::Split::kValidation, data_options);
  // A dataset need not have a validation split.
  if (!validation.ok() && !absl::IsNotFound(validation.status())) return validation.status();

  const std::unique_ptr<collective::Communicator> communicator =
      collective::SingleProcessCommunicator(*backend);
  TrainerParts parts;
  parts.backend = backend.get();
  parts.communicator = communicator.get();
  parts.train = train.get();
  parts.validation = validation.ok() ? validation->get() : nullptr;
  parts.memory = memory;
  return RunLoop(config, parts, observer, RealClock());
}

}  // namespace nibble::trainer
