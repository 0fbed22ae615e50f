#include "server/store/crash_losing_store.h"

#include <iterator>
#include <utility>

#include "base/check.h"
#include "base/status_macros.h"
#include "server/store/memory_store.h"

namespace nibble::store {

CrashLosingStore::CrashLosingStore(Acknowledge acknowledge)
    : acknowledge_(acknowledge), visible_(MakeMemoryStore()) {}

void CrashLosingStore::CrashAtNextCommit(InFlight in_flight) {
  MutexLock lock(mutex_);
  crash_next_ = in_flight;
}

void CrashLosingStore::Crash() {
  MutexLock lock(mutex_);
  crashed_ = true;
}

void CrashLosingStore::Restart() {
  MutexLock lock(mutex_);
  crashed_ = false;
  crash_next_.reset();
  unsynced_.clear();
  visible_ = MakeMemoryStore();
  for (const scheduler::Transaction& transaction : durable_) {
    NIBBLE_CHECK(visible_->Commit(transaction).ok());
  }
}

void CrashLosingStore::Sync() {
  MutexLock lock(mutex_);
  durable_.insert(durable_.end(), std::make_move_iterator(unsynced_.begin()),
                  std::make_move_iterator(unsynced_.end()));
  unsynced_.clear();
}

absl::Status CrashLosingStore::Serving() const {
  return crashed_ ? absl::UnavailableError("the store has crashed") : absl::OkStatus();
}

absl::Status CrashLosingStore::Commit(const scheduler::Transaction& transaction) {
  MutexLock lock(mutex_);
  NIBBLE_RETURN_IF_ERROR(Serving());
  if (crash_next_.has_value()) {
    if (*crash_next_ == InFlight::kKept && visible_->Commit(transaction).ok()) {
      durable_.push_back(transaction);
    }
    crashed_ = true;
    return Serving();
  }
  NIBBLE_RETURN_IF_ERROR(visible_->Commit(transaction));
  (acknowledge_ == Acknowledge::kTooEarly ? unsynced_ : durable_).push_back(transaction);
  return absl::OkStatus();
}

absl::StatusOr<scheduler::JobRecord> CrashLosingStore::GetJob(absl::string_view job_id) {
  MutexLock lock(mutex_);
  NIBBLE_RETURN_IF_ERROR(Serving());
  return visible_->GetJob(job_id);
}

absl::StatusOr<JobPage> CrashLosingStore::ListJobs(const JobQuery& query) {
  MutexLock lock(mutex_);
  NIBBLE_RETURN_IF_ERROR(Serving());
  return visible_->ListJobs(query);
}

absl::StatusOr<EventPage> CrashLosingStore::ListEvents(const EventQuery& query) {
  MutexLock lock(mutex_);
  NIBBLE_RETURN_IF_ERROR(Serving());
  return visible_->ListEvents(query);
}

absl::StatusOr<std::vector<scheduler::CheckpointRecord>> CrashLosingStore::ListCheckpoints(
    absl::string_view job_id) {
  MutexLock lock(mutex_);
  NIBBLE_RETURN_IF_ERROR(Serving());
  return visible_->ListCheckpoints(job_id);
}

absl::StatusOr<std::optional<scheduler::IdempotencyRecord>> CrashLosingStore::FindKey(
    absl::string_view key) {
  MutexLock lock(mutex_);
  NIBBLE_RETURN_IF_ERROR(Serving());
  return visible_->FindKey(key);
}

absl::StatusOr<LiveState> CrashLosingStore::LoadLive() {
  MutexLock lock(mutex_);
  NIBBLE_RETURN_IF_ERROR(Serving());
  return visible_->LoadLive();
}

absl::StatusOr<std::array<int64_t, 10>> CrashLosingStore::CountJobs() {
  MutexLock lock(mutex_);
  NIBBLE_RETURN_IF_ERROR(Serving());
  return visible_->CountJobs();
}

}  // namespace nibble::store
