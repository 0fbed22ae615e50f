// The contents of a SentencePiece .model file (sentencepiece_model.proto of that project) and its
// text normaliser. Read here rather than with libsentencepiece: that library carries its own
// protobuf, which does not live in one process with another, and trusts its files. Internal to
// worker/data.
#ifndef WORKER_DATA_SENTENCEPIECE_MODEL_H_
#define WORKER_DATA_SENTENCEPIECE_MODEL_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace nibble::data {

enum class PieceType { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };

struct SentencePieceModel {
  struct Piece {
    std::string text;
    float score = 0;
    PieceType type = PieceType::kNormal;
  };
  std::vector<Piece> pieces;  // by id
  bool is_bpe = false;        // else unigram
  bool byte_fallback = false;
  bool whitespace_as_suffix = false;
  int32_t unknown_id = -1;
  int32_t bos_id = -1;  // -1: none
  int32_t eos_id = -1;
  std::string unknown_surface;  // what an unknown id decodes to

  std::string charsmap;  // precompiled; empty: none
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
};

// INVALID_ARGUMENT: malformed, of another model type than unigram and BPE, or using something that
// is not supported (a denormaliser; BPE with unused pieces). RESOURCE_EXHAUSTED: over 2^20 pieces.
absl::StatusOr<SentencePieceModel> ParseSentencePieceModel(absl::string_view file);

// Longest of a set of strings at the start of a text: SentencePiece's user-defined symbols.
class SymbolMatcher {
 public:
  void Add(absl::string_view symbol);
  // Bytes; 0: none.
  size_t Match(absl::string_view text) const;

 private:
  absl::flat_hash_map<std::string, bool> symbols_;
  size_t longest_ = 0;
};

// SentencePiece's Normalizer: rules of the charsmap (a double array of NFKC and the like), white
// space, invalid UTF-8 to U+FFFD byte by byte.
class SentencePieceNormalizer {
 public:
  // INVALID_ARGUMENT: a malformed charsmap. Both outlive the object.
  static absl::StatusOr<SentencePieceNormalizer> Make(const SentencePieceModel& model,
                                                      const SymbolMatcher& symbols);

  std::string Normalize(absl::string_view text) const;

 private:
  struct Prefix {
    absl::string_view text;
    size_t consumed;
  };
  SentencePieceNormalizer(const SentencePieceModel& model, const SymbolMatcher& symbols)
      : model_(&model), symbols_(&symbols) {}
  Prefix NextPrefix(absl::string_view text) const;
  bool LongestRule(absl::string_view text, size_t* length, uint32_t* value) const;
  uint32_t Unit(size_t index) const;

  const SentencePieceModel* model_;
  const SymbolMatcher* symbols_;
  absl::string_view units_;         // u32 each
  absl::string_view replacements_;  // NUL after each
};

// U+2581, which stands for a space within pieces.
inline constexpr absl::string_view kSpaceSymbol = "\xe2\x96\x81";

// Bytes of the character that the first byte announces, as SentencePiece counts: 1 for a stray
// continuation byte; at most text.size(). REQUIRES: not empty.
size_t OneCharacter(absl::string_view text);

}  // namespace nibble::data

#endif  // WORKER_DATA_SENTENCEPIECE_MODEL_H_
