#include "client/message_text.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/text.h"
#include "google/protobuf/descriptor.h"
#include "nlohmann/json.hpp"

namespace nibble::client {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;
using nlohmann::ordered_json;

ordered_json Number(double value) {
  return std::isfinite(value) ? ordered_json(value) : ordered_json();
}

// Value of a singular field (index < 0) or an element of a repeated one.
ordered_json FieldValue(const Message& message, const FieldDescriptor& field, int index) {
  const Reflection& r = *message.GetReflection();
  const bool repeated = index >= 0;
  const FieldDescriptor* f = &field;
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return repeated ? r.GetRepeatedInt32(message, f, index) : r.GetInt32(message, f);
    case FieldDescriptor::CPPTYPE_INT64:
      return repeated ? r.GetRepeatedInt64(message, f, index) : r.GetInt64(message, f);
    case FieldDescriptor::CPPTYPE_UINT32:
      return repeated ? r.GetRepeatedUInt32(message, f, index) : r.GetUInt32(message, f);
    case FieldDescriptor::CPPTYPE_UINT64:
      return repeated ? r.GetRepeatedUInt64(message, f, index) : r.GetUInt64(message, f);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return Number(repeated ? r.GetRepeatedDouble(message, f, index) : r.GetDouble(message, f));
    case FieldDescriptor::CPPTYPE_FLOAT:
      return Number(repeated ? r.GetRepeatedFloat(message, f, index) : r.GetFloat(message, f));
    case FieldDescriptor::CPPTYPE_BOOL:
      return repeated ? r.GetRepeatedBool(message, f, index) : r.GetBool(message, f);
    case FieldDescriptor::CPPTYPE_ENUM: {
      const int number =
          repeated ? r.GetRepeatedEnumValue(message, f, index) : r.GetEnumValue(message, f);
      const auto* value = field.enum_type()->FindValueByNumber(number);
      return value != nullptr ? ordered_json(value->name()) : ordered_json(number);
    }
    case FieldDescriptor::CPPTYPE_STRING:
      return repeated ? r.GetRepeatedString(message, f, index) : r.GetString(message, f);
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return MessageJson(repeated ? r.GetRepeatedMessage(message, f, index)
                                  : r.GetMessage(message, f));
  }
  return ordered_json();
}

ordered_json MapValue(const Message& message, const FieldDescriptor& field) {
  ordered_json object = ordered_json::object();
  // Sorted, so that the text does not depend on the hash map's order.
  std::vector<std::pair<std::string, ordered_json>> entries;
  const Reflection& reflection = *message.GetReflection();
  for (int i = 0; i < reflection.FieldSize(message, &field); ++i) {
    const Message& entry = reflection.GetRepeatedMessage(message, &field, i);
    const auto* type = entry.GetDescriptor();
    const ordered_json key = FieldValue(entry, *type->map_key(), -1);
    entries.emplace_back(key.is_string() ? key.get<std::string>() : key.dump(),
                         FieldValue(entry, *type->map_value(), -1));
  }
  std::sort(entries.begin(), entries.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  for (auto& [key, value] : entries) object[key] = std::move(value);
  return object;
}

// JSON leaves DEL and C1 as they are; terminals obey C1.
std::string EscapeRest(const std::string& json) {
  std::string out;
  out.reserve(json.size());
  for (size_t i = 0; i < json.size(); ++i) {
    const unsigned char c = json[i];
    if (c == 0x7f) {
      out += "\\u007f";
    } else if (c == 0xc2 && i + 1 < json.size() && static_cast<unsigned char>(json[i + 1]) < 0xa0) {
      absl::StrAppendFormat(&out, "\\u%04x", static_cast<unsigned char>(json[++i]));
    } else {
      out.push_back(json[i]);
    }
  }
  return out;
}

std::string Dump(const ordered_json& value, int indent) {
  return EscapeRest(
      value.dump(indent, ' ', /*ensure_ascii=*/false, nlohmann::detail::error_handler_t::replace));
}

// YAML reads these without quotes as something else than text.
bool IsPlainYaml(const std::string& text) {
  if (text.empty() || !(absl::ascii_isalpha(text[0]) || text[0] == '/' || text[0] == '_')) {
    return false;
  }
  for (const char c : text) {
    if (!absl::ascii_isalnum(c) && !absl::StrContains("_-./", c)) return false;
  }
  for (const char* word : {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}) {
    if (absl::EqualsIgnoreCase(text, word)) return false;
  }
  return true;
}

std::string YamlScalar(const ordered_json& value) {
  if (value.is_string() && IsPlainYaml(value.get_ref<const std::string&>())) {
    return value.get<std::string>();
  }
  // A JSON scalar, an empty {} or [] is YAML.
  return Dump(value, -1);
}

void AppendYaml(const ordered_json& value, int indent, std::string* out);

void AppendYamlChild(const ordered_json& value, int indent, std::string* out) {
  if ((value.is_object() || value.is_array()) && !value.empty()) {
    *out += "\n";
    AppendYaml(value, indent, out);
  } else {
    absl::StrAppend(out, " ", YamlScalar(value), "\n");
  }
}

void AppendYaml(const ordered_json& value, int indent, std::string* out) {
  const std::string margin(indent, ' ');
  if (value.is_object() && !value.empty()) {
    for (const auto& [key, child] : value.items()) {
      absl::StrAppend(out, margin, YamlScalar(key), ":");
      AppendYamlChild(child, indent + 2, out);
    }
  } else if (value.is_array() && !value.empty()) {
    for (const ordered_json& child : value) {
      std::string text;
      AppendYaml(child, indent + 2, &text);
      // The first line of the child goes after the dash.
      absl::StrAppend(out, margin, "- ", absl::StripLeadingAsciiWhitespace(text));
    }
  } else {
    absl::StrAppend(out, margin, YamlScalar(value), "\n");
  }
}

}  // namespace

ordered_json MessageJson(const Message& message) {
  const auto* type = message.GetDescriptor();
  if (type->full_name() == "google.protobuf.Timestamp") {
    google::protobuf::Timestamp time;
    time.CopyFrom(message);
    return ExactTime(time);
  }
  const Reflection& reflection = *message.GetReflection();
  ordered_json object = ordered_json::object();
  for (int i = 0; i < type->field_count(); ++i) {
    const FieldDescriptor& field = *type->field(i);
    if (field.is_map()) {
      object[field.name()] = MapValue(message, field);
    } else if (field.is_repeated()) {
      ordered_json array = ordered_json::array();
      for (int k = 0; k < reflection.FieldSize(message, &field); ++k) {
        array.push_back(FieldValue(message, field, k));
      }
      object[field.name()] = std::move(array);
    } else if (!field.has_presence() || reflection.HasField(message, &field)) {
      object[field.name()] = FieldValue(message, field, -1);
    }
  }
  return object;
}

std::string JsonText(const ordered_json& value) { return Dump(value, 2) + "\n"; }

std::string JsonLine(const ordered_json& value) { return Dump(value, -1); }

std::string YamlText(const ordered_json& value) {
  std::string out;
  AppendYaml(value, 0, &out);
  return out;
}

}  // namespace nibble::client
