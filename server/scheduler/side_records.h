// The smaller records of the control plane, beside jobs and what belongs to them. Plain values that
// the scheduler computes and the store keeps.
#ifndef SERVER_SCHEDULER_SIDE_RECORDS_H_
#define SERVER_SCHEDULER_SIDE_RECORDS_H_

#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

namespace nibble::scheduler {

// What a submission's idempotency key was answered with.
struct IdempotencyRecord {
  std::string key;
  std::string job_id;
  std::string fingerprint;

  friend bool operator==(const IdempotencyRecord&, const IdempotencyRecord&) = default;
};

// Files of a deleted job that `worker_id` has yet to remove; an empty worker_id stands for the
// daemon's own metrics and logs.
struct PurgeRecord {
  std::string job_id;
  std::string worker_id;

  friend bool operator==(const PurgeRecord&, const PurgeRecord&) = default;
  friend bool operator<(const PurgeRecord& a, const PurgeRecord& b) {
    return std::tie(a.job_id, a.worker_id) < std::tie(b.job_id, b.worker_id);
  }
};

// What must be remembered of a worker over restarts of the daemon.
struct WorkerRecord {
  std::string worker_id;
  // Takes no new work until it is undrained.
  bool drained = false;
  std::string drain_reason;
  std::string drain_actor;
  int64_t drain_micros = 0;
  // Jobs that failed here since the last that got further.
  std::vector<std::string> failed_jobs;

  friend bool operator==(const WorkerRecord&, const WorkerRecord&) = default;
};

// What a project has used, decayed to `clock_nanos`.
struct ProjectUsage {
  std::string project;
  double slot_seconds = 0;
  int64_t clock_nanos = 0;  // scheduler's clock

  friend bool operator==(const ProjectUsage&, const ProjectUsage&) = default;
};

}  // namespace nibble::scheduler

#endif  // SERVER_SCHEDULER_SIDE_RECORDS_H_
