// Token sequences for training and validation, read from a directory that `nibble data prepare`
// wrote (docs/formats/token_shards.md).
//
// The tokens of a split form one stream: documents in file order, each followed by the tokenizer's
// separator. Sequence i is the T + 1 tokens from i * T; its inputs are the first T, its targets the
// last T.
#ifndef WORKER_DATA_DATA_SOURCE_H_
#define WORKER_DATA_DATA_SOURCE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace nibble::data {

enum class Split { kTrain, kValidation };

// Immutable after Open; thread-safe.
class DataSource {
 public:
  // NOT_FOUND: no dataset, or no such split. DATA_LOSS: a shard's digest or size is not what
  // dataset.json says. INVALID_ARGUMENT: malformed, or the split has fewer than one sequence.
  // REQUIRES: sequence_length >= 1.
  static absl::StatusOr<std::unique_ptr<DataSource>> Open(const std::string& directory, Split split,
                                                          int64_t sequence_length);
  virtual ~DataSource() = default;

  virtual int64_t vocab_size() const = 0;
  virtual int64_t sequence_length() const = 0;
  // Whole sequences in the split.
  virtual int64_t sequences() const = 0;
  // Mean UTF-8 bytes of text a token stands for, over the split: turns nats a token into bits a
  // byte.
  virtual double bytes_per_token() const = 0;

  // Sample number `position` (0-based, counted over the whole run) of the shuffled stream: a pure
  // function of (seed, position). Every epoch is another permutation of all sequences.
  // inputs, targets: [sequence_length]. OUT_OF_RANGE where a token is not below vocab_size.
  virtual absl::Status ReadShuffled(uint64_t seed, int64_t position, int32_t* inputs,
                                    int32_t* targets) const = 0;
  // Sequence `index` in file order. REQUIRES: 0 <= index < sequences().
  virtual absl::Status ReadInOrder(int64_t index, int32_t* inputs, int32_t* targets) const = 0;
};

}  // namespace nibble::data

#endif  // WORKER_DATA_DATA_SOURCE_H_
