// The daemon's records: jobs, their events and checkpoints, idempotency keys, purges. jobs.db
// behind sqlite_store.h; in memory behind memory_store.h. One contract for all:
// store_contract_test.cc.
#ifndef SERVER_STORE_STORE_H_
#define SERVER_STORE_STORE_H_

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/scheduler/effects.h"
#include "server/scheduler/events.h"
#include "server/scheduler/types.h"

namespace nibble::store {

// Newest submission first.
struct JobQuery {
  // Any of these; empty for all.
  std::vector<scheduler::JobState> states;
  std::string name;                           // empty for all
  std::map<std::string, std::string> labels;  // all of these
  // Only jobs with a smaller submit_sequence; 0 for no bound. Pass JobPage::next.
  int64_t before_sequence = 0;
  int32_t limit = 100;  // 1..1000
};

struct JobPage {
  std::vector<scheduler::JobRecord> jobs;
  // JobQuery::before_sequence of the next page; 0 where this was the last.
  int64_t next = 0;
  // Jobs left out because their row fails its checksum; GetJob gives DATA_LOSS for them.
  std::vector<std::string> corrupt_job_ids;
};

// Oldest first.
struct EventQuery {
  std::string job_id;          // empty for all jobs
  int64_t after_event_id = 0;  // EventPage::next
  int32_t limit = 100;         // 1..1000
};

struct EventPage {
  std::vector<scheduler::JobEventRecord> events;
  int64_t next = 0;  // 0 where this was the last
  // Left out because their row fails its checksum.
  std::vector<int64_t> corrupt_event_ids;
};

// A row that failed its checksum, kept as it was found.
struct CorruptRow {
  std::string table;
  std::string key;
};

struct LiveState {
  scheduler::Recovered recovered;  // its jobs by submit_sequence
  // Live jobs that are not in `recovered` because a row of theirs is damaged.
  std::vector<CorruptRow> corrupt;
};

// Thread-safe. Reads see every transaction whose Commit returned. A read of a row that fails its
// checksum is DATA_LOSS, never a guess. Errors of all methods: UNAVAILABLE after an I/O error,
// which is for good: the daemon must exit and recover from disk (R4).
class Store {
 public:
  virtual ~Store() = default;

  // Atomic, and durable on return. Concurrent calls share one fsync.
  // RESOURCE_EXHAUSTED: the disk is full; nothing was written and a later call may succeed.
  // UNAVAILABLE: I/O error; whether it was written is unknown, and every later call is refused.
  // INTERNAL: the transaction breaks a rule of the tables (a bug); nothing was written.
  virtual absl::Status Commit(const scheduler::Transaction& transaction) = 0;

  // NOT_FOUND, DATA_LOSS.
  virtual absl::StatusOr<scheduler::JobRecord> GetJob(absl::string_view job_id) = 0;
  // INVALID_ARGUMENT for a limit out of range.
  virtual absl::StatusOr<JobPage> ListJobs(const JobQuery& query) = 0;
  virtual absl::StatusOr<EventPage> ListEvents(const EventQuery& query) = 0;
  // Newest (largest step) first; empty for an unknown job.
  virtual absl::StatusOr<std::vector<scheduler::CheckpointRecord>> ListCheckpoints(
      absl::string_view job_id) = 0;
  virtual absl::StatusOr<std::optional<scheduler::IdempotencyRecord>> FindKey(
      absl::string_view key) = 0;
  // Everything a new Scheduler starts from.
  virtual absl::StatusOr<LiveState> LoadLive() = 0;
  // Jobs by JobState's number. Cheap: kept by counters, not counted.
  virtual absl::StatusOr<std::array<int64_t, 10>> CountJobs() = 0;
  // Copies everything, as at one instant, to a new file. UNIMPLEMENTED for stores without files.
  // See backup.h.
  virtual absl::Status BackUp(const std::string& path) {
    return absl::UnimplementedError(path + ": there is no file to copy");
  }
};

}  // namespace nibble::store

#endif  // SERVER_STORE_STORE_H_
