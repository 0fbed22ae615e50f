// Checks of single fields of requests. Each adds a violation with the field's path, or nothing.
#ifndef SERVER_RPC_REQUEST_CHECKS_H_
#define SERVER_RPC_REQUEST_CHECKS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "nibble/v1/worker_service.pb.h"
#include "proto/spec/field_error.h"

namespace nibble::rpc {

// Collects violations of one request.
class RequestChecker {
 public:
  // "j-" and 16 lower-case hex digits.
  void JobId(absl::string_view value, absl::string_view field);
  void OptionalJobId(absl::string_view value, absl::string_view field);
  // At most 128 printable ASCII characters, or none.
  void RequestId(absl::string_view value, absl::string_view field);
  // 1 to 128 characters [A-Za-z0-9._-], not starting with '.' or '-'.
  void WorkerName(absl::string_view value, absl::string_view field);
  // At most max_bytes. Control characters are allowed: they are escaped where text is shown.
  void Text(absl::string_view value, size_t max_bytes, absl::string_view field);
  // Hex digits, lower case, exactly `digits`.
  void Hex(absl::string_view value, size_t digits, absl::string_view field);
  // An absolute path without `..` and control characters, at most 4096 bytes.
  void AbsolutePath(absl::string_view value, absl::string_view field);
  struct Bounds {
    int64_t low;
    int64_t high;
  };
  // RFC 1123 label.
  void Name(absl::string_view value, absl::string_view field);
  // As labels of a spec.
  void Labels(const google::protobuf::Map<std::string, std::string>& labels,
              absl::string_view field);
  void InRange(int64_t value, Bounds bounds, absl::string_view field);
  void Count(int64_t count, int64_t most, absl::string_view field);
  // A job_id, and an attempt of at least 1.
  void Attempt(const v1::AttemptKey& key, absl::string_view field);
  // The two fields that every request of a worker has.
  void WorkerIdentity(absl::string_view worker_id, absl::string_view incarnation);
  void Add(absl::string_view field, std::string description);

  // OK, or INVALID_ARGUMENT with every violation.
  absl::Status Result() const;

 private:
  std::vector<spec::FieldError> errors_;
};

}  // namespace nibble::rpc

#endif  // SERVER_RPC_REQUEST_CHECKS_H_
