// The user's configuration file: defaults of the global options.
#ifndef CLIENT_CONFIG_H_
#define CLIENT_CONFIG_H_

#include <string>

#include "absl/status/statusor.h"
#include "client/session.h"

namespace nibble::client {

// A YAML map with any of server, timeout, output, tls_ca, tls_cert, tls_key. A file that is not
// there is an empty one. INVALID_ARGUMENT: malformed, or a key that is none of these.
absl::StatusOr<GlobalOptions> ReadConfig(const std::string& path);

}  // namespace nibble::client

#endif  // CLIENT_CONFIG_H_
