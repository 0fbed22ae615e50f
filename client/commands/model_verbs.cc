// import, export, generate and evaluate: what nibble-model does, with a job's name for a
// checkpoint.
#include "base/files.h"
#include "base/status_macros.h"
#include "client/commands/commands.h"
#include "client/model_program.h"

namespace nibble::client {
namespace {

const char kCheckpointHelp[] =
    "Checkpoint directory, or a job: its id, the beginning of one, or its name";

class ModelVerb : public Verb {
 public:
  ModelVerb(VerbText text, const char* positional, const char* positional_help)
      : text_(std::move(text)), positional_(positional), positional_help_(positional_help) {}

  VerbText text() const override { return text_; }
  std::vector<Option> options() override {
    const bool checkpoint = positional_help_ == kCheckpointHelp;
    std::vector<Option> all = {{positional_,
                                "",
                                positional_help_,
                                &subject_,
                                true,
                                {},
                                checkpoint ? Completion::kJob : Completion::kFile}};
    for (Option& option : passed_.options()) all.push_back(std::move(option));
    return all;
  }

  absl::StatusOr<int> Run(Session& session) override {
    std::vector<std::string> arguments = {text_.name};
    for (std::string& argument : passed_.Arguments()) arguments.push_back(std::move(argument));
    if (text_.name == std::string("generate")) {
      arguments.push_back("--output=" + session.format());
    } else if (session.format() == "json") {
      arguments.push_back("--json");
    }
    std::string subject = subject_;
    if (positional_help_ == kCheckpointHelp) {
      NIBBLE_ASSIGN_OR_RETURN(subject, FindCheckpoint(session, subject_));
    }
    // What begins with a dash is a file's name here, not an option.
    if (subject[0] == '-') subject = "./" + subject;
    arguments.push_back(std::move(subject));
    return BecomeModelProgram(session, arguments);
  }

 protected:
  void AddRunOptions() {
    passed_.Add("--tokenizer", "PATH",
                "Tokenizer, instead of the checkpoint's: a file, a directory with vocab.json and "
                "merges.txt, or bytes",
                {}, Completion::kFile);
    passed_.Add("--precision", "FORMAT", "Weights and activations: fp32 (default) or bf16",
                {"fp32", "bf16"});
    passed_.Add("--backend", "NAME", "cpu (default), or the scalar reference",
                {"cpu", "reference"});
    passed_.Add("--threads", "N", "Compute threads; 0 (default): all processors");
  }

  PassedOptions passed_;

 private:
  const VerbText text_;
  const char* const positional_;
  const char* const positional_help_;
  std::string subject_;
};

class ImportVerb : public ModelVerb {
 public:
  ImportVerb()
      : ModelVerb(
            {"import",
             "Another program's model as a checkpoint",
             "Makes a checkpoint directory of a llama2.c model file (versions 0 and 1), or of "
             "the directory of a Hugging Face model with safetensors. A job goes on from it "
             "with training.init_from. Equal weights have equal digests.",
             "nibble import stories15M.bin --tokenizer tokenizer.bin --out "
             "/data/stories15M\nnibble import ./Llama-3.2-1B --out /data/llama-3.2-1b",
             {"table", "json"}},
            "SOURCE", "A llama2.c model file, or the directory of a Hugging Face model") {
    passed_.Add("--out", "DIRECTORY", "Checkpoint directory to make", {}, Completion::kDirectory);
    passed_.Add("--tokenizer", "PATH", "Tokenizer to keep with it; default: what lies beside it",
                {}, Completion::kFile);
  }
};

class ExportVerb : public ModelVerb {
 public:
  ExportVerb()
      : ModelVerb({"export",
                   "A checkpoint as a Hugging Face model",
                   "Writes config.json, model.safetensors and the tokenizer's files, as "
                   "transformers' from_pretrained reads them.",
                   "nibble export kjv-nvfp4 --out ./kjv\nnibble export /data/run/step-100 --out "
                   "./model --dtype bf16",
                   {}},
                  "CHECKPOINT", kCheckpointHelp) {
    passed_.Add("--out", "DIRECTORY", "Directory to make", {}, Completion::kDirectory);
    passed_.Add("--dtype", "TYPE", "f32 (default, loses nothing), bf16 or f16",
                {"f32", "bf16", "f16"});
    passed_.Add("--tokenizer", "PATH", "Tokenizer to put with it, instead of the checkpoint's", {},
                Completion::kFile);
  }
};

class GenerateVerb : public ModelVerb {
 public:
  GenerateVerb()
      : ModelVerb({"generate",
                   "Lets a checkpoint go on with a text",
                   "Prints the text as the tokens come. The same seed gives the same text.",
                   "nibble generate kjv-nvfp4 --prompt 'In the beginning'\n"
                   "nibble generate ./step-100 --temperature 0.8 --top-p 0.95 --seed 7",
                   {"text", "ids", "json"}},
                  "CHECKPOINT", kCheckpointHelp) {
    passed_.Add("--prompt", "TEXT", "Text to go on with");
    passed_.Add("--prompt-ids", "IDS", "Token ids to go on with: 1,403,407");
    passed_.Add("--max-tokens", "N", "Tokens to generate at most. Default 256");
    passed_.Add("--temperature", "T", "Divides the logits; 0 (default): the best token every time");
    passed_.Add("--top-k", "K", "Only the k best tokens; 0 (default): all");
    passed_.Add("--top-p", "P", "Only the best tokens that together have this probability");
    passed_.Add("--seed", "N", "Seed of the draws. Default 0");
    passed_.Add("--ignore-end", "", "Go on after the token that ends a text");
    AddRunOptions();
  }
};

class EvaluateVerb : public ModelVerb {
 public:
  EvaluateVerb()
      : ModelVerb({"evaluate",
                   "Scores a checkpoint on tasks",
                   "Tasks: lambada_openai, lambada_standard, hellaswag, arc_easy, arc_challenge, "
                   "piqa, winogrande, boolq, copa, openbookqa, blimp, and of any text: text (loss, "
                   "bits per byte) and information_capacity.",
                   "nibble evaluate kjv-nvfp4 --task text=held_out.txt\n"
                   "nibble evaluate ./step-100 --data ~/eval --task hellaswag --task arc_easy "
                   "--items items.jsonl",
                   {"table", "json"}},
                  "CHECKPOINT", kCheckpointHelp) {
    passed_.Add("--task", "TASK[=FILE]", "What to score it on; may be given several times");
    passed_.Add("--data", "DIRECTORY", "Directory with the tasks' files under their usual names",
                {}, Completion::kDirectory);
    passed_.Add("--items", "FILE", "Write the result of every item to this file", {},
                Completion::kFile);
    passed_.Add("--limit", "N", "Items or documents of each file; 0 (default): all");
    passed_.Add("--context", "N", "Longest sequence, tokens; default: what training had");
    passed_.Add("--information-bias", "BITS", "Constant of information_capacity. Default -27");
    AddRunOptions();
  }
};

}  // namespace

std::unique_ptr<Verb> MakeImportVerb() { return std::make_unique<ImportVerb>(); }
std::unique_ptr<Verb> MakeExportVerb() { return std::make_unique<ExportVerb>(); }
std::unique_ptr<Verb> MakeGenerateVerb() { return std::make_unique<GenerateVerb>(); }
std::unique_ptr<Verb> MakeEvaluateVerb() { return std::make_unique<EvaluateVerb>(); }

}  // namespace nibble::client
