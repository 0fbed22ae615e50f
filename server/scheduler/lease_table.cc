#include "server/scheduler/lease_table.h"

#include "base/check.h"

namespace nibble::scheduler {

void LeaseTable::Renew(const std::string& job_id, int64_t now_nanos, int64_t deadline_nanos) {
  Remove(job_id);
  leases_[job_id] = {now_nanos, deadline_nanos};
  by_deadline_.emplace(deadline_nanos, job_id);
  by_renewal_.emplace(now_nanos, job_id);
}

void LeaseTable::Extend(const std::string& job_id, int64_t deadline_nanos) {
  const auto found = leases_.find(job_id);
  NIBBLE_CHECK(found != leases_.end());
  by_deadline_.erase({found->second.deadline, job_id});
  found->second.deadline = deadline_nanos;
  by_deadline_.emplace(deadline_nanos, job_id);
}

void LeaseTable::Remove(const std::string& job_id) {
  const auto found = leases_.find(job_id);
  if (found == leases_.end()) return;
  by_deadline_.erase({found->second.deadline, job_id});
  by_renewal_.erase({found->second.renewed, job_id});
  leases_.erase(found);
}

std::vector<std::string> LeaseTable::Expired(int64_t now_nanos) const {
  std::vector<std::string> expired;
  for (const auto& [deadline, job_id] : by_deadline_) {
    if (deadline > now_nanos) break;
    expired.push_back(job_id);
  }
  return expired;
}

size_t LeaseTable::CountSilentSince(int64_t time_nanos) const {
  size_t count = 0;
  for (const auto& [renewed, job_id] : by_renewal_) {
    if (renewed > time_nanos) break;
    ++count;
  }
  return count;
}

std::vector<std::string> LeaseTable::JobIds() const {
  std::vector<std::string> ids;
  ids.reserve(leases_.size());
  for (const auto& [job_id, lease] : leases_) ids.push_back(job_id);
  return ids;
}

}  // namespace nibble::scheduler
