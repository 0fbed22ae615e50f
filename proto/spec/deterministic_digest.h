#ifndef PROTO_SPEC_DETERMINISTIC_DIGEST_H_
#define PROTO_SPEC_DETERMINISTIC_DIGEST_H_

#include <string>

#include "google/protobuf/message_lite.h"

namespace nibble::spec {

// SHA-256, in hex, of the message's serialisation with map entries sorted.
std::string DeterministicDigest(const google::protobuf::MessageLite& message);

}  // namespace nibble::spec

#endif  // PROTO_SPEC_DETERMINISTIC_DIGEST_H_
