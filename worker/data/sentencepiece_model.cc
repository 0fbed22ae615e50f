#include "worker/data/sentencepiece_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"
#include "worker/data/utf8.h"

namespace nibble::data {
namespace {

constexpr size_t kMaxPieces = size_t{1} << 20;
constexpr size_t kMaxPieceBytes = 1024;

// Fields of one protobuf message, one after the other.
class FieldReader {
 public:
  explicit FieldReader(absl::string_view message) : rest_(message) {}

  // False at the end or where the message is malformed; bad() tells which.
  bool Next() {
    if (rest_.empty() || bad_) return false;
    uint64_t key = 0;
    bad_ = !Varint(&key) || key >> 3 == 0 || key >> 3 > 0x1fffffff;
    number_ = static_cast<uint32_t>(key >> 3);
    wire_ = static_cast<int>(key & 7);
    if (bad_) return false;
    switch (wire_) {
      case 0:
        bad_ = !Varint(&value_);
        break;
      case 1:
        bad_ = !Take(8, &bytes_);
        break;
      case 2: {
        uint64_t size = 0;
        bad_ = !Varint(&size) || !Take(size, &bytes_);
        break;
      }
      case 5:
        bad_ = !Take(4, &bytes_);
        break;
      default:
        bad_ = true;  // groups
    }
    return !bad_;
  }

  bool bad() const { return bad_; }
  bool Is(uint32_t number, int wire) const { return number_ == number && wire_ == wire; }
  uint64_t value() const { return value_; }
  absl::string_view bytes() const { return bytes_; }
  float real() const {
    float value;
    std::memcpy(&value, bytes_.data(), 4);
    return value;
  }

 private:
  bool Varint(uint64_t* value) {
    *value = 0;
    for (int shift = 0; shift < 64 && !rest_.empty(); shift += 7) {
      const auto byte = static_cast<unsigned char>(rest_[0]);
      rest_.remove_prefix(1);
      *value |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) return true;
    }
    return false;
  }
  bool Take(uint64_t size, absl::string_view* bytes) {
    if (size > rest_.size()) return false;
    *bytes = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return true;
  }

  absl::string_view rest_;
  uint32_t number_ = 0;
  int wire_ = 0;
  uint64_t value_ = 0;
  absl::string_view bytes_;
  bool bad_ = false;
};

absl::Status Malformed(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("is no SentencePiece model: ", what));
}

// What the trainer's part says of special pieces.
struct TrainerPart {
  int64_t model_type = 1;
  int64_t bos_id = 1;
  int64_t eos_id = 2;
};

absl::Status ParsePiece(absl::string_view message, SentencePieceModel* model) {
  const size_t id = model->pieces.size();
  if (id >= kMaxPieces) {
    return absl::ResourceExhaustedError(absl::StrCat("over ", kMaxPieces, " pieces"));
  }
  SentencePieceModel::Piece piece;
  uint64_t type = 1;
  FieldReader field(message);
  while (field.Next()) {
    if (field.Is(1, 2)) piece.text = std::string(field.bytes());
    if (field.Is(2, 5)) piece.score = field.real();
    if (field.Is(3, 0)) type = field.value();
  }
  if (field.bad()) return Malformed(absl::StrCat("piece ", id, " is cut off"));
  if (piece.text.empty() || piece.text.size() > kMaxPieceBytes) {
    return Malformed(absl::StrCat("piece ", id, " has ", piece.text.size(),
                                  " bytes; allowed: 1 to ", kMaxPieceBytes));
  }
  if (!std::isfinite(piece.score)) {
    return Malformed(absl::StrCat("piece ", id, " has a score that is not finite"));
  }
  if (type < 1 || type > 6) return Malformed(absl::StrCat("piece ", id, " has type ", type));
  piece.type = static_cast<PieceType>(type);
  model->pieces.push_back(std::move(piece));
  return absl::OkStatus();
}

absl::Status ParseTrainer(absl::string_view message, SentencePieceModel* model,
                          TrainerPart* trainer) {
  FieldReader field(message);
  while (field.Next()) {
    if (field.Is(3, 0)) trainer->model_type = static_cast<int64_t>(field.value());
    if (field.Is(24, 0)) model->whitespace_as_suffix = field.value() != 0;
    if (field.Is(35, 0)) model->byte_fallback = field.value() != 0;
    if (field.Is(41, 0)) trainer->bos_id = static_cast<int64_t>(field.value());
    if (field.Is(42, 0)) trainer->eos_id = static_cast<int64_t>(field.value());
    if (field.Is(44, 2)) model->unknown_surface = std::string(field.bytes());
  }
  return field.bad() ? Malformed("its trainer part is cut off") : absl::OkStatus();
}

absl::Status ParseNormalizer(absl::string_view message, SentencePieceModel* model) {
  FieldReader field(message);
  while (field.Next()) {
    if (field.Is(2, 2)) model->charsmap = std::string(field.bytes());
    if (field.Is(3, 0)) model->add_dummy_prefix = field.value() != 0;
    if (field.Is(4, 0)) model->remove_extra_whitespaces = field.value() != 0;
    if (field.Is(5, 0)) model->escape_whitespaces = field.value() != 0;
  }
  return field.bad() ? Malformed("its normaliser part is cut off") : absl::OkStatus();
}

absl::Status CheckDenormalizer(absl::string_view message) {
  FieldReader field(message);
  while (field.Next()) {
    if (field.Is(2, 2) && !field.bytes().empty()) {
      return absl::InvalidArgumentError("has a denormaliser, which is not supported");
    }
  }
  return field.bad() ? Malformed("its denormaliser part is cut off") : absl::OkStatus();
}

absl::Status CheckPieces(const TrainerPart& trainer, SentencePieceModel* model) {
  absl::flat_hash_map<absl::string_view, size_t> seen;
  for (size_t id = 0; id < model->pieces.size(); ++id) {
    const SentencePieceModel::Piece& piece = model->pieces[id];
    if (!seen.try_emplace(piece.text, id).second) {
      return Malformed(absl::StrCat("pieces ", seen[piece.text], " and ", id, " are the same"));
    }
    if (piece.type == PieceType::kUnknown) {
      if (model->unknown_id >= 0) return Malformed("it has two unknown pieces");
      model->unknown_id = static_cast<int32_t>(id);
    }
    if (piece.type == PieceType::kUnused && model->is_bpe) {
      return absl::InvalidArgumentError("has unused pieces, which BPE models may not have here");
    }
  }
  if (model->unknown_id < 0) return Malformed("it has no unknown piece");
  const auto control = [model](int64_t id) {
    const bool good = id >= 0 && id < static_cast<int64_t>(model->pieces.size()) &&
                      model->pieces[static_cast<size_t>(id)].type == PieceType::kControl;
    return good ? static_cast<int32_t>(id) : -1;
  };
  model->bos_id = control(trainer.bos_id);
  model->eos_id = control(trainer.eos_id);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SentencePieceModel> ParseSentencePieceModel(absl::string_view file) {
  SentencePieceModel model;
  model.unknown_surface = " \xe2\x81\x87 ";  // U+2047
  TrainerPart trainer;
  FieldReader field(file);
  while (field.Next()) {
    absl::Status status;
    if (field.Is(1, 2)) status = ParsePiece(field.bytes(), &model);
    if (field.Is(2, 2)) status = ParseTrainer(field.bytes(), &model, &trainer);
    if (field.Is(3, 2)) status = ParseNormalizer(field.bytes(), &model);
    if (field.Is(5, 2)) status = CheckDenormalizer(field.bytes());
    if (!status.ok()) return status;
  }
  if (field.bad()) return Malformed("it is cut off or no protobuf message");
  if (trainer.model_type != 1 && trainer.model_type != 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("has model type ", trainer.model_type, "; allowed: 1 (unigram), 2 (BPE)"));
  }
  model.is_bpe = trainer.model_type == 2;
  NIBBLE_RETURN_IF_ERROR(CheckPieces(trainer, &model));
  return model;
}

void SymbolMatcher::Add(absl::string_view symbol) {
  symbols_.try_emplace(std::string(symbol), true);
  longest_ = std::max(longest_, symbol.size());
}

size_t SymbolMatcher::Match(absl::string_view text) const {
  if (longest_ == 0) return 0;
  for (size_t size = std::min(longest_, text.size()); size > 0; --size) {
    if (symbols_.contains(text.substr(0, size))) return size;
  }
  return 0;
}

size_t OneCharacter(absl::string_view text) {
  constexpr char kLengths[] = "\1\1\1\1\1\1\1\1\1\1\1\1\2\2\3\4";
  const size_t length = static_cast<size_t>(kLengths[static_cast<unsigned char>(text[0]) >> 4]);
  return std::min(length, text.size());
}

absl::StatusOr<SentencePieceNormalizer> SentencePieceNormalizer::Make(
    const SentencePieceModel& model, const SymbolMatcher& symbols) {
  SentencePieceNormalizer normalizer(model, symbols);
  if (model.charsmap.empty()) return normalizer;
  const absl::string_view charsmap = model.charsmap;
  uint32_t size = 0;
  if (charsmap.size() > 4) std::memcpy(&size, charsmap.data(), 4);
  if (size == 0 || size % 4 != 0 || size > charsmap.size() - 4 || charsmap.back() != '\0') {
    return Malformed("its character map has the wrong size");
  }
  normalizer.units_ = charsmap.substr(4, size);
  normalizer.replacements_ = charsmap.substr(4 + size);
  return normalizer;
}

uint32_t SentencePieceNormalizer::Unit(size_t index) const {
  uint32_t unit = 0;
  if (index < units_.size() / 4) std::memcpy(&unit, units_.data() + 4 * index, 4);
  return unit;  // 0 is no character's: the search ends
}

// The double array of darts-clone, a library of Susumu Yata's; every index is checked.
bool SentencePieceNormalizer::LongestRule(absl::string_view text, size_t* length,
                                          uint32_t* value) const {
  const auto offset = [](uint32_t unit) {
    return static_cast<size_t>((unit >> 10) << ((unit & (1u << 9)) >> 6));
  };
  *length = 0;
  size_t node = offset(Unit(0));
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    if (byte == 0) break;
    node ^= byte;
    const uint32_t unit = Unit(node);
    if ((unit & (1u << 31 | 0xff)) != byte) break;
    node ^= offset(unit);
    if ((unit >> 8 & 1) == 0) continue;
    const uint32_t found = Unit(node) & 0x7fffffff;
    if (found >= replacements_.size()) continue;
    *length = i + 1;
    *value = found;
  }
  return *length > 0;
}

SentencePieceNormalizer::Prefix SentencePieceNormalizer::NextPrefix(absl::string_view text) const {
  const size_t symbol = symbols_->Match(text);
  if (symbol > 0) return {text.substr(0, symbol), symbol};
  size_t length = 0;
  uint32_t value = 0;
  if (!units_.empty() && LongestRule(text, &length, &value)) {
    const absl::string_view from = replacements_.substr(value);
    return {from.substr(0, from.find('\0')), length};
  }
  const Utf8Character character = DecodeUtf8(text, 0);
  if (!character.valid) return {"\xef\xbf\xbd", 1};
  return {text.substr(0, static_cast<size_t>(character.length)),
          static_cast<size_t>(character.length)};
}

std::string SentencePieceNormalizer::Normalize(absl::string_view text) const {
  const SentencePieceModel& model = *model_;
  if (model.remove_extra_whitespaces) {
    while (!text.empty()) {
      const Prefix prefix = NextPrefix(text);
      if (prefix.text != " ") break;
      text.remove_prefix(prefix.consumed);
    }
  }
  if (text.empty()) return "";
  const absl::string_view space = model.escape_whitespaces ? kSpaceSymbol : " ";
  std::string normalized;
  normalized.reserve(text.size() + text.size() / 2);
  const auto append = [&normalized](absl::string_view part) {
    normalized.append(part.data(), part.size());
  };
  if (model.add_dummy_prefix && !model.whitespace_as_suffix) append(space);
  bool after_space = model.remove_extra_whitespaces;
  while (!text.empty()) {
    const Prefix prefix = NextPrefix(text);
    absl::string_view part = prefix.text;
    while (after_space && absl::ConsumePrefix(&part, " ")) {
    }
    if (!part.empty()) {
      for (const char& c : part) c == ' ' ? append(space) : append({&c, 1});
      after_space = model.remove_extra_whitespaces && part.back() == ' ';
    }
    text.remove_prefix(prefix.consumed);
  }
  if (model.remove_extra_whitespaces) {
    while (absl::EndsWith(normalized, space)) normalized.resize(normalized.size() - space.size());
  }
  if (model.add_dummy_prefix && model.whitespace_as_suffix) append(space);
  return normalized;
}

}  // namespace nibble::data
