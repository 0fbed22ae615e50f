#include "worker/data/prepare.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <memory>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/random.h"
#include "base/status_macros.h"
#include "worker/data/document_reader.h"
#include "worker/data/split_plan.h"
#include "worker/data/token_shards.h"
#include "worker/data/tokenizer.h"

namespace nibble::data {
namespace {

constexpr int64_t kProgressBytes = 512 * 1024;

absl::Status CheckOptions(const PrepareOptions& options) {
  const auto refuse = [](absl::string_view what) { return absl::InvalidArgumentError(what); };
  if (options.inputs.empty()) return refuse("inputs: none given; required: at least one file");
  if (options.output_directory.empty()) return refuse("output_directory: missing");
  if (!(options.validation_fraction >= 0 && options.validation_fraction < 1)) {
    return refuse(absl::StrCat("validation_fraction: is ", options.validation_fraction,
                               "; allowed: from 0 to below 1"));
  }
  if (options.shard_tokens < 1) return refuse("shard_tokens: allowed: at least 1");
  if (options.document_separator.size() > 1024) {
    return refuse("document_separator: allowed: at most 1024 bytes");
  }
  if (options.json_field.empty()) return refuse("json_field: missing");
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Tokenizer>> MakeTokenizer(const PrepareOptions& options) {
  if (options.tokenizer != "gpt2") return LoadTokenizer(options.tokenizer);
  if (options.vocab_file.empty() || options.merges_file.empty()) {
    return absl::InvalidArgumentError("tokenizer gpt2 needs vocab_file and merges_file");
  }
  return LoadBpeTokenizer({.vocab = options.vocab_file, .merges = options.merges_file});
}

// A dataset holds its tokenizer, so that its tokens can be read without looking for it.
absl::Status KeepTokenizer(const PrepareOptions& options, const std::string& dataset) {
  const std::string directory = JoinPath(dataset, kTokenizerDirectory);
  if (options.tokenizer != "gpt2") return CopyTokenizer(options.tokenizer, directory);
  constexpr int64_t kMaxFileBytes = int64_t{64} << 20;
  NIBBLE_RETURN_IF_ERROR(MakeDirectories(directory));
  for (const auto& [from, name] : {std::pair{options.vocab_file, "vocab.json"},
                                   std::pair{options.merges_file, "merges.txt"}}) {
    NIBBLE_ASSIGN_OR_RETURN(const std::string contents, ReadFile(from, kMaxFileBytes));
    NIBBLE_RETURN_IF_ERROR(WriteFileDurably(JoinPath(directory, name), contents));
  }
  return FsyncDirectory(directory);
}

// The directory that becomes the dataset: gone again unless Publish succeeds.
class OutputDirectory {
 public:
  // ALREADY_EXISTS as PrepareDataset.
  static absl::StatusOr<std::unique_ptr<OutputDirectory>> Make(std::string path, bool overwrite) {
    while (path.size() > 1 && path.back() == '/') path.pop_back();
    NIBBLE_RETURN_IF_ERROR(CheckFree(path, overwrite));
    const std::string parent = std::filesystem::path(path).parent_path().string();
    if (!parent.empty()) NIBBLE_RETURN_IF_ERROR(MakeDirectories(parent));
    const std::string temporary = MakeId(path + ".partial-", SystemRandom());
    NIBBLE_RETURN_IF_ERROR(MakeDirectories(temporary));
    return std::unique_ptr<OutputDirectory>(new OutputDirectory(path, temporary));
  }
  ~OutputDirectory() { RemoveTree(temporary_).IgnoreError(); }

  const std::string& temporary() const { return temporary_; }

  absl::Status Publish(bool overwrite) {
    NIBBLE_RETURN_IF_ERROR(FsyncDirectory(temporary_));
    NIBBLE_RETURN_IF_ERROR(CheckFree(path_, overwrite));
    if (!FileExists(path_)) return RenameDurably(temporary_, path_);
    // Exchanged, so that a dataset is there at every instant; the old one goes with this object.
    if (renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, path_.c_str(), RENAME_EXCHANGE) != 0) {
      return ErrnoStatus(errno, "replace", path_);
    }
    const std::string parent = std::filesystem::path(path_).parent_path().string();
    return FsyncDirectory(parent.empty() ? "." : parent);
  }

 private:
  OutputDirectory(std::string path, std::string temporary)
      : path_(std::move(path)), temporary_(std::move(temporary)) {}

  static absl::Status CheckFree(const std::string& path, bool overwrite) {
    if (!FileExists(path)) return absl::OkStatus();
    if (!overwrite) return absl::AlreadyExistsError(absl::StrCat(path, " exists"));
    if (FileExists(JoinPath(path, kDatasetFileName))) return absl::OkStatus();
    return absl::AlreadyExistsError(
        absl::StrCat(path, " exists and holds no dataset, so it is not replaced"));
  }

  const std::string path_;
  const std::string temporary_;
};

class Preparation {
 public:
  Preparation(const PrepareOptions& options, const PrepareCallback& callback)
      : options_(options), callback_(callback) {}

  absl::StatusOr<PrepareResult> Run() {
    NIBBLE_RETURN_IF_ERROR(CheckOptions(options_));
    NIBBLE_ASSIGN_OR_RETURN(tokenizer_, MakeTokenizer(options_));
    NIBBLE_RETURN_IF_ERROR(MeasureInputs());
    NIBBLE_ASSIGN_OR_RETURN(auto output,
                            OutputDirectory::Make(options_.output_directory, options_.overwrite));
    if (two_passes_) NIBBLE_RETURN_IF_ERROR(PlanLastSplit());
    NIBBLE_RETURN_IF_ERROR(WriteShards(output->temporary()));
    NIBBLE_RETURN_IF_ERROR(output->Publish(options_.overwrite));
    NIBBLE_RETURN_IF_ERROR(Report());
    result_.vocab_size = tokenizer_->vocab_size();
    result_.dropped_nul_bytes = tokenizer_->dropped_nul_bytes();
    return result_;
  }

 private:
  using DocumentHandler = std::function<absl::Status(const std::string& text)>;

  struct Side {
    std::unique_ptr<ShardWriter> writer;
    SplitManifest manifest;
  };

  absl::Status MeasureInputs() {
    int64_t bytes = 0;
    for (const std::string& path : options_.inputs) {
      struct stat info;
      if (stat(path.c_str(), &info) != 0) return ErrnoStatus(errno, "stat", path);
      bytes += info.st_size;
    }
    two_passes_ = options_.split == SplitMethod::kLast && options_.validation_fraction > 0;
    progress_.bytes_total = two_passes_ ? 2 * bytes : bytes;
    return Report();
  }

  absl::Status Report() {
    reported_bytes_ = progress_.bytes_done;
    return callback_ ? callback_(progress_) : absl::OkStatus();
  }

  // Calls `handle` with every document that is not empty, in order.
  absl::Status ForEachDocument(const DocumentHandler& handle) {
    std::string text;
    result_.empty_documents = 0;
    for (const std::string& path : options_.inputs) {
      const DocumentFormat format = MakeDocumentFormat(options_.format, path, options_.json_field,
                                                       options_.document_separator);
      NIBBLE_ASSIGN_OR_RETURN(const auto reader, DocumentReader::Open(path, format));
      const int64_t bytes_before = progress_.bytes_done;
      while (true) {
        NIBBLE_ASSIGN_OR_RETURN(const bool more, reader->Next(&text));
        progress_.bytes_done = bytes_before + reader->file_bytes_read();
        if (progress_.bytes_done - reported_bytes_ >= kProgressBytes) {
          NIBBLE_RETURN_IF_ERROR(Report());
        }
        if (!more) break;
        if (text.empty()) {
          ++result_.empty_documents;
        } else {
          NIBBLE_RETURN_IF_ERROR(handle(text));
        }
      }
    }
    return absl::OkStatus();
  }

  absl::Status PlanLastSplit() {
    NIBBLE_RETURN_IF_ERROR(ForEachDocument([this](const std::string& text) {
      return plan_.Add(DocumentHash(text), static_cast<int64_t>(text.size()));
    }));
    return plan_.Decide(options_.validation_fraction);
  }

  absl::StatusOr<bool> IsHeldOut(const std::string& text, int64_t index) const {
    if (options_.validation_fraction == 0) return false;
    const uint64_t hash = DocumentHash(text);
    if (!two_passes_) {
      return IsHeldOutByHash(hash, options_.split_seed, options_.validation_fraction);
    }
    if (index >= plan_.documents() || plan_.hash(index) != hash) {
      return absl::AbortedError("an input changed while it was read");
    }
    return plan_.IsHeldOut(index);
  }

  absl::Status WriteShards(const std::string& directory) {
    for (Side* side : {&train_, &validation_}) {
      side->writer = std::make_unique<ShardWriter>(
          ShardWriter::Options{.directory = directory,
                               .split = side == &train_ ? "train" : "validation",
                               .vocab_size = tokenizer_->vocab_size(),
                               .shard_tokens = options_.shard_tokens});
    }
    int64_t index = 0;
    NIBBLE_RETURN_IF_ERROR(ForEachDocument([&](const std::string& text) -> absl::Status {
      NIBBLE_ASSIGN_OR_RETURN(const bool held_out, IsHeldOut(text, index++));
      return WriteDocument(text, held_out ? &validation_ : &train_);
    }));
    if (two_passes_ && index != plan_.documents()) {
      return absl::AbortedError("an input changed while it was read");
    }
    if (train_.manifest.documents == 0) {
      return absl::InvalidArgumentError("inputs: no document to train on");
    }
    NIBBLE_RETURN_IF_ERROR(FinishSide(&train_, &result_.train));
    NIBBLE_RETURN_IF_ERROR(FinishSide(&validation_, &result_.validation));
    const DatasetManifest manifest = {.vocab_size = tokenizer_->vocab_size(),
                                      .token_bytes = TokenBytes(tokenizer_->vocab_size()),
                                      .tokenizer_kind = std::string(tokenizer_->kind()),
                                      .tokenizer_digest = tokenizer_->digest(),
                                      .separator = tokenizer_->separator(),
                                      .train = train_.manifest,
                                      .validation = validation_.manifest};
    NIBBLE_RETURN_IF_ERROR(KeepTokenizer(options_, directory));
    return WriteFileDurably(JoinPath(directory, kDatasetFileName), ManifestToJson(manifest));
  }

  absl::Status WriteDocument(const std::string& text, Side* side) {
    const auto append = [&](const int32_t* ids, int64_t count) {
      side->manifest.tokens += count;
      progress_.tokens += count;
      return side->writer->Append(ids, count);
    };
    NIBBLE_ASSIGN_OR_RETURN(const int64_t bytes, tokenizer_->Encode(text, append));
    const int32_t separator = tokenizer_->separator();
    NIBBLE_RETURN_IF_ERROR(append(&separator, 1));
    side->manifest.bytes += bytes;
    ++side->manifest.documents;
    ++progress_.documents;
    return absl::OkStatus();
  }

  static absl::Status FinishSide(Side* side, SplitSummary* summary) {
    NIBBLE_ASSIGN_OR_RETURN(side->manifest.files, side->writer->Finish());
    *summary = {.documents = side->manifest.documents,
                .bytes = side->manifest.bytes,
                .tokens = side->manifest.tokens,
                .files = static_cast<int64_t>(side->manifest.files.size())};
    return absl::OkStatus();
  }

  const PrepareOptions& options_;
  const PrepareCallback& callback_;
  std::unique_ptr<Tokenizer> tokenizer_;
  bool two_passes_ = false;
  LastSplitPlan plan_;
  Side train_;
  Side validation_;
  PrepareProgress progress_;
  int64_t reported_bytes_ = 0;
  PrepareResult result_;
};

}  // namespace

absl::StatusOr<PrepareResult> PrepareDataset(const PrepareOptions& options,
                                             const PrepareCallback& progress) {
  return Preparation(options, progress).Run();
}

}  // namespace nibble::data
