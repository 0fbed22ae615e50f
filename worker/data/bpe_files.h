// vocab.json and merges.txt of a byte-level byte-pair encoding. Internal to worker/data.
#ifndef WORKER_DATA_BPE_FILES_H_
#define WORKER_DATA_BPE_FILES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/data/tokenizer.h"

namespace nibble::data {

struct BpeVocabulary {
  struct MergeRule {
    int32_t left;
    int32_t right;
    int32_t merged;
  };
  std::vector<std::string> tokens;  // by id, as bytes
  std::vector<MergeRule> merges;    // best first
  int32_t byte_ids[256];            // of the tokens of one byte
  int32_t separator = -1;           // <|endoftext|>
};

// Errors as LoadBpeTokenizer. Checked: ids are 0..n-1, every byte has a token, both halves and the
// result of every merge are tokens, no merge comes twice.
absl::StatusOr<BpeVocabulary> ReadBpeFiles(const BpeFiles& files);

}  // namespace nibble::data

#endif  // WORKER_DATA_BPE_FILES_H_
