// The leases of live attempts, one a job: until when, and when their worker last renewed them.
#ifndef SERVER_SCHEDULER_LEASE_TABLE_H_
#define SERVER_SCHEDULER_LEASE_TABLE_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace nibble::scheduler {

class LeaseTable {
 public:
  // The worker was heard of at `now`: the lease runs until `deadline`. Also creates it.
  void Renew(const std::string& job_id, int64_t now_nanos, int64_t deadline_nanos);
  // Moves the deadline; the worker was not heard of.
  void Extend(const std::string& job_id, int64_t deadline_nanos);
  // No effect where there is none.
  void Remove(const std::string& job_id);

  // Jobs whose deadline is at or before `now`, first deadline first.
  std::vector<std::string> Expired(int64_t now_nanos) const;
  // Number of leases last renewed at or before `time`. O(that number).
  size_t CountSilentSince(int64_t time_nanos) const;
  // The lease exists.
  int64_t LastRenewal(const std::string& job_id) const { return leases_.at(job_id).renewed; }
  std::vector<std::string> JobIds() const;
  size_t size() const { return leases_.size(); }

 private:
  struct Lease {
    int64_t renewed = 0;
    int64_t deadline = 0;
  };
  std::map<std::string, Lease> leases_;
  std::set<std::pair<int64_t, std::string>> by_deadline_;
  std::set<std::pair<int64_t, std::string>> by_renewal_;
};

}  // namespace nibble::scheduler

#endif  // SERVER_SCHEDULER_LEASE_TABLE_H_
