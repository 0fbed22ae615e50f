#include "server/store/sqlite_store.h"

#include <limits>
#include <utility>

#include "base/mutex.h"
#include "base/status_macros.h"
#include "server/store/backup.h"
#include "server/store/database_thread.h"
#include "server/store/job_filter.h"
#include "server/store/jobs_tables.h"
#include "server/store/live_jobs.h"

namespace nibble::store {
namespace {

using scheduler::CheckpointRecord;
using scheduler::IdempotencyRecord;
using scheduler::JobRecord;

// Rows looked at in one turn on the database's thread, so that a long list does not hold up
// commits.
constexpr int64_t kRowsPerTurn = 1001;

class SqliteStore : public Store {
 public:
  SqliteStore(std::unique_ptr<SqliteDatabase> database, std::array<int64_t, 10> counts,
              CommitObserver* observer)
      : counts_(counts), thread_(std::move(database), observer) {}

  absl::Status Commit(const scheduler::Transaction& transaction) override {
    StateDeltas deltas{};
    NIBBLE_RETURN_IF_ERROR(thread_.Write([&](SqliteDatabase& db) {
      deltas = {};
      return WriteTransaction(db, transaction, deltas);
    }));
    MutexLock lock(mutex_);
    for (size_t i = 0; i < deltas.size(); ++i) counts_[i] += deltas[i];
    return absl::OkStatus();
  }

  absl::StatusOr<JobRecord> GetJob(absl::string_view job_id) override {
    return Read<JobRecord>([&](SqliteDatabase& db) { return ReadJob(db, job_id); });
  }

  absl::StatusOr<JobPage> ListJobs(const JobQuery& query) override {
    NIBBLE_RETURN_IF_ERROR(CheckLimit(query.limit, kMaxPage));
    JobPage page;
    int64_t before =
        query.before_sequence > 0 ? query.before_sequence : std::numeric_limits<int64_t>::max();
    bool more = true;
    while (more) {
      NIBBLE_RETURN_IF_ERROR(thread_.Read([&](SqliteDatabase& db) -> absl::Status {
        NIBBLE_ASSIGN_OR_RETURN(more, FillPage(db, query, before, page));
        return absl::OkStatus();
      }));
    }
    return page;
  }

  absl::StatusOr<EventPage> ListEvents(const EventQuery& query) override {
    NIBBLE_RETURN_IF_ERROR(CheckLimit(query.limit, kMaxPage));
    return Read<EventPage>([&](SqliteDatabase& db) { return ReadEvents(db, query); });
  }

  absl::StatusOr<std::vector<CheckpointRecord>> ListCheckpoints(absl::string_view job_id) override {
    return Read<std::vector<CheckpointRecord>>(
        [&](SqliteDatabase& db) { return ReadCheckpoints(db, job_id); });
  }

  absl::StatusOr<std::optional<IdempotencyRecord>> FindKey(absl::string_view key) override {
    return Read<std::optional<IdempotencyRecord>>(
        [&](SqliteDatabase& db) { return ReadKey(db, key); });
  }

  absl::StatusOr<LiveState> LoadLive() override {
    LiveState state;
    NIBBLE_RETURN_IF_ERROR(LoadLiveState(thread_, state));
    return state;
  }

  absl::StatusOr<std::array<int64_t, 10>> CountJobs() override {
    MutexLock lock(mutex_);
    return counts_;
  }

  absl::Status BackUp(const std::string& path) override { return BackUpDatabase(thread_, path); }

 private:
  template <typename T, typename F>
  absl::StatusOr<T> Read(const F& work) {
    absl::StatusOr<T> result = absl::UnknownError("not read");
    NIBBLE_RETURN_IF_ERROR(thread_.Read([&](SqliteDatabase& db) {
      result = work(db);
      return result.status();
    }));
    return result;
  }

  // Adds matching jobs below `before` and moves it on. False when the page is complete.
  static absl::StatusOr<bool> FillPage(SqliteDatabase& db, const JobQuery& query, int64_t& before,
                                       JobPage& page) {
    NIBBLE_ASSIGN_OR_RETURN(const std::vector<int64_t> candidates,
                            CandidateJobs(db, query, before, kRowsPerTurn));
    for (const int64_t sequence : candidates) {
      std::string corrupt_job_id;
      absl::StatusOr<JobRecord> job = ReadJobBySequence(db, sequence, &corrupt_job_id);
      if (absl::IsDataLoss(job.status())) {
        page.corrupt_job_ids.push_back(corrupt_job_id);
      } else if (!job.ok()) {
        if (!absl::IsNotFound(job.status())) return job.status();
      } else if (Matches(query, *job)) {
        if (static_cast<int32_t>(page.jobs.size()) == query.limit) {
          page.next = page.jobs.back().submit_sequence;
          return false;
        }
        page.jobs.push_back(*std::move(job));
      }
      before = sequence;
    }
    return static_cast<int64_t>(candidates.size()) == kRowsPerTurn;
  }

  Mutex mutex_;
  std::array<int64_t, 10> counts_ GUARDED_BY(mutex_);
  DatabaseThread thread_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Store>> OpenSqliteStore(const std::string& path,
                                                       SqliteOptions options) {
  SqliteDatabase::Options database_options;
  database_options.vfs = options.vfs;
  database_options.durability = SqliteDatabase::Durability::kEveryCommit;
  database_options.application_id = kJobsApplicationId;
  NIBBLE_ASSIGN_OR_RETURN(std::unique_ptr<SqliteDatabase> database,
                          SqliteDatabase::Open(path, database_options, JobsMigrations()));
  auto counts = CountByState(*database);
  NIBBLE_RETURN_IF_ERROR(counts.status());
  return std::unique_ptr<Store>(
      std::make_unique<SqliteStore>(std::move(database), *counts, options.observer));
}

}  // namespace nibble::store
