#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/files.h"
#include "base/paths.h"
#include "base/status_macros.h"
#include "client/commands/commands.h"
#include "client/output.h"
#include "client/table.h"
#include "client/text.h"
#include "nlohmann/json.hpp"
#include "worker/data/data_source.h"
#include "worker/data/token_shards.h"

namespace nibble::client {
namespace {

// Tokens of the text shown.
constexpr int64_t kSampleTokens = 200;

class DataInspectVerb : public Verb {
 public:
  VerbText text() const override {
    return {"data inspect",
            "What a dataset holds, and whether it is whole",
            "Shows the splits of a dataset that `nibble data prepare` wrote, checks the digest of "
            "every file, and for byte tokens prints how the text begins. DIRECTORY is a path, or a "
            "name in the data directory.",
            "nibble data inspect kjv\nnibble data inspect /data/books -o json",
            {"table", "json", "yaml"}};
  }
  std::vector<Option> options() override {
    return {{"DIRECTORY",
             "",
             "Path of a dataset, or its name in the data directory",
             &directory_,
             true,
             {},
             Completion::kDirectory}};
  }

  absl::StatusOr<int> Run(Session& session) override {
    if (!FileExists(directory_)) directory_ = JoinPath(DefaultDataDirectory(), directory_);
    absl::StatusOr<data::DatasetManifest> manifest = data::ReadManifest(directory_);
    if (!manifest.ok()) return Local(manifest.status());
    // Opening a split checks its files against their digests.
    std::string sample;
    for (const data::Split split : {data::Split::kTrain, data::Split::kValidation}) {
      const data::SplitManifest& summary =
          split == data::Split::kTrain ? manifest->train : manifest->validation;
      if (summary.documents == 0 || summary.tokens < 2) continue;
      const int64_t length = std::min(kSampleTokens, summary.tokens - 1);
      auto source = data::DataSource::Open(directory_, split, length);
      if (!source.ok()) return Local(source.status());
      if (split == data::Split::kTrain && manifest->tokenizer_kind == "bytes") {
        NIBBLE_RETURN_IF_ERROR(ReadSample(**source, &sample));
      }
    }
    if (session.structured()) {
      PrintStructured(session, Structured(*manifest));
    } else {
      Print(session, *manifest, sample);
    }
    return 0;
  }

 private:
  // A directory that is not there or damaged is a wrong command line, not a job that is not there.
  static absl::Status Local(const absl::Status& status) {
    if (absl::IsNotFound(status) || absl::IsDataLoss(status)) {
      return absl::InvalidArgumentError(status.message());
    }
    return status;
  }

  static absl::Status ReadSample(const data::DataSource& source, std::string* text) {
    std::vector<int32_t> inputs(source.sequence_length()), targets(source.sequence_length());
    NIBBLE_RETURN_IF_ERROR(source.ReadInOrder(0, inputs.data(), targets.data()));
    for (const int32_t id : inputs) text->push_back(static_cast<char>(id));
    std::replace(text->begin(), text->end(), '\n', ' ');
    // Not in the middle of a word, nor of a character.
    const size_t space = text->rfind(' ');
    if (space != std::string::npos && space > 0) text->resize(space);
    return absl::OkStatus();
  }

  nlohmann::ordered_json Structured(const data::DatasetManifest& manifest) const {
    const auto split = [](const data::SplitManifest& of) {
      return nlohmann::ordered_json({{"documents", of.documents},
                                     {"bytes", of.bytes},
                                     {"tokens", of.tokens},
                                     {"files", of.files.size()}});
    };
    return {{"directory", directory_},
            {"tokenizer", manifest.tokenizer_kind},
            {"tokenizer_digest", manifest.tokenizer_digest},
            {"vocab_size", manifest.vocab_size},
            {"train", split(manifest.train)},
            {"validation", split(manifest.validation)}};
  }

  void Print(Session& session, const data::DatasetManifest& manifest,
             const std::string& sample) const {
    Facts facts;
    facts.Add("directory", Safe(directory_));
    facts.Add("tokenizer", absl::StrCat(Safe(manifest.tokenizer_kind), ", vocabulary ",
                                        Grouped(manifest.vocab_size)));
    facts.Add("digests", "every file is what dataset.json says");
    facts.Print(session.terminal());
    session.out() << "\n";
    Table table({{"SPLIT"},
                 {"DOCUMENTS", true},
                 {"TEXT", true},
                 {"TOKENS", true},
                 {"BYTES/TOKEN", true},
                 {"FILES", true}});
    const auto add = [&table](const char* name, const data::SplitManifest& split) {
      const double ratio = static_cast<double>(split.bytes) / static_cast<double>(split.tokens);
      table.Add({name, Grouped(split.documents), Bytes(split.bytes), Grouped(split.tokens),
                 split.tokens > 0 ? absl::StrFormat("%.2f", ratio) : "-",
                 absl::StrCat(split.files.size())});
    };
    add("train", manifest.train);
    add("validation", manifest.validation);
    table.Print(session.terminal());
    if (!sample.empty()) {
      session.out() << "\nIt begins: " << Safe(sample)
                    << (session.terminal().unicode ? " …\n" : " ...\n");
    }
  }

  std::string directory_;
};

}  // namespace

std::unique_ptr<Verb> MakeDataInspectVerb() { return std::make_unique<DataInspectVerb>(); }

}  // namespace nibble::client
