// A file's text: plain, gzip, bzip2 or Zstandard, told by its first bytes.
#ifndef WORKER_DATA_INPUT_STREAM_H_
#define WORKER_DATA_INPUT_STREAM_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace nibble::data {

class InputStream {
 public:
  // NOT_FOUND; INVALID_ARGUMENT: not a regular file.
  static absl::StatusOr<std::unique_ptr<InputStream>> Open(const std::string& path);
  virtual ~InputStream() = default;

  // Up to `size` bytes of text; 0 only at the end. DATA_LOSS: the compressed data is damaged, or
  // ends too early. Memory is bounded whatever the data claims: 128 MiB of window for Zstandard.
  virtual absl::StatusOr<size_t> Read(char* buffer, size_t size) = 0;

  // Bytes of the file consumed so far.
  virtual int64_t file_bytes_read() const = 0;
};

}  // namespace nibble::data

#endif  // WORKER_DATA_INPUT_STREAM_H_
