#include "worker/trainer/scoring_run.h"

#include <memory>

#include "absl/strings/str_cat.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "worker/checkpoint/checkpoint_store.h"
#include "worker/inference/load_weights.h"
#include "worker/trainer/task_evaluator.h"

namespace nibble::trainer {
namespace {

absl::StatusOr<std::string> WeightsDigest(const checkpoint::TensorFile& file,
                                          const model::ParameterTable& table) {
  Sha256 sha256;
  for (const model::Parameter& parameter : table.parameters()) {
    NIBBLE_ASSIGN_OR_RETURN(const absl::string_view values,
                            file.Values(parameter.name, parameter.shape));
    sha256.Update(values.data(), values.size());
  }
  return sha256.HexDigest();
}

}  // namespace

absl::StatusOr<RunResult> RunScoring(const TrainingConfig& config, kernels::Backend& backend,
                                     TrainingObserver& observer,
                                     snapshot::TrainerMemory* memory) {
  NIBBLE_ASSIGN_OR_RETURN(const checkpoint::OpenCheckpoint opened,
                          checkpoint::OpenWeights(config.init_from));
  const model::ParameterTable table(config.model);
  absl::StatusOr<std::unique_ptr<model::Weights>> weights =
      inference::LoadWeights(opened.model, table, /*bf16_copy=*/false, backend);
  if (absl::IsDataLoss(weights.status())) {
    return absl::FailedPreconditionError(
        absl::StrCat("training.init_from: ", config.init_from,
                     " is of another model: ", weights.status().message()));
  }
  if (!weights.ok()) return weights.status();
  NIBBLE_ASSIGN_OR_RETURN(const std::unique_ptr<TaskEvaluator> evaluator,
                          TaskEvaluator::Create(config, **weights, backend));
  NIBBLE_RETURN_IF_ERROR(observer.OnStarted(/*step=*/0));
  const auto progress = [memory] {
    if (memory != nullptr) memory->Enter(snapshot::Phase::kValidation, /*step=*/0);
  };
  StepReport report;
  report.trained = false;
  NIBBLE_ASSIGN_OR_RETURN(report.evaluation, evaluator->Evaluate(progress));
  NIBBLE_RETURN_IF_ERROR(observer.OnStep(report));
  RunResult result;
  result.evaluation = report.evaluation;
  NIBBLE_ASSIGN_OR_RETURN(result.digest, WeightsDigest(opened.model, table));
  return result;
}

}  // namespace nibble::trainer
