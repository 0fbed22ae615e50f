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
    if (fd_ < 0) NIBBLE_RETURN_IF_ERROR(OpenFile(O_CREAT | O_EXCL));
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

std::string ShardWriter::PathOf(size_t index) const {
  return JoinPath(options_.directory, absl::StrFormat("%s-%05d.bin", options_.split, index));
}

absl::Status ShardWriter::Resume(const ShardWriterState& state) {
  files_ = state.files;
  const size_t known = files_.size() + (state.open_tokens > 0 ? 1 : 0);
  for (size_t i = known; FileExists(PathOf(i)); ++i) NIBBLE_RETURN_IF_ERROR(RemoveTree(PathOf(i)));
  for (size_t i = 0; i < known; ++i) {
    if (FileExists(PathOf(i))) continue;
    return absl::DataLossError(
        absl::StrCat(PathOf(i), ": an earlier process wrote it; it is gone"));
  }
  if (state.open_tokens == 0) return absl::OkStatus();
  NIBBLE_RETURN_IF_ERROR(OpenFile(0));
  const int64_t bytes =
      static_cast<int64_t>(sizeof(ShardHeader)) + state.open_tokens * token_bytes_;
  const off_t end = lseek(fd_, 0, SEEK_END);
  if (end < 0) return ErrnoStatus(errno, "seek", path_);
  if (end < bytes) {
    return absl::DataLossError(
        absl::StrCat(path_, ": has ", end, " bytes; an earlier process wrote ", bytes));
  }
  if (ftruncate(fd_, bytes) != 0) return ErrnoStatus(errno, "truncate", path_);
  buffer_.clear();
  file_tokens_ = state.open_tokens;
  return absl::OkStatus();
}

absl::StatusOr<ShardWriterState> ShardWriter::Sync() {
  ShardWriterState state;
  state.files = files_;
  if (fd_ < 0) return state;
  state.files.pop_back();
  state.open_tokens = file_tokens_;
  NIBBLE_RETURN_IF_ERROR(FlushBuffer());
  if (fdatasync(fd_) != 0) return ErrnoStatus(errno, "fdatasync", path_);
  return state;
}

absl::Status ShardWriter::OpenFile(int flags) {
  path_ = PathOf(files_.size());
  fd_ = open(path_.c_str(), O_WRONLY | flags | O_CLOEXEC, 0644);
  if (fd_ < 0) return ErrnoStatus(errno, "create", path_);
  files_.emplace_back().name = path_.substr(path_.rfind('/') + 1);
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

absl::StatusOr<TokenFile> OpenVerifiedShard(const std::string& directory, const ShardFile& shard,
                                            const DatasetManifest& manifest, bool keep_open) {
  const std::string path = JoinPath(directory, shard.name);
  const auto damaged = [&](absl::string_view what) {
    return absl::DataLossError(absl::StrCat(path, ": ", what));
  };
  absl::StatusOr<TokenFile> file = TokenFile::Open(path, keep_open);
  if (absl::IsNotFound(file.status())) return damaged("the shard is missing");
  NIBBLE_RETURN_IF_ERROR(file.status());
  const auto header_bytes = static_cast<int64_t>(sizeof(ShardHeader));
  if (file->size() != header_bytes + shard.tokens * manifest.token_bytes) {
    return damaged(absl::StrCat("has ", file->size(), " bytes; dataset.json says ",
                                header_bytes + shard.tokens * manifest.token_bytes));
  }
  const ShardHeader expected =
      MakeShardHeader(manifest.token_bytes, shard.tokens, manifest.vocab_size);
  ShardHeader header;
  NIBBLE_RETURN_IF_ERROR(file->ReadAt(0, header_bytes, reinterpret_cast<char*>(&header)));
  if (std::memcmp(&header, &expected, sizeof(expected)) != 0) {
    return damaged("the header is not what dataset.json says");
  }
  Sha256 sha;
  NIBBLE_RETURN_IF_ERROR(file->AddTo(&sha));
  if (sha.HexDigest() != shard.sha256) {
    return damaged("the SHA-256 is not what dataset.json says");
  }
  return file;
}

}  // namespace nibble::data
