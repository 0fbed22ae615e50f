#include "server/rpc/frame_guard.h"

#include <algorithm>
#include <cstring>

namespace nibble::rpc {
namespace {

constexpr char kPreface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

// RFC 9113, section 6.
enum FrameType : uint8_t {
  kData = 0,
  kHeaders = 1,
  kResetStream = 3,
  kPushPromise = 5,
  kWindowUpdate = 8,
  kContinuation = 9,
};
constexpr uint8_t kEndHeaders = 4;

uint32_t LengthOf(const unsigned char* head) {
  return uint32_t{head[0]} << 16 | uint32_t{head[1]} << 8 | head[2];
}

}  // namespace

int64_t FrameGuard::owing_since_nanos() const {
  const bool in_control_frame =
      client_.head_bytes > 0 || (client_.payload_left > 0 && !client_.is_data);
  return !greeted() || in_header_block_ || in_control_frame ? owing_since_ : 0;
}

const char* FrameGuard::Preface(absl::string_view* bytes) {
  const size_t count = std::min(bytes->size(), kPrefaceBytes - preface_);
  if (std::memcmp(bytes->data(), kPreface + preface_, count) != 0) {
    return "it does not speak HTTP/2";
  }
  preface_ += count;
  bytes->remove_prefix(count);
  return nullptr;
}

const char* FrameGuard::Spend(bool is_control, int64_t now_nanos) {
  const double seconds = static_cast<double>(now_nanos - last_nanos_) * 1e-9;
  last_nanos_ = now_nanos;
  control_spent_ = std::max(0.0, control_spent_ - seconds * kControlBudget.per_second);
  frames_spent_ = std::max(0.0, frames_spent_ - seconds * kFrameBudget.per_second);
  double& spent = is_control ? control_spent_ : frames_spent_;
  spent += 1;
  if (spent <= (is_control ? kControlBudget : kFrameBudget).burst) return nullptr;
  return is_control ? "a flood of control frames or reset streams" : "a flood of frames";
}

const char* FrameGuard::HeaderBlock(uint32_t length, uint8_t flags, int64_t now_nanos) {
  if (!in_header_block_) {
    block_bytes_ = 0;
    block_frames_ = 0;
    in_header_block_ = true;
    owing_since_ = now_nanos;
  }
  block_bytes_ += length;  // of at most 16 frames of 2^24 bytes
  ++block_frames_;
  if (block_bytes_ > kMaxHeaderBlockBytes) return "headers of more than 32 KiB";
  if (block_frames_ > kMaxHeaderBlockFrames) return "headers in more than 16 frames";
  if ((flags & kEndHeaders) != 0) in_header_block_ = false;
  return nullptr;
}

// The head of a frame is complete.
const char* FrameGuard::ClientFrame(int64_t now_nanos) {
  const uint32_t length = LengthOf(client_.head);
  const uint8_t type = client_.head[3];
  const uint8_t flags = client_.head[4];
  client_.head_bytes = 0;
  client_.payload_left = length;
  client_.is_data = type == kData;
  if (in_header_block_ != (type == kContinuation)) {
    return in_header_block_ ? "a frame inside a header block" : "a CONTINUATION of nothing";
  }
  switch (type) {
    case kData:
      return length == 0 ? Spend(/*is_control=*/false, now_nanos) : nullptr;
    case kHeaders:
      called_ = true;
      if (const char* fault = Spend(/*is_control=*/false, now_nanos)) return fault;
      return HeaderBlock(length, flags, now_nanos);
    case kContinuation:
      return HeaderBlock(length, flags, now_nanos);
    case kPushPromise:
      return "a PUSH_PROMISE from a client";
    default:
      if (length > kMaxControlFrameBytes) return "a control frame of more than 4 KiB";
      return Spend(/*is_control=*/type != kWindowUpdate, now_nanos);
  }
}

const char* FrameGuard::FromClient(absl::string_view bytes, int64_t now_nanos) {
  if (!greeted()) {
    if (const char* fault = Preface(&bytes)) return fault;
  }
  while (!bytes.empty()) {
    if (client_.payload_left > 0) {
      const size_t count = std::min<size_t>(bytes.size(), client_.payload_left);
      client_.payload_left -= static_cast<uint32_t>(count);
      bytes.remove_prefix(count);
      continue;
    }
    if (client_.head_bytes == 0 && !in_header_block_) owing_since_ = now_nanos;
    const size_t count = std::min(bytes.size(), kFrameHeadBytes - client_.head_bytes);
    std::memcpy(client_.head + client_.head_bytes, bytes.data(), count);
    client_.head_bytes += count;
    bytes.remove_prefix(count);
    if (client_.head_bytes < kFrameHeadBytes) break;
    if (const char* fault = ClientFrame(now_nanos)) return fault;
  }
  return nullptr;
}

const char* FrameGuard::FromServer(absl::string_view bytes, int64_t now_nanos) {
  while (!bytes.empty()) {
    if (server_.payload_left > 0) {
      const size_t count = std::min<size_t>(bytes.size(), server_.payload_left);
      server_.payload_left -= static_cast<uint32_t>(count);
      bytes.remove_prefix(count);
      continue;
    }
    const size_t count = std::min(bytes.size(), kFrameHeadBytes - server_.head_bytes);
    std::memcpy(server_.head + server_.head_bytes, bytes.data(), count);
    server_.head_bytes += count;
    bytes.remove_prefix(count);
    if (server_.head_bytes < kFrameHeadBytes) break;
    server_.head_bytes = 0;
    server_.payload_left = LengthOf(server_.head);
    if (server_.head[3] != kResetStream) continue;
    if (const char* fault = Spend(/*is_control=*/true, now_nanos)) return fault;
  }
  return nullptr;
}

}  // namespace nibble::rpc
