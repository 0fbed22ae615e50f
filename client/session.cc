#include "client/session.h"

#include <cstdlib>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/paths.h"
#include "base/status_macros.h"
#include "client/config.h"

namespace nibble::client {
namespace {

constexpr absl::Duration kLargestTimeout = absl::Hours(24);

absl::StatusOr<absl::Duration> ParseTimeout(const std::string& text) {
  absl::Duration duration;
  double seconds = 0;
  if (absl::SimpleAtod(text, &seconds)) {
    duration = absl::Seconds(seconds);
  } else if (!absl::ParseDuration(text, &duration)) {
    duration = absl::ZeroDuration();
  }
  if (duration <= absl::ZeroDuration() || duration > kLargestTimeout) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--timeout is \"", text, "\"; allowed: a time above 0 up to 24h, e.g. 500ms, 10s, 2m"));
  }
  return duration;
}

// The first that is not empty.
std::string First(const std::string& a, const std::string& b) { return !a.empty() ? a : b; }

}  // namespace

absl::Status Session::Resolve(GlobalOptions options) {
  NIBBLE_ASSIGN_OR_RETURN(const GlobalOptions file, ReadConfig(DefaultConfigFile()));
  const char* environment = std::getenv("NIBBLE_SERVER");
  const std::string server =
      First(First(options.server, environment != nullptr ? environment : ""), file.server);
  if (!server.empty()) connection_options_.server = server;
  connection_options_.tls_ca = First(options.tls_ca, file.tls_ca);
  connection_options_.tls_cert = First(options.tls_cert, file.tls_cert);
  connection_options_.tls_key = First(options.tls_key, file.tls_key);
  const std::string timeout = First(options.timeout, file.timeout);
  if (!timeout.empty()) {
    NIBBLE_ASSIGN_OR_RETURN(connection_options_.timeout, ParseTimeout(timeout));
  }
  format_ = First(options.format, file.format);
  return absl::OkStatus();
}

absl::StatusOr<Connection*> Session::connection() {
  if (connection_ == nullptr) {
    NIBBLE_ASSIGN_OR_RETURN(connection_, Connection::Open(connection_options_));
  }
  return connection_.get();
}

}  // namespace nibble::client
