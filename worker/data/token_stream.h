// The tokens of one split of one source, whatever files they come from
// (docs/formats/token_shards.md). Internal to worker/data.
#ifndef WORKER_DATA_TOKEN_STREAM_H_
#define WORKER_DATA_TOKEN_STREAM_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/data/data_config.h"
#include "worker/data/token_file.h"

namespace nibble::data {

enum class Split { kTrain, kValidation };

enum class TokenType : uint8_t { kU8, kI8, kU16, kI16, kU32, kI32, kI64 };
int64_t BytesOf(TokenType type);

// Tokens that lie side by side.
struct TokenRun {
  size_t file = 0;          // of the stream's
  int64_t offset = 0;       // byte
  int64_t first_token = 0;  // position in the stream
  int64_t tokens = 0;
};

// Movable. Thread-safe once it is opened.
class TokenStream {
 public:
  // INVALID_ARGUMENT: malformed, of no known format, or with a token that is not below
  // `vocab_limit`. NOT_FOUND: no such files, or no such split. DATA_LOSS: a digest or size is not
  // what it should be. RESOURCE_EXHAUSTED: too many files. Memory: some 24 bytes a sequence of a
  // Megatron file whose sequences do not follow each other, little otherwise.
  static absl::StatusOr<TokenStream> Open(const SourceConfig& source, Split split,
                                          int64_t vocab_limit);

  int64_t tokens() const { return tokens_; }
  // Of nibble datasets; 0: not recorded.
  int32_t vocab_size() const { return vocab_size_; }
  double bytes_per_token() const { return bytes_per_token_; }
  // The id that ends documents, -1: none is known.
  int32_t separator() const { return separator_; }
  // Where documents start, rising, where the files have a list of them; else empty.
  const std::vector<int64_t>& document_starts() const { return document_starts_; }
  // What was opened: "nibble", "llmc", "megatron", "raw_u16" or "raw_u32".
  const std::string& format() const { return format_; }
  TokenType type() const { return type_; }
  int64_t files() const { return static_cast<int64_t>(files_.size()); }

  // Tokens [first, first + count). OUT_OF_RANGE where one is not below the limit; DATA_LOSS where a
  // file has been cut or replaced since it was opened.
  // REQUIRES: 0 <= first, first + count <= tokens().
  absl::Status Read(int64_t first, int64_t count, int32_t* out) const;

 private:
  friend class TokenStreamBuilder;
  TokenStream() = default;

  std::string format_;
  TokenType type_ = TokenType::kU16;
  int64_t limit_ = 0;
  int64_t tokens_ = 0;
  int32_t vocab_size_ = 0;
  double bytes_per_token_ = 0;
  int32_t separator_ = -1;
  std::vector<TokenFile> files_;
  std::vector<TokenRun> runs_;
  std::vector<int64_t> document_starts_;
};

}  // namespace nibble::data

#endif  // WORKER_DATA_TOKEN_STREAM_H_
