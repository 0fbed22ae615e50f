// A worker's directory on disk:
//   lock                                    flock'ed by the worker; holds its process id
//   worker_id                               made once
//   jobs/<job_id>/attempt-<n>/step-<N>/     checkpoints
//   jobs/<job_id>/attempt-<n>/step-<N>.damaged   found not to verify
//   jobs/<job_id>/attempt-<n>/trainer.log   what the trainer printed, its beginning
//
// What is removed is found by listing this tree and never by a path that somebody sent, so nothing
// outside it can be removed.
#ifndef WORKER_AGENT_WORK_DIRECTORY_H_
#define WORKER_AGENT_WORK_DIRECTORY_H_

#include <cstdint>
#include <set>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/random.h"

namespace nibble::agent {

// A committed or written checkpoint of a job, by attempt and step.
using CheckpointKey = std::pair<int64_t, int64_t>;

// Thread-safe after Open. Movable.
// What the agent asks of a work directory. The simulator has one in memory.
class JobDirectories {
 public:
  virtual ~JobDirectories() = default;

  // Where the attempt writes. REQUIRES: IsId(job_id).
  virtual std::string AttemptDirectory(absl::string_view job_id, int64_t attempt) const = 0;
  // Whether that directory is there: a trainer of the attempt was started once.
  virtual bool HasAttempt(absl::string_view job_id, int64_t attempt) const = 0;

  // Removes the job's checkpoints that are of an earlier attempt than `newest`, or of its attempt
  // and not beyond its step, and are not in `retained`.
  virtual absl::Status RemoveCheckpoints(absl::string_view job_id, CheckpointKey newest,
                                         const std::set<CheckpointKey>& retained) const = 0;

  // Puts a damaged checkpoint aside, as step-<N>.damaged, where it stays until the job is deleted.
  // Nothing where it is not in this tree.
  virtual absl::Status Quarantine(absl::string_view /*job_id*/,
                                  CheckpointKey /*checkpoint*/) const {
    return absl::OkStatus();
  }

  // Removes everything of a job. INVALID_ARGUMENT where it is not a job id.
  virtual absl::Status RemoveJob(absl::string_view job_id) const = 0;
};

class WorkDirectory final : public JobDirectories {
 public:
  // Makes the directory where needed and locks it. FAILED_PRECONDITION, naming the holder's process
  // id, where another process has the lock; the errors of base/files.h.
  static absl::StatusOr<WorkDirectory> Open(const std::string& path);
  WorkDirectory(WorkDirectory&& other) noexcept;
  ~WorkDirectory() override;

  // Absolute, without symbolic links.
  const std::string& path() const { return path_; }

  // The id in the file worker_id, made now if there is none. DATA_LOSS where the file does not hold
  // a valid id.
  absl::StatusOr<std::string> WorkerId(RandomSource& random) const;

  std::string AttemptDirectory(absl::string_view job_id, int64_t attempt) const override;
  bool HasAttempt(absl::string_view job_id, int64_t attempt) const override;
  absl::Status RemoveCheckpoints(absl::string_view job_id, CheckpointKey newest,
                                 const std::set<CheckpointKey>& retained) const override;

  absl::Status Quarantine(absl::string_view job_id, CheckpointKey checkpoint) const override;

  // Removes unfinished checkpoints (*.tmp) of all jobs. REQUIRES: no trainer runs.
  absl::Status RemoveUnfinished() const;

  absl::Status RemoveJob(absl::string_view job_id) const override;

  // Job and worker ids: 1 to 128 of [A-Za-z0-9._-], not beginning with a dot. So never a path.
  static bool IsId(absl::string_view id);

 private:
  WorkDirectory(std::string path, int lock_fd) : path_(std::move(path)), lock_fd_(lock_fd) {}
  std::string JobsDirectory() const { return path_ + "/jobs"; }

  std::string path_;
  int lock_fd_ = -1;
};

}  // namespace nibble::agent

#endif  // WORKER_AGENT_WORK_DIRECTORY_H_
