#include "server/rpc/grpc_status.h"

#include <grpcpp/support/status.h>

#include <algorithm>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/types/optional.h"
#include "base/check.h"
#include "google/rpc/error_details.pb.h"

namespace nibble::rpc {
namespace {

constexpr char kErrorInfoUrl[] = "type.googleapis.com/google.rpc.ErrorInfo";
constexpr char kBadRequestUrl[] = "type.googleapis.com/google.rpc.BadRequest";
constexpr char kDomain[] = "nibble";
constexpr size_t kMaxMessageBytes = 4096;
// Trailers are refused by clients beyond 8 KiB; a request can have thousands of wrong fields.
constexpr size_t kMaxViolations = 32;
constexpr size_t kMaxFieldBytes = 256;

// At most max_bytes of `text`, cut between UTF-8 sequences.
std::string Cut(absl::string_view text, size_t max_bytes) {
  if (text.size() <= max_bytes) return std::string(text);
  size_t end = max_bytes;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  return std::string(text.substr(0, end));
}

void AddDetail(absl::string_view url, const std::string& value, google::rpc::Status* out) {
  google::protobuf::Any* any = out->add_details();
  any->set_type_url(std::string(url));
  any->set_value(value);
}

}  // namespace

absl::Status WithReason(absl::Status status, absl::string_view reason,
                        const std::map<std::string, std::string>& metadata) {
  NIBBLE_CHECK(!status.ok());
  google::rpc::ErrorInfo info;
  info.set_reason(std::string(reason));
  info.set_domain(kDomain);
  for (const auto& [key, value] : metadata) {
    (*info.mutable_metadata())[key] = Cut(value, kMaxFieldBytes);
  }
  status.SetPayload(kErrorInfoUrl, absl::Cord(info.SerializeAsString()));
  return status;
}

std::string ReasonOf(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kErrorInfoUrl);
  google::rpc::ErrorInfo info;
  if (!payload.has_value() || !info.ParseFromString(std::string(*payload))) return "";
  return info.reason();
}

absl::Status InvalidFields(const std::vector<spec::FieldError>& errors) {
  NIBBLE_CHECK(!errors.empty());
  google::rpc::BadRequest bad_request;
  std::string message;
  for (size_t i = 0; i < std::min(errors.size(), kMaxViolations); ++i) {
    const std::string field = Cut(errors[i].field, kMaxFieldBytes);
    const std::string description = Cut(errors[i].description, kMaxFieldBytes);
    absl::StrAppend(&message, i == 0 ? "" : "; ", field, field.empty() ? "" : " ", description);
    google::rpc::BadRequest::FieldViolation* violation = bad_request.add_field_violations();
    violation->set_field(field);
    violation->set_description(description);
  }
  if (errors.size() > kMaxViolations) {
    absl::StrAppend(&message, "; and ", errors.size() - kMaxViolations, " more");
  }
  absl::Status status = WithReason(absl::InvalidArgumentError(message), kInvalidRequest,
                                   {{"field", errors[0].field}});
  status.SetPayload(kBadRequestUrl, absl::Cord(bad_request.SerializeAsString()));
  return status;
}

absl::Status InvalidField(std::string field, std::string description) {
  return InvalidFields({{std::move(field), std::move(description)}});
}

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  google::rpc::Status details;
  details.set_code(static_cast<int>(status.code()));
  details.set_message(Cut(status.message(), kMaxMessageBytes));
  absl::optional<absl::Cord> info = status.GetPayload(kErrorInfoUrl);
  if (!info.has_value()) {
    google::rpc::ErrorInfo generic;
    generic.set_reason(absl::StatusCodeToString(status.code()));
    generic.set_domain(kDomain);
    info = absl::Cord(generic.SerializeAsString());
  }
  AddDetail(kErrorInfoUrl, std::string(*info), &details);
  const absl::optional<absl::Cord> bad_request = status.GetPayload(kBadRequestUrl);
  if (bad_request.has_value()) AddDetail(kBadRequestUrl, std::string(*bad_request), &details);
  // absl and gRPC number the codes alike.
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), details.message(),
                      details.SerializeAsString());
}

}  // namespace nibble::rpc
