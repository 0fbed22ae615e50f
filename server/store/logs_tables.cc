// The log lines of metrics.db.
#include <utility>

#include "base/status_macros.h"
#include "server/store/metrics_tables.h"
#include "server/store/row_crc.h"

namespace nibble::store {
namespace {

struct LineKey {
  int64_t job_key;
  int64_t attempt;
  int64_t rank;
};

int64_t LineCrc(const LineKey& key, int64_t sequence, int64_t wall_micros, absl::string_view text) {
  return RowCrc("logs")
      .Add(key.job_key)
      .Add(key.attempt)
      .Add(key.rank)
      .Add(sequence)
      .Add(wall_micros)
      .Add(text)
      .value();
}

int64_t LogTailCrc(const LineKey& key, int64_t sequence) {
  return RowCrc("log_tails").Add(key.job_key).Add(key.attempt).Add(key.rank).Add(sequence).value();
}

absl::Status AddLogBytes(SqliteDatabase& db, int64_t job_key, int64_t bytes) {
  return db.Prepare("UPDATE metric_jobs SET log_bytes = log_bytes + ?2 WHERE job_key = ?1")
      .Bind(1, job_key)
      .Bind(2, bytes)
      .Run();
}

// The oldest line goes until the rest fits.
absl::Status DropOldest(SqliteDatabase& db, int64_t job_key) {
  int64_t bytes;
  {
    SqliteStatement select = db.Prepare("SELECT log_bytes FROM metric_jobs WHERE job_key = ?1");
    select.Bind(1, job_key);
    NIBBLE_RETURN_IF_ERROR(select.Step().status());
    bytes = select.Int(0);
  }
  int64_t dropped = 0;
  while (bytes - dropped > kMaxLogBytesOfJob) {
    int64_t log_id;
    {
      SqliteStatement oldest = db.Prepare(
          "SELECT log_id, length(CAST(text AS BLOB)) FROM logs WHERE job_key = ?1 "
          "ORDER BY log_id LIMIT 1");
      oldest.Bind(1, job_key);
      NIBBLE_ASSIGN_OR_RETURN(const bool found, oldest.Step());
      if (!found) {
        dropped = bytes;  // the count was wrong; start it anew
        break;
      }
      log_id = oldest.Int(0);
      dropped += oldest.Int(1);
    }
    NIBBLE_RETURN_IF_ERROR(db.Prepare("DELETE FROM logs WHERE log_id = ?1").Bind(1, log_id).Run());
  }
  return dropped == 0 ? absl::OkStatus() : AddLogBytes(db, job_key, -dropped);
}

absl::StatusOr<int64_t> NewestAttempt(SqliteDatabase& db, int64_t job_key, int32_t rank) {
  SqliteStatement select = db.Prepare(
      "SELECT coalesce(max(attempt), 0) FROM log_tails WHERE job_key = ?1 AND rank = ?2");
  select.Bind(1, job_key).Bind(2, int64_t{rank});
  NIBBLE_RETURN_IF_ERROR(select.Step().status());
  return select.Int(0);
}

}  // namespace

absl::StatusOr<int64_t> ReadLogTail(SqliteDatabase& db, int64_t job_key,
                                    const MetricSource& source) {
  const LineKey key{job_key, source.attempt.attempt, source.rank};
  SqliteStatement select = db.Prepare(
      "SELECT last_sequence, crc FROM log_tails WHERE job_key = ?1 AND attempt = ?2 AND rank = ?3");
  select.Bind(1, key.job_key).Bind(2, key.attempt).Bind(3, key.rank);
  NIBBLE_ASSIGN_OR_RETURN(const bool found, select.Step());
  if (!found) return 0;
  if (LogTailCrc(key, select.Int(0)) != select.Int(1)) {
    return CorruptRowError("log_tails", source.attempt.job_id);
  }
  return select.Int(0);
}

absl::Status InsertLogs(SqliteDatabase& db, int64_t job_key, const MetricSource& source,
                        absl::Span<const LogRecord> records) {
  if (records.empty()) return absl::OkStatus();
  const LineKey key{job_key, source.attempt.attempt, source.rank};
  int64_t bytes = 0;
  for (const LogRecord& record : records) {
    const absl::string_view text = CutLogLine(record.text);
    bytes += static_cast<int64_t>(text.size());
    SqliteStatement insert = db.Prepare(
        "INSERT INTO logs (job_key, attempt, rank, sequence, wall_micros, text, crc) "
        "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)");
    insert.Bind(1, key.job_key).Bind(2, key.attempt).Bind(3, key.rank).Bind(4, record.sequence);
    insert.Bind(5, record.wall_micros).Bind(6, text);
    insert.Bind(7, LineCrc(key, record.sequence, record.wall_micros, text));
    NIBBLE_RETURN_IF_ERROR(insert.Run());
  }
  SqliteStatement put = db.Prepare(
      "INSERT OR REPLACE INTO log_tails (job_key, attempt, rank, last_sequence, crc) "
      "VALUES (?1, ?2, ?3, ?4, ?5)");
  put.Bind(1, key.job_key).Bind(2, key.attempt).Bind(3, key.rank);
  put.Bind(4, records.back().sequence).Bind(5, LogTailCrc(key, records.back().sequence));
  NIBBLE_RETURN_IF_ERROR(put.Run());
  NIBBLE_RETURN_IF_ERROR(AddLogBytes(db, job_key, bytes));
  return DropOldest(db, job_key);
}

absl::StatusOr<LogPage> ReadLogLines(SqliteDatabase& db, const LogQuery& query) {
  LogPage page;
  NIBBLE_ASSIGN_OR_RETURN(const int64_t job_key, FindJobKey(db, query.job_id));
  if (job_key == 0) return page;
  page.attempt = query.attempt;
  if (page.attempt == 0) {
    NIBBLE_ASSIGN_OR_RETURN(page.attempt, NewestAttempt(db, job_key, query.rank));
  }
  const LineKey key{job_key, page.attempt, query.rank};
  SqliteStatement select = db.Prepare(
      "SELECT sequence, wall_micros, text, crc FROM logs WHERE job_key = ?1 AND attempt = ?2 AND "
      "rank = ?3 AND sequence > ?4 ORDER BY sequence LIMIT ?5");
  select.Bind(1, key.job_key).Bind(2, key.attempt).Bind(3, key.rank);
  select.Bind(4, query.after_sequence).Bind(5, int64_t{query.limit} + 1);
  int64_t bytes = 0;
  while (true) {
    NIBBLE_ASSIGN_OR_RETURN(const bool found, select.Step());
    if (!found) return page;
    if (static_cast<int32_t>(page.lines.size()) == query.limit || bytes > kMaxLogPageBytes) {
      page.more = true;
      return page;
    }
    const absl::string_view text = select.Text(2);
    if (LineCrc(key, select.Int(0), select.Int(1), text) != select.Int(3)) {
      ++page.corrupt_rows;
      continue;
    }
    bytes += static_cast<int64_t>(text.size());
    page.lines.push_back({select.Int(0), select.Int(1), std::string(text)});
  }
}

}  // namespace nibble::store
