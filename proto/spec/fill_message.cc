// Document tree to protobuf message, by reflection.
#include <charconv>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"
#include "proto/spec/document_tree.h"

namespace nibble::spec {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using Kind = DocumentNode::Kind;

std::string KindName(Kind kind) {
  switch (kind) {
    case Kind::kNull:
      return "empty";
    case Kind::kBool:
      return "a bool";
    case Kind::kNumber:
      return "a number";
    case Kind::kString:
    case Kind::kPlain:
      return "a string";
    case Kind::kMapping:
      return "a mapping";
    case Kind::kSequence:
      return "a sequence";
  }
  return "unknown";
}

// What an unquoted YAML word means by the core schema; kString for everything that is no literal.
Kind PlainKind(absl::string_view text) {
  if (text == "true" || text == "false" || text == "True" || text == "False" || text == "TRUE" ||
      text == "FALSE") {
    return Kind::kBool;
  }
  if (text == ".nan" || text == ".NaN" || text == ".NAN" || absl::EndsWith(text, ".inf") ||
      absl::EndsWith(text, ".Inf") || absl::EndsWith(text, ".INF")) {
    return Kind::kNumber;
  }
  const bool starts_as_number = !text.empty() && (absl::ascii_isdigit(text[0]) || text[0] == '+' ||
                                                  text[0] == '-' || text[0] == '.');
  double ignored;
  return starts_as_number && absl::SimpleAtod(text, &ignored) ? Kind::kNumber : Kind::kString;
}

class Filler {
 public:
  Filler(const TreeDialect& dialect, ErrorList* errors) : dialect_(dialect), errors_(errors) {}

  void Fill(const DocumentNode& node, const std::string& path, Message* message) {
    if (node.kind != Kind::kMapping) {
      Error(path, node, absl::StrCat("is ", Shown(node), "; allowed: a mapping of fields"));
      return;
    }
    const Descriptor* type = message->GetDescriptor();
    std::map<std::string, int> first_lines;
    for (const DocumentEntry& entry : node.entries) {
      const std::string entry_path = Join(path, entry.key);
      const FieldDescriptor* field = type->FindFieldByName(entry.key);
      if (field == nullptr) {
        UnknownField(*type, entry, entry_path);
        continue;
      }
      const auto [first, is_new] = first_lines.try_emplace(entry.key, entry.line);
      if (!is_new && !(dialect_.repeated_keys && field->is_repeated())) {
        errors_->Add(entry_path, absl::StrCat("is given twice, in lines ", first->second, " and ",
                                              entry.line, "; allowed: once"));
        continue;
      }
      if (field->is_map()) {
        FillMap(entry.value, entry_path, *field, message);
      } else if (field->is_repeated()) {
        FillRepeated(entry.value, entry_path, *field, message);
      } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
        Fill(entry.value, entry_path, message->GetReflection()->MutableMessage(message, field));
      } else {
        SetScalar(entry.value, entry_path, *field, message);
      }
    }
  }

 private:
  static std::string Join(const std::string& path, absl::string_view key) {
    return path.empty() ? std::string(key) : absl::StrCat(path, ".", key);
  }

  // The value as the user wrote it, for a sentence that starts with "is".
  static std::string Shown(const DocumentNode& node) {
    switch (node.kind) {
      case Kind::kBool:
      case Kind::kNumber:
      case Kind::kPlain:
        return node.text.size() <= 32 ? node.text : QuoteForError(node.text);
      case Kind::kString:
        return absl::StrCat("the string ", QuoteForError(node.text));
      default:
        return KindName(node.kind);
    }
  }

  void Error(const std::string& path, const DocumentNode& node, absl::string_view description) {
    errors_->Add(path, absl::StrCat(path.empty() ? "the document " : "", description,
                                    node.line > 0 ? absl::StrCat(" (line ", node.line, ")") : ""));
  }

  void UnknownField(const Descriptor& type, const DocumentEntry& entry, const std::string& path) {
    std::vector<std::string> names;
    for (int i = 0; i < type.field_count(); ++i) names.push_back(type.field(i)->name());
    const std::string nearest = NearestName(entry.key, names);
    errors_->Add(
        path,
        absl::StrCat("is not a field; ", nearest.empty() ? "allowed: " : "did you mean ",
                     nearest.empty() ? OneOf(names) : nearest + "?", " (line ", entry.line, ")"));
  }

  // Text proto writes a map as {key: "a" value: "b"}, repeated.
  void FillMap(const DocumentNode& node, const std::string& path, const FieldDescriptor& field,
               Message* message) {
    if (dialect_.repeated_keys) {
      if (node.kind == Kind::kSequence) {
        for (const DocumentNode& item : node.items) FillMap(item, path, field, message);
        return;
      }
      Message* entry = message->GetReflection()->AddMessage(message, &field);
      Fill(node, path, entry);
      CheckMapKeyIsNew(node, path, field, *message);
      return;
    }
    if (node.kind != Kind::kMapping) {
      Error(path, node, absl::StrCat("is ", Shown(node), "; allowed: a mapping"));
      return;
    }
    std::set<std::string> keys;
    for (const DocumentEntry& item : node.entries) {
      const std::string item_path = Join(path, item.key);
      if (!keys.insert(item.key).second) {
        errors_->Add(item_path, absl::StrCat("is given twice (line ", item.line, ")"));
        continue;
      }
      Message* entry = message->GetReflection()->AddMessage(message, &field);
      entry->GetReflection()->SetString(entry, field.message_type()->map_key(), item.key);
      SetScalar(item.value, item_path, *field.message_type()->map_value(), entry);
    }
  }

  void CheckMapKeyIsNew(const DocumentNode& node, const std::string& path,
                        const FieldDescriptor& field, const Message& message) {
    const auto* reflection = message.GetReflection();
    const int last = reflection->FieldSize(message, &field) - 1;
    const auto key = [&](int i) {
      const Message& entry = reflection->GetRepeatedMessage(message, &field, i);
      return entry.GetReflection()->GetString(entry, field.message_type()->map_key());
    };
    for (int i = 0; i < last; ++i) {
      if (key(i) == key(last)) return Error(Join(path, key(last)), node, "is given twice");
    }
  }

  void FillRepeated(const DocumentNode& node, const std::string& path, const FieldDescriptor& field,
                    Message* message) {
    if (node.kind != Kind::kSequence) {
      if (dialect_.repeated_keys) return AddItem(node, path, field, message);
      Error(path, node, absl::StrCat("is ", Shown(node), "; allowed: a sequence"));
      return;
    }
    for (size_t i = 0; i < node.items.size(); ++i) {
      AddItem(node.items[i], absl::StrCat(path, "[", i, "]"), field, message);
    }
  }

  void AddItem(const DocumentNode& node, const std::string& path, const FieldDescriptor& field,
               Message* message) {
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      Fill(node, path, message->GetReflection()->AddMessage(message, &field));
    } else {
      SetScalar(node, path, field, message);
    }
  }

  void SetScalar(const DocumentNode& node, const std::string& path, const FieldDescriptor& field,
                 Message* message) {
    switch (field.cpp_type()) {
      case FieldDescriptor::CPPTYPE_STRING:
        return SetString(node, path, field, message);
      case FieldDescriptor::CPPTYPE_BOOL:
        return SetBool(node, path, field, message);
      case FieldDescriptor::CPPTYPE_DOUBLE:
      case FieldDescriptor::CPPTYPE_FLOAT:
        return SetDouble(node, path, field, message);
      case FieldDescriptor::CPPTYPE_ENUM:
        return SetEnum(node, path, field, message);
      case FieldDescriptor::CPPTYPE_INT32: {
        int32_t value;
        if (!ParseInteger(node, path, &value)) return;
        return Store(field, message, &google::protobuf::Reflection::SetInt32,
                     &google::protobuf::Reflection::AddInt32, value);
      }
      case FieldDescriptor::CPPTYPE_INT64: {
        int64_t value;
        if (!ParseInteger(node, path, &value)) return;
        return Store(field, message, &google::protobuf::Reflection::SetInt64,
                     &google::protobuf::Reflection::AddInt64, value);
      }
      case FieldDescriptor::CPPTYPE_UINT32: {
        uint32_t value;
        if (!ParseInteger(node, path, &value)) return;
        return Store(field, message, &google::protobuf::Reflection::SetUInt32,
                     &google::protobuf::Reflection::AddUInt32, value);
      }
      case FieldDescriptor::CPPTYPE_UINT64: {
        uint64_t value;
        if (!ParseInteger(node, path, &value)) return;
        return Store(field, message, &google::protobuf::Reflection::SetUInt64,
                     &google::protobuf::Reflection::AddUInt64, value);
      }
      case FieldDescriptor::CPPTYPE_MESSAGE:
        return Error(path, node, "cannot be set in a document");
    }
  }

  template <typename Set, typename Add, typename T>
  static void Store(const FieldDescriptor& field, Message* message, Set set, Add add, T value) {
    const auto* reflection = message->GetReflection();
    if (field.is_repeated()) {
      (reflection->*add)(message, &field, value);
    } else {
      (reflection->*set)(message, &field, value);
    }
  }

  void SetString(const DocumentNode& node, const std::string& path, const FieldDescriptor& field,
                 Message* message) {
    const bool is_string =
        node.kind == Kind::kString || (node.kind == Kind::kPlain && dialect_.plain_strings &&
                                       PlainKind(node.text) == Kind::kString);
    if (!is_string) {
      const bool scalar =
          node.kind == Kind::kPlain || node.kind == Kind::kNumber || node.kind == Kind::kBool;
      return Error(path, node,
                   absl::StrCat("is ", Shown(node), "; allowed: a string",
                                scalar ? ", here in double quotes" : ""));
    }
    if (!IsValidUtf8(node.text)) return Error(path, node, "is not UTF-8");
    Store(field, message,
          static_cast<void (google::protobuf::Reflection::*)(Message*, const FieldDescriptor*,
                                                             std::string) const>(
              &google::protobuf::Reflection::SetString),
          static_cast<void (google::protobuf::Reflection::*)(Message*, const FieldDescriptor*,
                                                             std::string) const>(
              &google::protobuf::Reflection::AddString),
          node.text);
  }

  void SetBool(const DocumentNode& node, const std::string& path, const FieldDescriptor& field,
               Message* message) {
    const bool unquoted = node.kind == Kind::kBool || node.kind == Kind::kPlain;
    if (!unquoted || (node.text != "true" && node.text != "false")) {
      return Error(path, node, absl::StrCat("is ", Shown(node), "; allowed: true or false"));
    }
    Store(field, message, &google::protobuf::Reflection::SetBool,
          &google::protobuf::Reflection::AddBool, node.text == "true");
  }

  void SetEnum(const DocumentNode& node, const std::string& path, const FieldDescriptor& field,
               Message* message) {
    const bool word = node.kind == Kind::kString || node.kind == Kind::kPlain;
    const auto* value = word ? field.enum_type()->FindValueByName(node.text) : nullptr;
    if (value == nullptr) {
      std::vector<std::string> names;
      for (int i = 0; i < field.enum_type()->value_count(); ++i) {
        names.push_back(field.enum_type()->value(i)->name());
      }
      return Error(path, node, absl::StrCat("is ", Shown(node), "; allowed: ", OneOf(names)));
    }
    Store(field, message, &google::protobuf::Reflection::SetEnum,
          &google::protobuf::Reflection::AddEnum, value);
  }

  void SetDouble(const DocumentNode& node, const std::string& path, const FieldDescriptor& field,
                 Message* message) {
    double value = 0;
    if (!IsNumber(node) || !ParseDouble(node.text, &value)) {
      return Error(path, node, absl::StrCat("is ", Shown(node), "; allowed: a finite number"));
    }
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_DOUBLE) {
      Store(field, message, &google::protobuf::Reflection::SetDouble,
            &google::protobuf::Reflection::AddDouble, value);
    } else {
      Store(field, message, &google::protobuf::Reflection::SetFloat,
            &google::protobuf::Reflection::AddFloat, static_cast<float>(value));
    }
  }

  static bool IsNumber(const DocumentNode& node) {
    return node.kind == Kind::kNumber || node.kind == Kind::kPlain;
  }

  // Decimal only; no infinity, no NaN, nothing that overflows or underflows.
  static bool ParseDouble(absl::string_view text, double* value) {
    if (!text.empty() && text[0] == '+') text.remove_prefix(1);
    if (text.empty() || !(absl::ascii_isdigit(text[0]) || text[0] == '-' || text[0] == '.')) {
      return false;
    }
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *value);
    return error == std::errc() && end == text.data() + text.size() && std::isfinite(*value);
  }

  template <typename T>
  bool ParseInteger(const DocumentNode& node, const std::string& path, T* value) {
    const bool quoted = dialect_.quoted_integers && sizeof(T) == 8 && node.kind == Kind::kString;
    if (quoted || IsNumber(node)) {
      absl::string_view text = node.text;
      if (text.size() > 1 && text[0] == '+' && text[1] != '-') text.remove_prefix(1);
      const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *value);
      if (!text.empty() && error == std::errc() && end == text.data() + text.size()) return true;
      if (!quoted && IntegralDouble(text, value)) return true;
    }
    Error(path, node,
          absl::StrCat("is ", Shown(node), "; allowed: an integer from ",
                       std::numeric_limits<T>::min(), " to ", std::numeric_limits<T>::max()));
    return false;
  }

  // 1e9 is an integer as people write them; 1.5 and what a double cannot hold exactly are not.
  template <typename T>
  static bool IntegralDouble(absl::string_view text, T* value) {
    constexpr double kExact = 9007199254740992;  // 2^53
    double number = 0;
    if (!ParseDouble(text, &number) || number != std::trunc(number)) return false;
    if (std::fabs(number) > kExact || number < static_cast<double>(std::numeric_limits<T>::min()) ||
        number > static_cast<double>(std::numeric_limits<T>::max())) {
      return false;
    }
    *value = static_cast<T>(number);
    return true;
  }

  const TreeDialect& dialect_;
  ErrorList* errors_;
};

}  // namespace

void FillMessage(const DocumentNode& root, const TreeDialect& dialect, Message* message,
                 ErrorList* errors) {
  Filler(dialect, errors).Fill(root, "", message);
}

}  // namespace nibble::spec
