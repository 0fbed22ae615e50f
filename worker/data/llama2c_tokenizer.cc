// tokenizer.bin of llama2.c: i32 longest token, then for every id f32 score, i32 length, bytes.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "worker/data/piece_cache.h"
#include "worker/data/token_splits.h"
#include "worker/data/tokenizer.h"

namespace nibble::data {
namespace {

constexpr int64_t kMaxFileBytes = int64_t{64} << 20;
constexpr size_t kMaxVocabulary = size_t{1} << 20;
constexpr int32_t kMaxTokenBytes = 1024;
constexpr size_t kBatch = 1 << 16;
constexpr int32_t kBosId = 1;
constexpr int32_t kEosId = 2;
// Tokens 3 to 258 stand for the bytes.
constexpr int32_t kFirstByteId = 3;
// run.c merges nothing of a score at or below this.
constexpr float kMinScore = -1e10f;

struct ScoredTokens {
  std::vector<std::string> tokens;
  std::vector<float> scores;
};

absl::StatusOr<ScoredTokens> Parse(absl::string_view file) {
  const auto malformed = [](size_t id, absl::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat("token ", id, " ", what));
  };
  if (file.size() < 4) return absl::InvalidArgumentError("is shorter than its header");
  file.remove_prefix(4);
  ScoredTokens vocabulary;
  while (!file.empty()) {
    const size_t id = vocabulary.tokens.size();
    float score;
    int32_t length;
    if (file.size() < 8) return malformed(id, "is cut off by the end of the file");
    std::memcpy(&score, file.data(), 4);
    std::memcpy(&length, file.data() + 4, 4);
    file.remove_prefix(8);
    if (!std::isfinite(score)) return malformed(id, "has a score that is not finite");
    if (length < 0 || length > kMaxTokenBytes) {
      return malformed(id, absl::StrCat("has length ", length, "; allowed: 0 to ", kMaxTokenBytes));
    }
    if (static_cast<size_t>(length) > file.size()) {
      return malformed(id, "is cut off by the end of the file");
    }
    if (id >= kMaxVocabulary) {
      return absl::ResourceExhaustedError(absl::StrCat("over ", kMaxVocabulary, " tokens"));
    }
    vocabulary.tokens.emplace_back(file.data(), static_cast<size_t>(length));
    vocabulary.scores.push_back(score);
    file.remove_prefix(static_cast<size_t>(length));
  }
  if (vocabulary.tokens.size() < kFirstByteId + 256) {
    return absl::InvalidArgumentError(
        absl::StrCat("has ", vocabulary.tokens.size(), " tokens; required: at least ",
                     kFirstByteId + 256, ", of which 3 to 258 are the bytes"));
  }
  return vocabulary;
}

// 0 for the best score, the same for equal scores: of those the leftmost pair is merged first.
std::vector<uint32_t> RanksOf(const std::vector<float>& scores) {
  std::vector<float> best = scores;
  std::sort(best.begin(), best.end(), std::greater<float>());
  best.erase(std::unique(best.begin(), best.end()), best.end());
  std::vector<uint32_t> ranks(scores.size(), MergeTable::kNoRank);
  for (size_t id = kEosId + 1; id < scores.size(); ++id) {
    if (!(scores[id] > kMinScore)) continue;
    ranks[id] = static_cast<uint32_t>(
        std::lower_bound(best.begin(), best.end(), scores[id], std::greater<float>()) -
        best.begin());
  }
  return ranks;
}

// "<0xA9>" is byte 0xA9; -1 for other tokens.
int ByteOfToken(absl::string_view token) {
  if (token.size() != 6 || token.substr(0, 3) != "<0x" || token[5] != '>') return -1;
  int byte = 0;
  for (const char c : token.substr(3, 2)) {
    if (!((c >= '0' && c <= '9') || (c >= 'A' && c <= 'F') || (c >= 'a' && c <= 'f'))) return -1;
    byte = byte * 16 + (c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
  }
  return byte;
}

bool IsContinuation(char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; }

// Where no token has a space behind another character, no merge reaches over the start of a run of
// spaces, and the text falls into pieces.
bool SpacesOnlyLead(const std::vector<std::string>& tokens) {
  for (size_t id = kEosId + 1; id < tokens.size(); ++id) {
    const std::string& token = tokens[id];
    for (size_t i = 1; i < token.size(); ++i) {
      if (token[i] == ' ' && token[i - 1] != ' ') return false;
    }
  }
  return true;
}

class Llama2cTokenizer : public Tokenizer {
 public:
  Llama2cTokenizer(ScoredTokens vocabulary, MergeTable table)
      : vocabulary_(std::move(vocabulary)),
        index_(IndexTokens(vocabulary_.tokens)),
        table_(std::move(table)),
        space_(index_.at(" ")),
        pieces_(SpacesOnlyLead(vocabulary_.tokens)) {}

  absl::StatusOr<int64_t> Encode(absl::string_view text, const Sink& sink) override {
    ids_.clear();
    // A space goes before the text, as it went before the texts that the scores come from.
    size_t begin = 0;
    if (!text.empty()) {
      begin = EndOfPiece(text, 0);
      ids_.push_back(space_);
      Merge(text.substr(0, begin), /*first=*/0, &ids_);
    }
    while (begin < text.size()) {
      const size_t end = EndOfPiece(text, begin);
      cache_.Append(text.substr(begin, end - begin), &ids_,
                    [this](absl::string_view piece, std::vector<int32_t>* ids) {
                      Merge(piece, ids->size(), ids);
                    });
      begin = end;
      if (ids_.size() >= kBatch) NIBBLE_RETURN_IF_ERROR(Flush(sink));
    }
    if (!ids_.empty()) NIBBLE_RETURN_IF_ERROR(Flush(sink));
    return static_cast<int64_t>(text.size());
  }

  absl::Status Decode(const std::vector<int32_t>& ids, std::string* text) const override {
    bool at_start = true;
    for (const int32_t id : ids) {
      if (id < 0 || id >= vocab_size()) {
        return absl::OutOfRangeError(
            absl::StrCat("token id ", id, "; allowed: 0 to ", vocab_size() - 1));
      }
      absl::string_view token = vocabulary_.tokens[static_cast<size_t>(id)];
      if (id == kBosId || id == kEosId) {
        at_start = true;
        continue;
      }
      if (at_start && !token.empty() && token[0] == ' ') token.remove_prefix(1);
      at_start = false;
      const int byte = ByteOfToken(token);
      if (byte >= 0) {
        text->push_back(static_cast<char>(byte));
      } else {
        text->append(token.data(), token.size());
      }
    }
    return absl::OkStatus();
  }

  absl::string_view kind() const override { return "llama2c"; }
  int32_t vocab_size() const override { return static_cast<int32_t>(vocabulary_.tokens.size()); }
  int32_t separator() const override { return kBosId; }
  int32_t bos_id() const override { return kBosId; }
  int32_t eos_id() const override { return kEosId; }

  std::string digest() const override {
    Sha256 sha;
    sha.Update("llama2c");
    for (size_t id = 0; id < vocabulary_.tokens.size(); ++id) {
      const auto size = static_cast<uint32_t>(vocabulary_.tokens[id].size());
      sha.Update(&vocabulary_.scores[id], sizeof(float));
      sha.Update(&size, sizeof(size));
      sha.Update(vocabulary_.tokens[id]);
    }
    return sha.HexDigest();
  }

 private:
  absl::Status Flush(const Sink& sink) {
    const absl::Status status = sink(ids_.data(), static_cast<int64_t>(ids_.size()));
    ids_.clear();
    return status;
  }

  // Spaces, and what is no space after them.
  size_t EndOfPiece(absl::string_view text, size_t begin) const {
    if (!pieces_) return text.size();
    size_t end = begin;
    while (end < text.size() && text[end] == ' ') ++end;
    while (end < text.size() && text[end] != ' ') ++end;
    return end;
  }

  // Appends the ids of `piece` and merges from ids[first] on.
  void Merge(absl::string_view piece, size_t first, std::vector<int32_t>* ids) const {
    for (size_t begin = 0; begin < piece.size();) {
      // A lead byte and at most three continuation bytes, valid or not.
      size_t end = begin + 1;
      while (end < piece.size() && end - begin < 4 && IsContinuation(piece[end])) ++end;
      const auto found = index_.find(piece.substr(begin, end - begin));
      if (found != index_.end()) {
        ids->push_back(found->second);
      } else {
        for (size_t i = begin; i < end; ++i) {
          ids->push_back(kFirstByteId + static_cast<unsigned char>(piece[i]));
        }
      }
      begin = end;
    }
    ids->resize(first + MergePairs(table_, ids->data() + first, ids->size() - first));
  }

  const ScoredTokens vocabulary_;
  const TokenIndex index_;
  const MergeTable table_;
  const int32_t space_;
  const bool pieces_;
  PieceCache cache_;
  std::vector<int32_t> ids_;
};

absl::StatusOr<std::unique_ptr<Tokenizer>> Make(absl::string_view file) {
  NIBBLE_ASSIGN_OR_RETURN(ScoredTokens vocabulary, Parse(file));
  const TokenIndex index = IndexTokens(vocabulary.tokens);
  if (index.find(" ") == index.end()) {
    return absl::InvalidArgumentError("has no token for a space");
  }
  NIBBLE_ASSIGN_OR_RETURN(MergeTable table, MergesOfAllSplits(index, RanksOf(vocabulary.scores)));
  return std::unique_ptr<Tokenizer>(
      std::make_unique<Llama2cTokenizer>(std::move(vocabulary), std::move(table)));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadLlama2cTokenizer(const std::string& path) {
  NIBBLE_ASSIGN_OR_RETURN(const std::string file, ReadFile(path, kMaxFileBytes));
  auto tokenizer = Make(file);
  if (tokenizer.ok()) return tokenizer;
  return absl::Status(tokenizer.status().code(),
                      absl::StrCat(path, ": ", tokenizer.status().message()));
}

}  // namespace nibble::data
