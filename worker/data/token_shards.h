// Shard files and dataset.json of a prepared dataset: docs/formats/token_shards.md. Internal to
// worker/data.
#ifndef WORKER_DATA_TOKEN_SHARDS_H_
#define WORKER_DATA_TOKEN_SHARDS_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/data/token_file.h"

namespace nibble::data {

inline constexpr char kDatasetFileName[] = "dataset.json";
inline constexpr int32_t kMaxVocabSize = 1 << 20;

// First bytes of a shard; the tokens follow. Little-endian, as every machine this runs on.
struct ShardHeader {
  char magic[8];         // "nibbletk"
  uint32_t version;      // 1
  uint32_t token_bytes;  // 2 or 4
  uint64_t tokens;
  uint32_t vocab_size;
  uint32_t reserved;  // 0
};
static_assert(sizeof(ShardHeader) == 32);

ShardHeader MakeShardHeader(int token_bytes, int64_t tokens, int32_t vocab_size);

// 2 where every id fits 16 bits, else 4.
int TokenBytes(int32_t vocab_size);

struct ShardFile {
  std::string name;  // in the dataset's directory: train-00000.bin
  int64_t tokens = 0;
  std::string sha256;  // of the whole file, hex
};

struct SplitManifest {
  int64_t tokens = 0;     // sum over files; a separator after every document included
  int64_t bytes = 0;      // of the text that the tokens stand for
  int64_t documents = 0;  // 0: the dataset has no such split
  std::vector<ShardFile> files;
};

struct DatasetManifest {
  int32_t vocab_size = 0;
  int token_bytes = 0;
  std::string tokenizer_kind;
  std::string tokenizer_digest;
  int32_t separator = 0;
  SplitManifest train;
  SplitManifest validation;
};

// The text of dataset.json.
std::string ManifestToJson(const DatasetManifest& manifest);

// Trusts nothing in the file: names, sizes, sums and digests are checked for form.
// INVALID_ARGUMENT with what is wrong and the path within the document.
absl::StatusOr<DatasetManifest> ParseManifest(absl::string_view json);

// NOT_FOUND: no dataset.json; INVALID_ARGUMENT as above, RESOURCE_EXHAUSTED over 1 MiB.
absl::StatusOr<DatasetManifest> ReadManifest(const std::string& directory);

// Opens a shard whose size, header and digest are what the manifest says. DATA_LOSS otherwise.
absl::StatusOr<TokenFile> OpenVerifiedShard(const std::string& directory, const ShardFile& shard,
                                            const DatasetManifest& manifest, bool keep_open);

// How far a ShardWriter got.
struct ShardWriterState {
  std::vector<ShardFile> files;  // that are finished
  int64_t open_tokens = 0;       // of the next one
};

// Writes the shards of one split. Errors of the file system.
class ShardWriter {
 public:
  struct Options {
    std::string directory;
    std::string split;  // "train" or "validation"
    int32_t vocab_size = 0;
    int64_t shard_tokens = 0;  // of one file at most
  };
  explicit ShardWriter(const Options& options);
  // Goes on from such a state, cutting off what was written after it. Call first. DATA_LOSS: the
  // files are not as long as the state says.
  absl::Status Resume(const ShardWriterState& state);
  ~ShardWriter();
  ShardWriter(const ShardWriter&) = delete;
  ShardWriter& operator=(const ShardWriter&) = delete;

  // REQUIRES: 0 <= ids[i] < vocab_size.
  absl::Status Append(const int32_t* ids, int64_t count);
  // What was appended so far, durably.
  absl::StatusOr<ShardWriterState> Sync();
  // Closes and fsyncs the last file. Call once, last. Files are in stream order.
  absl::StatusOr<std::vector<ShardFile>> Finish();

 private:
  std::string PathOf(size_t index) const;
  absl::Status OpenFile(int flags);
  absl::Status CloseFile();
  absl::Status FlushBuffer();

  const Options options_;
  const int token_bytes_;
  std::string path_;
  int fd_ = -1;
  int64_t file_tokens_ = 0;
  std::string buffer_;
  std::vector<ShardFile> files_;
};

}  // namespace nibble::data

#endif  // WORKER_DATA_TOKEN_SHARDS_H_
