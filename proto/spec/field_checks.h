// Checks of single values; each adds at most one error. Internal to proto/spec.
#ifndef PROTO_SPEC_FIELD_CHECKS_H_
#define PROTO_SPEC_FIELD_CHECKS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "google/protobuf/message.h"
#include "proto/spec/error_list.h"

namespace nibble::spec {

// Closed interval.
struct IntegerRange {
  int64_t min;
  int64_t max;
};

// Interval whose lower end may be open.
struct RealRange {
  double min;
  double max;
  bool min_allowed = true;
  bool max_allowed = true;
};

// False where an error was added.
bool CheckInteger(absl::string_view field, int64_t value, IntegerRange range, ErrorList* errors);
bool CheckReal(absl::string_view field, double value, RealRange range, ErrorList* errors);
bool CheckOneOf(absl::string_view field, absl::string_view value,
                const std::vector<std::string>& allowed, ErrorList* errors);

// RFC 1123 label.
void CheckName(absl::string_view field, absl::string_view name, ErrorList* errors);

// A label's key (not empty) or value (may be empty).
void CheckLabelText(absl::string_view field, absl::string_view text, bool may_be_empty,
                    ErrorList* errors);

enum class PathKind { kAbsoluteOnly, kAbsoluteOrRelative };
// A directory's path: UTF-8 without control characters, no `..`, not below /proc, /sys or /dev.
void CheckPath(absl::string_view field, absl::string_view path, PathKind kind, ErrorList* errors);

// Refuses fields that this version of the schema does not know, at any depth.
void CheckUnknownFields(const google::protobuf::Message& message, ErrorList* errors);

}  // namespace nibble::spec

#endif  // PROTO_SPEC_FIELD_CHECKS_H_
