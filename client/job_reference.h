// JOB arguments: an id, the beginning of one, or a name.
#ifndef CLIENT_JOB_REFERENCE_H_
#define CLIENT_JOB_REFERENCE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/connection.h"
#include "nibble/v1/job.pb.h"

namespace nibble::client {

// Whether `text` has the form of a whole job id: "j-" and 16 lower-case hex digits.
bool IsJobId(const std::string& text);

// The id of the one job that `reference` means. A whole id is taken as it is, without asking; then
// a name that exactly one job has; then "j-" and the first digits of exactly one id (searched among
// the newest 10,000 jobs). NOT_FOUND: none. INVALID_ARGUMENT: several, which the message lists.
absl::StatusOr<std::string> FindJobId(Connection& connection, const std::string& reference);

absl::StatusOr<v1::Job> FindJob(Connection& connection, const std::string& reference);

// Calls `each` for every job that fits `request`, page by page, until it returns false.
absl::Status ForEachJob(Connection& connection, v1::ListJobsRequest request,
                        const std::function<bool(const v1::Job&)>& each);

}  // namespace nibble::client

#endif  // CLIENT_JOB_REFERENCE_H_
