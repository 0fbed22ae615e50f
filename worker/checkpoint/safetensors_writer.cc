#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/check.h"
#include "base/files.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"
#include "worker/checkpoint/safetensors.h"

namespace nibble::checkpoint {

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
  NIBBLE_RETURN_IF_ERROR(writer->Write(start));
  return writer;
}

SafetensorsWriter::~SafetensorsWriter() {
  if (fd_ >= 0) close(fd_);
}

absl::Status SafetensorsWriter::Write(absl::string_view bytes) {
  sha256_.Update(bytes);
  size_bytes_ += static_cast<int64_t>(bytes.size());
  while (!bytes.empty()) {
    const ssize_t written = write(fd_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return ErrnoStatus(errno, "write", path_);
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
  return Write(bytes);
}

absl::Status SafetensorsWriter::Finish() {
  NIBBLE_CHECK(remaining_bytes_ == 0 && fd_ >= 0);
  digest_ = sha256_.HexDigest();
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
