// Examines the bytes of a request before protobuf parses them. proto3 lets through what an API must
// refuse (unknown fields and enum values, NaN, embedded NULs) and turns a message of a few hundred
// kilobytes of empty sub-messages into tens of megabytes; and where it refuses (invalid UTF-8, a
// truncated field) it does not say which field. This walk over the wire format, guided by the
// message's descriptor, allocates nothing but its findings.
#ifndef SERVER_RPC_WIRE_CHECK_H_
#define SERVER_RPC_WIRE_CHECK_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace google::protobuf {
class Descriptor;
}

namespace nibble::rpc {

// Sub-messages, strings and packed scalars of one request, all together.
inline constexpr int kMaxRequestElements = 65536;

// OK, or
//  INVALID_ARGUMENT with a BadRequest that names every wrong field: a field number that the message
//   does not have, a wire type that is not the field's, an enum value without a name, a NaN or an
//   infinity, a string that is not UTF-8 or holds NUL, a truncated or over-long element, nesting
//   beyond 16. Paths are like `spec.model.heads`, `job_ids[2]`, `spec.labels["key"]`.
//  RESOURCE_EXHAUSTED (MESSAGE_TOO_LARGE): more than kMaxRequestElements.
absl::Status CheckWire(absl::string_view bytes, const google::protobuf::Descriptor* message);

}  // namespace nibble::rpc

#endif  // SERVER_RPC_WIRE_CHECK_H_
