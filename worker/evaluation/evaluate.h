// Scores a model on a task, item by item.
#ifndef WORKER_EVALUATION_EVALUATE_H_
#define WORKER_EVALUATION_EVALUATE_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/data/tokenizer.h"
#include "worker/evaluation/likelihood.h"
#include "worker/evaluation/task.h"

namespace nibble::evaluation {

// What became of one item, or of one document.
struct ItemResult {
  std::string id;
  std::string group;
  int64_t gold = 0;
  std::vector<Likelihood> choices;
  int64_t best = 0;            // the most likely choice, the first of equals
  int64_t best_by_length = 0;  // the same of log_probability / length
  bool correct = false;        // of kLastWord: the continuation is greedy
  bool correct_by_length = false;
  int64_t bytes = 0;  // of a document
};

struct Metric {
  std::string name;  // "acc", "acc_norm", "perplexity", ...
  double value = 0;
  double standard_error = 0;  // of the mean over items; NaN where there is none to give
};

struct TaskResult {
  int64_t items = 0;
  std::vector<Metric> metrics;
};

struct EvaluationOptions {
  // FLOPs of a forward pass, per token of a sequence as long as the decoder takes; for
  // kInformationCapacity.
  double flops_per_token = 0;
  // The method's constant b, bits: makes models of one series comparable (docs/evaluation.md).
  double information_bias_bits = -27;
  // Called after each item: done, of how many. May be empty.
  std::function<void(int64_t, int64_t)> progress;
  // Called with each result, in file order; an error ends the evaluation. May be empty.
  std::function<absl::Status(const ItemResult&)> on_item;
};

// Whether EvaluateTask will find something to score in every item. INVALID_ARGUMENT, with the
// item's id: a continuation without tokens, or no document with any.
absl::Status CheckTask(const LoadedTask& task, data::Tokenizer& tokenizer);

// Errors of CheckTask and the scorer, with the item's id.
absl::StatusOr<TaskResult> EvaluateTask(const LoadedTask& task, const EvaluationOptions& options,
                                        LikelihoodScorer& scorer);

}  // namespace nibble::evaluation

#endif  // WORKER_EVALUATION_EVALUATE_H_
