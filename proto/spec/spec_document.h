// Reads a job spec from YAML, JSON or text proto, strictly, and writes it back.
#ifndef PROTO_SPEC_SPEC_DOCUMENT_H_
#define PROTO_SPEC_SPEC_DOCUMENT_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nibble/v1/job.pb.h"
#include "proto/spec/field_error.h"

namespace nibble::spec {

// Largest document accepted.
inline constexpr int kMaxDocumentBytes = 256 * 1024;

enum class DocumentFormat { kYaml, kJson, kTextProto };

// By the file's name: .json, .textproto/.txtpb/.pbtxt, everything else YAML.
DocumentFormat FormatOfFile(absl::string_view path);

// Parses by reflection over JobSpec: every key must be a field, every value must have the field's
// type and fit it. Refused with the path, the value and what is allowed: unknown and repeated keys,
// NaN and infinities, numbers out of the field's range, YAML anchors, aliases, tags and several
// documents, nesting deeper than 16, documents over kMaxDocumentBytes.
// INVALID_ARGUMENT: all problems in the message, and in *errors (may be null) one by one. Syntax
// errors have an empty field and the line in the description.
absl::StatusOr<v1::JobSpec> ParseJobSpec(absl::string_view document, DocumentFormat format,
                                         std::vector<FieldError>* errors);

// As ParseJobSpec, for any message of this schema.
absl::Status ParseDocumentInto(absl::string_view document, DocumentFormat format,
                               google::protobuf::Message* message,
                               std::vector<FieldError>* errors);

// The spec as a YAML document that ParseJobSpec reads back to an equal message. Fields in schema
// order, absent ones left out.
std::string JobSpecToYaml(const v1::JobSpec& spec);

}  // namespace nibble::spec

#endif  // PROTO_SPEC_SPEC_DOCUMENT_H_
