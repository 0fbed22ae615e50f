// One guarded connection: bytes between a client and gRPC, under the eyes of a FrameGuard.
#ifndef SERVER_RPC_RELAY_H_
#define SERVER_RPC_RELAY_H_

#include <cstdint>
#include <string>

#include "absl/types/span.h"
#include "server/rpc/frame_guard.h"

namespace nibble::rpc {

class Relay {
 public:
  // Owns the client's descriptor, non-blocking.
  Relay(int client, int64_t now_nanos) : client_(client), guard_(now_nanos), heard_(now_nanos) {}
  ~Relay();
  Relay(const Relay&) = delete;
  Relay& operator=(const Relay&) = delete;

  // Moves what can be moved, through `buffer`. Null, or why the connection is over.
  const char* ReadClient(absl::Span<char> buffer, int64_t now_nanos);
  const char* ReadServer(absl::Span<char> buffer, int64_t now_nanos);
  const char* WriteClient();
  const char* WriteServer();
  // gRPC's end, once the client has greeted; what it said so far goes there.
  const char* Connect(int server);

  int client() const { return client_; }
  int server() const { return server_; }
  bool connected() const { return server_ >= 0; }
  // Events of epoll that each end waits for. Nothing is read while earlier bytes wait, so at most
  // one buffer waits in each direction.
  uint32_t ClientEvents() const;
  uint32_t ServerEvents() const;
  const FrameGuard& guard() const { return guard_; }
  // When the client last sent something.
  int64_t heard_nanos() const { return heard_; }
  // When gRPC closed its end while words of it were still on their way to the client; 0 for not.
  int64_t ended_nanos() const { return ended_; }

 private:
  const int client_;
  int server_ = -1;
  FrameGuard guard_;
  int64_t heard_;
  std::string to_client_;
  std::string to_server_;
  int64_t ended_ = 0;
};

}  // namespace nibble::rpc

#endif  // SERVER_RPC_RELAY_H_
