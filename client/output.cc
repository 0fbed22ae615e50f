#include "client/output.h"

#include "client/message_text.h"
#include "nlohmann/json.hpp"

namespace nibble::client {

void PrintStructured(Session& session, const nlohmann::ordered_json& value) {
  session.out() << (session.format() == "json" ? JsonText(value) : YamlText(value));
}

void PrintStructured(Session& session, const google::protobuf::Message& message) {
  PrintStructured(session, MessageJson(message));
}

}  // namespace nibble::client
