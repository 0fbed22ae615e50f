#include <unistd.h>

#include <cmath>
#include <fstream>
#include <iostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/files.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"
#include "proto/spec/model_size.h"
#include "worker/commands/commands.h"
#include "worker/commands/loaded_model.h"
#include "worker/evaluation/evaluate.h"

namespace nibble::worker {
namespace {

using evaluation::ItemResult;
using evaluation::Task;
using evaluation::TaskKind;
using evaluation::TaskResult;
using Json = nlohmann::ordered_json;

struct NamedTask {
  const Task* task;
  std::string path;
};

absl::StatusOr<NamedTask> FindNamedTask(const std::string& text, const std::string& data) {
  const std::pair<std::string, std::string> parts = absl::StrSplit(text, absl::MaxSplits('=', 1));
  const Task* task = evaluation::FindTask(parts.first);
  if (task == nullptr) {
    std::vector<absl::string_view> names;
    for (const Task& each : evaluation::AllTasks()) names.push_back(each.name);
    return absl::InvalidArgumentError(absl::StrCat("--task is \"",
                                                   EscapeControlCharacters(parts.first),
                                                   "\"; allowed: ", absl::StrJoin(names, ", ")));
  }
  if (!parts.second.empty()) return NamedTask{task, parts.second};
  if (task->file.empty() || data.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--task ", parts.first, " needs a file: --task ", parts.first, "=FILE",
                     task->file.empty() ? "" : ", or --data DIRECTORY"));
  }
  return NamedTask{task, JoinPath(data, task->file)};
}

// NaN and infinities have no JSON.
Json Number(double value) { return std::isfinite(value) ? Json(value) : Json(); }

Json ItemToJson(const Task& task, const ItemResult& result) {
  Json json;
  json["task"] = std::string(task.name);
  json["id"] = result.id;
  if (!result.group.empty()) json["group"] = result.group;
  for (const evaluation::Likelihood& choice : result.choices) {
    json["log_probabilities"].push_back(Number(choice.log_probability));
    json["tokens"].push_back(choice.tokens);
    json["greedy"].push_back(choice.is_greedy);
  }
  if (task.kind == TaskKind::kText || task.kind == TaskKind::kInformationCapacity) {
    json["bytes"] = result.bytes;
    return json;
  }
  json["acc"] = result.correct ? 1 : 0;
  if (task.kind == TaskKind::kLastWord) return json;
  json["gold"] = result.gold;
  json["best"] = result.best;
  if (task.length_normalised) {
    json["best_norm"] = result.best_by_length;
    json["acc_norm"] = result.correct_by_length ? 1 : 0;
  }
  return json;
}

class Progress {
 public:
  explicit Progress(absl::string_view task) : task_(task), visible_(isatty(STDERR_FILENO) != 0) {}
  ~Progress() {
    if (visible_) std::cerr << "\r\033[K" << std::flush;
  }
  void Show(int64_t done, int64_t total) {
    if (!visible_ || (done % 10 != 0 && done != total)) return;
    std::cerr << "\r\033[K" << task_ << " " << done << " of " << total << std::flush;
  }

 private:
  const absl::string_view task_;
  const bool visible_;
};

void PrintTable(const std::vector<std::pair<const Task*, TaskResult>>& results) {
  std::cout << absl::StrFormat("%-22s %7s  %-42s %12s  %s\n", "TASK", "ITEMS", "METRIC", "VALUE",
                               "ERROR");
  for (const auto& [task, result] : results) {
    for (const evaluation::Metric& metric : result.metrics) {
      const std::string error = std::isfinite(metric.standard_error)
                                    ? absl::StrFormat("%.4f", metric.standard_error)
                                    : "-";
      std::cout << absl::StrFormat("%-22s %7d  %-42s %12.4f  %s\n", task->name, result.items,
                                   EscapeControlCharacters(metric.name), metric.value, error);
    }
  }
}

void PrintJson(const std::string& checkpoint,
               const std::vector<std::pair<const Task*, TaskResult>>& results) {
  Json json;
  json["checkpoint"] = checkpoint;
  json["tasks"] = Json::array();
  for (const auto& [task, result] : results) {
    Json metrics;
    for (const evaluation::Metric& metric : result.metrics) {
      metrics[metric.name] = {{"value", Number(metric.value)},
                              {"standard_error", Number(metric.standard_error)}};
    }
    json["tasks"].push_back({{"task", std::string(task->name)},
                             {"items", result.items},
                             {"metrics", std::move(metrics)}});
  }
  std::cout << json.dump(2, ' ', false, Json::error_handler_t::replace) << "\n";
}

class Evaluation {
 public:
  explicit Evaluation(const EvaluateOptions& options) : options_(options) {}

  absl::Status Run() {
    for (const std::string& text : options_.tasks) {
      NIBBLE_ASSIGN_OR_RETURN(const NamedTask task, FindNamedTask(text, options_.data));
      tasks_.push_back(task);
    }
    NIBBLE_ASSIGN_OR_RETURN(const OpenedCheckpoint checkpoint,
                            OpenDescribedCheckpoint(options_.run.checkpoint));
    NIBBLE_ASSIGN_OR_RETURN(const std::unique_ptr<data::Tokenizer> tokenizer,
                            TokenizerOf(checkpoint, options_.run.tokenizer));
    NIBBLE_ASSIGN_OR_RETURN(const std::unique_ptr<LoadedModel> model,
                            LoadedModel::Load(checkpoint, options_.run));
    const int64_t context =
        options_.context > 0 ? options_.context : checkpoint.description.context_length;
    NIBBLE_ASSIGN_OR_RETURN(const std::unique_ptr<inference::Decoder> decoder,
                            model->MakeDecoder(context));
    evaluation::LikelihoodScorer scorer(*decoder, *tokenizer);
    evaluation::EvaluationOptions options;
    options.flops_per_token = spec::ForwardFlopsPerToken(checkpoint.description.model, context);
    options.information_bias_bits = options_.information_bias_bits;
    NIBBLE_RETURN_IF_ERROR(OpenItems());
    std::vector<std::pair<const Task*, TaskResult>> results;
    for (const NamedTask& task : tasks_) {
      NIBBLE_ASSIGN_OR_RETURN(TaskResult result, RunTask(task, options, scorer));
      results.emplace_back(task.task, std::move(result));
    }
    if (options_.json) {
      PrintJson(options_.run.checkpoint, results);
    } else {
      PrintTable(results);
    }
    return absl::OkStatus();
  }

 private:
  absl::Status OpenItems() {
    if (options_.items.empty()) return absl::OkStatus();
    items_.open(options_.items, std::ios::trunc);
    if (items_) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("--items: cannot write ", options_.items));
  }

  absl::StatusOr<TaskResult> RunTask(const NamedTask& task, evaluation::EvaluationOptions options,
                                     evaluation::LikelihoodScorer& scorer) {
    Progress progress(task.task->name);
    options.progress = [&](int64_t done, int64_t total) { progress.Show(done, total); };
    options.on_item = [&](const ItemResult& result) {
      if (!items_.is_open()) return absl::OkStatus();
      items_ << ItemToJson(*task.task, result).dump(-1, ' ', false, Json::error_handler_t::replace)
             << "\n";
      items_.flush();
      return items_ ? absl::OkStatus()
                    : absl::ResourceExhaustedError(
                          absl::StrCat("writing ", options_.items, " failed: is the disk full?"));
    };
    NIBBLE_ASSIGN_OR_RETURN(const evaluation::LoadedTask loaded,
                            evaluation::LoadTask(*task.task, task.path, options_.limit));
    return evaluation::EvaluateTask(loaded, options, scorer);
  }

  const EvaluateOptions& options_;
  std::vector<NamedTask> tasks_;
  std::ofstream items_;
};

}  // namespace

absl::Status RunEvaluate(const EvaluateOptions& options) { return Evaluation(options).Run(); }

}  // namespace nibble::worker
