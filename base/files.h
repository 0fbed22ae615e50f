// Files on a POSIX system, with durability said out loud. Errors name the path; ENOENT is
// NOT_FOUND, EEXIST ALREADY_EXISTS, ENOSPC and EDQUOT RESOURCE_EXHAUSTED, EACCES and EROFS
// PERMISSION_DENIED, everything else INTERNAL.
#ifndef BASE_FILES_H_
#define BASE_FILES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace nibble {

// The status that an errno value means for `path`.
absl::Status ErrnoStatus(int error, absl::string_view operation, absl::string_view path);

// RESOURCE_EXHAUSTED where the file is larger than max_bytes.
absl::StatusOr<std::string> ReadFile(const std::string& path, int64_t max_bytes);

// Writes a new file and fsyncs it. Not atomic: for files in a directory that is renamed later.
absl::Status WriteFileDurably(const std::string& path, absl::string_view contents);

// Replaces `path` atomically and durably: temporary file beside it, fsync, rename, fsync of the
// directory.
absl::Status ReplaceFileDurably(const std::string& path, absl::string_view contents);

// Renames within one file system and fsyncs both parent directories.
absl::Status RenameDurably(const std::string& from, const std::string& to);

absl::Status FsyncDirectory(const std::string& path);

// mkdir -p, mode 0755. The new names are durable on return.
absl::Status MakeDirectories(const std::string& path);

// rm -rf that never follows a symbolic link. OK where nothing is there.
absl::Status RemoveTree(const std::string& path);

// Names (not paths) in a directory, sorted, without "." and "..".
absl::StatusOr<std::vector<std::string>> ListDirectory(const std::string& path);

bool FileExists(const std::string& path);

// a + "/" + b, or b where it is absolute.
std::string JoinPath(absl::string_view a, absl::string_view b);

// A read-only memory map of a whole file. Movable. An empty file maps to an empty view.
class MappedFile {
 public:
  static absl::StatusOr<MappedFile> Open(const std::string& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();
  absl::string_view contents() const { return {data_, size_}; }

 private:
  MappedFile(const char* data, size_t size) : data_(data), size_(size) {}
  const char* data_ = nullptr;
  size_t size_ = 0;
};

// A temporary directory, removed with its contents when the object goes.
class TemporaryDirectory {
 public:
  static absl::StatusOr<TemporaryDirectory> Make();
  TemporaryDirectory(TemporaryDirectory&& other) noexcept;
  ~TemporaryDirectory();
  const std::string& path() const { return path_; }

 private:
  explicit TemporaryDirectory(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

}  // namespace nibble

#endif  // BASE_FILES_H_
