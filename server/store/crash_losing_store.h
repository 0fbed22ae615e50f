// A Store that crashes where a test says, and then has forgotten what was not committed. For tests
// and for the simulator.
#ifndef SERVER_STORE_CRASH_LOSING_STORE_H_
#define SERVER_STORE_CRASH_LOSING_STORE_H_

#include <memory>
#include <vector>

#include "base/mutex.h"
#include "server/store/store.h"

namespace nibble::store {

class CrashLosingStore : public Store {
 public:
  // When Commit returns. kTooEarly is the bug that a missing fsync is: what was acknowledged since
  // the last Sync is lost in a crash. Tests of durability must fail with it.
  enum class Acknowledge { kWhenDurable, kTooEarly };
  // What a crash in the middle of a commit leaves. The caller never learns which.
  enum class InFlight { kLost, kKept };

  explicit CrashLosingStore(Acknowledge acknowledge = Acknowledge::kWhenDurable);

  // The next Commit crashes.
  void CrashAtNextCommit(InFlight in_flight);
  // Crashes now: every call is UNAVAILABLE until Restart.
  void Crash();
  // Serves again, from what was durable.
  void Restart();
  // Makes durable what kTooEarly has acknowledged.
  void Sync();

  absl::Status Commit(const scheduler::Transaction& transaction) override;
  absl::StatusOr<scheduler::JobRecord> GetJob(absl::string_view job_id) override;
  absl::StatusOr<JobPage> ListJobs(const JobQuery& query) override;
  absl::StatusOr<EventPage> ListEvents(const EventQuery& query) override;
  absl::StatusOr<std::vector<scheduler::CheckpointRecord>> ListCheckpoints(
      absl::string_view job_id) override;
  absl::StatusOr<std::optional<scheduler::IdempotencyRecord>> FindKey(
      absl::string_view key) override;
  absl::StatusOr<LiveState> LoadLive() override;
  absl::StatusOr<std::array<int64_t, 10>> CountJobs() override;

 private:
  absl::Status Serving() const REQUIRES(mutex_);

  const Acknowledge acknowledge_;
  Mutex mutex_;
  bool crashed_ GUARDED_BY(mutex_) = false;
  std::optional<InFlight> crash_next_ GUARDED_BY(mutex_);
  // What survives a crash, in order.
  std::vector<scheduler::Transaction> durable_ GUARDED_BY(mutex_);
  std::vector<scheduler::Transaction> unsynced_ GUARDED_BY(mutex_);
  std::unique_ptr<Store> visible_ GUARDED_BY(mutex_);
};

}  // namespace nibble::store

#endif  // SERVER_STORE_CRASH_LOSING_STORE_H_
