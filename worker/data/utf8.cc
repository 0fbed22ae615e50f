#include "worker/data/utf8.h"

#include <cstring>

namespace nibble::data {
namespace {

constexpr absl::string_view kReplacement = "\xef\xbf\xbd";  // U+FFFD

// First position at or after `position` whose byte is not ASCII.
size_t SkipAscii(absl::string_view text, size_t position) {
  while (position + 8 <= text.size()) {
    uint64_t word;
    std::memcpy(&word, text.data() + position, 8);
    if ((word & 0x8080808080808080u) != 0) break;
    position += 8;
  }
  while (position < text.size() && static_cast<unsigned char>(text[position]) < 0x80) ++position;
  return position;
}

}  // namespace

Utf8Character DecodeUtf8(absl::string_view text, size_t position) {
  const auto* p = reinterpret_cast<const unsigned char*>(text.data()) + position;
  const size_t left = text.size() - position;
  const unsigned char lead = p[0];
  if (lead < 0x80) return {.length = 1, .code = lead, .valid = true};
  // The range of the second byte excludes overlong forms, surrogates and codes over 10FFFF.
  int length = 0;
  unsigned char low = 0x80;
  unsigned char high = 0xbf;
  if (lead >= 0xc2 && lead <= 0xdf) {
    length = 2;
  } else if (lead >= 0xe0 && lead <= 0xef) {
    length = 3;
    if (lead == 0xe0) low = 0xa0;
    if (lead == 0xed) high = 0x9f;
  } else if (lead >= 0xf0 && lead <= 0xf4) {
    length = 4;
    if (lead == 0xf0) low = 0x90;
    if (lead == 0xf4) high = 0x8f;
  } else {
    return {.length = 1};
  }
  uint32_t code = lead & (0x7f >> length);
  for (int i = 1; i < length; ++i) {
    if (static_cast<size_t>(i) >= left || p[i] < low || p[i] > high) return {.length = i};
    code = code << 6 | (p[i] & 0x3f);
    low = 0x80;
    high = 0xbf;
  }
  return {.length = length, .code = code, .valid = true};
}

bool IsValidUtf8(absl::string_view text) {
  for (size_t i = SkipAscii(text, 0); i < text.size(); i = SkipAscii(text, i)) {
    const Utf8Character character = DecodeUtf8(text, i);
    if (!character.valid) return false;
    i += character.length;
  }
  return true;
}

std::string ReplaceInvalidUtf8(absl::string_view text) {
  std::string valid;
  valid.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const size_t ascii_end = SkipAscii(text, i);
    valid.append(text.data() + i, ascii_end - i);
    i = ascii_end;
    if (i == text.size()) break;
    const Utf8Character character = DecodeUtf8(text, i);
    if (character.valid) {
      valid.append(text.data() + i, character.length);
    } else {
      valid.append(kReplacement.data(), kReplacement.size());
    }
    i += character.length;
  }
  return valid;
}

}  // namespace nibble::data
