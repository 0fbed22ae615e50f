// Scores the weights of a run on evaluation tasks while it trains.
#ifndef WORKER_TRAINER_TASK_EVALUATOR_H_
#define WORKER_TRAINER_TASK_EVALUATOR_H_

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "worker/data/tokenizer.h"
#include "worker/evaluation/task.h"
#include "worker/inference/decoder.h"
#include "worker/model/weights.h"
#include "worker/trainer/training_config.h"

namespace nibble::trainer {

// Reads the weights where they lie and writes nothing that training reads. Computes in FP32, as
// `nibble evaluate` does unless told otherwise: both give the same numbers for the same weights.
// Not thread-safe.
class TaskEvaluator {
 public:
  // Reads every task's items, which stay in memory, so that a run that cannot be scored ends before
  // it trains. Errors begin with the field's path. INVALID_ARGUMENT: no such task; a tokenizer that
  // is none, is missing, or has more ids than the model; items that cannot be scored. NOT_FOUND,
  // DATA_LOSS: files. RESOURCE_EXHAUSTED: memory. All outlive it.
  static absl::StatusOr<std::unique_ptr<TaskEvaluator>> Create(const TrainingConfig& config,
                                                               const model::Weights& weights,
                                                               kernels::Backend& backend);

  // Of the weights as they are now: "eval/<name>/<metric>" to its value, without the metrics of
  // groups within a task, and without those that are not finite. `progress`, which may be empty, is
  // called after every item.
  absl::StatusOr<std::map<std::string, double>> Evaluate(const std::function<void()>& progress);

 private:
  explicit TaskEvaluator(const EvaluationConfig& config) : config_(config) {}

  const EvaluationConfig& config_;
  std::vector<evaluation::LoadedTask> tasks_;  // as config_.tasks
  std::unique_ptr<data::Tokenizer> tokenizer_;
  std::unique_ptr<inference::Decoder> decoder_;
};

}  // namespace nibble::trainer

#endif  // WORKER_TRAINER_TASK_EVALUATOR_H_
