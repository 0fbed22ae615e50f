#include <limits>
#include <utility>

#include "base/status_macros.h"
#include "server/store/backup.h"
#include "server/store/database_thread.h"
#include "server/store/job_filter.h"
#include "server/store/metrics_tables.h"
#include "server/store/sqlite_store.h"

namespace nibble::store {
namespace {

// Records read in one turn on the database's thread: a few milliseconds, between which others
// write.
constexpr int64_t kRecordsPerTurn = 4096;

constexpr int64_t kMaxInt64 = std::numeric_limits<int64_t>::max();

class SqliteMetricStore : public MetricStore {
 public:
  SqliteMetricStore(std::unique_ptr<SqliteDatabase> database, CommitObserver* observer)
      : thread_(std::move(database), observer) {}

  absl::StatusOr<int64_t> Append(const MetricSource& source,
                                 absl::Span<const MetricRecord> records) override {
    NIBBLE_RETURN_IF_ERROR(CheckMetricRecords(records));
    if (records.empty()) return LastSequence(source);
    int64_t acknowledged = 0;
    NIBBLE_RETURN_IF_ERROR(thread_.Write([&](SqliteDatabase& db) -> absl::Status {
      NIBBLE_ASSIGN_OR_RETURN(const int64_t job_key, FindOrAddJobKey(db, source.attempt.job_id));
      NIBBLE_ASSIGN_OR_RETURN(const WriterTail tail, ReadMetricTail(db, job_key, source));
      if (records.front().sequence > tail.sequence + 1) {
        return GapError(source, tail.sequence + 1, records.front().sequence);
      }
      acknowledged = std::max(tail.sequence, records.back().sequence);
      const int64_t known = tail.sequence + 1 - records.front().sequence;
      if (known >= static_cast<int64_t>(records.size())) return absl::OkStatus();
      return InsertMetrics(db, job_key, source, records.subspan(known));
    }));
    return acknowledged;
  }

  absl::StatusOr<MetricPage> Read(const MetricQuery& query) override {
    NIBBLE_RETURN_IF_ERROR(CheckMetricQuery(query));
    RowBuilder builder(query);
    RecordKey position{query.first_step - 1, std::numeric_limits<int32_t>::max(), kMaxInt64,
                       kMaxInt64};
    if (query.after.has_value() && query.max_points == 0 && query.after->step >= query.first_step) {
      position = {query.after->step, query.after->rank, query.after->attempt, kMaxInt64};
    }
    const int64_t last_step = query.last_step > 0 ? query.last_step : kMaxInt64;
    ScanResult scan;
    int64_t corrupt_rows = 0;
    while (!scan.at_end && !scan.page_is_full) {
      NIBBLE_RETURN_IF_ERROR(thread_.Read([&](SqliteDatabase& db) -> absl::Status {
        NIBBLE_ASSIGN_OR_RETURN(const int64_t job_key, FindJobKey(db, query.job_id));
        NIBBLE_ASSIGN_OR_RETURN(
            scan, ScanMetrics(db, job_key, last_step, kRecordsPerTurn, position, builder));
        return absl::OkStatus();
      }));
      corrupt_rows += scan.corrupt_rows;
    }
    MetricPage page = builder.Finish(scan.page_is_full);
    page.corrupt_rows = corrupt_rows;
    return page;
  }

  absl::StatusOr<std::vector<int64_t>> LastSteps(absl::Span<const std::string> job_ids) override {
    std::vector<int64_t> steps;
    NIBBLE_RETURN_IF_ERROR(thread_.Read([&](SqliteDatabase& db) -> absl::Status {
      for (const std::string& job_id : job_ids) {
        NIBBLE_ASSIGN_OR_RETURN(const int64_t step, ReadLastStep(db, job_id));
        steps.push_back(step);
      }
      return absl::OkStatus();
    }));
    return steps;
  }

  absl::StatusOr<int64_t> LastSequence(const MetricSource& source) override {
    int64_t sequence = 0;
    NIBBLE_RETURN_IF_ERROR(thread_.Read([&](SqliteDatabase& db) -> absl::Status {
      NIBBLE_ASSIGN_OR_RETURN(const int64_t job_key, FindJobKey(db, source.attempt.job_id));
      NIBBLE_ASSIGN_OR_RETURN(const WriterTail tail, ReadMetricTail(db, job_key, source));
      sequence = tail.sequence;
      return absl::OkStatus();
    }));
    return sequence;
  }

  absl::StatusOr<int64_t> AppendLogs(const MetricSource& source,
                                     absl::Span<const LogRecord> records) override {
    NIBBLE_RETURN_IF_ERROR(CheckLogRecords(records));
    int64_t acknowledged = 0;
    NIBBLE_RETURN_IF_ERROR(thread_.Write([&](SqliteDatabase& db) -> absl::Status {
      NIBBLE_ASSIGN_OR_RETURN(const int64_t job_key, FindOrAddJobKey(db, source.attempt.job_id));
      NIBBLE_ASSIGN_OR_RETURN(const int64_t tail, ReadLogTail(db, job_key, source));
      size_t known = 0;
      while (known < records.size() && records[known].sequence <= tail) ++known;
      acknowledged = known < records.size() ? records.back().sequence : tail;
      return InsertLogs(db, job_key, source, records.subspan(known));
    }));
    return acknowledged;
  }

  absl::StatusOr<LogPage> ReadLogs(const LogQuery& query) override {
    NIBBLE_RETURN_IF_ERROR(CheckLimit(query.limit, 10'000));
    LogPage page;
    NIBBLE_RETURN_IF_ERROR(thread_.Read([&](SqliteDatabase& db) -> absl::Status {
      NIBBLE_ASSIGN_OR_RETURN(page, ReadLogLines(db, query));
      return absl::OkStatus();
    }));
    return page;
  }

  absl::Status DeleteJob(absl::string_view job_id) override {
    bool done = false;
    while (!done) {
      NIBBLE_RETURN_IF_ERROR(thread_.Write([&](SqliteDatabase& db) -> absl::Status {
        NIBBLE_ASSIGN_OR_RETURN(done, DeleteSome(db, job_id));
        return absl::OkStatus();
      }));
    }
    // Nobody would ask again for what a power cut brought back. A read is outside transactions.
    return thread_.Read([](SqliteDatabase& db) { return db.Sync(); });
  }

  absl::Status BackUp(const std::string& path) override { return BackUpDatabase(thread_, path); }

 private:
  DatabaseThread thread_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<MetricStore>> OpenSqliteMetricStore(const std::string& path,
                                                                   SqliteOptions options) {
  SqliteDatabase::Options database_options;
  database_options.vfs = options.vfs;
  database_options.durability = SqliteDatabase::Durability::kCheckpoints;
  database_options.application_id = kMetricsApplicationId;
  NIBBLE_ASSIGN_OR_RETURN(std::unique_ptr<SqliteDatabase> database,
                          SqliteDatabase::Open(path, database_options, MetricsMigrations()));
  return std::unique_ptr<MetricStore>(
      std::make_unique<SqliteMetricStore>(std::move(database), options.observer));
}

}  // namespace nibble::store
