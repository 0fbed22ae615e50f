#include "client/job_reference.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "client/text.h"

namespace nibble::client {
namespace {

constexpr size_t kIdLength = 18;
constexpr int kPageSize = 200;
constexpr int kSearchedJobs = 10'000;
// Of several jobs that fit, so many are named.
constexpr size_t kListed = 10;

bool IsIdPrefix(const std::string& text) {
  return text.size() > 2 && text.size() <= kIdLength && absl::StartsWith(text, "j-") &&
         text.find_first_not_of("0123456789abcdef", 2) == std::string::npos;
}

absl::Status Ambiguous(const std::string& reference, const std::vector<v1::Job>& jobs) {
  std::string message =
      absl::StrCat("\"", reference, "\" means ", jobs.size() > kListed ? "more than " : "",
                   std::min(jobs.size(), kListed), " jobs; give an id:");
  for (size_t i = 0; i < std::min(jobs.size(), kListed); ++i) {
    absl::StrAppend(&message, i == 0 ? " " : ", ", jobs[i].job_id(), " (", jobs[i].spec().name(),
                    ", ", StateName(jobs[i].state()), ")");
  }
  return absl::InvalidArgumentError(message);
}

absl::StatusOr<std::vector<v1::Job>> Matching(Connection& connection,
                                              const v1::ListJobsRequest& request,
                                              const std::string& id_prefix) {
  std::vector<v1::Job> found;
  int searched = 0;
  NIBBLE_RETURN_IF_ERROR(ForEachJob(connection, request, [&](const v1::Job& job) {
    if (absl::StartsWith(job.job_id(), id_prefix)) found.push_back(job);
    return found.size() <= kListed && ++searched < kSearchedJobs;
  }));
  return found;
}

}  // namespace

bool IsJobId(const std::string& text) { return text.size() == kIdLength && IsIdPrefix(text); }

absl::Status ForEachJob(Connection& connection, v1::ListJobsRequest request,
                        const std::function<bool(const v1::Job&)>& each) {
  if (request.page_size() == 0) request.set_page_size(kPageSize);
  do {
    NIBBLE_ASSIGN_OR_RETURN(const v1::ListJobsResponse page, connection.ListJobs(request));
    for (const v1::Job& job : page.jobs()) {
      if (!each(job)) return absl::OkStatus();
    }
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  return absl::OkStatus();
}

absl::StatusOr<std::string> FindJobId(Connection& connection, const std::string& reference) {
  if (IsJobId(reference)) return reference;
  if (reference.empty()) return absl::InvalidArgumentError("JOB is empty");
  v1::ListJobsRequest by_name;
  by_name.set_name(reference);
  NIBBLE_ASSIGN_OR_RETURN(std::vector<v1::Job> found, Matching(connection, by_name, ""));
  if (found.empty() && IsIdPrefix(reference)) {
    NIBBLE_ASSIGN_OR_RETURN(found, Matching(connection, v1::ListJobsRequest(), reference));
  }
  if (found.size() > 1) return Ambiguous(reference, found);
  if (!found.empty()) return found[0].job_id();
  return absl::NotFoundError(absl::StrCat("no job has the id or name \"", reference, "\""));
}

absl::StatusOr<v1::Job> FindJob(Connection& connection, const std::string& reference) {
  NIBBLE_ASSIGN_OR_RETURN(const std::string id, FindJobId(connection, reference));
  return connection.GetJob(id);
}

}  // namespace nibble::client
