#include "worker/data/pretokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>
#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"
#include "worker/data/utf8.h"

namespace nibble::data {
namespace {

// encoder.py of GPT-2, with \s written out as Unicode's White_Space: PCRE2's own counts U+180E,
// which left that property in Unicode 6.3.
#define NIBBLE_WHITE_SPACE                                                                      \
  "\\x{09}-\\x{0d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}" \
  "\\x{205f}\\x{3000}"
constexpr char kPattern[] = "'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^" NIBBLE_WHITE_SPACE
                            "\\p{L}\\p{N}]+|[" NIBBLE_WHITE_SPACE "]+(?![^" NIBBLE_WHITE_SPACE
                            "])|[" NIBBLE_WHITE_SPACE "]+";

// Of Llama 3, as its tokenizer.json has it, with white space written out likewise.
constexpr char kLlama3Pattern[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
    "?[^" NIBBLE_WHITE_SPACE "\\p{L}\\p{N}]+[\\r\\n]*|[" NIBBLE_WHITE_SPACE
    "]*[\\r\\n]+|[" NIBBLE_WHITE_SPACE "]+(?![^" NIBBLE_WHITE_SPACE "])|[" NIBBLE_WHITE_SPACE "]+";

enum Class : uint8_t { kLetter, kNumber, kOther, kSpace, kNotAscii };

constexpr std::array<uint8_t, 256> MakeClasses() {
  std::array<uint8_t, 256> classes{};
  for (int c = 0; c < 256; ++c) {
    if (c >= 0x80) {
      classes[c] = kNotAscii;
    } else if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) {
      classes[c] = kLetter;
    } else if (c >= '0' && c <= '9') {
      classes[c] = kNumber;
    } else if (c == ' ' || (c >= 9 && c <= 13)) {
      classes[c] = kSpace;
    } else {
      classes[c] = kOther;
    }
  }
  return classes;
}
constexpr std::array<uint8_t, 256> kClasses = MakeClasses();

uint8_t ClassAt(absl::string_view text, size_t i) {
  return kClasses[static_cast<unsigned char>(text[i])];
}

size_t EndOfRun(absl::string_view text, size_t i, uint8_t character_class) {
  while (i < text.size() && ClassAt(text, i) == character_class) ++i;
  return i;
}

// Length of 's, 'd, 'm, 't, 'll, 've or 're at `begin`, else 0.
size_t ContractionLength(absl::string_view text, size_t begin) {
  if (begin + 1 >= text.size()) return 0;
  const char a = text[begin + 1];
  if (a == 's' || a == 'd' || a == 'm' || a == 't') return 2;
  if (begin + 2 >= text.size()) return 0;
  const char b = text[begin + 2];
  return (a == 'l' && b == 'l') || (a == 'v' && b == 'e') || (a == 'r' && b == 'e') ? 3 : 0;
}

// The pattern for pieces of ASCII with ASCII after them, which is most of them; 0 for the others.
size_t EndOfAsciiPiece(absl::string_view text, size_t begin) {
  if (text[begin] == '\'') {
    const size_t contraction = ContractionLength(text, begin);
    if (contraction > 0) return begin + contraction;
  }
  size_t i = begin;
  if (text[i] == ' ' && i + 1 < text.size() && ClassAt(text, i + 1) != kSpace) ++i;
  const uint8_t character_class = ClassAt(text, i);
  if (character_class == kNotAscii) return 0;
  const size_t end = EndOfRun(text, i, character_class);
  if (end == text.size()) return end;
  if (ClassAt(text, end) == kNotAscii) return 0;
  // The last space of several belongs to what follows.
  return character_class == kSpace && end > begin + 1 ? end - 1 : end;
}

}  // namespace

struct Pretokenizer::Pattern {
  pcre2_code* code = nullptr;
  pcre2_match_data* match = nullptr;
  bool jit = false;
  ~Pattern() {
    pcre2_match_data_free(match);
    pcre2_code_free(code);
  }
};

Pretokenizer::Pretokenizer(PretokenizerKind kind, std::unique_ptr<Pattern> pattern)
    : kind_(kind), pattern_(std::move(pattern)) {}
Pretokenizer::~Pretokenizer() = default;

absl::StatusOr<std::unique_ptr<Pretokenizer>> Pretokenizer::Make(PretokenizerKind kind) {
  auto pattern = std::make_unique<Pattern>();
  int error = 0;
  PCRE2_SIZE offset = 0;
  const char* text = kind == PretokenizerKind::kGpt2 ? kPattern : kLlama3Pattern;
  pattern->code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text), PCRE2_ZERO_TERMINATED,
                    PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED, &error, &offset, /*context=*/nullptr);
  if (pattern->code == nullptr) {
    return absl::InternalError(absl::StrCat("PCRE2 error ", error, " at ", offset));
  }
  pattern->jit = pcre2_jit_compile(pattern->code, PCRE2_JIT_COMPLETE) == 0;
  pattern->match = pcre2_match_data_create(1, nullptr);
  if (pattern->match == nullptr) return absl::InternalError("PCRE2 is out of memory");
  return std::unique_ptr<Pretokenizer>(new Pretokenizer(kind, std::move(pattern)));
}

size_t Pretokenizer::EndOfPiece(absl::string_view text, size_t begin) const {
  if (kind_ != PretokenizerKind::kGpt2) return MatchPattern(text, begin);
  const size_t ascii_end = EndOfAsciiPiece(text, begin);
  return ascii_end > 0 ? ascii_end : MatchPattern(text, begin);
}

size_t Pretokenizer::MatchPattern(absl::string_view text, size_t begin) const {
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  const int count = pattern_->jit ? pcre2_jit_match(pattern_->code, subject, text.size(), begin,
                                                    /*options=*/0, pattern_->match, nullptr)
                                  : pcre2_match(pattern_->code, subject, text.size(), begin,
                                                PCRE2_NO_UTF_CHECK, pattern_->match, nullptr);
  const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(pattern_->match);
  if (count > 0 && bounds[1] > begin) return bounds[1];
  // Every character is in some alternative, so this is PCRE2 out of its limits: go on after one
  // character rather than lose text.
  return begin + DecodeUtf8(text, begin).length;
}

}  // namespace nibble::data
