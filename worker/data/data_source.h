// Token sequences for training and validation, from one source or a mixture of several
// (docs/formats/token_shards.md).
//
// The tokens of a split of a source form one stream: documents in file order, each followed by the
// tokenizer's separator. Sequence i is the T + 1 tokens from i * T; its inputs are the first T, its
// targets the last T. data_config.h says what else may become of documents.
#ifndef WORKER_DATA_DATA_SOURCE_H_
#define WORKER_DATA_DATA_SOURCE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/data/data_config.h"
#include "worker/data/token_stream.h"

namespace nibble::data {

struct DataOptions {
  int64_t sequence_length = 0;  // at least 1
  // Tokens must be below it: the model's vocabulary.
  int64_t vocab_size = 0;
  // Samples of the whole run, by which the shares of phases are measured.
  int64_t samples = 0;
};

// Immutable after Open; thread-safe.
class DataSource {
 public:
  // The training split mixes the sources by weight, phase by phase. The validation split mixes what
  // the sources of the last phase hold out in the same ratio, sources without a held-out split left
  // out. Errors as TokenStream::Open; also INVALID_ARGUMENT: a split has fewer than one sequence,
  // or documents are to be told apart where nothing says where they end. NOT_FOUND: a training
  // source is not there, or no source holds anything out.
  static absl::StatusOr<std::unique_ptr<DataSource>> Open(const DataConfig& config, Split split,
                                                          const DataOptions& options);
  // A split of one nibble dataset.
  static absl::StatusOr<std::unique_ptr<DataSource>> Open(const std::string& directory, Split split,
                                                          int64_t sequence_length);
  virtual ~DataSource() = default;

  // Tokens are below it: the largest of the sources'. Where a source does not record its own, it is
  // DataOptions::vocab_size.
  virtual int64_t vocab_size() const = 0;
  virtual int64_t sequence_length() const = 0;
  // Whole sequences: of all training sources together; of a validation mixture, as many as keep the
  // weights without reading any twice.
  virtual int64_t sequences() const = 0;
  // Mean UTF-8 bytes of text a token stands for: turns nats a token into bits a byte. 0 where a
  // source does not record it.
  virtual double bytes_per_token() const = 0;

  // Sample number `position` (0-based, counted over the whole run) of the shuffled stream: a pure
  // function of (seed, position). Every epoch of a source is another permutation of its sequences.
  // inputs, targets: [sequence_length]; a target of -1 is none. OUT_OF_RANGE where a token is not
  // below vocab_size.
  virtual absl::Status ReadShuffled(uint64_t seed, int64_t position, int32_t* inputs,
                                    int32_t* targets) const = 0;
  // Sequence `index` in file order. REQUIRES: 0 <= index < sequences().
  virtual absl::Status ReadInOrder(int64_t index, int32_t* inputs, int32_t* targets) const = 0;

  // Of every source, in the order of the configuration, after `position` samples.
  virtual std::vector<SourceProgress> Progress(int64_t /*position*/) const { return {}; }
};

}  // namespace nibble::data

#endif  // WORKER_DATA_DATA_SOURCE_H_
