#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <thread>
#include <utility>

#include "base/check.h"
#include "base/files.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"
#include "worker/checkpoint/safetensors.h"

namespace nibble::checkpoint {
namespace {
constexpr size_t kBytesWorthAThread = 1 << 20;
constexpr size_t kPieceBytes = 8 << 20;
}  // namespace

absl::StatusOr<std::unique_ptr<SafetensorsWriter>> SafetensorsWriter::Create(
    const std::string& path, const std::vector<TensorInfo>& tensors) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  header["__metadata__"] = {{"format", "pt"}};
  uint64_t offset = 0;
  for (const TensorInfo& tensor : tensors) {
    const std::string dtype = tensor.dtype.empty() ? "F32" : tensor.dtype;
    uint64_t bytes = dtype == "F32" ? 4 : 2;
    for (int64_t dimension : tensor.shape) bytes *= static_cast<uint64_t>(dimension);
    header[tensor.name] = {
        {"dtype", dtype}, {"shape", tensor.shape}, {"data_offsets", {offset, offset + bytes}}};
    offset += bytes;
  }
  std::string text = header.dump();
  // Spaces bring the data to a multiple of 8 bytes, as the reference implementation writes it.
  text.append((8 - text.size() % 8) % 8, ' ');
  const uint64_t length = text.size();
  std::string start(sizeof(length), '\0');
  std::memcpy(start.data(), &length, sizeof(length));
  start += text;

  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (fd < 0) return ErrnoStatus(errno, "create", path);
  std::unique_ptr<SafetensorsWriter> writer(new SafetensorsWriter(fd, path));
  writer->remaining_bytes_ = offset;
  NIBBLE_RETURN_IF_ERROR(writer->Add(start));
  return writer;
}

SafetensorsWriter::~SafetensorsWriter() {
  if (fd_ >= 0) close(fd_);
}

absl::Status SafetensorsWriter::Add(absl::string_view bytes) {
  if (bytes.size() < kBytesWorthAThread) {
    sha256_.Update(bytes);
    return Write(bytes);
  }
  // Digesting takes about as long as writing: both at once.
  std::thread digesting([this, bytes] { sha256_.Update(bytes); });
  const absl::Status written = Write(bytes);
  digesting.join();
  return written;
}

absl::Status SafetensorsWriter::Write(absl::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = write(fd_, bytes.data(), std::min(bytes.size(), kPieceBytes));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return ErrnoStatus(errno, "write", path_);
    // The disk begins at once, so that the fsync at the end has little left to wait for. A hint:
    // what it cannot do the fsync does.
    if (bytes.size() >= kPieceBytes) {
      sync_file_range(fd_, size_bytes_, written, SYNC_FILE_RANGE_WRITE);
    }
    size_bytes_ += written;
    pieces_.Update(bytes.substr(0, static_cast<size_t>(written)));
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

absl::Status SafetensorsWriter::Append(const float* values, int64_t count) {
  return AppendBytes(absl::string_view(reinterpret_cast<const char*>(values),
                                       static_cast<size_t>(count) * sizeof(float)));
}

absl::Status SafetensorsWriter::AppendBytes(absl::string_view bytes) {
  NIBBLE_CHECK(bytes.size() <= remaining_bytes_);
  remaining_bytes_ -= bytes.size();
  return Add(bytes);
}

absl::Status SafetensorsWriter::Finish() {
  NIBBLE_CHECK(remaining_bytes_ == 0 && fd_ >= 0);
  digest_ = sha256_.HexDigest();
  piece_digest_ = pieces_.HexDigest();
  const int synced = fsync(fd_);
  const int error = errno;
  const int fd = std::exchange(fd_, -1);
  if (synced != 0) {
    close(fd);
    return ErrnoStatus(error, "fsync", path_);
  }
  if (close(fd) != 0) return ErrnoStatus(errno, "close", path_);
  return absl::OkStatus();
}

}  // namespace nibble::checkpoint
