// The gRPC server: addresses, credentials, limits, health and reflection.
#ifndef SERVER_RPC_GRPC_SERVER_H_
#define SERVER_RPC_GRPC_SERVER_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/rpc/gate.h"

namespace grpc {
class Server;
class Service;
namespace experimental {
class ExternalConnectionAcceptor;
}
}  // namespace grpc

namespace nibble::rpc {

struct TlsFiles {
  std::string certificate;  // PEM chain; empty for no TLS
  std::string key;
  std::string client_ca;  // demand client certificates signed by these; empty for none
};

struct GrpcServerOptions {
  std::vector<std::string> listen;  // "host:port"; port 0 picks a free one
  std::string unix_socket;          // path, always without TLS; mode 0600
  TlsFiles tls;
  // Allow addresses beyond loopback without TLS.
  bool insecure = false;
  bool reflection = true;
};

// True for 127.0.0.0/8, ::1 and localhost.
bool IsLoopback(absl::string_view address);

class GrpcServer {
 public:
  // Serves `services`, which must outlive the server, with the standard health service (SERVING).
  // INVALID_ARGUMENT: a malformed address, a socket path that is too long, or an address beyond
  // loopback without TLS and without `insecure`. UNAVAILABLE: an address cannot be bound.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(
      const GrpcServerOptions& options, const std::vector<grpc::Service*>& services);
  ~GrpcServer();

  // The TCP addresses actually bound, in the order of `listen`.
  const std::vector<std::string>& addresses() const { return addresses_; }

  // Health answers NOT_SERVING from now on; calls go on.
  void StopServing();
  // Refuses new calls, waits grace_seconds for those under way, cancels the rest, waits for their
  // handlers. Call once.
  void ShutDown(double grace_seconds);

 private:
  GrpcServer() = default;
  absl::Status Listen(const GrpcServerOptions& options);

  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> tcp_acceptor_;
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> unix_acceptor_;
  std::unique_ptr<Gate> gate_;  // accepts for the server
  std::vector<std::string> addresses_;
};

}  // namespace nibble::rpc

#endif  // SERVER_RPC_GRPC_SERVER_H_
