// A wrong field of a document or request.
#ifndef PROTO_SPEC_FIELD_ERROR_H_
#define PROTO_SPEC_FIELD_ERROR_H_

#include <string>

namespace nibble::spec {

struct FieldError {
  // Path from the root of the JobSpec, for example `model.heads` or `optimizer.schedule.kind`.
  std::string field;
  // What was given and what is allowed, a sentence without the path: "is -1; allowed: 1 to
  // 1000000".
  std::string description;
};

}  // namespace nibble::spec

#endif  // PROTO_SPEC_FIELD_ERROR_H_
