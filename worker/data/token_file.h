// A file of tokens that is read where and when it is needed. Not mapped: what somebody cuts or
// replaces while it is in use is an error here, where a mapping would end the process. Internal to
// worker/data.
#ifndef WORKER_DATA_TOKEN_FILE_H_
#define WORKER_DATA_TOKEN_FILE_H_

#include <sys/types.h>

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/sha256.h"

namespace nibble::data {

// Movable; reads are thread-safe.
class TokenFile {
 public:
  // `keep_open`: hold a descriptor; otherwise every read opens the file again. Errors as
  // base/files.h says.
  static absl::StatusOr<TokenFile> Open(const std::string& path, bool keep_open);
  TokenFile(TokenFile&& other) noexcept;
  TokenFile& operator=(TokenFile&& other) noexcept;
  ~TokenFile();

  const std::string& path() const { return path_; }
  // As it was opened.
  int64_t size() const { return size_; }

  // Bytes [offset, offset + count). DATA_LOSS: the file has become shorter, or is another one.
  // REQUIRES: 0 <= offset, offset + count <= size().
  absl::Status ReadAt(int64_t offset, int64_t count, char* out) const;
  // Adds the whole file.
  absl::Status AddTo(Sha256* sha) const;

 private:
  TokenFile() = default;
  absl::Status ReadFrom(int fd, int64_t offset, int64_t count, char* out) const;

  std::string path_;
  int fd_ = -1;  // -1: not held
  int64_t size_ = 0;
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

}  // namespace nibble::data

#endif  // WORKER_DATA_TOKEN_FILE_H_
