#include "worker/link/frame.h"

#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace nibble::link {
namespace {

constexpr size_t kHeaderBytes = 4;

absl::Status SocketError(const char* operation) {
  const std::string message = absl::StrCat("trainer link: ", operation, ": ", strerror(errno));
  if (errno == EPIPE || errno == ECONNRESET) return absl::UnavailableError(message);
  return absl::InternalError(message);
}

absl::Status WriteAll(int fd, const char* data, size_t size) {
  while (size > 0) {
    const ssize_t n = send(fd, data, size, MSG_NOSIGNAL);
    if (n < 0) {
      if (errno == EINTR) continue;
      return SocketError("write");
    }
    data += n;
    size -= n;
  }
  return absl::OkStatus();
}

// Bytes read: `size`, or fewer where the stream ended.
absl::StatusOr<size_t> ReadAll(int fd, char* data, size_t size) {
  size_t done = 0;
  while (done < size) {
    const ssize_t n = recv(fd, data + done, size - done, 0);
    if (n < 0) {
      if (errno == EINTR) continue;
      return SocketError("read");
    }
    if (n == 0) break;
    done += n;
  }
  return done;
}

}  // namespace

absl::Status WriteFrame(int fd, const google::protobuf::MessageLite& message) {
  const size_t size = message.ByteSizeLong();
  if (size == 0 || size > kMaxFrameBytes) {
    return absl::InvalidArgumentError(absl::StrCat("trainer link: a message of ", size,
                                                   " bytes; allowed: 1 to ", kMaxFrameBytes));
  }
  // Header and body in one write: a reader wakes once.
  std::string frame(kHeaderBytes, '\0');
  for (size_t i = 0; i < kHeaderBytes; ++i) frame[i] = static_cast<char>(size >> (8 * i));
  if (!message.AppendToString(&frame)) {
    return absl::InvalidArgumentError("trainer link: a message that cannot be serialised");
  }
  return WriteAll(fd, frame.data(), frame.size());
}

absl::StatusOr<bool> ReadFrame(int fd, google::protobuf::MessageLite* message) {
  char header[kHeaderBytes];
  NIBBLE_ASSIGN_OR_RETURN(const size_t header_bytes, ReadAll(fd, header, kHeaderBytes));
  if (header_bytes == 0) return false;
  if (header_bytes < kHeaderBytes) {
    return absl::UnavailableError("trainer link: the stream ended inside a length");
  }
  uint32_t size = 0;
  for (size_t i = 0; i < kHeaderBytes; ++i) {
    size |= uint32_t{static_cast<unsigned char>(header[i])} << (8 * i);
  }
  if (size == 0 || size > kMaxFrameBytes) {
    return absl::DataLossError(
        absl::StrCat("trainer link: a frame of ", size, " bytes; allowed: 1 to ", kMaxFrameBytes));
  }
  std::string body(size, '\0');
  NIBBLE_ASSIGN_OR_RETURN(const size_t body_bytes, ReadAll(fd, body.data(), size));
  if (body_bytes < size) {
    return absl::UnavailableError(absl::StrCat("trainer link: the stream ended after ", body_bytes,
                                               " of a frame's ", size, " bytes"));
  }
  if (!message->ParseFromString(body)) {
    return absl::DataLossError("trainer link: a frame that is not the expected message");
  }
  return true;
}

}  // namespace nibble::link
