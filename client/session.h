// What a verb works with: the terminal, the global options, and the daemon once it is needed.
#ifndef CLIENT_SESSION_H_
#define CLIENT_SESSION_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "client/connection.h"
#include "client/terminal.h"

namespace nibble::client {

// Options that every verb understands, before and after its name.
struct GlobalOptions {
  std::string server;  // these empty: environment, then configuration file, then the default
  std::string timeout;
  std::string format;
  std::string tls_ca;
  std::string tls_cert;
  std::string tls_key;
};

class Session {
 public:
  Session(Terminal* terminal, const Clock* clock) : terminal_(terminal), clock_(clock) {}

  Terminal& terminal() { return *terminal_; }
  std::ostream& out() { return *terminal_->out; }
  std::ostream& err() { return *terminal_->err; }
  const Clock& clock() const { return *clock_; }

  // Fills what the command line left open from NIBBLE_SERVER and the configuration file.
  // INVALID_ARGUMENT: malformed file or value, naming it.
  absl::Status Resolve(GlobalOptions options);

  // "table", "wide", "json", "yaml" or "csv".
  const std::string& format() const { return format_; }
  void set_format(std::string format) { format_ = std::move(format); }
  // JSON or YAML: for programs.
  bool structured() const { return format_ == "json" || format_ == "yaml"; }
  const ConnectionOptions& connection_options() const { return connection_options_; }

  // Opened on first use; lives as long as the session.
  absl::StatusOr<Connection*> connection();

 private:
  Terminal* terminal_;
  const Clock* clock_;
  std::string format_;
  ConnectionOptions connection_options_;
  std::unique_ptr<Connection> connection_;
};

}  // namespace nibble::client

#endif  // CLIENT_SESSION_H_
