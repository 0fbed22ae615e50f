// GPT-2's alphabet for bytes in text files: bytes that print stand for themselves, the others for
// U+0100 and following, in order. Internal to worker/data.
#ifndef WORKER_DATA_BYTE_ALPHABET_H_
#define WORKER_DATA_BYTE_ALPHABET_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace nibble::data {

class ByteAlphabet {
 public:
  ByteAlphabet();

  // False where `token` has a character outside the alphabet.
  bool ToBytes(absl::string_view token, std::string* bytes) const;
  // In UTF-8.
  std::string ToText(absl::string_view bytes) const;
  // The character that stands for a byte.
  uint32_t code(uint8_t byte) const { return code_of_[byte]; }

 private:
  static constexpr uint32_t kCodes = 256 + 68;
  int byte_of_[kCodes];  // -1: none
  uint32_t code_of_[256];
};

}  // namespace nibble::data

#endif  // WORKER_DATA_BYTE_ALPHABET_H_
