#include "server/scheduler/resource_tracker.h"

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace nibble::scheduler {

void ResourceTracker::Index(const std::string& worker_id, const WorkerSlots& worker) {
  if (worker.open && worker.used < worker.total) {
    open_by_free_.emplace(worker.total - worker.used, worker_id);
  }
}

void ResourceTracker::Unindex(const std::string& worker_id, const WorkerSlots& worker) {
  open_by_free_.erase({worker.total - worker.used, worker_id});
}

absl::Status ResourceTracker::SetWorker(const std::string& worker_id, int32_t total, bool open) {
  const auto found = workers_.find(worker_id);
  const int32_t used = found == workers_.end() ? 0 : found->second.used;
  if (total < used) {
    return absl::FailedPreconditionError(absl::StrCat("worker ", worker_id, " cannot have ", total,
                                                      " slots: ", used, " of them are held"));
  }
  WorkerSlots& worker = found == workers_.end() ? workers_[worker_id] : found->second;
  Unindex(worker_id, worker);
  total_slots_ += total - worker.total;
  worker.total = total;
  worker.open = open;
  Index(worker_id, worker);
  return absl::OkStatus();
}

absl::Status ResourceTracker::RemoveWorker(const std::string& worker_id) {
  const auto found = workers_.find(worker_id);
  if (found == workers_.end()) return absl::OkStatus();
  if (found->second.used > 0) {
    return absl::FailedPreconditionError(absl::StrCat("slots of worker ", worker_id, " are held"));
  }
  Unindex(worker_id, found->second);
  total_slots_ -= found->second.total;
  workers_.erase(found);
  return absl::OkStatus();
}

absl::Status ResourceTracker::Reserve(const AttemptId& attempt, const std::string& worker_id,
                                      int32_t slots) {
  if (slots < 1) return absl::InvalidArgumentError(absl::StrCat("cannot reserve ", slots));
  const auto found = workers_.find(worker_id);
  if (found == workers_.end()) return absl::NotFoundError(absl::StrCat("no worker ", worker_id));
  WorkerSlots& worker = found->second;
  if (worker.holders.count(attempt) != 0) {
    return absl::AlreadyExistsError(absl::StrCat(attempt.job_id, "/", attempt.attempt,
                                                 " holds slots of ", worker_id, " already"));
  }
  if (worker.total - worker.used < slots) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "worker ", worker_id, " has ", worker.total - worker.used, " slots free, not ", slots));
  }
  Unindex(worker_id, worker);
  worker.used += slots;
  worker.holders[attempt] = slots;
  Index(worker_id, worker);
  used_slots_ += slots;
  return absl::OkStatus();
}

absl::Status ResourceTracker::Reserve(const AttemptId& attempt,
                                      const std::vector<WorkerShare>& shares) {
  for (size_t i = 0; i < shares.size(); ++i) {
    const absl::Status reserved = Reserve(attempt, shares[i].worker_id, shares[i].slots);
    if (reserved.ok()) continue;
    for (size_t j = 0; j < i; ++j) NIBBLE_CHECK(Release(attempt, shares[j].worker_id).ok());
    return reserved;
  }
  return absl::OkStatus();
}

absl::Status ResourceTracker::Release(const AttemptId& attempt, const std::string& worker_id) {
  const auto found = workers_.find(worker_id);
  if (found == workers_.end() || found->second.holders.count(attempt) == 0) {
    return absl::NotFoundError(
        absl::StrCat(attempt.job_id, "/", attempt.attempt, " holds no slots of ", worker_id));
  }
  WorkerSlots& worker = found->second;
  Unindex(worker_id, worker);
  const auto holder = worker.holders.find(attempt);
  worker.used -= holder->second;
  used_slots_ -= holder->second;
  worker.holders.erase(holder);
  Index(worker_id, worker);
  return absl::OkStatus();
}

int32_t ResourceTracker::Held(const AttemptId& attempt, absl::string_view worker_id) const {
  const WorkerSlots* const worker = Find(worker_id);
  if (worker == nullptr) return 0;
  const auto holder = worker->holders.find(attempt);
  return holder == worker->holders.end() ? 0 : holder->second;
}

int32_t ResourceTracker::FreeSlots(absl::string_view worker_id) const {
  const WorkerSlots* worker = Find(worker_id);
  return worker == nullptr || !worker->open ? 0 : worker->total - worker->used;
}

const ResourceTracker::WorkerSlots* ResourceTracker::Find(absl::string_view worker_id) const {
  const auto found = workers_.find(worker_id);
  return found == workers_.end() ? nullptr : &found->second;
}

absl::Status ResourceTracker::Verify() const {
  int64_t total = 0, used = 0;
  size_t indexed = 0;
  for (const auto& [worker_id, worker] : workers_) {
    int64_t held = 0;
    for (const auto& [attempt, slots] : worker.holders) {
      if (slots < 1) {
        return absl::InternalError(
            absl::StrCat(attempt.job_id, "/", attempt.attempt, " holds ", slots, " slots"));
      }
      held += slots;
    }
    if (held != worker.used || held > worker.total) {
      return absl::InternalError(absl::StrCat("worker ", worker_id, " counts ", worker.used, " of ",
                                              worker.total, " slots used; its holders have ",
                                              held));
    }
    if (worker.open && worker.used < worker.total) {
      ++indexed;
      if (open_by_free_.count({worker.total - worker.used, worker_id}) == 0) {
        return absl::InternalError(absl::StrCat("worker ", worker_id, " is missing in the index"));
      }
    }
    total += worker.total;
    used += held;
  }
  if (indexed != open_by_free_.size() || total != total_slots_ || used != used_slots_) {
    return absl::InternalError(absl::StrCat("sums differ: ", used, "/", total, " slots, not ",
                                            used_slots_, "/", total_slots_));
  }
  return absl::OkStatus();
}

}  // namespace nibble::scheduler
