// Frames of the trainer link: a 4-byte little-endian length (1 .. kMaxFrameBytes) and that many
// bytes of one serialised message, over a connected Unix stream socket. See
// docs/formats/trainer_link.md.
#ifndef WORKER_LINK_FRAME_H_
#define WORKER_LINK_FRAME_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "google/protobuf/message_lite.h"

namespace nibble::link {

inline constexpr uint32_t kMaxFrameBytes = 1 << 20;

// Writes one frame; blocks while the peer does not read. One writer at a time.
// INVALID_ARGUMENT: the message is empty or larger than a frame, and nothing was written.
// UNAVAILABLE: the peer is gone (never SIGPIPE). INTERNAL: any other socket error.
absl::Status WriteFrame(int fd, const google::protobuf::MessageLite& message);

// Reads one frame into *message; blocks. False at an orderly end, between two frames. One reader
// at a time. Never allocates more than kMaxFrameBytes, whatever the length says.
// DATA_LOSS: a length of 0 or over the limit, or bytes that are not such a message; the stream
// cannot be read further. UNAVAILABLE: the peer reset it, or was gone before the end of a frame, as
// one that is killed while it writes. INTERNAL: any other
// socket error.
absl::StatusOr<bool> ReadFrame(int fd, google::protobuf::MessageLite* message);

}  // namespace nibble::link

#endif  // WORKER_LINK_FRAME_H_
