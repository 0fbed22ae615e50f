#include "client/status.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "google/rpc/error_details.pb.h"

namespace nibble::client {

ExitCode ExitCodeOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return kExitDone;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
      return kExitUsage;
    case absl::StatusCode::kNotFound:
      return kExitNotFound;
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kUnimplemented:
      return kExitRefused;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
      return kExitUnreachable;
    case absl::StatusCode::kCancelled:
      return kExitInterrupted;
    default:
      return kExitInternal;
  }
}

ErrorDetails DetailsOf(const absl::Status& status) {
  ErrorDetails details;
  const auto payload = status.GetPayload(kDetailsPayload);
  google::rpc::Status envelope;
  if (!payload.has_value() || !envelope.ParseFromString(std::string(*payload))) return details;
  for (const google::protobuf::Any& any : envelope.details()) {
    google::rpc::ErrorInfo info;
    google::rpc::BadRequest bad_request;
    if (any.UnpackTo(&info)) {
      details.reason = info.reason();
      details.metadata = {info.metadata().begin(), info.metadata().end()};
    } else if (any.UnpackTo(&bad_request)) {
      for (const auto& violation : bad_request.field_violations()) {
        details.fields.push_back({violation.field(), violation.description()});
      }
    }
  }
  return details;
}

absl::Status InvalidFields(absl::string_view message, const std::vector<spec::FieldError>& fields) {
  google::rpc::BadRequest bad_request;
  for (const spec::FieldError& error : fields) {
    auto* violation = bad_request.add_field_violations();
    violation->set_field(error.field);
    violation->set_description(error.description);
  }
  google::rpc::Status envelope;
  envelope.add_details()->PackFrom(bad_request);
  absl::Status status = absl::InvalidArgumentError(message);
  status.SetPayload(kDetailsPayload, absl::Cord(envelope.SerializeAsString()));
  return status;
}

void PrintError(const Terminal& terminal, const absl::Status& status) {
  const ErrorDetails details = DetailsOf(status);
  std::ostream& err = *terminal.err;
  std::string code = absl::StatusCodeToString(status.code());
  if (!details.reason.empty() && details.reason != code)
    absl::StrAppend(&code, ", ", details.reason);
  // With fields listed one by one, the summary need not repeat them.
  const std::string message(status.message());
  const bool summarise = !details.fields.empty() && message.size() > 100;
  err << "error: " << Safe(summarise ? "the request is not valid" : message) << " (" << Safe(code)
      << ")\n";
  for (const spec::FieldError& error : details.fields) {
    absl::string_view field = error.field;
    absl::ConsumePrefix(&field, "spec.");
    err << "  " << (field.empty() ? "" : absl::StrCat(Safe(field), ": ")) << Safe(error.description)
        << "\n";
  }
}

}  // namespace nibble::client
