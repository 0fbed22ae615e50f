#include "tests/sim/disk.h"

#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tests/sim/plan.h"

namespace nibble::sim {

std::string SavedState::Digest() const {
  return DigestOf(weights ^ (static_cast<uint64_t>(step) << 48));
}

std::string Disk::JobDirectory(const std::string& worker, const std::string& job_id) {
  return absl::StrCat("/disk/", worker, "/jobs/", job_id, "/");
}

void Disk::MakeAttempt(const std::string& worker, const std::string& job_id, int64_t attempt) {
  attempts_.insert({worker, job_id, attempt});
}

bool Disk::HasAttempt(const std::string& worker, const std::string& job_id, int64_t attempt) const {
  return attempts_.count({worker, job_id, attempt}) != 0;
}

std::optional<SavedState> Disk::Read(const std::string& path) const {
  const auto found = checkpoints_.find(path);
  if (found == checkpoints_.end()) return std::nullopt;
  return found->second;
}

void Disk::Remove(const std::string& path) {
  if (on_remove) on_remove(path);
  checkpoints_.erase(path);
}

// As WorkDirectory::RemoveCheckpoints.
void Disk::RemoveCheckpoints(const std::string& worker, const std::string& job_id,
                             agent::CheckpointKey newest,
                             const std::set<agent::CheckpointKey>& retained) {
  const std::string directory = JobDirectory(worker, job_id);
  std::vector<std::string> gone;
  for (auto it = checkpoints_.lower_bound(directory);
       it != checkpoints_.end() && absl::StartsWith(it->first, directory); ++it) {
    const std::vector<std::string> parts = absl::StrSplit(it->first.substr(directory.size()), '/');
    agent::CheckpointKey key;
    if (parts.size() != 2 || !absl::SimpleAtoi(parts[0].substr(8), &key.first) ||
        !absl::SimpleAtoi(parts[1].substr(5), &key.second)) {
      continue;
    }
    if (key <= newest && retained.count(key) == 0) gone.push_back(it->first);
  }
  for (const std::string& path : gone) Remove(path);
}

void Disk::RemoveJob(const std::string& worker, const std::string& job_id) {
  const std::string directory = JobDirectory(worker, job_id);
  std::vector<std::string> gone;
  for (auto it = checkpoints_.lower_bound(directory);
       it != checkpoints_.end() && absl::StartsWith(it->first, directory); ++it) {
    gone.push_back(it->first);
  }
  for (const std::string& path : gone) Remove(path);
  auto it = attempts_.lower_bound({worker, job_id, INT64_MIN});
  while (it != attempts_.end() && std::get<0>(*it) == worker && std::get<1>(*it) == job_id) {
    it = attempts_.erase(it);
  }
}

bool Disk::HasJob(const std::string& worker, const std::string& job_id) const {
  const auto it = attempts_.lower_bound({worker, job_id, INT64_MIN});
  return it != attempts_.end() && std::get<0>(*it) == worker && std::get<1>(*it) == job_id;
}

std::string SimDirectories::AttemptDirectory(absl::string_view job_id, int64_t attempt) const {
  return absl::StrCat(Disk::JobDirectory(worker_, std::string(job_id)), "attempt-", attempt);
}

bool SimDirectories::HasAttempt(absl::string_view job_id, int64_t attempt) const {
  return disk_->HasAttempt(worker_, std::string(job_id), attempt);
}

absl::Status SimDirectories::RemoveCheckpoints(
    absl::string_view job_id, agent::CheckpointKey newest,
    const std::set<agent::CheckpointKey>& retained) const {
  disk_->RemoveCheckpoints(worker_, std::string(job_id), newest, retained);
  return absl::OkStatus();
}

absl::Status SimDirectories::RemoveJob(absl::string_view job_id) const {
  disk_->RemoveJob(worker_, std::string(job_id));
  return absl::OkStatus();
}

}  // namespace nibble::sim
