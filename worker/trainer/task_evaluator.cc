#include "worker/trainer/task_evaluator.h"

#include <cmath>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "worker/evaluation/evaluate.h"
#include "worker/trainer/tokenizer_path.h"

namespace nibble::trainer {
namespace {

absl::Status At(absl::string_view field, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(field, ": ", status.message()));
}

absl::StatusOr<std::unique_ptr<data::Tokenizer>> LoadTokenizer(const TrainingConfig& config) {
  constexpr char kField[] = "evaluation.tokenizer";
  const std::string path = TokenizerOfEvaluation(config);
  if (path.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        kField,
        " is missing; required where neither the training data nor the checkpoint that "
        "training.init_from names has one"));
  }
  absl::StatusOr<std::unique_ptr<data::Tokenizer>> tokenizer = data::LoadTokenizer(path);
  if (!tokenizer.ok()) return At(kField, tokenizer.status());
  if ((*tokenizer)->vocab_size() > config.model.vocab_size) {
    return absl::InvalidArgumentError(
        absl::StrCat(kField, ": ", path, " has ", (*tokenizer)->vocab_size(),
                     " ids; model.vocab_size is ", config.model.vocab_size));
  }
  return tokenizer;
}

absl::StatusOr<evaluation::LoadedTask> Load(const EvaluationTaskConfig& config,
                                            data::Tokenizer& tokenizer) {
  const evaluation::Task* task = evaluation::FindTask(config.task);
  if (task == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("no task \"", config.task, "\" is known to this build"));
  }
  NIBBLE_ASSIGN_OR_RETURN(evaluation::LoadedTask loaded,
                          evaluation::LoadTask(*task, config.path, config.limit));
  NIBBLE_RETURN_IF_ERROR(evaluation::CheckTask(loaded, tokenizer));
  return loaded;
}

}  // namespace

absl::StatusOr<std::unique_ptr<TaskEvaluator>> TaskEvaluator::Create(const TrainingConfig& config,
                                                                     const model::Weights& weights,
                                                                     kernels::Backend& backend) {
  std::unique_ptr<TaskEvaluator> evaluator(new TaskEvaluator(config.evaluation));
  NIBBLE_ASSIGN_OR_RETURN(evaluator->tokenizer_, LoadTokenizer(config));
  for (const EvaluationTaskConfig& task : config.evaluation.tasks) {
    absl::StatusOr<evaluation::LoadedTask> loaded = Load(task, *evaluator->tokenizer_);
    if (!loaded.ok()) {
      return At(absl::StrCat("evaluation.tasks[", evaluator->tasks_.size(), "]"), loaded.status());
    }
    evaluator->tasks_.push_back(*std::move(loaded));
  }
  inference::DecoderOptions options;
  options.precision = inference::Precision::kF32;
  options.capacity = config.evaluation.context;
  options.logit_softcap = config.loss.logit_softcap;
  absl::StatusOr<std::unique_ptr<inference::Decoder>> decoder =
      inference::Decoder::Create(config.model, weights, options, backend);
  if (!decoder.ok()) return At("evaluation.tasks", decoder.status());
  evaluator->decoder_ = *std::move(decoder);
  return evaluator;
}

absl::StatusOr<std::map<std::string, double>> TaskEvaluator::Evaluate(
    const std::function<void()>& progress) {
  decoder_->RefreshWeights();
  evaluation::LikelihoodScorer scorer(*decoder_, *tokenizer_);
  evaluation::EvaluationOptions options;
  options.flops_per_token = config_.forward_flops_per_token;
  if (progress) options.progress = [&progress](int64_t, int64_t) { progress(); };
  std::map<std::string, double> metrics;
  for (size_t i = 0; i < tasks_.size(); ++i) {
    NIBBLE_ASSIGN_OR_RETURN(const evaluation::TaskResult result,
                            evaluation::EvaluateTask(tasks_[i], options, scorer));
    for (const evaluation::Metric& metric : result.metrics) {
      if (absl::StrContains(metric.name, "/") || !std::isfinite(metric.value)) continue;
      metrics[absl::StrCat("eval/", config_.tasks[i].name, "/", metric.name)] = metric.value;
    }
  }
  return metrics;
}

}  // namespace nibble::trainer
