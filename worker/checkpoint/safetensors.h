// The safetensors file format: an 8-byte little-endian header length, a JSON header, tensor bytes.
//   {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, "__metadata__": {...}}
// https://github.com/huggingface/safetensors#format. See docs/formats/checkpoint.md for what a
// checkpoint puts into one.
#ifndef WORKER_CHECKPOINT_SAFETENSORS_H_
#define WORKER_CHECKPOINT_SAFETENSORS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/sha256.h"
#include "base/xxh3.h"

namespace nibble::checkpoint {

// Limits of the reader; a file beyond one of them is refused before anything of that size is
// allocated.
inline constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the reference implementation's limit
inline constexpr size_t kMaxTensors = 100'000;
inline constexpr size_t kMaxDimensions = 8;
inline constexpr size_t kMaxNameBytes = 512;

struct TensorInfo {
  std::string name;
  std::string dtype;  // "F32", "BF16", ...
  std::vector<int64_t> shape;
  uint64_t begin = 0;  // of its bytes, from the end of the header
  uint64_t end = 0;
};

struct SafetensorsHeader {
  std::vector<TensorInfo> tensors;  // by rising offset
  uint64_t data_start = 0;          // from the start of the file

  // Null where there is no such tensor.
  const TensorInfo* Find(absl::string_view name) const;
};

// Parses the header of a whole file. DATA_LOSS: anything the format does not allow: a header that
// is too long or not such JSON, repeated names or keys, an unknown dtype, a shape whose size is not
// its range's (products are checked), ranges that overlap, leave holes or do not end with the file.
absl::StatusOr<SafetensorsHeader> ParseSafetensors(absl::string_view file);

// Writes one file of tensors from front to back, without holding it in memory, and digests it on
// the way. Not thread-safe.
class SafetensorsWriter {
 public:
  // Creates `path`, which must not exist, and writes the header. `tensors` give name, shape and
  // dtype ("F32", "F16", "BF16"; empty: F32); the data follow in their order.
  static absl::StatusOr<std::unique_ptr<SafetensorsWriter>> Create(
      const std::string& path, const std::vector<TensorInfo>& tensors);
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  // The next `count` values; a megabyte or more at a time is digested while it is written.
  // RESOURCE_EXHAUSTED: disk full.
  absl::Status Append(const float* values, int64_t count);
  // The next bytes of values of any type.
  absl::Status AppendBytes(absl::string_view bytes);
  // After the last value: fsync and close. REQUIRES: every value was appended.
  absl::Status Finish();

  // Valid after Finish.
  int64_t size_bytes() const { return size_bytes_; }
  const std::string& sha256() const { return digest_; }
  const std::string& xxh3() const { return piece_digest_; }  // PieceDigest

 private:
  SafetensorsWriter(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}
  // Both digests, and writes.
  absl::Status Add(absl::string_view bytes);
  // With the fast digest, which takes no time beside writing.
  absl::Status Write(absl::string_view bytes);

  int fd_;
  const std::string path_;
  Sha256 sha256_;
  PieceDigest pieces_;
  std::string digest_, piece_digest_;
  int64_t size_bytes_ = 0;
  uint64_t remaining_bytes_ = 0;
};

}  // namespace nibble::checkpoint

#endif  // WORKER_CHECKPOINT_SAFETENSORS_H_
