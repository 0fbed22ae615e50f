// Protobuf messages as JSON and YAML for programs.
//
// Unlike protobuf's own JSON, 64-bit integers are numbers (jq and spreadsheets compute with them),
// names are the proto's, fields come in the proto's order and absent optional fields are left out;
// fields without presence are always there. Doubles read back to the same bits; NaN and infinities
// become null.
#ifndef CLIENT_MESSAGE_TEXT_H_
#define CLIENT_MESSAGE_TEXT_H_

#include <string>

#include "absl/strings/string_view.h"
#include "google/protobuf/message.h"
#include "nlohmann/json_fwd.hpp"

namespace nibble::client {

nlohmann::ordered_json MessageJson(const google::protobuf::Message& message);

// Two spaces of indentation and a final newline. Every control character is escaped, also DEL and
// C1, so the text is safe on a terminal.
std::string JsonText(const nlohmann::ordered_json& value);
// On one line, without a newline.
std::string JsonLine(const nlohmann::ordered_json& value);
std::string YamlText(const nlohmann::ordered_json& value);

}  // namespace nibble::client

#endif  // CLIENT_MESSAGE_TEXT_H_
