// The tables of metrics.db. On the database's thread.
#ifndef SERVER_STORE_METRICS_TABLES_H_
#define SERVER_STORE_METRICS_TABLES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "server/store/metric_rules.h"
#include "server/store/metric_store.h"
#include "server/store/sqlite_database.h"

namespace nibble::store {

struct WriterTail {
  int64_t sequence = 0;
  int64_t step = 0;
};

// The job's short number; 0 where it has none.
absl::StatusOr<int64_t> FindJobKey(SqliteDatabase& db, absl::string_view job_id);
absl::StatusOr<int64_t> FindOrAddJobKey(SqliteDatabase& db, absl::string_view job_id);

absl::StatusOr<WriterTail> ReadMetricTail(SqliteDatabase& db, int64_t job_key,
                                          const MetricSource& source);
// The caller has checked the records; they follow `tail`.
absl::Status InsertMetrics(SqliteDatabase& db, int64_t job_key, const MetricSource& source,
                           absl::Span<const MetricRecord> records);
// Last step of the newest attempt with rows; 0 for none.
absl::StatusOr<int64_t> ReadLastStep(SqliteDatabase& db, absl::string_view job_id);

// Feeds records after `position` to the builder, at most so many, and moves `position` on.
struct ScanResult {
  bool at_end = false;
  bool page_is_full = false;
  int64_t corrupt_rows = 0;
};
absl::StatusOr<ScanResult> ScanMetrics(SqliteDatabase& db, int64_t job_key, int64_t last_step,
                                       int64_t most, RecordKey& position, RowBuilder& builder);

absl::StatusOr<int64_t> ReadLogTail(SqliteDatabase& db, int64_t job_key,
                                    const MetricSource& source);
// Also removes the job's oldest lines beyond kMaxLogBytesOfJob.
absl::Status InsertLogs(SqliteDatabase& db, int64_t job_key, const MetricSource& source,
                        absl::Span<const LogRecord> records);
absl::StatusOr<LogPage> ReadLogLines(SqliteDatabase& db, const LogQuery& query);

// Removes some of a job's rows; true when nothing is left.
absl::StatusOr<bool> DeleteSome(SqliteDatabase& db, absl::string_view job_id);

}  // namespace nibble::store

#endif  // SERVER_STORE_METRICS_TABLES_H_
