#include "worker/agent/daemon_link.h"

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "google/rpc/error_details.pb.h"

namespace nibble::agent {
namespace {

constexpr char kErrorInfoUrl[] = "type.googleapis.com/google.rpc.ErrorInfo";
constexpr char kExpectedSequence[] = "expected_sequence";

google::rpc::ErrorInfo ErrorInfoOf(const absl::Status& status) {
  google::rpc::ErrorInfo info;
  const absl::optional<absl::Cord> payload = status.GetPayload(kErrorInfoUrl);
  if (payload.has_value() && !info.ParseFromString(std::string(*payload))) info.Clear();
  return info;
}

}  // namespace

void AttachErrorInfo(const std::string& serialized_error_info, absl::Status* status) {
  status->SetPayload(kErrorInfoUrl, absl::Cord(serialized_error_info));
}

absl::Status StatusWithReason(absl::Status status, const std::string& reason,
                              std::optional<int64_t> expected_sequence) {
  google::rpc::ErrorInfo info;
  info.set_domain("nibble");
  info.set_reason(reason);
  if (expected_sequence.has_value()) {
    (*info.mutable_metadata())[kExpectedSequence] = absl::StrCat(*expected_sequence);
  }
  AttachErrorInfo(info.SerializeAsString(), &status);
  return status;
}

std::string ReasonOf(const absl::Status& status) { return ErrorInfoOf(status).reason(); }

std::optional<int64_t> ExpectedSequenceOf(const absl::Status& status) {
  const google::rpc::ErrorInfo info = ErrorInfoOf(status);
  const auto found = info.metadata().find(kExpectedSequence);
  int64_t value = 0;
  if (found == info.metadata().end() || !absl::SimpleAtoi(found->second, &value)) {
    return std::nullopt;
  }
  return value;
}

}  // namespace nibble::agent
