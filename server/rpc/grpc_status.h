// Errors of the API: an absl::Status that carries google.rpc details, and its form on the wire.
//
// Every failed call has an ErrorInfo (domain "nibble", a constant reason, metadata) in its
// `grpc-status-details-bin` trailer, and a BadRequest where fields of the request were wrong. The
// details travel inside the program as payloads of the absl::Status, under their type URLs, so that
// nothing between the place of the error and the wire has to know them.
#ifndef SERVER_RPC_GRPC_STATUS_H_
#define SERVER_RPC_GRPC_STATUS_H_

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "proto/spec/field_error.h"

namespace grpc {
class Status;
}

namespace nibble::rpc {

// Reasons in ErrorInfo. Clients switch on them: never change one.
inline constexpr char kInvalidRequest[] = "INVALID_REQUEST";
inline constexpr char kMalformedMessage[] = "MALFORMED_MESSAGE";
inline constexpr char kMessageTooLarge[] = "MESSAGE_TOO_LARGE";
inline constexpr char kOverloaded[] = "OVERLOADED";
inline constexpr char kShuttingDown[] = "SHUTTING_DOWN";
inline constexpr char kCancelled[] = "CALL_CANCELLED";

// `status` with an ErrorInfo of this reason in place of any it had. REQUIRES: !status.ok().
absl::Status WithReason(absl::Status status, absl::string_view reason,
                        const std::map<std::string, std::string>& metadata = {});

// The reason that WithReason set, or "" where there is none.
std::string ReasonOf(const absl::Status& status);

// INVALID_ARGUMENT with a BadRequest of these violations, as many as fit into a trailer, whose
// fields are paths from the root of the request, and a message that names them. REQUIRES:
// !errors.empty().
absl::Status InvalidFields(const std::vector<spec::FieldError>& errors);
absl::Status InvalidField(std::string field, std::string description);

// Status for the wire: code, message and details. A status without an ErrorInfo gets one whose
// reason is its code's name. UTF-8 is made valid and the message cut: trailers have a bounded
// size.
grpc::Status ToGrpcStatus(const absl::Status& status);

}  // namespace nibble::rpc

#endif  // SERVER_RPC_GRPC_STATUS_H_
