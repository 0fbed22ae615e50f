#include "worker/link/text.h"

#include <cstdint>

#include "absl/strings/str_cat.h"

namespace nibble::link {
namespace {

constexpr absl::string_view kEllipsis = "...";

// Length of the well-formed UTF-8 sequence at the start of `text` (Unicode 15, table 3-7), 0 where
// there is none.
size_t SequenceLength(absl::string_view text) {
  const auto byte = [&](size_t i) -> unsigned {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0;
  };
  const auto follows = [&](size_t i) { return byte(i) >= 0x80 && byte(i) <= 0xbf; };
  const unsigned first = byte(0);
  if (first < 0x80) return 1;
  if (first >= 0xc2 && first <= 0xdf) return follows(1) ? 2 : 0;
  if (first >= 0xe0 && first <= 0xef) {
    const unsigned low = first == 0xe0 ? 0xa0 : 0x80;
    const unsigned high = first == 0xed ? 0x9f : 0xbf;  // no surrogates
    return byte(1) >= low && byte(1) <= high && follows(2) ? 3 : 0;
  }
  if (first >= 0xf0 && first <= 0xf4) {
    const unsigned low = first == 0xf0 ? 0x90 : 0x80;
    const unsigned high = first == 0xf4 ? 0x8f : 0xbf;
    return byte(1) >= low && byte(1) <= high && follows(2) && follows(3) ? 4 : 0;
  }
  return 0;
}

// C0 except tab, DEL, and C1 (U+0080..U+009F).
bool IsControl(absl::string_view sequence) {
  const auto first = static_cast<unsigned char>(sequence[0]);
  if (sequence.size() == 1) return (first < 0x20 && first != '\t') || first == 0x7f;
  return sequence.size() == 2 && first == 0xc2 && static_cast<unsigned char>(sequence[1]) < 0xa0;
}

}  // namespace

std::string SafeText(absl::string_view text, size_t max_bytes) {
  std::string out;
  size_t fits = 0;  // length of the longest prefix that leaves room for the ellipsis
  while (!text.empty()) {
    const size_t length = SequenceLength(text);
    const absl::string_view sequence = text.substr(0, length == 0 ? 1 : length);
    if (length == 0 || IsControl(sequence)) {
      for (const char c : sequence) {
        absl::StrAppend(&out, "\\x", absl::Hex(uint8_t(c), absl::kZeroPad2));
      }
    } else {
      out.append(sequence.data(), sequence.size());
    }
    if (out.size() > max_bytes) {
      out.resize(fits);
      return out.append(kEllipsis.data(), kEllipsis.size());
    }
    if (out.size() + kEllipsis.size() <= max_bytes) fits = out.size();
    text.remove_prefix(sequence.size());
  }
  return out;
}

}  // namespace nibble::link
