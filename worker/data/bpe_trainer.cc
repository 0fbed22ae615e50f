#include "worker/data/bpe_trainer.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"
#include "worker/data/byte_alphabet.h"
#include "worker/data/document_reader.h"
#include "worker/data/pair_merger.h"
#include "worker/data/pretokenizer.h"
#include "worker/data/tokenizer.h"
#include "worker/data/utf8.h"

namespace nibble::data {
namespace {

constexpr int32_t kMinVocabulary = 257;  // the separator and the bytes
constexpr int32_t kMaxVocabulary = 1 << 20;
constexpr int64_t kProgressBytes = 512 * 1024;
constexpr int64_t kProgressMerges = 64;
constexpr int64_t kMaxPieceBytes = int64_t{2} << 30;
// A longer run of letters or spaces is no word; cut, so that merging one piece stays cheap.
constexpr size_t kLongestPiece = 4096;

class Training {
 public:
  Training(const TrainTokenizerOptions& options, const TrainTokenizerCallback& callback)
      : options_(options), callback_(callback) {}

  absl::StatusOr<TrainTokenizerResult> Run() {
    NIBBLE_RETURN_IF_ERROR(CheckOptions());
    NIBBLE_ASSIGN_OR_RETURN(pretokenizer_, Pretokenizer::Make());
    NIBBLE_RETURN_IF_ERROR(CountPieces());
    NIBBLE_RETURN_IF_ERROR(Merge());
    NIBBLE_RETURN_IF_ERROR(WriteFiles());
    return result_;
  }

 private:
  std::string VocabPath() const { return JoinPath(options_.output_directory, "vocab.json"); }
  std::string MergesPath() const { return JoinPath(options_.output_directory, "merges.txt"); }

  absl::Status CheckOptions() const {
    if (options_.inputs.empty()) {
      return absl::InvalidArgumentError("inputs: none given; required: at least one file");
    }
    if (options_.output_directory.empty()) {
      return absl::InvalidArgumentError("output_directory: missing");
    }
    if (options_.vocab_size < kMinVocabulary || options_.vocab_size > kMaxVocabulary) {
      return absl::InvalidArgumentError(absl::StrCat("vocab_size: is ", options_.vocab_size,
                                                     "; allowed: ", kMinVocabulary, " to ",
                                                     kMaxVocabulary));
    }
    for (const std::string& path : {VocabPath(), MergesPath()}) {
      if (!options_.overwrite && FileExists(path)) {
        return absl::AlreadyExistsError(absl::StrCat(path, " exists"));
      }
    }
    return absl::OkStatus();
  }

  absl::Status Report() { return callback_ ? callback_(progress_) : absl::OkStatus(); }

  absl::Status CountPieces() {
    for (const std::string& path : options_.inputs) {
      struct stat info;
      if (stat(path.c_str(), &info) != 0) return ErrnoStatus(errno, "stat", path);
      progress_.bytes_total += info.st_size;
    }
    std::string text;
    int64_t reported = 0;
    for (const std::string& path : options_.inputs) {
      NIBBLE_ASSIGN_OR_RETURN(
          const auto reader,
          DocumentReader::Open(path, MakeDocumentFormat(options_.format, path, options_.json_field,
                                                        options_.document_separator)));
      const int64_t before = progress_.bytes_done;
      while (true) {
        NIBBLE_ASSIGN_OR_RETURN(const bool more, reader->Next(&text));
        progress_.bytes_done = before + reader->file_bytes_read();
        if (progress_.bytes_done - reported >= kProgressBytes) {
          reported = progress_.bytes_done;
          NIBBLE_RETURN_IF_ERROR(Report());
        }
        if (!more) break;
        NIBBLE_RETURN_IF_ERROR(CountPiecesOf(IsValidUtf8(text) ? text : ReplaceInvalidUtf8(text)));
      }
    }
    return absl::OkStatus();
  }

  absl::Status CountPiecesOf(absl::string_view text) {
    result_.text_bytes += static_cast<int64_t>(text.size());
    for (size_t begin = 0; begin < text.size();) {
      const size_t end = pretokenizer_->EndOfPiece(text, begin);
      for (; begin < end; begin = std::min(end, begin + kLongestPiece)) {
        const absl::string_view piece = text.substr(begin, std::min(kLongestPiece, end - begin));
        const auto [entry, is_new] = counts_.try_emplace(piece, 0);
        ++entry->second;
        if (is_new) piece_bytes_ += static_cast<int64_t>(piece.size());
      }
    }
    if (piece_bytes_ <= kMaxPieceBytes) return absl::OkStatus();
    return absl::ResourceExhaustedError(absl::StrCat(
        "the text has over ", kMaxPieceBytes, " bytes of distinct pieces; train on a part of it"));
  }

  absl::Status Merge() {
    // Ids: the separator, then the bytes in the order of the characters that stand for them.
    std::vector<int> bytes(256);
    for (int i = 0; i < 256; ++i) bytes[static_cast<size_t>(i)] = i;
    std::sort(bytes.begin(), bytes.end(), [this](int a, int b) {
      return alphabet_.code(static_cast<uint8_t>(a)) < alphabet_.code(static_cast<uint8_t>(b));
    });
    std::vector<std::string> tokens = {std::string(kSeparatorToken)};
    int32_t id_of[256];
    for (const int byte : bytes) {
      id_of[byte] = static_cast<int32_t>(tokens.size());
      tokens.emplace_back(1, static_cast<char>(byte));
    }
    merger_ = std::make_unique<PairMerger>(std::move(tokens));
    result_.distinct_pieces = static_cast<int64_t>(counts_.size());
    std::vector<int32_t> ids;
    for (const auto& [piece, count] : counts_) {
      ids.clear();
      for (const char c : piece) ids.push_back(id_of[static_cast<unsigned char>(c)]);
      merger_->AddPiece(ids, count);
    }
    counts_ = {};
    merger_->Start();
    progress_.merges_total = options_.vocab_size - kMinVocabulary;
    PairMerger::Pair pair;
    while (progress_.merges_done < progress_.merges_total && merger_->MergeBest(&pair)) {
      merges_.push_back(pair);
      if (++progress_.merges_done % kProgressMerges == 0) NIBBLE_RETURN_IF_ERROR(Report());
    }
    result_.vocab_size = kMinVocabulary + static_cast<int32_t>(merges_.size());
    return Report();
  }

  absl::Status WriteFiles() const {
    const std::vector<std::string>& tokens = merger_->tokens();
    std::string vocab = "{";
    std::string merges;
    for (size_t id = 0; id < tokens.size(); ++id) {
      absl::StrAppend(&vocab, id > 0 ? "," : "", "\n    ",
                      nlohmann::json(alphabet_.ToText(tokens[id])).dump(), ": ", id);
    }
    vocab += "\n}";
    for (const PairMerger::Pair& pair : merges_) {
      absl::StrAppend(&merges, alphabet_.ToText(tokens[static_cast<size_t>(pair.left)]), " ",
                      alphabet_.ToText(tokens[static_cast<size_t>(pair.right)]), "\n");
    }
    NIBBLE_RETURN_IF_ERROR(MakeDirectories(options_.output_directory));
    NIBBLE_RETURN_IF_ERROR(ReplaceFileDurably(VocabPath(), vocab));
    return ReplaceFileDurably(MergesPath(), merges);
  }

  const TrainTokenizerOptions& options_;
  const TrainTokenizerCallback& callback_;
  const ByteAlphabet alphabet_;
  std::unique_ptr<Pretokenizer> pretokenizer_;
  absl::flat_hash_map<std::string, int64_t> counts_;
  int64_t piece_bytes_ = 0;
  std::unique_ptr<PairMerger> merger_;
  std::vector<PairMerger::Pair> merges_;
  TrainTokenizerProgress progress_;
  TrainTokenizerResult result_;
};

}  // namespace

absl::StatusOr<TrainTokenizerResult> TrainTokenizer(const TrainTokenizerOptions& options,
                                                    const TrainTokenizerCallback& progress) {
  return Training(options, progress).Run();
}

}  // namespace nibble::data
