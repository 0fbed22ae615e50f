// The output directory of a trainer that runs alone:
//   metrics.jsonl          one JSON object a step, each step once (of scores alone: step 0)
//   checkpoints/step-<N>   docs/formats/checkpoint.md
//   result.json            written at the end
//   lock                   held by the running process
#ifndef WORKER_RUN_DIRECTORY_H_
#define WORKER_RUN_DIRECTORY_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/trainer/training_run.h"

namespace nibble::worker {

struct ResumePoint {
  std::string path;    // empty: from the start
  std::string digest;  // of the manifest
};

// Not thread-safe.
class RunDirectory {
 public:
  // Makes the directory where it is missing and locks it. FAILED_PRECONDITION: another process
  // holds it.
  static absl::StatusOr<std::unique_ptr<RunDirectory>> Open(const std::string& path);
  ~RunDirectory();
  RunDirectory(const RunDirectory&) = delete;
  RunDirectory& operator=(const RunDirectory&) = delete;

  // The newest checkpoint that verifies. DATA_LOSS: there are checkpoints, but none does.
  absl::StatusOr<ResumePoint> NewestCheckpoint() const;

  // Cuts metrics.jsonl after the row of `step`, and after the first damaged row.
  absl::Status StartMetrics(int64_t step);
  // `durable`: on disk on return.
  absl::Status AppendMetrics(const trainer::StepReport& report, bool durable);
  // Removes all but the newest `keep` checkpoints of steps up to `step`.
  absl::Status KeepCheckpoints(int64_t step, int64_t keep) const;
  absl::Status WriteResult(const std::string& json) const;

  std::string checkpoints_directory() const;

 private:
  RunDirectory(std::string path, int lock_fd) : path_(std::move(path)), lock_fd_(lock_fd) {}
  const std::string path_;
  const int lock_fd_;
  int metrics_fd_ = -1;
};

}  // namespace nibble::worker

#endif  // WORKER_RUN_DIRECTORY_H_
