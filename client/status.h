// Errors as the command line shows them, and the exit codes that scripts see.
#ifndef CLIENT_STATUS_H_
#define CLIENT_STATUS_H_

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "client/terminal.h"
#include "proto/spec/field_error.h"

namespace nibble::client {

enum ExitCode {
  kExitDone = 0,
  kExitJobFailed = 1,     // a job that was waited for failed or was cancelled
  kExitUsage = 2,         // wrong command line, unreadable file, invalid spec
  kExitNotFound = 3,      // no such job
  kExitRefused = 4,       // wrong state, no permission, exists already, over a limit
  kExitUnreachable = 5,   // no answer from the server in time
  kExitInternal = 70,     // a bug or damage in nibble
  kExitInterrupted = 130  // Ctrl-C
};

ExitCode ExitCodeOf(const absl::Status& status);

// What google.rpc.ErrorInfo and BadRequest said.
struct ErrorDetails {
  std::string reason;
  std::map<std::string, std::string> metadata;
  std::vector<spec::FieldError> fields;
};

// Payload of a status from a server: the serialised google.rpc.Status of the call.
inline constexpr char kDetailsPayload[] = "nibble.dev/google.rpc.Status";

ErrorDetails DetailsOf(const absl::Status& status);

// INVALID_ARGUMENT that carries `fields` the way a server's answer does.
absl::Status InvalidFields(absl::string_view message, const std::vector<spec::FieldError>& fields);

// "error: <message> (<CODE>)" and a line for each wrong field. With a path from a request
// ("spec.model.heads") the leading "spec." is left out: users know their document, not the message.
void PrintError(const Terminal& terminal, const absl::Status& status);

}  // namespace nibble::client

#endif  // CLIENT_STATUS_H_
