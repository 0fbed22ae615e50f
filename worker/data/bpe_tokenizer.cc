#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "worker/data/bpe_files.h"
#include "worker/data/bpe_merge.h"
#include "worker/data/piece_cache.h"
#include "worker/data/pretokenizer.h"
#include "worker/data/tokenizer.h"
#include "worker/data/utf8.h"

namespace nibble::data {
namespace {

// Ids handed to the sink at a time.
constexpr size_t kBatch = 1 << 16;

class BpeTokenizer : public Tokenizer {
 public:
  BpeTokenizer(BpeVocabulary vocabulary, std::unique_ptr<Pretokenizer> pretokenizer)
      : vocabulary_(std::move(vocabulary)),
        pretokenizer_(std::move(pretokenizer)),
        table_(vocabulary_.merges.size()) {}

  // INVALID_ARGUMENT where a merge comes twice.
  absl::Status FillTable() {
    uint32_t rank = 0;
    for (const auto& rule : vocabulary_.merges) {
      if (!table_.Insert(rule.left, rule.right, {rank++, rule.merged})) {
        return absl::InvalidArgumentError(absl::StrCat("merge number ", rank, " comes twice"));
      }
    }
    return absl::OkStatus();
  }

  absl::StatusOr<int64_t> Encode(absl::string_view text, const Sink& sink) override {
    std::string replaced;
    if (!IsValidUtf8(text)) {
      replaced = ReplaceInvalidUtf8(text);
      text = replaced;
    }
    ids_.clear();
    for (size_t begin = 0; begin < text.size();) {
      const size_t end = pretokenizer_->EndOfPiece(text, begin);
      cache_.Append(
          text.substr(begin, end - begin), &ids_,
          [this](absl::string_view piece, std::vector<int32_t>* ids) { Merge(piece, ids); });
      begin = end;
      if (ids_.size() >= kBatch) NIBBLE_RETURN_IF_ERROR(Flush(sink));
    }
    if (!ids_.empty()) NIBBLE_RETURN_IF_ERROR(Flush(sink));
    return static_cast<int64_t>(text.size());
  }

  absl::Status Decode(const std::vector<int32_t>& ids, std::string* text) const override {
    for (const int32_t id : ids) {
      if (id < 0 || id >= vocab_size()) {
        return absl::OutOfRangeError(
            absl::StrCat("token id ", id, "; allowed: 0 to ", vocab_size() - 1));
      }
      *text += vocabulary_.tokens[id];
    }
    return absl::OkStatus();
  }

  absl::string_view kind() const override { return "gpt2"; }
  int32_t vocab_size() const override { return static_cast<int32_t>(vocabulary_.tokens.size()); }
  int32_t separator() const override { return vocabulary_.separator; }

  std::string digest() const override {
    Sha256 sha;
    sha.Update("gpt2");
    for (const std::string& token : vocabulary_.tokens) {
      const auto size = static_cast<uint32_t>(token.size());
      sha.Update(&size, sizeof(size));
      sha.Update(token);
    }
    for (const auto& rule : vocabulary_.merges) sha.Update(&rule, sizeof(rule));
    return sha.HexDigest();
  }

 private:
  absl::Status Flush(const Sink& sink) {
    const absl::Status status = sink(ids_.data(), static_cast<int64_t>(ids_.size()));
    ids_.clear();
    return status;
  }

  void Merge(absl::string_view piece, std::vector<int32_t>* ids) const {
    const size_t before = ids->size();
    ids->resize(before + piece.size());
    int32_t* out = ids->data() + before;
    for (size_t i = 0; i < piece.size(); ++i) {
      out[i] = vocabulary_.byte_ids[static_cast<unsigned char>(piece[i])];
    }
    ids->resize(before + MergePairs(table_, out, piece.size()));
  }

  const BpeVocabulary vocabulary_;
  const std::unique_ptr<Pretokenizer> pretokenizer_;
  MergeTable table_;
  PieceCache cache_;
  std::vector<int32_t> ids_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadBpeTokenizer(const BpeFiles& files) {
  NIBBLE_ASSIGN_OR_RETURN(BpeVocabulary vocabulary, ReadBpeFiles(files));
  NIBBLE_ASSIGN_OR_RETURN(std::unique_ptr<Pretokenizer> pretokenizer, Pretokenizer::Make());
  auto tokenizer = std::make_unique<BpeTokenizer>(std::move(vocabulary), std::move(pretokenizer));
  const absl::Status filled = tokenizer->FillTable();
  if (!filled.ok()) {
    return absl::Status(filled.code(), absl::StrCat(files.merges, ": ", filled.message()));
  }
  return std::unique_ptr<Tokenizer>(std::move(tokenizer));
}

}  // namespace nibble::data
