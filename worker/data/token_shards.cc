#include "worker/data/token_shards.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/files.h"
#include "base/sha256.h"
#include "base/status_macros.h"

namespace nibble::data {
namespace {

constexpr char kMagic[] = "nibbletk";
constexpr uint32_t kVersion = 1;
constexpr size_t kBufferBytes = size_t{1} << 20;

absl::Status WriteAt(int fd, absl::string_view bytes, off_t offset, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t n = pwrite(fd, bytes.data(), bytes.size(), offset);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, "write", path);
    bytes.remove_prefix(static_cast<size_t>(n));
    offset += n;
  }
  return absl::OkStatus();
}

}  // namespace

ShardHeader MakeShardHeader(int token_bytes, int64_t tokens, int32_t vocab_size) {
  ShardHeader header = {};
  std::memcpy(header.magic, kMagic, sizeof(header.magic));
  header.version = kVersion;
  header.token_bytes = static_cast<uint32_t>(token_bytes);
  header.tokens = static_cast<uint64_t>(tokens);
  header.vocab_size = static_cast<uint32_t>(vocab_size);
  return header;
}

int TokenBytes(int32_t vocab_size) { return vocab_size <= 65536 ? 2 : 4; }

ShardWriter::ShardWriter(const Options& options)
    : options_(options), token_bytes_(TokenBytes(options.vocab_size)) {}

ShardWriter::~ShardWriter() {
  if (fd_ >= 0) close(fd_);
}

absl::Status ShardWriter::Append(const int32_t* ids, int64_t count) {
  while (count > 0) {
    if (fd_ < 0) NIBBLE_RETURN_IF_ERROR(OpenFile());
    const int64_t n = std::min(count, options_.shard_tokens - file_tokens_);
    const size_t before = buffer_.size();
    buffer_.resize(before + static_cast<size_t>(n * token_bytes_));
    char* out = buffer_.data() + before;
    for (int64_t i = 0; i < n; ++i, out += token_bytes_) {
      std::memcpy(out, &ids[i], static_cast<size_t>(token_bytes_));  // the low bytes come first
    }
    ids += n;
    count -= n;
    file_tokens_ += n;
    if (buffer_.size() >= kBufferBytes) NIBBLE_RETURN_IF_ERROR(FlushBuffer());
    if (file_tokens_ == options_.shard_tokens) NIBBLE_RETURN_IF_ERROR(CloseFile());
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<ShardFile>> ShardWriter::Finish() {
  if (fd_ >= 0) NIBBLE_RETURN_IF_ERROR(CloseFile());
  return files_;
}

absl::Status ShardWriter::OpenFile() {
  const std::string name = absl::StrFormat("%s-%05d.bin", options_.split, files_.size());
  path_ = JoinPath(options_.directory, name);
  fd_ = open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (fd_ < 0) return ErrnoStatus(errno, "create", path_);
  files_.emplace_back().name = name;
  file_tokens_ = 0;
  // The header's place: how many tokens follow is known at the end.
  buffer_.assign(sizeof(ShardHeader), '\0');
  return absl::OkStatus();
}

absl::Status ShardWriter::FlushBuffer() {
  const off_t end = lseek(fd_, 0, SEEK_END);
  if (end < 0) return ErrnoStatus(errno, "seek", path_);
  NIBBLE_RETURN_IF_ERROR(WriteAt(fd_, buffer_, end, path_));
  buffer_.clear();
  return absl::OkStatus();
}

absl::Status ShardWriter::CloseFile() {
  NIBBLE_RETURN_IF_ERROR(FlushBuffer());
  const ShardHeader header = MakeShardHeader(token_bytes_, file_tokens_, options_.vocab_size);
  NIBBLE_RETURN_IF_ERROR(
      WriteAt(fd_, {reinterpret_cast<const char*>(&header), sizeof(header)}, /*offset=*/0, path_));
  if (fsync(fd_) != 0) return ErrnoStatus(errno, "fsync", path_);
  close(fd_);
  fd_ = -1;
  NIBBLE_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(path_));
  files_.back().tokens = file_tokens_;
  files_.back().sha256 = Sha256Hex(file.contents());
  return absl::OkStatus();
}

absl::StatusOr<MappedFile> MapVerifiedShard(const std::string& directory, const ShardFile& shard,
                                            const DatasetManifest& manifest) {
  const std::string path = JoinPath(directory, shard.name);
  const auto damaged = [&](absl::string_view what) {
    return absl::DataLossError(absl::StrCat(path, ": ", what));
  };
  auto file = MappedFile::Open(path);
  if (absl::IsNotFound(file.status())) return damaged("the shard is missing");
  NIBBLE_RETURN_IF_ERROR(file.status());
  const absl::string_view contents = file->contents();
  const auto header_bytes = static_cast<int64_t>(sizeof(ShardHeader));
  if (static_cast<int64_t>(contents.size()) != header_bytes + shard.tokens * manifest.token_bytes) {
    return damaged(absl::StrCat("has ", contents.size(), " bytes; dataset.json says ",
                                header_bytes + shard.tokens * manifest.token_bytes));
  }
  const ShardHeader expected =
      MakeShardHeader(manifest.token_bytes, shard.tokens, manifest.vocab_size);
  if (std::memcmp(contents.data(), &expected, sizeof(expected)) != 0) {
    return damaged("the header is not what dataset.json says");
  }
  if (Sha256Hex(contents) != shard.sha256) {
    return damaged("the SHA-256 is not what dataset.json says");
  }
  return file;
}

}  // namespace nibble::data
