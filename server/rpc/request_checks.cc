#include "server/rpc/request_checks.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "server/rpc/grpc_status.h"

namespace nibble::rpc {
namespace {

constexpr size_t kShownBytes = 64;

// A value as a message may show it: quoted, escaped, cut.
std::string Shown(absl::string_view value) {
  return absl::StrCat("'", EscapeControlCharacters(value.substr(0, kShownBytes)),
                      value.size() > kShownBytes ? "..." : "", "'");
}

bool IsLowerHex(absl::string_view text) {
  return std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return absl::ascii_isdigit(c) || (c >= 'a' && c <= 'f');
  });
}

bool HasControlCharacter(absl::string_view text) {
  return std::any_of(text.begin(), text.end(),
                     [](unsigned char c) { return absl::ascii_iscntrl(c); });
}

bool HasParentComponent(absl::string_view path) {
  return absl::StrContains(absl::StrCat(path, "/"), "/../");
}

}  // namespace

void RequestChecker::Add(absl::string_view field, std::string description) {
  errors_.push_back({std::string(field), std::move(description)});
}

void RequestChecker::JobId(absl::string_view value, absl::string_view field) {
  if (value.size() == 18 && absl::StartsWith(value, "j-") && IsLowerHex(value.substr(2))) return;
  Add(field, absl::StrCat("is ", Shown(value), "; allowed: j- and 16 lower-case hex digits"));
}

void RequestChecker::OptionalJobId(absl::string_view value, absl::string_view field) {
  if (!value.empty()) JobId(value, field);
}

void RequestChecker::RequestId(absl::string_view value, absl::string_view field) {
  const bool printable = std::all_of(value.begin(), value.end(),
                                     [](unsigned char c) { return absl::ascii_isprint(c); });
  if (printable && value.size() <= 128) return;
  Add(field, absl::StrCat("is ", Shown(value), " (", value.size(),
                          " bytes); allowed: at most 128 printable ASCII characters"));
}

void RequestChecker::WorkerName(absl::string_view value, absl::string_view field) {
  const bool characters = std::all_of(value.begin(), value.end(), [](unsigned char c) {
    return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-';
  });
  if (characters && !value.empty() && value.size() <= 128 && absl::ascii_isalnum(value[0])) return;
  Add(field, absl::StrCat("is ", Shown(value),
                          "; allowed: 1 to 128 characters [A-Za-z0-9._-], the first a letter or "
                          "digit"));
}

void RequestChecker::Text(absl::string_view value, size_t max_bytes, absl::string_view field) {
  if (value.size() <= max_bytes) return;
  Add(field, absl::StrCat("has ", value.size(), " bytes; allowed: at most ", max_bytes));
}

void RequestChecker::Hex(absl::string_view value, size_t digits, absl::string_view field) {
  if (value.size() == digits && IsLowerHex(value)) return;
  Add(field, absl::StrCat("is ", Shown(value), "; allowed: ", digits, " lower-case hex digits"));
}

void RequestChecker::AbsolutePath(absl::string_view value, absl::string_view field) {
  if (absl::StartsWith(value, "/") && value.size() <= 4096 && !HasControlCharacter(value) &&
      !HasParentComponent(value)) {
    return;
  }
  Add(field, absl::StrCat("is ", Shown(value),
                          "; allowed: an absolute path without .. and control characters"));
}

void RequestChecker::Name(absl::string_view value, absl::string_view field) {
  const bool characters = std::all_of(value.begin(), value.end(), [](unsigned char c) {
    return absl::ascii_isdigit(c) || absl::ascii_islower(c) || c == '-';
  });
  if (characters && !value.empty() && value.size() <= 63 && value.front() != '-' &&
      value.back() != '-') {
    return;
  }
  Add(field, absl::StrCat("is ", Shown(value), "; allowed: 1 to 63 of a-z 0-9 -, not - at an end"));
}

void RequestChecker::Labels(const google::protobuf::Map<std::string, std::string>& labels,
                            absl::string_view field) {
  Count(static_cast<int64_t>(labels.size()), 32, field);
  const auto good = [](absl::string_view text) {
    return text.size() <= 63 && std::all_of(text.begin(), text.end(), [](unsigned char c) {
             return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-' || c == '/';
           });
  };
  for (const auto& [key, value] : labels) {
    if (good(key) && good(value) && !key.empty()) continue;
    Add(field, absl::StrCat("has ", Shown(key), ": ", Shown(value),
                            "; allowed: keys of 1 to 63 and values of 0 to 63 characters "
                            "[A-Za-z0-9._-/]"));
  }
}

void RequestChecker::InRange(int64_t value, Bounds bounds, absl::string_view field) {
  if (value >= bounds.low && value <= bounds.high) return;
  Add(field, absl::StrCat("is ", value, "; allowed: ", bounds.low, " to ", bounds.high));
}

void RequestChecker::Count(int64_t count, int64_t most, absl::string_view field) {
  if (count <= most) return;
  Add(field, absl::StrCat("has ", count, " elements; allowed: at most ", most));
}

void RequestChecker::Attempt(const v1::AttemptKey& key, absl::string_view field) {
  JobId(key.job_id(), absl::StrCat(field, ".job_id"));
  InRange(key.attempt(), {1, INT64_MAX}, absl::StrCat(field, ".attempt"));
}

void RequestChecker::WorkerIdentity(absl::string_view worker_id, absl::string_view incarnation) {
  WorkerName(worker_id, "worker_id");
  WorkerName(incarnation, "incarnation");
}

absl::Status RequestChecker::Result() const {
  return errors_.empty() ? absl::OkStatus() : InvalidFields(errors_);
}

}  // namespace nibble::rpc
