// The subcommands of nibble-model, apart from their command lines.
#ifndef WORKER_COMMANDS_COMMANDS_H_
#define WORKER_COMMANDS_COMMANDS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "worker/inference/sampler.h"

namespace nibble::worker {

struct ImportOptions {
  std::string source;     // a llama2.c file, or a Hugging Face model's directory
  std::string out;        // checkpoint directory to make
  std::string tokenizer;  // file or directory; empty: what lies beside the model
  bool json = false;
};
absl::Status RunImport(const ImportOptions& options);

struct ExportCommandOptions {
  std::string checkpoint;
  std::string out;            // directory to make
  std::string dtype = "f32";  // or "bf16", "f16"
  std::string tokenizer;      // empty: the checkpoint's
};
absl::Status RunExport(const ExportCommandOptions& options);

// How a checkpoint is run.
struct RunOptions {
  std::string checkpoint;
  std::string tokenizer;           // path; empty: the checkpoint's
  std::string precision = "fp32";  // or "bf16"
  std::string backend = "cpu";     // or "reference"
  int threads = 0;                 // 0: all processors
};

struct GenerateOptions {
  RunOptions run;
  std::string prompt;
  std::vector<int32_t> prompt_ids;  // instead of a prompt
  int64_t max_tokens = 256;
  bool ignore_end = false;      // go on after the token that ends a text
  std::string output = "text";  // or "ids", "json"
  inference::SamplingOptions sampling;
};
// Writes to standard output as the tokens come; figures go to standard error.
absl::Status RunGenerate(const GenerateOptions& options);

struct EvaluateOptions {
  RunOptions run;
  std::vector<std::string> tasks;  // names, or NAME=FILE
  std::string data;                // directory of evaluation files with their usual names
  std::string items;               // file of results per item, JSON lines; empty: none
  int64_t limit = 0;               // items of a task; 0: all
  int64_t context = 0;             // longest sequence, tokens; 0: the checkpoint's context length
  double information_bias_bits = -27;
  bool json = false;
};
absl::Status RunEvaluate(const EvaluateOptions& options);

}  // namespace nibble::worker

#endif  // WORKER_COMMANDS_COMMANDS_H_
