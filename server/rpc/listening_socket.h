// Sockets that listen, made by ourselves: gRPC 1.51 stops accepting for ever when it runs out of
// descriptors once.
#ifndef SERVER_RPC_LISTENING_SOCKET_H_
#define SERVER_RPC_LISTENING_SOCKET_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace nibble::rpc {

struct HostPort {
  std::string host;  // with the brackets of an IPv6 address
  int port = 0;
};
// INVALID_ARGUMENT where the address is not HOST:PORT.
absl::StatusOr<HostPort> SplitAddress(absl::string_view address);

struct ListeningSockets {
  std::vector<int> descriptors;  // non-blocking; of the caller
  int port = 0;                  // bound; 0 for a Unix socket
};
// One socket for each address that the host has. UNAVAILABLE: in use, or not of this machine.
absl::StatusOr<ListeningSockets> ListenTcp(absl::string_view address);
// Mode 0600; replaces what a daemon that was killed left there.
absl::StatusOr<ListeningSockets> ListenUnix(const std::string& path);

}  // namespace nibble::rpc

#endif  // SERVER_RPC_LISTENING_SOCKET_H_
