// The file system that all simulated workers see: checkpoints under /disk/<worker>/jobs/...
#ifndef TESTS_SIM_DISK_H_
#define TESTS_SIM_DISK_H_

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>

#include "worker/agent/work_directory.h"

namespace nibble::sim {

// What a checkpoint holds.
struct SavedState {
  int64_t step = 0;
  uint64_t weights = 0;
  std::string Digest() const;
};

class Disk {
 public:
  // Called with a path before its checkpoint is removed.
  std::function<void(const std::string& path)> on_remove;

  void MakeAttempt(const std::string& worker, const std::string& job_id, int64_t attempt);
  bool HasAttempt(const std::string& worker, const std::string& job_id, int64_t attempt) const;
  void Write(const std::string& path, const SavedState& state) { checkpoints_[path] = state; }
  // Absent where there is nothing.
  std::optional<SavedState> Read(const std::string& path) const;
  void RemoveCheckpoints(const std::string& worker, const std::string& job_id,
                         agent::CheckpointKey newest,
                         const std::set<agent::CheckpointKey>& retained);
  void RemoveJob(const std::string& worker, const std::string& job_id);
  // Whether anything of the job is left on the worker.
  bool HasJob(const std::string& worker, const std::string& job_id) const;

  static std::string JobDirectory(const std::string& worker, const std::string& job_id);

 private:
  void Remove(const std::string& path);

  std::map<std::string, SavedState> checkpoints_;
  std::set<std::tuple<std::string, std::string, int64_t>> attempts_;  // worker, job, attempt
};

// One worker's part of the disk, as its agent sees it.
class SimDirectories : public agent::JobDirectories {
 public:
  SimDirectories(Disk* disk, std::string worker) : disk_(disk), worker_(std::move(worker)) {}
  std::string AttemptDirectory(absl::string_view job_id, int64_t attempt) const override;
  bool HasAttempt(absl::string_view job_id, int64_t attempt) const override;
  absl::Status RemoveCheckpoints(absl::string_view job_id, agent::CheckpointKey newest,
                                 const std::set<agent::CheckpointKey>& retained) const override;
  absl::Status RemoveJob(absl::string_view job_id) const override;

 private:
  Disk* const disk_;
  const std::string worker_;
};

}  // namespace nibble::sim

#endif  // TESTS_SIM_DISK_H_
