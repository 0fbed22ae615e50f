#include "proto/spec/field_checks.h"

#include <cmath>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "google/protobuf/unknown_field_set.h"
#include "proto/spec/document_tree.h"
#include "proto/spec/limits.h"

namespace nibble::spec {
namespace {

bool HasControlCharacter(absl::string_view text) {
  for (const unsigned char c : text) {
    if (c < 0x20 || c == 0x7f) return true;
  }
  return false;
}

bool IsNameCharacter(char c) { return absl::ascii_islower(c) || absl::ascii_isdigit(c); }

// The path with empty and "." components gone: "//proc/./self" is below /proc too.
bool IsSpecial(const std::vector<absl::string_view>& components) {
  for (absl::string_view component : components) {
    if (component.empty() || component == ".") continue;
    return component == "proc" || component == "sys" || component == "dev";
  }
  return false;
}

void CheckUnknownFieldsAt(const google::protobuf::Message& message, const std::string& path,
                          ErrorList* errors) {
  const auto* reflection = message.GetReflection();
  const auto& unknown = reflection->GetUnknownFields(message);
  if (unknown.field_count() > 0) {
    errors->Add(path, absl::StrCat("has the unknown field number ", unknown.field(0).number(),
                                   "; allowed: fields of this version's schema"));
  }
  std::vector<const google::protobuf::FieldDescriptor*> fields;
  reflection->ListFields(message, &fields);
  for (const auto* field : fields) {
    if (field->cpp_type() != google::protobuf::FieldDescriptor::CPPTYPE_MESSAGE) continue;
    const std::string name = absl::StrCat(path, path.empty() ? "" : ".", field->name());
    if (!field->is_repeated()) {
      CheckUnknownFieldsAt(reflection->GetMessage(message, field), name, errors);
      continue;
    }
    for (int i = 0; i < reflection->FieldSize(message, field); ++i) {
      CheckUnknownFieldsAt(reflection->GetRepeatedMessage(message, field, i),
                           absl::StrCat(name, "[", i, "]"), errors);
    }
  }
}

}  // namespace

bool CheckInteger(absl::string_view field, int64_t value, IntegerRange range, ErrorList* errors) {
  if (value >= range.min && value <= range.max) return true;
  errors->Add(field, absl::StrCat("is ", value, "; allowed: ", range.min,
                                  range.min == range.max ? "" : absl::StrCat(" to ", range.max)));
  return false;
}

bool CheckReal(absl::string_view field, double value, RealRange range, ErrorList* errors) {
  const bool above = range.min_allowed ? value >= range.min : value > range.min;
  const bool below = range.max_allowed ? value <= range.max : value < range.max;
  if (std::isfinite(value) && above && below) return true;
  errors->Add(field,
              absl::StrCat("is ", value, "; allowed: ", range.min_allowed ? "from " : "above ",
                           range.min, range.max_allowed ? " to " : " to below ", range.max));
  return false;
}

bool CheckOneOf(absl::string_view field, absl::string_view value,
                const std::vector<std::string>& allowed, ErrorList* errors) {
  for (const std::string& name : allowed) {
    if (value == name) return true;
  }
  errors->Add(field, absl::StrCat("is ", QuoteForError(value), "; allowed: ", OneOf(allowed)));
  return false;
}

void CheckName(absl::string_view field, absl::string_view name, ErrorList* errors) {
  bool good =
      !name.empty() && name.size() <= kMaxNameBytes && name.front() != '-' && name.back() != '-';
  for (const char c : name) good = good && (IsNameCharacter(c) || c == '-');
  if (good) return;
  errors->Add(field, absl::StrCat("is ", name.empty() ? "missing" : QuoteForError(name),
                                  "; required: 1 to ", kMaxNameBytes,
                                  " of a-z, 0-9 and -, not - at either end"));
}

void CheckLabelText(absl::string_view field, absl::string_view text, bool may_be_empty,
                    ErrorList* errors) {
  bool good = (may_be_empty || !text.empty()) && text.size() <= kMaxLabelBytes;
  for (const char c : text) {
    good = good && (absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-' || c == '/');
  }
  if (good) return;
  errors->Add(field, absl::StrCat(may_be_empty ? "has the value " : "has the key ",
                                  QuoteForError(text), "; allowed: ", may_be_empty ? 0 : 1, " to ",
                                  kMaxLabelBytes, " of A-Z, a-z, 0-9 and ._-/"));
}

void CheckPath(absl::string_view field, absl::string_view path, PathKind kind, ErrorList* errors) {
  const std::string allowed =
      kind == PathKind::kAbsoluteOnly
          ? "an absolute path"
          : "an absolute path, or one relative to the worker's data directory";
  const auto refuse = [&](absl::string_view why) {
    errors->Add(field, absl::StrCat("is ", path.empty() ? "missing" : QuoteForError(path), why,
                                    "; ", path.empty() ? "required: " : "allowed: ", allowed));
  };
  if (path.empty()) return refuse("");
  if (path.size() > kMaxPathBytes) return refuse(", longer than 4096 bytes");
  if (HasControlCharacter(path)) return refuse(", with a control character");
  if (!IsValidUtf8(path)) return refuse(", which is not UTF-8");
  const bool absolute = path.front() == '/';
  if (!absolute && kind == PathKind::kAbsoluteOnly) return refuse(", which is relative");
  const std::vector<absl::string_view> components = absl::StrSplit(path, '/');
  for (absl::string_view component : components) {
    if (component == "..") return refuse(", with a .. component");
    if (component.size() > kMaxPathComponentBytes) {
      return refuse(", with a component longer than 255 bytes");
    }
  }
  if (absolute && IsSpecial(components)) return refuse(", below /proc, /sys or /dev");
}

void CheckUnknownFields(const google::protobuf::Message& message, ErrorList* errors) {
  CheckUnknownFieldsAt(message, "", errors);
}

}  // namespace nibble::spec
