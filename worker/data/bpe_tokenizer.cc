#include "worker/data/bpe_tokenizer.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "worker/data/bpe_files.h"
#include "worker/data/piece_cache.h"
#include "worker/data/pretokenizer.h"
#include "worker/data/token_splits.h"
#include "worker/data/utf8.h"

namespace nibble::data {
namespace {

// Ids handed to the sink at a time.
constexpr size_t kBatch = 1 << 16;

class BpeTokenizer : public Tokenizer {
 public:
  BpeTokenizer(BpeModel model, std::unique_ptr<Pretokenizer> pretokenizer)
      : model_(std::move(model)), pretokenizer_(std::move(pretokenizer)) {
    if (model_.whole_pieces) whole_ = IndexTokens(model_.tokens);
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
      *text += model_.tokens[static_cast<size_t>(id)];
    }
    return absl::OkStatus();
  }

  absl::string_view kind() const override { return model_.kind; }
  int32_t vocab_size() const override { return static_cast<int32_t>(model_.tokens.size()); }
  int32_t separator() const override { return model_.separator; }
  int32_t bos_id() const override { return model_.bos; }
  std::string digest() const override { return model_.digest; }

 private:
  absl::Status Flush(const Sink& sink) {
    const absl::Status status = sink(ids_.data(), static_cast<int64_t>(ids_.size()));
    ids_.clear();
    return status;
  }

  void Merge(absl::string_view piece, std::vector<int32_t>* ids) const {
    if (model_.whole_pieces) {
      const auto found = whole_.find(piece);
      if (found != whole_.end()) return ids->push_back(found->second);
    }
    const size_t before = ids->size();
    ids->resize(before + piece.size());
    int32_t* out = ids->data() + before;
    for (size_t i = 0; i < piece.size(); ++i) {
      out[i] = model_.byte_ids[static_cast<unsigned char>(piece[i])];
    }
    ids->resize(before + MergePairs(model_.merges, out, piece.size()));
  }

  const BpeModel model_;
  TokenIndex whole_;  // points into model_
  const std::unique_ptr<Pretokenizer> pretokenizer_;
  PieceCache cache_;
  std::vector<int32_t> ids_;
};

std::string DigestOf(const BpeVocabulary& vocabulary) {
  Sha256 sha;
  sha.Update("gpt2");
  for (const std::string& token : vocabulary.tokens) {
    const auto size = static_cast<uint32_t>(token.size());
    sha.Update(&size, sizeof(size));
    sha.Update(token);
  }
  for (const auto& rule : vocabulary.merges) sha.Update(&rule, sizeof(rule));
  return sha.HexDigest();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> MakeBpeTokenizer(BpeModel model) {
  NIBBLE_ASSIGN_OR_RETURN(std::unique_ptr<Pretokenizer> pretokenizer,
                          Pretokenizer::Make(model.pretokenizer));
  return std::unique_ptr<Tokenizer>(
      std::make_unique<BpeTokenizer>(std::move(model), std::move(pretokenizer)));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadBpeTokenizer(const BpeFiles& files) {
  NIBBLE_ASSIGN_OR_RETURN(BpeVocabulary vocabulary, ReadBpeFiles(files));
  BpeModel model;
  model.merges = MergeTable(vocabulary.merges.size());
  uint32_t rank = 0;
  for (const auto& rule : vocabulary.merges) {
    if (!model.merges.Insert(rule.left, rule.right, {rank++, rule.merged})) {
      return absl::InvalidArgumentError(
          absl::StrCat(files.merges, ": merge number ", rank, " comes twice"));
    }
  }
  model.kind = "gpt2";
  model.digest = DigestOf(vocabulary);
  model.separator = vocabulary.separator;
  std::copy(std::begin(vocabulary.byte_ids), std::end(vocabulary.byte_ids), model.byte_ids);
  model.tokens = std::move(vocabulary.tokens);
  return MakeBpeTokenizer(std::move(model));
}

}  // namespace nibble::data
