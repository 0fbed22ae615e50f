// Encodes as SentencePiece 0.1.97 does (Kudo and Richardson 2018): unigram models by Viterbi's
// search, BPE models by the pair of best score.
#include <algorithm>
#include <functional>
#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "base/files.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "worker/data/sentencepiece_model.h"
#include "worker/data/token_splits.h"
#include "worker/data/tokenizer.h"
#include "worker/data/utf8.h"

namespace nibble::data {
namespace {

constexpr int64_t kMaxFileBytes = int64_t{64} << 20;
// Longer texts are encoded in parts, so that memory stays bounded.
constexpr size_t kLongText = 1 << 20;
// Ids from here on are characters that are no piece: kNoPiece + code point.
constexpr int32_t kNoPiece = 1 << 20;
// What an unknown character costs beside the rarest piece (unigram_model.cc).
constexpr float kUnknownPenalty = 10.0f;

bool IsText(PieceType type) {
  return type == PieceType::kNormal || type == PieceType::kUserDefined ||
         type == PieceType::kUnused;
}

std::string Utf8Of(uint32_t code) {
  if (code < 0x80) return std::string(1, static_cast<char>(code));
  std::string text;
  const int extra = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
  const int lead = extra == 1 ? 0xc0 : extra == 2 ? 0xe0 : 0xf0;
  text.push_back(static_cast<char>(lead | code >> (6 * extra)));
  for (int i = extra - 1; i >= 0; --i) {
    text.push_back(static_cast<char>(0x80 | (code >> (6 * i) & 0x3f)));
  }
  return text;
}

// Pieces by their bytes, as a tree: an edge is (node, byte), found in a hash table.
class PieceTree {
 public:
  explicit PieceTree(const SentencePieceModel& model) : edges_(TotalBytes(model)), piece_of_{-1} {
    for (size_t id = 0; id < model.pieces.size(); ++id) {
      if (IsText(model.pieces[id].type)) Add(model.pieces[id].text, static_cast<int32_t>(id));
    }
  }
  // -1 where there is no such edge.
  int32_t Child(int32_t node, char byte) const {
    return edges_.Find(node, static_cast<unsigned char>(byte)).id;
  }
  // The piece that ends at a node, or -1.
  int32_t piece(int32_t node) const { return piece_of_[static_cast<size_t>(node)]; }

 private:
  static size_t TotalBytes(const SentencePieceModel& model) {
    size_t bytes = 0;
    for (const auto& piece : model.pieces) bytes += piece.text.size();
    return bytes;
  }
  void Add(absl::string_view text, int32_t id) {
    int32_t node = 0;
    for (const char c : text) {
      int32_t child = Child(node, c);
      if (child < 0) {
        child = static_cast<int32_t>(piece_of_.size());
        piece_of_.push_back(-1);
        edges_.Insert(node, static_cast<unsigned char>(c), {0, child});
      }
      node = child;
    }
    piece_of_[static_cast<size_t>(node)] = id;
  }

  MergeTable edges_;
  std::vector<int32_t> piece_of_;
};

// A normalised text to ids; characters that are no piece come out as kNoPiece + code.
class PieceEncoder {
 public:
  virtual ~PieceEncoder() = default;
  virtual void Encode(absl::string_view text, std::vector<int32_t>* ids) = 0;
};

class UnigramEncoder : public PieceEncoder {
 public:
  explicit UnigramEncoder(const SentencePieceModel& model) : model_(model), tree_(model) {
    for (const auto& piece : model.pieces) {
      if (piece.type != PieceType::kNormal) continue;
      min_score_ = std::min(min_score_, piece.score);
      max_score_ = std::max(max_score_, piece.score);
    }
  }

  void Encode(absl::string_view text, std::vector<int32_t>* ids) override {
    best_.assign(text.size() + 1, {});
    const float unknown_score = min_score_ - kUnknownPenalty;
    for (size_t begin = 0; begin < text.size();) {
      const float score_here = best_[begin].score;
      const size_t character = OneCharacter(text.substr(begin));
      bool has_single = false;
      int32_t node = 0;
      for (size_t end = begin; end < text.size();) {
        node = tree_.Child(node, text[end++]);
        if (node < 0) break;
        const int32_t id = tree_.piece(node);
        if (id < 0) continue;
        const auto& piece = model_.pieces[static_cast<size_t>(id)];
        if (piece.type == PieceType::kUnused) continue;
        // In double, as there: a user-defined symbol is to win always.
        const double score = piece.type == PieceType::kUserDefined
                                 ? static_cast<float>(end - begin) * max_score_ - 0.1
                                 : piece.score;
        Offer(end, begin, id, score + score_here);
        has_single = has_single || end - begin == character;
      }
      if (!has_single) {
        const int32_t code = static_cast<int32_t>(DecodeUtf8(text, begin).code);
        Offer(begin + character, begin, kNoPiece + code, unknown_score + score_here);
      }
      begin += character;
    }
    const size_t before = ids->size();
    for (size_t end = text.size(); end > 0; end = best_[end].begin) ids->push_back(best_[end].id);
    std::reverse(ids->begin() + static_cast<std::ptrdiff_t>(before), ids->end());
  }

 private:
  struct Node {
    int32_t id = 0;
    float score = 0;
    size_t begin = kNone;
  };
  static constexpr size_t kNone = ~size_t{0};

  void Offer(size_t end, size_t begin, int32_t id, double score) {
    Node& node = best_[end];
    if (node.begin != kNone && !(score > node.score)) return;
    node = {id, static_cast<float>(score), begin};
  }

  const SentencePieceModel& model_;
  const PieceTree tree_;
  float min_score_ = std::numeric_limits<float>::max();
  float max_score_ = std::numeric_limits<float>::lowest();
  std::vector<Node> best_;
};

class BpeEncoder : public PieceEncoder {
 public:
  // RESOURCE_EXHAUSTED as MergesOfAllSplits.
  static absl::StatusOr<std::unique_ptr<PieceEncoder>> Make(const SentencePieceModel& model,
                                                            const SymbolMatcher& symbols) {
    auto encoder = std::unique_ptr<BpeEncoder>(new BpeEncoder(symbols));
    std::vector<float> scores;
    TokenIndex index;
    for (size_t id = 0; id < model.pieces.size(); ++id) {
      const auto& piece = model.pieces[id];
      if (!IsText(piece.type)) continue;
      scores.push_back(piece.score);
      index.emplace(piece.text, static_cast<int32_t>(id));
      encoder->pieces_.emplace(piece.text, static_cast<int32_t>(id));
    }
    // Characters of pieces may merge without being pieces themselves.
    for (const auto& piece : model.pieces) {
      if (!IsText(piece.type)) continue;
      const absl::string_view text = piece.text;
      for (size_t i = 0; i < text.size();) {
        const Utf8Character character = DecodeUtf8(text, i);
        const auto length = static_cast<size_t>(character.length);
        if (character.valid) {
          index.try_emplace(text.substr(i, length),
                            kNoPiece + static_cast<int32_t>(character.code));
        }
        i += length;
      }
    }
    std::sort(scores.begin(), scores.end(), std::greater<float>());
    scores.erase(std::unique(scores.begin(), scores.end()), scores.end());
    std::vector<uint32_t> ranks(model.pieces.size(), MergeTable::kNoRank);
    for (const auto& [text, id] : index) {
      if (id >= kNoPiece) continue;
      const float score = model.pieces[static_cast<size_t>(id)].score;
      ranks[static_cast<size_t>(id)] = static_cast<uint32_t>(
          std::lower_bound(scores.begin(), scores.end(), score, std::greater<float>()) -
          scores.begin());
    }
    NIBBLE_ASSIGN_OR_RETURN(encoder->table_, MergesOfAllSplits(index, ranks));
    return std::unique_ptr<PieceEncoder>(std::move(encoder));
  }

  void Encode(absl::string_view text, std::vector<int32_t>* ids) override {
    size_t first = ids->size();
    const auto merge = [&] {
      ids->resize(first + MergePairs(table_, ids->data() + first, ids->size() - first));
    };
    while (!text.empty()) {
      const size_t symbol = symbols_.Match(text);
      const size_t length = symbol > 0 ? symbol : OneCharacter(text);
      const auto found = pieces_.find(text.substr(0, length));
      if (symbol > 0) merge();  // nothing merges with or across a user-defined symbol
      ids->push_back(found != pieces_.end()
                         ? found->second
                         : kNoPiece + static_cast<int32_t>(DecodeUtf8(text, 0).code));
      if (symbol > 0) first = ids->size();
      text.remove_prefix(length);
    }
    merge();
  }

 private:
  explicit BpeEncoder(const SymbolMatcher& symbols) : symbols_(symbols), table_(0) {}

  const SymbolMatcher& symbols_;
  TokenIndex pieces_;
  MergeTable table_;
};

class SentencePieceTokenizer : public Tokenizer {
 public:
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Make(absl::string_view file) {
    auto tokenizer = std::unique_ptr<SentencePieceTokenizer>(new SentencePieceTokenizer);
    NIBBLE_ASSIGN_OR_RETURN(tokenizer->model_, ParseSentencePieceModel(file));
    Sha256 sha;
    sha.Update("sentencepiece");
    sha.Update(file);
    tokenizer->digest_ = sha.HexDigest();
    NIBBLE_RETURN_IF_ERROR(tokenizer->Prepare());
    return std::unique_ptr<Tokenizer>(std::move(tokenizer));
  }

  absl::StatusOr<int64_t> Encode(absl::string_view text, const Sink& sink) override {
    const auto size = static_cast<int64_t>(text.size());
    while (!text.empty()) {
      const size_t part = EndOfPart(text);
      EncodePart(text.substr(0, part));
      text.remove_prefix(part);
      // The space between two parts is the one that goes before the second.
      if (!text.empty() && model_.add_dummy_prefix) text.remove_prefix(1);
      if (!ids_.empty()) {
        NIBBLE_RETURN_IF_ERROR(sink(ids_.data(), static_cast<int64_t>(ids_.size())));
      }
    }
    return size;
  }

  absl::Status Decode(const std::vector<int32_t>& ids, std::string* text) const override {
    std::string bytes;
    bool at_start = true;
    const auto flush = [&] {
      *text += ReplaceInvalidUtf8(bytes);
      if (!bytes.empty()) at_start = false;
      bytes.clear();
    };
    for (const int32_t id : ids) {
      if (id < 0 || id >= vocab_size()) {
        return absl::OutOfRangeError(
            absl::StrCat("token id ", id, "; allowed: 0 to ", vocab_size() - 1));
      }
      const auto& piece = model_.pieces[static_cast<size_t>(id)];
      if (piece.type == PieceType::kByte) {
        bytes.push_back(static_cast<char>(byte_of_.at(id)));
        continue;
      }
      flush();
      if (piece.type == PieceType::kControl) continue;
      if (piece.type == PieceType::kUnknown) {
        *text += model_.unknown_surface;
        at_start = false;
        continue;
      }
      absl::string_view surface = piece.text;
      if (at_start && (model_.add_dummy_prefix || model_.remove_extra_whitespaces)) {
        absl::ConsumePrefix(&surface, kSpaceSymbol);
        if (!model_.remove_extra_whitespaces || !surface.empty()) at_start = false;
      }
      *text += absl::StrReplaceAll(surface, {{kSpaceSymbol, " "}});
    }
    flush();
    return absl::OkStatus();
  }

  absl::string_view kind() const override { return "sentencepiece"; }
  int32_t vocab_size() const override { return static_cast<int32_t>(model_.pieces.size()); }
  int32_t separator() const override { return model_.eos_id >= 0 ? model_.eos_id : model_.bos_id; }
  int32_t bos_id() const override { return model_.bos_id; }
  int32_t eos_id() const override { return model_.eos_id; }
  std::string digest() const override { return digest_; }

 private:
  SentencePieceTokenizer() = default;

  absl::Status Prepare() {
    if (separator() < 0) {
      return absl::InvalidArgumentError(
          "has neither an end nor a start piece to separate documents");
    }
    std::fill(std::begin(byte_ids_), std::end(byte_ids_), -1);
    for (size_t id = 0; id < model_.pieces.size(); ++id) {
      const auto& piece = model_.pieces[id];
      if (piece.type == PieceType::kUserDefined) symbols_.Add(piece.text);
      if (piece.type == PieceType::kByte) NIBBLE_RETURN_IF_ERROR(AddByte(id));
      // A piece with a space inside could be cut in two by parts.
      const absl::string_view text = piece.text;
      for (size_t at = text.find(kSpaceSymbol, 1); IsText(piece.type) && at != text.npos;
           at = text.find(kSpaceSymbol, at + 1)) {
        if (!absl::EndsWith(text.substr(0, at), kSpaceSymbol)) spaces_only_lead_ = false;
      }
    }
    if (model_.byte_fallback && byte_of_.size() != 256) {
      return absl::InvalidArgumentError("falls back to bytes but has not all 256 of them");
    }
    NIBBLE_ASSIGN_OR_RETURN(SentencePieceNormalizer normalizer,
                            SentencePieceNormalizer::Make(model_, symbols_));
    normalizer_ = std::make_unique<SentencePieceNormalizer>(normalizer);
    if (!model_.is_bpe) {
      encoder_ = std::make_unique<UnigramEncoder>(model_);
      return absl::OkStatus();
    }
    NIBBLE_ASSIGN_OR_RETURN(encoder_, BpeEncoder::Make(model_, symbols_));
    return absl::OkStatus();
  }

  absl::Status AddByte(size_t id) {
    for (int byte = 0; byte < 256; ++byte) {
      if (model_.pieces[id].text != absl::StrFormat("<0x%02X>", byte)) continue;
      byte_ids_[byte] = static_cast<int32_t>(id);
      byte_of_[static_cast<int32_t>(id)] = byte;
      return absl::OkStatus();
    }
    return absl::InvalidArgumentError(
        absl::StrCat("piece ", id, " is a byte but not <0x00> to <0xFF>"));
  }

  // All of a text, or a part that ends before a single space where nothing can reach over it.
  size_t EndOfPart(absl::string_view text) const {
    if (text.size() <= kLongText || !spaces_only_lead_ || model_.whitespace_as_suffix) {
      return text.size();
    }
    for (size_t i = kLongText; i + 1 < text.size(); ++i) {
      const auto word = [](char c) { return absl::ascii_isalnum(static_cast<unsigned char>(c)); };
      if (text[i] == ' ' && word(text[i - 1]) && word(text[i + 1])) return i;
    }
    return text.size();
  }

  // Into ids_.
  void EncodePart(absl::string_view text) {
    raw_ids_.clear();
    ids_.clear();
    const std::string normalized = normalizer_->Normalize(text);
    encoder_->Encode(normalized, &raw_ids_);
    bool after_unknown = false;
    for (const int32_t id : raw_ids_) {
      const bool unknown = id >= kNoPiece;
      if (!unknown) {
        ids_.push_back(id);
      } else if (model_.byte_fallback) {
        for (const char c : Utf8Of(static_cast<uint32_t>(id - kNoPiece))) {
          ids_.push_back(byte_ids_[static_cast<unsigned char>(c)]);
        }
      } else if (!after_unknown) {  // a run of unknown characters is one unknown piece
        ids_.push_back(model_.unknown_id);
      }
      after_unknown = unknown;
    }
  }

  SentencePieceModel model_;
  std::string digest_;
  SymbolMatcher symbols_;
  std::unique_ptr<SentencePieceNormalizer> normalizer_;
  std::unique_ptr<PieceEncoder> encoder_;
  bool spaces_only_lead_ = true;
  int32_t byte_ids_[256];
  absl::flat_hash_map<int32_t, int> byte_of_;
  std::vector<int32_t> raw_ids_;
  std::vector<int32_t> ids_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadSentencePieceTokenizer(const std::string& path) {
  NIBBLE_ASSIGN_OR_RETURN(const std::string file, ReadFile(path, kMaxFileBytes));
  auto tokenizer = SentencePieceTokenizer::Make(file);
  if (tokenizer.ok()) return tokenizer;
  return absl::Status(tokenizer.status().code(),
                      absl::StrCat(path, ": ", tokenizer.status().message()));
}

}  // namespace nibble::data
