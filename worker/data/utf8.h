// UTF-8, as the Unicode standard's table 3-7 defines it. Internal to worker/data.
#ifndef WORKER_DATA_UTF8_H_
#define WORKER_DATA_UTF8_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace nibble::data {

struct Utf8Character {
  int length = 0;  // bytes; where not valid, those of the maximal invalid part, at least 1
  uint32_t code = 0;
  bool valid = false;
};

// REQUIRES: position < text.size().
Utf8Character DecodeUtf8(absl::string_view text, size_t position);

bool IsValidUtf8(absl::string_view text);

// U+FFFD for every maximal invalid part, as the standard recommends and Python, tiktoken's and HF's
// callers do. At most three times as long as `text`.
std::string ReplaceInvalidUtf8(absl::string_view text);

}  // namespace nibble::data

#endif  // WORKER_DATA_UTF8_H_
