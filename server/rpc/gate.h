// The daemon's door: accepts connections and brings them to gRPC, which never accepts itself.
//
// gRPC 1.51 cannot defend itself: out of descriptors once, it accepts nothing ever after, and a
// plaintext connection can burn its cores and memory (frame_guard.h). So here
//  - descriptors are kept back: where they run short, the connection that is least use gives way
//    (one that has not greeted, then one that never called, then the one longest silent);
//  - a plaintext connection becomes gRPC's business once it has greeted in HTTP/2, and from then on
//    passes through here, under the eyes of a FrameGuard: three descriptors each, about 10 us of
//    one thread for a call;
//  - with TLS, and on the Unix socket, which belongs to the daemon's own user, gRPC gets the
//    connection itself as soon as it says something.
#ifndef SERVER_RPC_GATE_H_
#define SERVER_RPC_GATE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"

namespace nibble::rpc {

// Seconds that a client may take for its greeting, for a header block, for a control frame.
inline constexpr int64_t kOwingNanos = 10'000'000'000;
// Descriptors kept for the databases, the metrics port and gRPC itself.
inline constexpr int kReservedDescriptors = 12;

enum class Passage { kGuarded, kDirect };

class Gate {
 public:
  // Takes the descriptor, non-blocking, of a connection for gRPC.
  using HandOver = std::function<void(int descriptor)>;

  // `descriptor_limit`: numbers of descriptors of this process are below it.
  static absl::StatusOr<std::unique_ptr<Gate>> Start(const Clock* clock, int descriptor_limit);
  // As Stop.
  ~Gate();

  // Accepts from `listening`, which it owns from here on. Thread-safe.
  void Open(const std::vector<int>& listening, Passage passage, HandOver hand_over);
  // Accepts nothing more; connections go on. Thread-safe.
  void StopAccepting();
  // Closes all guarded connections and ends the thread.
  void Stop();

 private:
  class Loop;
  explicit Gate(std::unique_ptr<Loop> loop);
  std::unique_ptr<Loop> loop_;
  std::thread thread_;
};

}  // namespace nibble::rpc

#endif  // SERVER_RPC_GATE_H_
