#include "worker/data/token_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/files.h"
#include "base/status_macros.h"

namespace nibble::data {

absl::StatusOr<TokenFile> TokenFile::Open(const std::string& path, bool keep_open) {
  TokenFile file;
  file.path_ = path;
  file.fd_ = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file.fd_ < 0) return ErrnoStatus(errno, "open", path);
  struct stat info;
  if (fstat(file.fd_, &info) != 0) return ErrnoStatus(errno, "stat", path);
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": is no regular file"));
  }
  file.size_ = info.st_size;
  file.device_ = info.st_dev;
  file.inode_ = info.st_ino;
  if (!keep_open) {
    close(file.fd_);
    file.fd_ = -1;
  }
  return file;
}

TokenFile::TokenFile(TokenFile&& other) noexcept { *this = std::move(other); }

TokenFile& TokenFile::operator=(TokenFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(fd_, other.fd_);
  std::swap(size_, other.size_);
  std::swap(device_, other.device_);
  std::swap(inode_, other.inode_);
  return *this;
}

TokenFile::~TokenFile() {
  if (fd_ >= 0) close(fd_);
}

absl::Status TokenFile::ReadAt(int64_t offset, int64_t count, char* out) const {
  NIBBLE_CHECK(offset >= 0 && count >= 0 && offset <= size_ && count <= size_ - offset);
  if (fd_ >= 0) return ReadFrom(fd_, offset, count, out);
  const int fd = open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return ErrnoStatus(errno, "open", path_);
  struct stat info;
  absl::Status status;
  if (fstat(fd, &info) != 0) {
    status = ErrnoStatus(errno, "stat", path_);
  } else if (info.st_dev != device_ || info.st_ino != inode_) {
    status = absl::DataLossError(absl::StrCat(path_, ": was replaced while it was in use"));
  } else {
    status = ReadFrom(fd, offset, count, out);
  }
  close(fd);
  return status;
}

absl::Status TokenFile::ReadFrom(int fd, int64_t offset, int64_t count, char* out) const {
  while (count > 0) {
    const ssize_t n = pread(fd, out, static_cast<size_t>(count), offset);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, "read", path_);
    if (n == 0) {
      return absl::DataLossError(absl::StrCat(path_, ": had ", size_, " bytes and now ends at ",
                                              offset, ": it was cut while it was in use"));
    }
    offset += n;
    out += n;
    count -= n;
  }
  return absl::OkStatus();
}

absl::Status TokenFile::AddTo(Sha256* sha) const {
  constexpr int64_t kPiece = int64_t{1} << 20;
  std::string piece(static_cast<size_t>(std::min(kPiece, size_)), '\0');
  for (int64_t at = 0; at < size_; at += kPiece) {
    const int64_t count = std::min(kPiece, size_ - at);
    NIBBLE_RETURN_IF_ERROR(ReadAt(at, count, piece.data()));
    sha->Update(piece.data(), static_cast<size_t>(count));
  }
  return absl::OkStatus();
}

}  // namespace nibble::data
