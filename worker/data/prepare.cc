#include "worker/data/prepare.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "worker/data/document_reader.h"
#include "worker/data/ordered_workers.h"
#include "worker/data/partial_dataset.h"
#include "worker/data/split_plan.h"
#include "worker/data/token_shards.h"
#include "worker/data/tokenizer.h"

namespace nibble::data {
namespace {

constexpr int64_t kProgressBytes = 512 * 1024;
// Text given to a thread at a time, and in all threads together.
constexpr int64_t kBatchBytes = 256 * 1024;
constexpr int64_t kPendingBytes = int64_t{32} << 20;

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
  if (options.threads < 0 || options.threads > 1024) {
    return refuse(absl::StrCat("threads: is ", options.threads, "; allowed: 0 to 1024"));
  }
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

class Preparation {
 public:
  Preparation(const PrepareOptions& options, const PrepareCallback& callback)
      : options_(options), callback_(callback) {}

  absl::StatusOr<PrepareResult> Run() {
    NIBBLE_RETURN_IF_ERROR(CheckOptions(options_));
    NIBBLE_ASSIGN_OR_RETURN(tokenizer_, MakeTokenizer(options_));
    PreparationIdentity identity;
    NIBBLE_RETURN_IF_ERROR(MeasureInputs(&identity));
    identity.options = OptionsDigest();
    NIBBLE_ASSIGN_OR_RETURN(partial_,
                            PartialDataset::Open(options_.output_directory, options_.overwrite,
                                                 options_.restart, identity));
    result_.resumed_documents = partial_->state().documents;
    if (two_passes_) NIBBLE_RETURN_IF_ERROR(PlanLastSplit());
    NIBBLE_RETURN_IF_ERROR(WriteShards());
    // The last report may still stop the work: what is in place stays.
    NIBBLE_RETURN_IF_ERROR(Report());
    NIBBLE_RETURN_IF_ERROR(partial_->Publish(options_.overwrite));
    result_.vocab_size = tokenizer_->vocab_size();
    result_.dropped_nul_bytes = dropped_nul_bytes_;
    return result_;
  }

 private:
  // Documents that follow each other, and what becomes of them.
  struct Batch {
    std::vector<std::string> texts;
    int64_t bytes = 0;
    // Of each document, as far as they are wanted: its hash, the end of its ids, its text's bytes.
    std::vector<uint64_t> hashes;
    std::vector<size_t> ends;
    std::vector<int64_t> encoded_bytes;
    std::vector<int32_t> ids;
    int64_t dropped_nul_bytes = 0;
    absl::Status status;
  };
  // In one of the threads; then, in this one and in order.
  using Work = std::function<void(int thread, Batch&)>;
  using Handler = std::function<absl::Status(Batch&)>;

  struct Side {
    std::unique_ptr<ShardWriter> writer;
    SplitManifest manifest;
  };

  int Threads() const {
    if (options_.threads > 0) return options_.threads;
    return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  }

  absl::Status MeasureInputs(PreparationIdentity* identity) {
    for (const std::string& path : options_.inputs) {
      struct stat info;
      if (stat(path.c_str(), &info) != 0) return ErrnoStatus(errno, "stat", path);
      input_bytes_ += info.st_size;
      identity->inputs.push_back(
          {path, info.st_size,
           int64_t{info.st_mtim.tv_sec} * 1'000'000'000 + info.st_mtim.tv_nsec});
    }
    two_passes_ = options_.split == SplitMethod::kLast && options_.validation_fraction > 0;
    progress_.bytes_total = two_passes_ ? 2 * input_bytes_ : input_bytes_;
    return Report();
  }

  // Of everything that makes the dataset beside the inputs.
  std::string OptionsDigest() const {
    Sha256 sha;
    const auto add = [&sha](absl::string_view text) {
      const uint64_t size = text.size();
      sha.Update(&size, sizeof(size));
      sha.Update(text.data(), text.size());
    };
    add(absl::StrCat(static_cast<int>(options_.format), " ", static_cast<int>(options_.split), " ",
                     options_.split_seed, " ", options_.shard_tokens));
    add(options_.json_field);
    add(options_.document_separator);
    add(tokenizer_->kind());
    add(tokenizer_->digest());
    sha.Update(&options_.validation_fraction, sizeof(options_.validation_fraction));
    return sha.HexDigest();
  }

  absl::Status Report() {
    reported_bytes_ = progress_.bytes_done;
    return callback_ ? callback_(progress_) : absl::OkStatus();
  }

  // Gives every document that is not empty, from number `skip` on, to `work` and then `handle`.
  absl::Status ForEachBatch(int64_t skip, const Work& work, const Handler& handle) {
    OrderedWorkers<Batch> workers(Threads(), work);
    int64_t pending = 0, documents = 0;  // bytes of text in the workers; documents so far
    const auto handle_oldest = [&]() -> absl::Status {
      const std::unique_ptr<Batch> batch = workers.Pop();
      pending -= batch->bytes;
      NIBBLE_RETURN_IF_ERROR(batch->status);
      return handle(*batch);
    };
    auto batch = std::make_unique<Batch>();
    const auto push = [&]() -> absl::Status {
      // Bounds what waits, but always lets one batch through, however long its document is.
      while (workers.size() > 0 && pending + batch->bytes > kPendingBytes) {
        NIBBLE_RETURN_IF_ERROR(handle_oldest());
      }
      pending += batch->bytes;
      workers.Push(std::move(batch));
      batch = std::make_unique<Batch>();
      return absl::OkStatus();
    };
    NIBBLE_RETURN_IF_ERROR(ForEachDocument([&](std::string text) -> absl::Status {
      if (documents++ < skip) return absl::OkStatus();
      batch->bytes += static_cast<int64_t>(text.size());
      batch->texts.push_back(std::move(text));
      return batch->bytes < kBatchBytes ? absl::OkStatus() : push();
    }));
    if (documents < skip) return InputChanged();
    if (!batch->texts.empty()) NIBBLE_RETURN_IF_ERROR(push());
    while (workers.size() > 0) NIBBLE_RETURN_IF_ERROR(handle_oldest());
    return absl::OkStatus();
  }

  absl::Status ForEachDocument(const std::function<absl::Status(std::string)>& take) {
    result_.empty_documents = 0;
    for (const std::string& path : options_.inputs) {
      const DocumentFormat format = MakeDocumentFormat(options_.format, path, options_.json_field,
                                                       options_.document_separator);
      NIBBLE_ASSIGN_OR_RETURN(const auto reader, DocumentReader::Open(path, format));
      const int64_t bytes_before = progress_.bytes_done;
      while (true) {
        std::string text;
        NIBBLE_ASSIGN_OR_RETURN(const bool more, reader->Next(&text));
        progress_.bytes_done = bytes_before + reader->file_bytes_read();
        if (progress_.bytes_done - reported_bytes_ >= kProgressBytes) {
          NIBBLE_RETURN_IF_ERROR(Report());
        }
        if (!more) break;
        if (text.empty()) {
          ++result_.empty_documents;
        } else {
          NIBBLE_RETURN_IF_ERROR(take(std::move(text)));
        }
      }
    }
    return absl::OkStatus();
  }

  static absl::Status InputChanged() {
    return absl::AbortedError("an input changed while it was read");
  }

  static void HashAll(Batch& batch) {
    for (const std::string& text : batch.texts) batch.hashes.push_back(DocumentHash(text));
  }

  absl::Status PlanLastSplit() {
    absl::StatusOr<LastSplitPlan> plan = partial_->LoadPlan();
    if (plan.ok()) {
      plan_ = *std::move(plan);
      progress_.bytes_done = input_bytes_;
    } else {
      NIBBLE_RETURN_IF_ERROR(ForEachBatch(
          /*skip=*/0, [](int, Batch& batch) { HashAll(batch); },
          [this](Batch& batch) -> absl::Status {
            for (size_t i = 0; i < batch.texts.size(); ++i) {
              NIBBLE_RETURN_IF_ERROR(
                  plan_.Add(batch.hashes[i], static_cast<int64_t>(batch.texts[i].size())));
            }
            return absl::OkStatus();
          }));
      NIBBLE_RETURN_IF_ERROR(partial_->SavePlan(plan_));
    }
    return plan_.Decide(options_.validation_fraction);
  }

  absl::StatusOr<bool> IsHeldOut(uint64_t hash, int64_t index) const {
    if (!two_passes_) {
      return IsHeldOutByHash(hash, options_.split_seed, options_.validation_fraction);
    }
    if (index >= plan_.documents() || plan_.hash(index) != hash) return InputChanged();
    return plan_.IsHeldOut(index);
  }

  // In a worker's thread, with its own tokenizer.
  void EncodeAll(std::unique_ptr<Tokenizer>* tokenizer, Batch& batch) const {
    if (*tokenizer == nullptr) {
      absl::StatusOr<std::unique_ptr<Tokenizer>> made = MakeTokenizer(options_);
      batch.status = made.status();
      if (!made.ok()) return;
      *tokenizer = *std::move(made);
    }
    const int64_t dropped = (*tokenizer)->dropped_nul_bytes();
    const int32_t separator = (*tokenizer)->separator();
    for (const std::string& text : batch.texts) {
      const absl::StatusOr<int64_t> bytes =
          (*tokenizer)->Encode(text, [&batch](const int32_t* ids, int64_t count) {
            batch.ids.insert(batch.ids.end(), ids, ids + count);
            return absl::OkStatus();
          });
      batch.status = bytes.status();
      if (!bytes.ok()) return;
      batch.ids.push_back(separator);
      batch.ends.push_back(batch.ids.size());
      batch.encoded_bytes.push_back(*bytes);
    }
    batch.dropped_nul_bytes = (*tokenizer)->dropped_nul_bytes() - dropped;
    if (options_.validation_fraction > 0) HashAll(batch);
  }

  absl::Status WriteBatch(const Batch& batch) {
    size_t begin = 0;
    for (size_t i = 0; i < batch.texts.size(); ++i) {
      bool held_out = false;
      if (options_.validation_fraction > 0) {
        NIBBLE_ASSIGN_OR_RETURN(held_out, IsHeldOut(batch.hashes[i], progress_.documents));
      }
      Side& side = held_out ? validation_ : train_;
      const auto tokens = static_cast<int64_t>(batch.ends[i] - begin);
      NIBBLE_RETURN_IF_ERROR(side.writer->Append(batch.ids.data() + begin, tokens));
      begin = batch.ends[i];
      side.manifest.tokens += tokens;
      side.manifest.bytes += batch.encoded_bytes[i];
      ++side.manifest.documents;
      progress_.tokens += tokens;
      ++progress_.documents;
    }
    dropped_nul_bytes_ += batch.dropped_nul_bytes;
    unsaved_bytes_ += batch.bytes;
    return unsaved_bytes_ < options_.save_bytes ? absl::OkStatus() : SaveState();
  }

  absl::Status SaveState() {
    PreparationState state;
    state.documents = progress_.documents;
    state.dropped_nul_bytes = dropped_nul_bytes_;
    for (const auto& [side, saved] :
         {std::pair{&train_, &state.train}, std::pair{&validation_, &state.validation}}) {
      saved->documents = side->manifest.documents;
      saved->bytes = side->manifest.bytes;
      saved->tokens = side->manifest.tokens;
      NIBBLE_ASSIGN_OR_RETURN(saved->shards, side->writer->Sync());
    }
    unsaved_bytes_ = 0;
    return partial_->Save(state);
  }

  absl::Status OpenSide(const char* split, const SideState& state, Side* side) {
    side->writer =
        std::make_unique<ShardWriter>(ShardWriter::Options{.directory = partial_->directory(),
                                                           .split = split,
                                                           .vocab_size = tokenizer_->vocab_size(),
                                                           .shard_tokens = options_.shard_tokens});
    side->manifest.documents = state.documents;
    side->manifest.bytes = state.bytes;
    side->manifest.tokens = state.tokens;
    progress_.tokens += state.tokens;
    return side->writer->Resume(state.shards);
  }

  absl::Status WriteShards() {
    const PreparationState& state = partial_->state();
    NIBBLE_RETURN_IF_ERROR(OpenSide("train", state.train, &train_));
    NIBBLE_RETURN_IF_ERROR(OpenSide("validation", state.validation, &validation_));
    dropped_nul_bytes_ = state.dropped_nul_bytes;
    progress_.documents = state.documents;
    std::vector<std::unique_ptr<Tokenizer>> tokenizers(Threads());
    NIBBLE_RETURN_IF_ERROR(ForEachBatch(
        state.documents, [&](int thread, Batch& batch) { EncodeAll(&tokenizers[thread], batch); },
        [this](Batch& batch) -> absl::Status {
          NIBBLE_RETURN_IF_ERROR(WriteBatch(batch));
          return Report();
        }));
    if (two_passes_ && progress_.documents != plan_.documents()) return InputChanged();
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
    const std::string& directory = partial_->directory();
    for (const char* name : {kTokenizerDirectory, kDatasetFileName}) {
      NIBBLE_RETURN_IF_ERROR(RemoveTree(JoinPath(directory, name)));  // of an earlier process
    }
    NIBBLE_RETURN_IF_ERROR(KeepTokenizer(options_, directory));
    return WriteFileDurably(JoinPath(directory, kDatasetFileName), ManifestToJson(manifest));
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
  std::unique_ptr<PartialDataset> partial_;
  bool two_passes_ = false;
  int64_t input_bytes_ = 0;
  LastSplitPlan plan_;
  Side train_;
  Side validation_;
  PrepareProgress progress_;
  int64_t reported_bytes_ = 0;
  int64_t unsaved_bytes_ = 0;  // of text, since the state was saved
  int64_t dropped_nul_bytes_ = 0;
  PrepareResult result_;
};

}  // namespace

absl::StatusOr<PrepareResult> PrepareDataset(const PrepareOptions& options,
                                             const PrepareCallback& progress) {
  return Preparation(options, progress).Run();
}

}  // namespace nibble::data
