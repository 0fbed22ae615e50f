#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/files.h"
#include "base/paths.h"
#include "base/status_macros.h"
#include "client/commands/commands.h"
#include "client/output.h"
#include "client/progress_line.h"
#include "client/table.h"
#include "client/text.h"
#include "nlohmann/json.hpp"
#include "worker/data/prepare.h"

namespace nibble::client {
namespace {

void Draw(const data::PrepareProgress& progress, ProgressLine* line) {
  const double share = progress.bytes_total > 0 ? static_cast<double>(progress.bytes_done) /
                                                      static_cast<double>(progress.bytes_total)
                                                : 0;
  line->Draw(share, absl::StrCat(Bytes(progress.bytes_done), " of ", Bytes(progress.bytes_total),
                                 "  ", Grouped(progress.documents), " documents  ",
                                 Short(static_cast<double>(progress.tokens)), " tokens"));
}

class DataPrepareVerb : public Verb {
 public:
  VerbText text() const override {
    return {
        "data prepare",
        "Turn text files into tokens to train on",
        "Tokenises text files into a dataset directory, streaming: plain text (a file is a "
        "document, or several with --separator) or JSON lines (a line is a document), also "
        "compressed with gzip or zstd, in several threads. Interrupted, the same command goes "
        "on where it was. Whole documents are held out for validation. A job names "
        "the dataset in data.path: datasets made with --name by that name, where the worker has "
        "the same data directory.",
        "nibble data prepare bible.txt --name kjv\n"
        "nibble data prepare books/*.txt --name books --validation-fraction 0.02 --split hash\n"
        "nibble data prepare corpus.jsonl.zst --name corpus --text-field body \\\n"
        "    --tokenizer tokenizer.model\n"
        "nibble data inspect kjv",
        {"table", "json", "yaml"}};
  }

  std::vector<Option> options() override {
    return {
        {"FILE",
         "",
         "Text files, in order: .txt, .jsonl, each also .gz or .zst",
         &options_.inputs,
         true,
         {},
         Completion::kFile},
        {"--name", "NAME", "Write to NAME in the data directory ($NIBBLE_DATA_DIR)", &name_},
        {"--out",
         "DIRECTORY",
         "Write to this directory instead",
         &options_.output_directory,
         false,
         {},
         Completion::kDirectory},
        {"--overwrite", "", "Replace the dataset that is there", &options_.overwrite},
        {"--tokenizer",
         "TOKENIZER",
         "bytes (default); gpt2 with --vocab and --merges; or a directory with vocab.json and "
         "merges.txt, a .tiktoken file, a SentencePiece .model, llama2.c's .bin, Hugging Face's "
         "tokenizer.json",
         &options_.tokenizer,
         false,
         {},
         Completion::kFile},
        {"--vocab",
         "FILE",
         "vocab.json of GPT-2's format",
         &options_.vocab_file,
         false,
         {},
         Completion::kFile},
        {"--merges",
         "FILE",
         "merges.txt of GPT-2's format",
         &options_.merges_file,
         false,
         {},
         Completion::kFile},
        {"--format",
         "FORMAT",
         "auto (default, by name), txt or jsonl",
         &format_,
         false,
         {"auto", "txt", "jsonl"}},
        {"--text-field", "FIELD", "Field of a JSON line that is the document. Default text",
         &options_.json_field},
        {"--separator", "TEXT", "Text between the documents of one text file",
         &options_.document_separator},
        {"--validation-fraction", "SHARE",
         "Share of the bytes held out, below 1; 0 for none. Default 0.05",
         &options_.validation_fraction},
        {"--split",
         "METHOD",
         "last (default): the last documents; hash: by a hash of each document",
         &split_,
         false,
         {"last", "hash"}},
        {"--seed", "N", "Seed of --split hash. Default 0", &options_.split_seed},
        {"--threads", "N", "Threads that tokenise; 0 (default): all processors", &threads_},
        {"--restart", "", "Do not go on from what an interrupted preparation left",
         &options_.restart},
    };
  }

  absl::StatusOr<int> Run(Session& session) override {
    NIBBLE_RETURN_IF_ERROR(Finish());
    absl::StatusOr<data::PrepareResult> result;
    {
      ProgressLine line(&session);
      result = data::PrepareDataset(options_, [&line](const data::PrepareProgress& progress) {
        Draw(progress, &line);
        return absl::OkStatus();
      });
    }
    if (absl::IsNotFound(result.status()) || absl::IsDataLoss(result.status())) {
      // An input that is not there or damaged is a wrong command line, not a job that is not there.
      return absl::InvalidArgumentError(result.status().message());
    }
    if (!result.ok()) return result.status();
    Print(session, *result);
    return 0;
  }

 private:
  absl::Status Finish() {
    options_.format = format_ == "txt"     ? data::InputFormat::kText
                      : format_ == "jsonl" ? data::InputFormat::kJsonl
                                           : data::InputFormat::kAuto;
    options_.split = split_ == "hash" ? data::SplitMethod::kHash : data::SplitMethod::kLast;
    if (threads_ < 0 || threads_ > 1024) {
      return absl::InvalidArgumentError(
          absl::StrCat("--threads is ", threads_, "; allowed: 0 to 1024"));
    }
    options_.threads = static_cast<int>(threads_);
    if (name_.empty() == options_.output_directory.empty()) {
      return absl::InvalidArgumentError("give either --name or --out");
    }
    if (name_.empty()) return absl::OkStatus();
    if (name_[0] == '.' || absl::StrContains(name_, "/") || name_.size() > 200) {
      return absl::InvalidArgumentError(
          absl::StrCat("--name is \"", name_,
                       "\"; allowed: a directory's name without / and not beginning with ."));
    }
    options_.output_directory = JoinPath(DefaultDataDirectory(), name_);
    return absl::OkStatus();
  }

  static nlohmann::ordered_json Structured(const data::SplitSummary& split) {
    return {{"documents", split.documents},
            {"bytes", split.bytes},
            {"tokens", split.tokens},
            {"files", split.files}};
  }

  void Print(Session& session, const data::PrepareResult& result) const {
    if (session.structured()) {
      PrintStructured(session,
                      nlohmann::ordered_json({{"directory", options_.output_directory},
                                              {"vocab_size", result.vocab_size},
                                              {"train", Structured(result.train)},
                                              {"validation", Structured(result.validation)},
                                              {"dropped_nul_bytes", result.dropped_nul_bytes},
                                              {"empty_documents", result.empty_documents}}));
      return;
    }
    Table table({{"SPLIT"},
                 {"DOCUMENTS", true},
                 {"TEXT", true},
                 {"TOKENS", true},
                 {"BYTES/TOKEN", true},
                 {"FILES", true}});
    const auto add = [&table](const char* name, const data::SplitSummary& split) {
      table.Add({name, Grouped(split.documents), Bytes(split.bytes), Grouped(split.tokens),
                 split.tokens > 0 ? absl::StrFormat("%.2f", static_cast<double>(split.bytes) /
                                                                static_cast<double>(split.tokens))
                                  : "-",
                 absl::StrCat(split.files)});
    };
    add("train", result.train);
    add("validation", result.validation);
    table.Print(session.terminal());
    session.out() << "\nVocabulary " << Grouped(result.vocab_size) << ", written to "
                  << Safe(options_.output_directory) << "\n";
    if (!name_.empty()) session.out() << "In a job spec:  data: {path: " << Safe(name_) << "}\n";
    if (result.resumed_documents > 0) {
      session.err() << "went on after " << Grouped(result.resumed_documents)
                    << " documents of an interrupted preparation\n";
    }
    if (result.empty_documents > 0) {
      session.err() << "warning: skipped " << Grouped(result.empty_documents)
                    << " empty documents\n";
    }
    if (result.dropped_nul_bytes > 0) {
      session.err() << "warning: dropped " << Grouped(result.dropped_nul_bytes)
                    << " NUL bytes, which separate documents\n";
    }
  }

  data::PrepareOptions options_;
  std::string name_;
  std::string format_ = "auto";
  std::string split_ = "last";
  int64_t threads_ = 0;
};

}  // namespace

std::unique_ptr<Verb> MakeDataPrepareVerb() { return std::make_unique<DataPrepareVerb>(); }

}  // namespace nibble::client
