#include "worker/data/byte_alphabet.h"

#include <algorithm>
#include <iterator>

#include "worker/data/utf8.h"

namespace nibble::data {

ByteAlphabet::ByteAlphabet() {
  std::fill(std::begin(byte_of_), std::end(byte_of_), -1);
  uint32_t next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool prints = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    code_of_[byte] = prints ? static_cast<uint32_t>(byte) : next++;
    byte_of_[code_of_[byte]] = byte;
  }
}

bool ByteAlphabet::ToBytes(absl::string_view token, std::string* bytes) const {
  bytes->clear();
  for (size_t i = 0; i < token.size();) {
    const Utf8Character character = DecodeUtf8(token, i);
    if (!character.valid || character.code >= kCodes || byte_of_[character.code] < 0) return false;
    bytes->push_back(static_cast<char>(byte_of_[character.code]));
    i += static_cast<size_t>(character.length);
  }
  return true;
}

std::string ByteAlphabet::ToText(absl::string_view bytes) const {
  std::string text;
  for (const char c : bytes) {
    const uint32_t code = code_of_[static_cast<unsigned char>(c)];
    if (code < 0x80) {
      text.push_back(static_cast<char>(code));
    } else {
      text.push_back(static_cast<char>(0xc0 | code >> 6));
      text.push_back(static_cast<char>(0x80 | (code & 63)));
    }
  }
  return text;
}

}  // namespace nibble::data
