// Cuts a token stream into the sequences that a model trains on. Internal to worker/data.
#ifndef WORKER_DATA_SEQUENCE_READER_H_
#define WORKER_DATA_SEQUENCE_READER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/data/data_config.h"
#include "worker/data/token_stream.h"

namespace nibble::data {

// Movable; thread-safe.
class SequenceReader {
 public:
  // `name` is for error messages. INVALID_ARGUMENT: fewer than one sequence, or `mode` needs
  // documents and the stream does not tell where they end. RESOURCE_EXHAUSTED: kSeparate with over
  // 2^27 documents; it keeps 16 bytes for each. REQUIRES: sequence_length >= 1.
  static absl::StatusOr<SequenceReader> Make(TokenStream stream, const std::string& name,
                                             int64_t sequence_length, DocumentMode mode);

  int64_t sequences() const { return sequences_; }
  const TokenStream& stream() const { return stream_; }

  // Sequence `index` in file order. inputs, targets: [sequence_length]; a target of -1 is none.
  // OUT_OF_RANGE as TokenStream::Read. REQUIRES: 0 <= index < sequences().
  absl::Status Read(int64_t index, int32_t* inputs, int32_t* targets) const;

 private:
  SequenceReader(TokenStream stream, int64_t sequence_length, DocumentMode mode)
      : stream_(std::move(stream)), length_(sequence_length), mode_(mode) {}
  absl::Status FindDocuments(const std::string& name);
  absl::Status ReadJoined(int64_t index, int32_t* inputs, int32_t* targets) const;
  absl::Status ReadSeparate(int64_t index, int32_t* inputs, int32_t* targets) const;
  void MaskBoundaries(int64_t first, const int32_t* inputs, int32_t* targets) const;

  TokenStream stream_;
  int64_t length_;
  DocumentMode mode_;
  int64_t sequences_ = 0;
  // kSeparate: the first sequence and the first token of every document with one; an entry more
  // for the end.
  struct Document {
    int64_t first_sequence;
    int64_t first_token;
    int64_t tokens;
  };
  std::vector<Document> documents_;
};

}  // namespace nibble::data

#endif  // WORKER_DATA_SEQUENCE_READER_H_
