#include "proto/spec/evaluation_resolution.h"

#include <set>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "proto/spec/field_checks.h"
#include "proto/spec/job_resolution.h"
#include "proto/spec/limits.h"

namespace nibble::spec {
namespace {

// Part of a metric's name, of which the daemon takes 64 bytes.
void CheckTaskName(const std::string& field, const std::string& name, ErrorList* errors) {
  bool good = !name.empty() && name.size() <= kMaxEvaluationNameBytes;
  for (const char c : name) {
    good = good && (absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-');
  }
  if (good) return;
  errors->Add(field, absl::StrCat("is ", QuoteForError(name), "; allowed: 1 to ",
                                  kMaxEvaluationNameBytes, " of A-Z, a-z, 0-9 and ._-"));
}

void ResolveTask(const std::string& path, v1::EvaluationTaskSpec* task,
                 std::set<std::string>* names, ErrorList* errors) {
  CheckOneOf(path + ".task", task->task(), EvaluationTaskNames(), errors);
  CheckPath(path + ".path", task->path(), PathKind::kAbsoluteOrRelative, errors);
  if (task->name().empty()) task->set_name(task->task());
  CheckTaskName(path + ".name", task->name(), errors);
  if (!names->insert(task->name()).second) {
    errors->Add(path + ".name", absl::StrCat("is ", QuoteForError(task->name()),
                                             ", as another task's; allowed: a name of its own"));
  }
  if (!task->has_limit()) task->set_limit(0);
  CheckInteger(path + ".limit", task->limit(), {0, kMaxEvaluationItems}, errors);
}

}  // namespace

const std::vector<std::string>& EvaluationTaskNames() {
  static const auto* const names = new std::vector<std::string>{"lambada_openai",
                                                                "lambada_standard",
                                                                "hellaswag",
                                                                "arc_easy",
                                                                "arc_challenge",
                                                                "piqa",
                                                                "winogrande",
                                                                "boolq",
                                                                "copa",
                                                                "openbookqa",
                                                                "blimp",
                                                                "text",
                                                                "information_capacity"};
  return *names;
}

bool OnlyScores(const v1::JobSpec& spec) {
  return spec.training().has_steps() && spec.training().steps() == 0;
}

void ResolveEvaluation(v1::JobSpec* spec, ErrorList* errors) {
  if (!spec->has_evaluation()) return;
  v1::EvaluationSpec* evaluation = spec->mutable_evaluation();
  if (evaluation->tasks().empty() || evaluation->tasks_size() > kMaxEvaluationTasks) {
    errors->Add("evaluation.tasks", absl::StrCat("has ", evaluation->tasks_size(),
                                                 "; allowed: 1 to ", kMaxEvaluationTasks));
    return;
  }
  std::set<std::string> names;
  for (int i = 0; i < evaluation->tasks_size(); ++i) {
    ResolveTask(absl::StrCat("evaluation.tasks[", i, "]"), evaluation->mutable_tasks(i), &names,
                errors);
  }
  if (!evaluation->has_interval()) evaluation->set_interval(0);
  CheckInteger("evaluation.interval", evaluation->interval(), {0, kMaxSteps}, errors);
  if (!evaluation->tokenizer().empty() && evaluation->tokenizer() != "bytes") {
    CheckPath("evaluation.tokenizer", evaluation->tokenizer(), PathKind::kAbsoluteOrRelative,
              errors);
  }
  if (!evaluation->has_context()) {
    evaluation->set_context(spec->training().sequence_length());
  }
  const int64_t longest = spec->model().has_max_positions() && spec->model().max_positions() > 0
                              ? spec->model().max_positions()
                              : kMaxSequenceLength;
  CheckInteger("evaluation.context", evaluation->context(), {1, longest}, errors);
}

}  // namespace nibble::spec
