// Byte-level byte-pair encoding, however its merges were found. Internal to worker/data.
#ifndef WORKER_DATA_BPE_TOKENIZER_H_
#define WORKER_DATA_BPE_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/data/bpe_merge.h"
#include "worker/data/pretokenizer.h"
#include "worker/data/tokenizer.h"

namespace nibble::data {

struct BpeModel {
  std::vector<std::string> tokens;  // by id, as bytes
  MergeTable merges{0};
  int32_t byte_ids[256];  // of the tokens of one byte
  int32_t separator = -1;
  int32_t bos = -1;  // Tokenizer::bos_id
  PretokenizerKind pretokenizer = PretokenizerKind::kGpt2;
  // A piece that is a token is that token, even where merges would not make it.
  bool whole_pieces = false;
  std::string kind;
  std::string digest;
};

// INTERNAL where PCRE2 cannot compile the pattern.
absl::StatusOr<std::unique_ptr<Tokenizer>> MakeBpeTokenizer(BpeModel model);

}  // namespace nibble::data

#endif  // WORKER_DATA_BPE_TOKENIZER_H_
