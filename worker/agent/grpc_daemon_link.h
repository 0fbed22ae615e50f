// DaemonLink over gRPC.
#ifndef WORKER_AGENT_GRPC_DAEMON_LINK_H_
#define WORKER_AGENT_GRPC_DAEMON_LINK_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "worker/agent/daemon_link.h"

namespace nibble::agent {

// PEM files; all empty for plaintext. `ca` alone authenticates the daemon; `cert` and `key` also
// the worker.
struct TlsFiles {
  std::string ca;
  std::string cert;
  std::string key;
};

// `address`: host:port, [ipv6]:port or unix:/path. Does not connect yet. Destroying the link
// cancels and awaits its calls. INVALID_ARGUMENT for an address or set of files that cannot be;
// errors of base/files.h for the files.
absl::StatusOr<std::unique_ptr<DaemonLink>> MakeGrpcDaemonLink(const std::string& address,
                                                               const TlsFiles& tls);

}  // namespace nibble::agent

#endif  // WORKER_AGENT_GRPC_DAEMON_LINK_H_
