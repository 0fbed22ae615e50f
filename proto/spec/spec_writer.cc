#include <charconv>
#include <cmath>
#include <map>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"
#include "proto/spec/spec_document.h"

namespace nibble::spec {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

bool IsPlainSafe(absl::string_view text) {
  if (text.empty() || text.size() > 256 || !absl::ascii_isalpha(text[0])) return false;
  for (char c : text) {
    if (!absl::ascii_isalnum(c) && c != '_' && c != '-' && c != '.' && c != '/') return false;
  }
  // Words that YAML readers take for something else.
  for (absl::string_view word :
       {"true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan", "inf", "infinity"}) {
    if (absl::AsciiStrToLower(text) == word) return false;
  }
  return true;
}

std::string YamlString(absl::string_view text) {
  if (IsPlainSafe(text)) return std::string(text);
  std::string quoted = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      absl::StrAppend(&quoted, "\\", absl::string_view(&c, 1));
    } else if (c == '\n') {
      quoted += "\\n";
    } else if (byte < 0x20 || byte == 0x7f) {
      absl::StrAppend(&quoted, "\\x", absl::Hex(byte, absl::kZeroPad2));
    } else {
      quoted += c;
    }
  }
  return quoted + "\"";
}

// Shortest form that reads back to the same double.
std::string YamlDouble(double value) {
  if (std::isnan(value)) return ".nan";
  if (std::isinf(value)) return value < 0 ? "-.inf" : ".inf";
  char buffer[32];
  const auto result = std::to_chars(buffer, buffer + sizeof(buffer), value);
  return std::string(buffer, result.ptr);
}

std::string YamlScalar(const Message& message, const FieldDescriptor& field) {
  const auto* reflection = message.GetReflection();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_STRING:
      return YamlString(reflection->GetString(message, &field));
    case FieldDescriptor::CPPTYPE_BOOL:
      return reflection->GetBool(message, &field) ? "true" : "false";
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return YamlDouble(reflection->GetDouble(message, &field));
    case FieldDescriptor::CPPTYPE_FLOAT:
      return YamlDouble(reflection->GetFloat(message, &field));
    case FieldDescriptor::CPPTYPE_INT32:
      return absl::StrCat(reflection->GetInt32(message, &field));
    case FieldDescriptor::CPPTYPE_INT64:
      return absl::StrCat(reflection->GetInt64(message, &field));
    case FieldDescriptor::CPPTYPE_UINT32:
      return absl::StrCat(reflection->GetUInt32(message, &field));
    case FieldDescriptor::CPPTYPE_UINT64:
      return absl::StrCat(reflection->GetUInt64(message, &field));
    case FieldDescriptor::CPPTYPE_ENUM:
      return reflection->GetEnum(message, &field)->name();
    case FieldDescriptor::CPPTYPE_MESSAGE:
      break;
  }
  return "";
}

// Sorted, so that equal messages give equal documents.
std::map<std::string, std::string> SortedMap(const Message& message, const FieldDescriptor& field) {
  std::map<std::string, std::string> sorted;
  const auto* reflection = message.GetReflection();
  for (int i = 0; i < reflection->FieldSize(message, &field); ++i) {
    const Message& entry = reflection->GetRepeatedMessage(message, &field, i);
    sorted[entry.GetReflection()->GetString(entry, field.message_type()->map_key())] =
        YamlScalar(entry, *field.message_type()->map_value());
  }
  return sorted;
}

void AppendFields(const Message& message, const std::string& indent, std::string* out);

// A sequence of messages; the schema of a spec has no other.
void AppendItems(const Message& message, const FieldDescriptor& field, const std::string& indent,
                 std::string* out) {
  const auto* reflection = message.GetReflection();
  const int count = reflection->FieldSize(message, &field);
  if (count == 0 || field.cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) return;
  absl::StrAppend(out, indent, field.name(), ":\n");
  for (int i = 0; i < count; ++i) {
    std::string item;
    AppendFields(reflection->GetRepeatedMessage(message, &field, i), indent + "    ", &item);
    // The dash takes two of the columns before the first field.
    absl::StrAppend(out, indent, "  - ",
                    item.empty() ? "{}\n" : absl::string_view(item).substr(indent.size() + 4));
  }
}

void AppendFields(const Message& message, const std::string& indent, std::string* out) {
  const auto* reflection = message.GetReflection();
  const auto* type = message.GetDescriptor();
  for (int i = 0; i < type->field_count(); ++i) {
    const FieldDescriptor& field = *type->field(i);
    if (field.is_map()) {
      const auto sorted = SortedMap(message, field);
      if (!sorted.empty()) absl::StrAppend(out, indent, field.name(), ":\n");
      for (const auto& [key, value] : sorted) {
        absl::StrAppend(out, indent, "  ", YamlString(key), ": ", value, "\n");
      }
    } else if (field.is_repeated()) {
      AppendItems(message, field, indent, out);
    } else if (!reflection->HasField(message, &field)) {
      continue;
    } else if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      std::string inner;
      AppendFields(reflection->GetMessage(message, &field), indent + "  ", &inner);
      absl::StrAppend(out, indent, field.name(), inner.empty() ? ": {}\n" : ":\n", inner);
    } else {
      absl::StrAppend(out, indent, field.name(), ": ", YamlScalar(message, field), "\n");
    }
  }
}

}  // namespace

std::string JobSpecToYaml(const v1::JobSpec& spec) {
  std::string yaml;
  AppendFields(spec, "", &yaml);
  return yaml.empty() ? "{}\n" : yaml;
}

}  // namespace nibble::spec
