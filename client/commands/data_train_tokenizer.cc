#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "client/commands/commands.h"
#include "client/output.h"
#include "client/progress_line.h"
#include "client/text.h"
#include "nlohmann/json.hpp"
#include "worker/data/bpe_trainer.h"

namespace nibble::client {
namespace {

class DataTrainTokenizerVerb : public Verb {
 public:
  VerbText text() const override {
    return {"data train-tokenizer",
            "Learn a byte-level BPE vocabulary from text files",
            "Counts the pieces that GPT-2's pre-tokenizer cuts the text into, merges the most "
            "frequent pair of tokens again and again, and writes vocab.json and merges.txt. The "
            "vocabulary is <|endoftext|> (id 0), the 256 bytes and the merges. Of equally frequent "
            "pairs the greater in bytes is merged first, so the same text gives the same files.",
            "nibble data train-tokenizer books/*.txt --vocab-size 8192 --out tok8k\n"
            "nibble data prepare books/*.txt --name books --tokenizer tok8k",
            {"table", "json", "yaml"}};
  }

  std::vector<Option> options() override {
    return {{"FILE",
             "",
             "Text files, in order: .txt, .jsonl, each also .gz or .zst",
             &options_.inputs,
             true,
             {},
             Completion::kFile},
            {"--vocab-size", "N", "Tokens of the vocabulary, 257 to 1048576", &vocab_size_, true},
            {"--out",
             "DIRECTORY",
             "Write vocab.json and merges.txt there",
             &options_.output_directory,
             true,
             {},
             Completion::kDirectory},
            {"--overwrite", "", "Replace the files that are there", &options_.overwrite},
            {"--format",
             "FORMAT",
             "auto (default, by name), txt or jsonl",
             &format_,
             false,
             {"auto", "txt", "jsonl"}},
            {"--text-field", "FIELD", "Field of a JSON line that is the document. Default text",
             &options_.json_field},
            {"--separator", "TEXT", "Text between the documents of one text file",
             &options_.document_separator}};
  }

  absl::StatusOr<int> Run(Session& session) override {
    options_.format = format_ == "txt"     ? data::InputFormat::kText
                      : format_ == "jsonl" ? data::InputFormat::kJsonl
                                           : data::InputFormat::kAuto;
    if (vocab_size_ < 257 || vocab_size_ > 1 << 20) {
      return absl::InvalidArgumentError(
          absl::StrCat("--vocab-size is ", vocab_size_, "; allowed: 257 to 1048576"));
    }
    options_.vocab_size = static_cast<int32_t>(vocab_size_);
    absl::StatusOr<data::TrainTokenizerResult> result;
    {
      ProgressLine line(&session);
      result = data::TrainTokenizer(options_, [&line](const data::TrainTokenizerProgress& p) {
        Draw(p, &line);
        return absl::OkStatus();
      });
    }
    if (absl::IsNotFound(result.status()) || absl::IsDataLoss(result.status())) {
      // An input that is not there or damaged is a wrong command line.
      return absl::InvalidArgumentError(result.status().message());
    }
    if (!result.ok()) return result.status();
    Print(session, *result);
    return 0;
  }

 private:
  // Reading counts as half of the way.
  static void Draw(const data::TrainTokenizerProgress& progress, ProgressLine* line) {
    const auto share = [](int64_t done, int64_t total) {
      return total > 0 ? static_cast<double>(done) / static_cast<double>(total) : 0;
    };
    if (progress.merges_total == 0) {
      line->Draw(0.5 * share(progress.bytes_done, progress.bytes_total),
                 absl::StrCat(Bytes(progress.bytes_done), " of ", Bytes(progress.bytes_total)));
    } else {
      line->Draw(0.5 + 0.5 * share(progress.merges_done, progress.merges_total),
                 absl::StrCat(Grouped(progress.merges_done), " of ", Grouped(progress.merges_total),
                              " merges"));
    }
  }

  void Print(Session& session, const data::TrainTokenizerResult& result) const {
    if (session.structured()) {
      PrintStructured(session,
                      nlohmann::ordered_json({{"directory", options_.output_directory},
                                              {"vocab_size", result.vocab_size},
                                              {"text_bytes", result.text_bytes},
                                              {"distinct_pieces", result.distinct_pieces}}));
      return;
    }
    session.out() << "Vocabulary of " << Grouped(result.vocab_size) << " from "
                  << Bytes(result.text_bytes) << " of text, written to "
                  << Safe(options_.output_directory) << "\n";
    if (result.vocab_size < options_.vocab_size) {
      session.err() << "warning: no pair was left to merge; " << Grouped(options_.vocab_size)
                    << " were asked for\n";
    }
  }

  data::TrainTokenizerOptions options_;
  int64_t vocab_size_ = 0;
  std::string format_ = "auto";
};

}  // namespace

std::unique_ptr<Verb> MakeDataTrainTokenizerVerb() {
  return std::make_unique<DataTrainTokenizerVerb>();
}

}  // namespace nibble::client
