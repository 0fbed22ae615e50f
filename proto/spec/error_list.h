// Collects what is wrong with a document or spec. Bounded, because the result travels in gRPC
// trailers, which are refused beyond 8 KiB.
#ifndef PROTO_SPEC_ERROR_LIST_H_
#define PROTO_SPEC_ERROR_LIST_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "proto/spec/field_error.h"

namespace nibble::spec {

class ErrorList {
 public:
  // Errors beyond this many are counted, not kept.
  static constexpr int kMaxErrors = 16;

  // Both texts are cut to a bounded length; control characters in them are escaped.
  void Add(absl::string_view field, absl::string_view description);

  bool ok() const { return total_ == 0; }
  const std::vector<FieldError>& errors() const { return errors_; }
  // OK, or INVALID_ARGUMENT with "field: description" of every error kept.
  absl::Status ToStatus() const;

 private:
  std::vector<FieldError> errors_;
  int total_ = 0;
};

// `text` in double quotes, cut to 48 bytes, control characters escaped.
std::string QuoteForError(absl::string_view text);

// "a", "a or b", "a, b or c".
std::string OneOf(const std::vector<std::string>& names);

// The element of `names` that `given` is most likely a misspelling of, or empty.
std::string NearestName(absl::string_view given, const std::vector<std::string>& names);

}  // namespace nibble::spec

#endif  // PROTO_SPEC_ERROR_LIST_H_
