// Watches the bytes that a client sends on an HTTP/2 connection (RFC 9113), before gRPC sees them,
// for what a proper client never does and gRPC 1.51 pays dearly for: header blocks without end
// (parsed again from their start with each frame, so 10 MB burn a core for 5 to 25 s), streams
// opened and reset by the hundred thousand (CVE-2023-44487; 800 MB), floods of control frames.
//
// It reads only the nine bytes that head each frame; headers and data pass unread.
#ifndef SERVER_RPC_FRAME_GUARD_H_
#define SERVER_RPC_FRAME_GUARD_H_

#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"

namespace nibble::rpc {

// A header block: HEADERS and its CONTINUATIONs, compressed. Ours are a few hundred bytes.
inline constexpr uint32_t kMaxHeaderBlockBytes = 32 * 1024;
inline constexpr int kMaxHeaderBlockFrames = 16;
// A control frame (SETTINGS, PING, PRIORITY, ...). The longest of use is SETTINGS of 6 entries.
inline constexpr uint32_t kMaxControlFrameBytes = 4096;

// So many at once, and so many a second for ever.
struct FrameBudget {
  double burst;
  double per_second;
};
// Resets of streams, pings, settings, priorities, unknown frames: a client that cancels some
// thousand calls at once is still welcome.
inline constexpr FrameBudget kControlBudget = {8192, 200};
// All other frames without data: headers, window updates, empty data frames.
inline constexpr FrameBudget kFrameBudget = {200'000, 100'000};

class FrameGuard {
 public:
  explicit FrameGuard(int64_t now_nanos) : last_nanos_(now_nanos) {}

  // Takes the next bytes from the client; `now_nanos` is monotonic. Null, or what is wrong with
  // them; the connection must then be closed.
  const char* FromClient(absl::string_view bytes, int64_t now_nanos);
  // Takes the next bytes from the server. Streams that it resets count as the client's doing: that
  // is how it answers streams beyond its limit.
  const char* FromServer(absl::string_view bytes, int64_t now_nanos);

  // The client's greeting is complete: it speaks HTTP/2.
  bool greeted() const { return preface_ == kPrefaceBytes; }
  // It has made a call.
  bool called() const { return called_; }
  // Since when it owes the rest of its greeting, of a header block or of a control frame; 0 for
  // not at all. Data may take its time: it is paced by flow control.
  int64_t owing_since_nanos() const;

 private:
  static constexpr size_t kPrefaceBytes = 24;
  static constexpr size_t kFrameHeadBytes = 9;

  // A position in a sequence of frames.
  struct Frames {
    unsigned char head[kFrameHeadBytes];
    size_t head_bytes = 0;
    uint32_t payload_left = 0;
    bool is_data = false;
  };
  const char* Preface(absl::string_view* bytes);
  const char* ClientFrame(int64_t now_nanos);
  const char* HeaderBlock(uint32_t length, uint8_t flags, int64_t now_nanos);
  const char* Spend(bool is_control, int64_t now_nanos);

  size_t preface_ = 0;
  Frames client_;
  Frames server_;
  bool called_ = false;
  bool in_header_block_ = false;
  uint32_t block_bytes_ = 0;
  int block_frames_ = 0;
  int64_t last_nanos_;
  int64_t owing_since_ = last_nanos_;
  double control_spent_ = 0;
  double frames_spent_ = 0;
};

}  // namespace nibble::rpc

#endif  // SERVER_RPC_FRAME_GUARD_H_
