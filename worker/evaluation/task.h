// Evaluation tasks: which there are, and their items as questions of likelihood.
//
// Every item is a list of choices, each a continuation of a context; what a model is measured by is
// the likelihood it gives to the continuations. Prompt formats: docs/evaluation.md.
#ifndef WORKER_EVALUATION_TASK_H_
#define WORKER_EVALUATION_TASK_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace nibble::evaluation {

enum class TaskKind {
  kMultipleChoice,       // the most likely choice must be the right one
  kMinimalPair,          // the same of two whole sentences, averaged over groups
  kLastWord,             // the one continuation must be what greedy decoding gives
  kText,                 // documents: bits per byte
  kInformationCapacity,  // documents: compression gain against the cost of a token
};

struct Choice {
  std::string context;
  std::string continuation;
  // Code points of the choice itself, without what joins it to its context.
  int64_t length = 0;
};

struct Item {
  std::string id;     // line or number within the file, from 1
  std::string group;  // kMinimalPair: the phenomenon
  std::vector<Choice> choices;
  int64_t gold = 0;
};

struct Task {
  absl::string_view name;
  TaskKind kind;
  absl::string_view file;  // usual name, within a directory of evaluation data
  // Choices of different lengths: whether a score by length is reported too.
  bool length_normalised = false;
};

// In the order of docs/evaluation.md.
const std::vector<Task>& AllTasks();
// Null: there is no such task.
const Task* FindTask(absl::string_view name);

// Largest evaluation file, decompressed, and line in one.
inline constexpr int64_t kMaxFileBytes = int64_t{1} << 30;
inline constexpr size_t kMaxLineBytes = size_t{1} << 24;

// The items of a task of one of the first three kinds: JSON lines, or for hellaswag six text lines
// an item; plain, gzip, bzip2 or Zstandard; for blimp also a tar archive of such files. `limit`:
// the first so many, of each member of an archive; 0: all. NOT_FOUND; INVALID_ARGUMENT with file
// and line: an item that is none; DATA_LOSS: damaged compression; RESOURCE_EXHAUSTED: a file too
// large.
absl::StatusOr<std::vector<Item>> ReadItems(const Task& task, const std::string& path,
                                            int64_t limit);

// The documents of a task of the last two kinds: field "text" of JSON lines (.jsonl), else the
// whole file. Errors as ReadItems.
absl::StatusOr<std::vector<std::string>> ReadDocuments(const std::string& path, int64_t limit);

// A task's items, or its documents, in memory.
struct LoadedTask {
  const Task* task = nullptr;
  std::string path;
  std::vector<Item> items;
  std::vector<std::string> documents;
};
// Errors as ReadItems and ReadDocuments, which it calls.
absl::StatusOr<LoadedTask> LoadTask(const Task& task, const std::string& path, int64_t limit);

// Code points of UTF-8; every byte of what is not counts as one.
int64_t CodePoints(absl::string_view text);

}  // namespace nibble::evaluation

#endif  // WORKER_EVALUATION_TASK_H_
