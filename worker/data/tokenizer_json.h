// Hugging Face's tokenizer.json as plain values, before anything in it is understood. Internal to
// worker/data.
#ifndef WORKER_DATA_TOKENIZER_JSON_H_
#define WORKER_DATA_TOKENIZER_JSON_H_

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace nibble::data {

struct TokenizerJson {
  // model.vocab and model.merges as the file writes them, in the byte-level alphabet.
  absl::flat_hash_map<std::string, int32_t> vocabulary;
  std::vector<std::pair<std::string, std::string>> merges;  // best first
  // Everything else, by path: "model.type", "added_tokens.0.content". Strings as they are, numbers
  // and bools as JSON writes them, null and empty containers not at all.
  std::map<std::string, std::string> settings;
};

// Memory is bounded by a small multiple of the vocabulary's and merges' own text, whatever the
// document holds. INVALID_ARGUMENT: not JSON, or not of this form; RESOURCE_EXHAUSTED: a vocabulary
// or merges over 2^20, settings over 2^16 or 4 MiB.
absl::StatusOr<TokenizerJson> ParseTokenizerJson(const std::string& json);

}  // namespace nibble::data

#endif  // WORKER_DATA_TOKENIZER_JSON_H_
