// Values in the formats for programs.
#ifndef CLIENT_OUTPUT_H_
#define CLIENT_OUTPUT_H_

#include "client/session.h"
#include "google/protobuf/message.h"
#include "nlohmann/json_fwd.hpp"

namespace nibble::client {

// JSON or YAML, as the session says. REQUIRES: session.structured().
void PrintStructured(Session& session, const nlohmann::ordered_json& value);
void PrintStructured(Session& session, const google::protobuf::Message& message);

}  // namespace nibble::client

#endif  // CLIENT_OUTPUT_H_
