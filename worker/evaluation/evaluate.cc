#include "worker/evaluation/evaluate.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace nibble::evaluation {
namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
constexpr double kLn2 = 0.69314718055994530942;

// Mean, and its standard error by the sample's deviation.
struct Sample {
  double sum = 0, squares = 0;
  int64_t count = 0;

  void Add(double value) {
    sum += value;
    squares += value * value;
    ++count;
  }
  double mean() const { return sum / static_cast<double>(count); }
  double standard_error() const {
    if (count < 2) return kNone;
    const double n = static_cast<double>(count);
    return std::sqrt(std::max(0.0, (squares - sum * sum / n) / (n - 1)) / n);
  }
  Metric ToMetric(std::string name) const { return {std::move(name), mean(), standard_error()}; }
};

int64_t Words(absl::string_view text) {
  // As many pieces as a split at runs of white space gives, empty ones at the ends included.
  int64_t pieces = 1;
  bool in_space = false;
  for (const char c : text) {
    const bool space = absl::ascii_isspace(static_cast<unsigned char>(c));
    pieces += space && !in_space;
    in_space = space;
  }
  return pieces;
}

absl::Status At(const std::string& path, const std::string& id, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(path, ", item ", id, ": ", status.message()));
}

absl::Status Tell(const EvaluationOptions& options, const ItemResult& result, int64_t done,
                  int64_t total) {
  if (options.progress) options.progress(done, total);
  return options.on_item ? options.on_item(result) : absl::OkStatus();
}

absl::StatusOr<ItemResult> ScoreItem(const Task& task, const Item& item, LikelihoodScorer& scorer) {
  ItemResult result;
  result.id = item.id;
  result.group = item.group;
  result.gold = item.gold;
  const auto by_length = [&](int64_t i) {
    return result.choices[i].log_probability /
           static_cast<double>(std::max<int64_t>(1, item.choices[i].length));
  };
  for (const Choice& choice : item.choices) {
    NIBBLE_ASSIGN_OR_RETURN(result.choices.emplace_back(),
                            scorer.ScoreContinuation(choice.context, choice.continuation));
    const int64_t i = static_cast<int64_t>(result.choices.size()) - 1;
    if (result.choices[i].log_probability > result.choices[result.best].log_probability) {
      result.best = i;
    }
    if (by_length(i) > by_length(result.best_by_length)) result.best_by_length = i;
  }
  result.correct =
      task.kind == TaskKind::kLastWord ? result.choices[0].is_greedy : result.best == result.gold;
  result.correct_by_length = result.best_by_length == result.gold;
  return result;
}

std::vector<Metric> ItemMetrics(const Task& task, const std::vector<ItemResult>& results) {
  Sample accuracy, by_length, log_probability, group_accuracy;
  std::map<std::string, Sample> groups;
  for (const ItemResult& result : results) {
    accuracy.Add(result.correct);
    by_length.Add(result.correct_by_length);
    log_probability.Add(result.choices[0].log_probability);
    groups[result.group].Add(result.correct);
  }
  std::vector<Metric> metrics;
  if (task.kind == TaskKind::kMinimalPair) {
    // Groups count alike, whatever their size; their means are independent.
    double variance = 0;
    for (const auto& [group, sample] : groups) {
      group_accuracy.Add(sample.mean());
      variance += sample.standard_error() * sample.standard_error();
    }
    const double n = static_cast<double>(groups.size());
    metrics.push_back({"acc", group_accuracy.mean(), std::sqrt(variance) / n});
    for (const auto& [group, sample] : groups) {
      metrics.push_back(sample.ToMetric(absl::StrCat("acc/", group)));
    }
    return metrics;
  }
  metrics.push_back(accuracy.ToMetric("acc"));
  if (task.length_normalised) metrics.push_back(by_length.ToMetric("acc_norm"));
  if (task.kind == TaskKind::kLastWord) {
    const double perplexity = std::exp(-log_probability.mean());
    metrics.push_back({"perplexity", perplexity, perplexity * log_probability.standard_error()});
  }
  return metrics;
}

absl::StatusOr<TaskResult> EvaluateItems(const LoadedTask& task, const EvaluationOptions& options,
                                         LikelihoodScorer& scorer) {
  std::vector<ItemResult> results;
  for (const Item& item : task.items) {
    absl::StatusOr<ItemResult> result = ScoreItem(*task.task, item, scorer);
    if (!result.ok()) return At(task.path, item.id, result.status());
    results.push_back(*std::move(result));
    NIBBLE_RETURN_IF_ERROR(Tell(options, results.back(), static_cast<int64_t>(results.size()),
                                static_cast<int64_t>(task.items.size())));
  }
  return TaskResult{static_cast<int64_t>(task.items.size()), ItemMetrics(*task.task, results)};
}

absl::StatusOr<TaskResult> EvaluateText(const LoadedTask& task, const EvaluationOptions& options,
                                        LikelihoodScorer& scorer) {
  double log_probability = 0;
  int64_t tokens = 0, bytes = 0, words = 0, done = 0;
  for (const std::string& document : task.documents) {
    ItemResult result;
    result.id = absl::StrCat(++done);
    absl::StatusOr<Likelihood> likelihood = scorer.ScoreDocument(document, &result.bytes);
    if (!likelihood.ok()) return At(task.path, result.id, likelihood.status());
    result.choices.push_back(*likelihood);
    log_probability += likelihood->log_probability;
    tokens += likelihood->tokens;
    bytes += result.bytes;
    words += Words(document);
    NIBBLE_RETURN_IF_ERROR(
        Tell(options, result, done, static_cast<int64_t>(task.documents.size())));
  }
  if (tokens == 0) return absl::InvalidArgumentError(absl::StrCat(task.path, " has no text"));
  const double loss = -log_probability / static_cast<double>(tokens);
  TaskResult total;
  total.items = done;
  total.metrics = {
      {"loss", loss, kNone},
      {"perplexity", std::exp(loss), kNone},
      {"bits_per_byte", -log_probability / kLn2 / static_cast<double>(bytes), kNone},
      {"word_perplexity", std::exp(-log_probability / static_cast<double>(words)), kNone}};
  return total;
}

// Each document's first tokens, as many as the decoder takes.
absl::StatusOr<TaskResult> EvaluateInformationCapacity(const LoadedTask& task,
                                                       const EvaluationOptions& options,
                                                       LikelihoodScorer& scorer) {
  Sample text_bits;
  double loss_bits = 0;
  int64_t tokens = 0, done = 0;
  for (const std::string& document : task.documents) {
    ItemResult result;
    result.id = absl::StrCat(++done);
    absl::StatusOr<Likelihood> likelihood = scorer.ScoreSample(document, &result.bytes);
    if (!likelihood.ok()) return At(task.path, result.id, likelihood.status());
    result.choices.push_back(*likelihood);
    if (likelihood->tokens > 0) {
      text_bits.Add(8.0 * static_cast<double>(result.bytes) /
                    static_cast<double>(likelihood->tokens));
      loss_bits -= likelihood->log_probability / kLn2;
      tokens += likelihood->tokens;
    }
    NIBBLE_RETURN_IF_ERROR(
        Tell(options, result, done, static_cast<int64_t>(task.documents.size())));
  }
  if (tokens == 0) return absl::InvalidArgumentError(absl::StrCat(task.path, " has no text"));
  loss_bits /= static_cast<double>(tokens);
  const double gain = text_bits.mean() - loss_bits;
  TaskResult total;
  total.items = done;
  total.metrics = {
      {"information_capacity",
       (gain + options.information_bias_bits) / std::log2(options.flops_per_token), kNone},
      text_bits.ToMetric("text_bits_per_token"),
      {"loss_bits_per_token", loss_bits, kNone},
      {"gain_bits_per_token", gain, kNone},
      {"flops_per_token", options.flops_per_token, kNone}};
  return total;
}

bool HasTokens(const std::string& text, data::Tokenizer& tokenizer) {
  bool any = false;
  // The first batch says it: the rest need not be encoded.
  tokenizer
      .Encode(text,
              [&](const int32_t*, int64_t count) {
                any = any || count > 0;
                return any ? absl::CancelledError() : absl::OkStatus();
              })
      .status()
      .IgnoreError();
  return any;
}

}  // namespace

absl::Status CheckTask(const LoadedTask& task, data::Tokenizer& tokenizer) {
  for (const Item& item : task.items) {
    for (const Choice& choice : item.choices) {
      if (!choice.continuation.empty() && HasTokens(choice.continuation, tokenizer)) continue;
      return At(task.path, item.id,
                absl::InvalidArgumentError("an empty continuation has no likelihood"));
    }
  }
  for (const std::string& document : task.documents) {
    if (HasTokens(document, tokenizer)) return absl::OkStatus();
  }
  if (!task.items.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(task.path, " has no text"));
}

absl::StatusOr<TaskResult> EvaluateTask(const LoadedTask& task, const EvaluationOptions& options,
                                        LikelihoodScorer& scorer) {
  switch (task.task->kind) {
    case TaskKind::kText:
      return EvaluateText(task, options, scorer);
    case TaskKind::kInformationCapacity:
      return EvaluateInformationCapacity(task, options, scorer);
    default:
      return EvaluateItems(task, options, scorer);
  }
}

}  // namespace nibble::evaluation
