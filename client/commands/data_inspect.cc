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
#include "worker/data/inspect.h"
#include "worker/data/token_shards.h"
#include "worker/data/tokenizer.h"

namespace nibble::client {
namespace {

// Characters of the text shown.
constexpr size_t kSampleBytes = 400;

class DataInspectVerb : public Verb {
 public:
  VerbText text() const override {
    return {"data inspect",
            "What a dataset or token file holds, and whether it is whole",
            "Shows the splits of a dataset that `nibble data prepare` wrote, checks the digest of "
            "every file and prints how the text begins. Also reads llm.c's .bin, Megatron's .bin "
            "and .idx, and tokens without a header (--format raw_u16 or raw_u32): a file, a "
            "directory or a pattern. PATH is a path, or a name in the data directory.",
            "nibble data inspect kjv\nnibble data inspect /data/books -o json\n"
            "nibble data inspect '/data/fineweb_train_*.bin' --tokenizer gpt2.tiktoken\n"
            "nibble data inspect train.bin --format raw_u16 --separator 50256",
            {"table", "json", "yaml"}};
  }
  std::vector<Option> options() override {
    return {{"PATH",
             "",
             "A dataset or token file, or a dataset's name in the data directory",
             &source_.path,
             true,
             {},
             Completion::kDirectory},
            {"--format",
             "FORMAT",
             "auto (default), nibble, llmc, megatron, raw_u16 or raw_u32",
             &format_,
             false,
             {"auto", "nibble", "llmc", "megatron", "raw_u16", "raw_u32"}},
            {"--tokenizer",
             "PATH",
             "Show the text by this tokenizer; a dataset has its own",
             &tokenizer_,
             false,
             {},
             Completion::kFile},
            {"--separator", "ID", "The id that ends documents, where the files do not say it",
             &separator_}};
  }

  absl::StatusOr<int> Run(Session& session) override {
    if (!FileExists(source_.path) && FileExists(JoinPath(DefaultDataDirectory(), source_.path))) {
      source_.path = JoinPath(DefaultDataDirectory(), source_.path);
    }
    const absl::Status status = Inspect();
    if (absl::IsNotFound(status) || absl::IsDataLoss(status)) {
      // Files that are not there or damaged are a wrong command line, not a job that is not there.
      return absl::InvalidArgumentError(status.message());
    }
    NIBBLE_RETURN_IF_ERROR(status);
    session.structured() ? PrintStructured(session, Structured()) : Print(session);
    return 0;
  }

 private:
  struct Part {
    const char* name;
    data::SplitInspection found;
    int64_t bytes = -1;  // of text; -1: not recorded
  };

  absl::Status Inspect() {
    for (const auto& [name, format] : {std::pair{"nibble", data::TokenFormat::kNibble},
                                       std::pair{"llmc", data::TokenFormat::kLlmc},
                                       std::pair{"megatron", data::TokenFormat::kMegatron},
                                       std::pair{"raw_u16", data::TokenFormat::kRawU16},
                                       std::pair{"raw_u32", data::TokenFormat::kRawU32}}) {
      if (format_ == name) source_.format = format;
    }
    source_.separator = static_cast<int32_t>(separator_);
    is_dataset_ = source_.format == data::TokenFormat::kNibble ||
                  (source_.format == data::TokenFormat::kAuto &&
                   FileExists(JoinPath(source_.path, data::kDatasetFileName)));
    if (is_dataset_) {
      NIBBLE_ASSIGN_OR_RETURN(manifest_, data::ReadManifest(source_.path));
      if (tokenizer_.empty())
        tokenizer_ = manifest_.tokenizer_kind == "bytes" ? "bytes" : OwnTokenizer();
    }
    for (const data::Split split : {data::Split::kTrain, data::Split::kValidation}) {
      const bool train = split == data::Split::kTrain;
      auto found = data::InspectSplit(source_, split);
      if (absl::IsNotFound(found.status()) && (!train || is_dataset_)) continue;
      if (!found.ok()) return found.status();
      Part& part = parts_.emplace_back();
      part.name = train ? "train" : "validation";
      part.found = *std::move(found);
      if (!is_dataset_) continue;
      const data::SplitManifest& split_manifest = train ? manifest_.train : manifest_.validation;
      part.bytes = split_manifest.bytes;
      part.found.documents = split_manifest.documents;
    }
    if (parts_.empty()) {
      return absl::NotFoundError(absl::StrCat(source_.path, ": holds no split"));
    }
    return tokenizer_.empty() ? absl::OkStatus() : DecodeSample();
  }

  std::string OwnTokenizer() const {
    const std::string directory = JoinPath(source_.path, data::kTokenizerDirectory);
    return FileExists(directory) ? directory : "";
  }

  absl::Status DecodeSample() {
    NIBBLE_ASSIGN_OR_RETURN(const auto tokenizer, data::LoadTokenizer(tokenizer_));
    std::vector<int32_t> ids;
    for (const int32_t id : parts_[0].found.first_ids) {
      if (id < tokenizer->vocab_size()) ids.push_back(id);
    }
    NIBBLE_RETURN_IF_ERROR(tokenizer->Decode(ids, &sample_));
    const bool shortened = sample_.size() > kSampleBytes;
    if (shortened) sample_.resize(kSampleBytes);
    std::replace(sample_.begin(), sample_.end(), '\n', ' ');
    // Not in the middle of a word, nor of a character.
    const size_t space = sample_.rfind(' ');
    if (space != std::string::npos && space > 0) sample_.resize(space);
    return absl::OkStatus();
  }

  nlohmann::ordered_json Structured() const {
    nlohmann::ordered_json json = {{"directory", source_.path}, {"format", parts_[0].found.format}};
    if (is_dataset_) {
      json["tokenizer"] = manifest_.tokenizer_kind;
      json["tokenizer_digest"] = manifest_.tokenizer_digest;
      json["vocab_size"] = manifest_.vocab_size;
    }
    for (const Part& part : parts_) {
      nlohmann::ordered_json split;
      if (part.found.documents >= 0) split["documents"] = part.found.documents;
      if (part.bytes >= 0) split["bytes"] = part.bytes;
      split["tokens"] = part.found.tokens;
      split["files"] = part.found.files;
      split["token_bytes"] = part.found.token_bytes;
      split["smallest_id"] = part.found.smallest_id;
      split["largest_id"] = part.found.largest_id;
      json[part.name] = std::move(split);
    }
    if (!sample_.empty()) json["sample"] = Safe(sample_);
    return json;
  }

  void Print(Session& session) const {
    Facts facts;
    facts.Add(is_dataset_ ? "directory" : "path", Safe(source_.path));
    facts.Add("format", absl::StrCat(parts_[0].found.format, ", ", 8 * parts_[0].found.token_bytes,
                                     " bits a token"));
    if (is_dataset_) {
      facts.Add("tokenizer", absl::StrCat(Safe(manifest_.tokenizer_kind), ", vocabulary ",
                                          Grouped(manifest_.vocab_size)));
      facts.Add("digests", "every file is what dataset.json says");
    }
    facts.Print(session.terminal());
    session.out() << "\n";
    Table table({{"SPLIT"},
                 {"DOCUMENTS", true},
                 {"TEXT", true},
                 {"TOKENS", true},
                 {"BYTES/TOKEN", true},
                 {"IDS", true},
                 {"FILES", true}});
    for (const Part& part : parts_) {
      const data::SplitInspection& found = part.found;
      const double ratio = static_cast<double>(part.bytes) / static_cast<double>(found.tokens);
      table.Add({part.name, found.documents >= 0 ? Grouped(found.documents) : "-",
                 part.bytes >= 0 ? Bytes(part.bytes) : "-", Grouped(found.tokens),
                 part.bytes >= 0 ? absl::StrFormat("%.2f", ratio) : "-",
                 absl::StrCat(found.smallest_id, "-", found.largest_id),
                 absl::StrCat(found.files)});
    }
    table.Print(session.terminal());
    if (!sample_.empty()) {
      session.out() << "\nIt begins: " << Safe(sample_)
                    << (session.terminal().unicode ? " …\n" : " ...\n");
    } else {
      std::vector<int32_t> ids = parts_[0].found.first_ids;
      ids.resize(std::min<size_t>(ids.size(), 16));
      session.out() << "\nIt begins:";
      for (const int32_t id : ids) session.out() << " " << id;
      session.out() << "\n";
    }
  }

  data::SourceConfig source_;
  std::string format_ = "auto";
  std::string tokenizer_;
  int64_t separator_ = -1;
  bool is_dataset_ = false;
  data::DatasetManifest manifest_;
  std::vector<Part> parts_;
  std::string sample_;
};

}  // namespace

std::unique_ptr<Verb> MakeDataInspectVerb() { return std::make_unique<DataInspectVerb>(); }

}  // namespace nibble::client
