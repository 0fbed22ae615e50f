// What the stores share of JobQuery and of limits.
#ifndef SERVER_STORE_JOB_FILTER_H_
#define SERVER_STORE_JOB_FILTER_H_

#include <algorithm>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "server/store/store.h"

namespace nibble::store {

inline constexpr int32_t kMaxPage = 1000;

inline absl::Status CheckLimit(int32_t limit, int32_t most) {
  if (limit >= 1 && limit <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("limit is ", limit, "; allowed: 1 to ", most));
}

inline bool HasLabels(const JobQuery& query, const scheduler::JobRecord& job) {
  return std::all_of(query.labels.begin(), query.labels.end(), [&job](const auto& label) {
    const auto found = job.document->labels.find(label.first);
    return found != job.document->labels.end() && found->second == label.second;
  });
}

inline bool HasState(const JobQuery& query, scheduler::JobState state) {
  return query.states.empty() ||
         std::find(query.states.begin(), query.states.end(), state) != query.states.end();
}

inline bool Matches(const JobQuery& query, const scheduler::JobRecord& job) {
  return HasState(query, job.state) && (query.name.empty() || job.document->name == query.name) &&
         HasLabels(query, job);
}

}  // namespace nibble::store

#endif  // SERVER_STORE_JOB_FILTER_H_
