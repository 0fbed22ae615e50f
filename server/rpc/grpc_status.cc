#include "server/rpc/grpc_status.h"

#include <grpcpp/support/status.h>

#include <algorithm>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/types/optional.h"
#include "base/check.h"
#include "google/rpc/error_details.pb.h"
#include "server/rpc/utf8.h"

namespace nibble::rpc {
namespace {

constexpr char kErrorInfoUrl[] = "type.googleapis.com/google.rpc.ErrorInfo";
constexpr char kBadRequestUrl[] = "type.googleapis.com/google.rpc.BadRequest";
constexpr char kDomain[] = "nibble";
// gRPC clients refuse trailers beyond 8 KiB. The message counts twice, once percent-encoded (three
// bytes for one at worst), and all details as base64: 3 * 768 + 4/3 * (768 + 2048 + 512) < 8192.
constexpr size_t kMaxMessageBytes = 768;
constexpr size_t kMaxViolationBytes = 2048;  // all together
constexpr size_t kMaxFieldBytes = 256;       // of one field or description

// At most max_bytes of `text`, cut between UTF-8 sequences, with '?' for bytes that are none.
std::string Cut(absl::string_view text, size_t max_bytes) {
  std::string out;
  while (!text.empty()) {
    const size_t length = Utf8SequenceLength(text);
    if (out.size() + std::max<size_t>(length, 1) > max_bytes) break;
    absl::StrAppend(&out, length == 0 ? "?" : text.substr(0, length));
    text.remove_prefix(std::max<size_t>(length, 1));
  }
  return out;
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
  size_t shown = 0;
  for (const spec::FieldError& error : errors) {
    google::rpc::BadRequest::FieldViolation violation;
    violation.set_field(Cut(error.field, kMaxFieldBytes));
    violation.set_description(Cut(error.description, kMaxFieldBytes));
    if (bad_request.ByteSizeLong() + violation.ByteSizeLong() > kMaxViolationBytes - 8) break;
    absl::StrAppend(&message, shown == 0 ? "" : "; ", violation.field(),
                    violation.field().empty() ? "" : " ", violation.description());
    *bad_request.add_field_violations() = std::move(violation);
    ++shown;
  }
  if (shown < errors.size()) {
    message = absl::StrCat(errors.size(), " fields are wrong, among them: ", message);
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
