// nibble-model: brings models in and out, and runs them forward. `nibble import`, `export`,
// `generate` and `evaluate` run it.
#include <iostream>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/log.h"
#include "base/version.h"
#include "worker/commands/commands.h"

namespace {

using nibble::worker::RunOptions;

// As docs/cli.md says of `nibble`.
enum ExitCode { kDone = 0, kUsage = 2, kRefused = 4, kInternal = 70 };

int ExitCodeOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return kDone;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kDataLoss:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kUnimplemented:
      return kUsage;
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kResourceExhausted:
      return kRefused;
    default:
      return kInternal;
  }
}

int Report(const absl::Status& status) {
  if (!status.ok()) {
    std::cerr << "error: "
              << nibble::EscapeControlCharacters(
                     absl::StrReplaceAll(status.message(), {{"\n", "; "}}))
              << " (" << absl::StatusCodeToString(status.code()) << ")\n";
  }
  return ExitCodeOf(status);
}

void AddImport(CLI::App& app, nibble::worker::ImportOptions* options) {
  CLI::App* verb = app.add_subcommand("import", "Another program's model as a checkpoint");
  verb->add_option("SOURCE", options->source,
                   "A llama2.c model file, or the directory of a Hugging Face model")
      ->required();
  verb->add_option("--out", options->out, "Checkpoint directory to make")->required();
  verb->add_option("--tokenizer", options->tokenizer,
                   "Tokenizer to keep with it: a .bin, .model or .tiktoken file, or a directory "
                   "with vocab.json and merges.txt");
  verb->add_flag("--json", options->json, "Print JSON");
}

void AddExport(CLI::App& app, nibble::worker::ExportCommandOptions* options) {
  CLI::App* verb = app.add_subcommand("export", "A checkpoint as a Hugging Face model");
  verb->add_option("CHECKPOINT", options->checkpoint, "Checkpoint directory")->required();
  verb->add_option("--out", options->out, "Directory to make")->required();
  verb->add_option("--dtype", options->dtype, "Type of the values; f32 loses nothing")
      ->check(CLI::IsMember({"f32", "bf16", "f16"}))
      ->capture_default_str();
  verb->add_option("--tokenizer", options->tokenizer,
                   "Tokenizer to put with it, instead of the checkpoint's");
}

void AddRunOptions(CLI::App* verb, RunOptions* options) {
  verb->add_option("CHECKPOINT", options->checkpoint, "Checkpoint directory")->required();
  verb->add_option(
      "--tokenizer", options->tokenizer,
      "Tokenizer, instead of the checkpoint's: a file, a directory with vocab.json and "
      "merges.txt, or bytes");
  verb->add_option("--precision", options->precision, "Weights and activations")
      ->check(CLI::IsMember({"fp32", "bf16"}))
      ->capture_default_str();
  verb->add_option("--backend", options->backend, "cpu, or the scalar reference")
      ->check(CLI::IsMember({"cpu", "reference", "cuda"}))
      ->capture_default_str();
  verb->add_option("--threads", options->threads, "Compute threads; 0: all processors")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
}

void AddGenerate(CLI::App& app, nibble::worker::GenerateOptions* options) {
  CLI::App* verb = app.add_subcommand("generate", "Lets a checkpoint go on with a text");
  AddRunOptions(verb, &options->run);
  auto* prompt = verb->add_option("--prompt", options->prompt, "Text to go on with");
  verb->add_option("--prompt-ids", options->prompt_ids, "Token ids to go on with: 1,403,407")
      ->delimiter(',')
      ->excludes(prompt);
  verb->add_option("--max-tokens", options->max_tokens, "Tokens to generate at most")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  options->sampling.temperature = 0;
  verb->add_option("--temperature", options->sampling.temperature,
                   "Divides the logits; 0 takes the best token every time")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  verb->add_option("--top-k", options->sampling.top_k, "Only the k best tokens; 0: all")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  verb->add_option("--top-p", options->sampling.top_p,
                   "Only the best tokens that together have this probability")
      ->check(CLI::Range(1e-9, 1.0))
      ->capture_default_str();
  verb->add_option("--seed", options->sampling.seed, "Seed of the draws")->capture_default_str();
  verb->add_flag("--ignore-end", options->ignore_end, "Go on after the token that ends a text");
  verb->add_option("-o,--output", options->output, "What to print")
      ->check(CLI::IsMember({"text", "ids", "json"}))
      ->capture_default_str();
}

void AddEvaluate(CLI::App& app, nibble::worker::EvaluateOptions* options) {
  CLI::App* verb = app.add_subcommand("evaluate", "Scores a checkpoint on tasks");
  AddRunOptions(verb, &options->run);
  verb->add_option("--task", options->tasks,
                   "Task, or TASK=FILE; may be given several times. lambada_openai, "
                   "lambada_standard, hellaswag, arc_easy, arc_challenge, piqa, winogrande, boolq, "
                   "copa, openbookqa, blimp, text, information_capacity")
      ->required()
      ->expected(1)
      ->allow_extra_args(false)
      ->take_all();
  verb->add_option("--data", options->data,
                   "Directory with the tasks' files under their usual names (docs/evaluation.md)");
  verb->add_option("--items", options->items, "Write the result of every item to this file");
  verb->add_option("--limit", options->limit, "Items or documents of each file; 0: all")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str();
  verb->add_option("--context", options->context,
                   "Longest sequence, tokens; 0: what the checkpoint was trained with")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  verb->add_option("--information-bias", options->information_bias_bits,
                   "Constant of information_capacity, bits")
      ->check(CLI::Range(-1e6, 1e6))
      ->capture_default_str();
  verb->add_flag("--json", options->json, "Print JSON");
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Brings models in and out, and runs them forward.", "nibble-model"};
  app.set_version_flag("--version",
                       absl::StrCat("nibble-model ", nibble::kVersion, " (", nibble::kCommit, ")"));
  app.footer(
      "Exit codes: 0 done; 2 wrong arguments or files; 4 refused; 70 an error inside nibble.");
  app.require_subcommand(1);
  nibble::worker::ImportOptions import_options;
  nibble::worker::ExportCommandOptions export_options;
  nibble::worker::GenerateOptions generate_options;
  AddImport(app, &import_options);
  AddExport(app, &export_options);
  AddGenerate(app, &generate_options);
  nibble::worker::EvaluateOptions evaluate_options;
  AddEvaluate(app, &evaluate_options);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kDone : kUsage;
  }
  if (app.got_subcommand("import")) return Report(RunImport(import_options));
  if (app.got_subcommand("export")) return Report(RunExport(export_options));
  if (app.got_subcommand("evaluate")) return Report(RunEvaluate(evaluate_options));
  return Report(RunGenerate(generate_options));
}
