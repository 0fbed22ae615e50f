#include "server/store/metrics_tables.h"

#include <cstring>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "server/store/row_crc.h"

namespace nibble::store {
namespace {

constexpr size_t kPairBytes = sizeof(uint16_t) + sizeof(double);

// Rows removed in one transaction of DeleteSome.
constexpr int64_t kRowsPerDelete = 20'000;

int64_t MetricCrc(int64_t job_key, const RecordKey& key, int64_t wall_micros,
                  absl::string_view pairs) {
  return RowCrc("metrics")
      .Add(job_key)
      .Add(key.step)
      .Add(int64_t{key.rank})
      .Add(key.attempt)
      .Add(key.sequence)
      .Add(wall_micros)
      .Add(pairs)
      .value();
}

int64_t TailCrc(int64_t job_key, int64_t attempt, int64_t rank, const WriterTail& tail) {
  return RowCrc("metric_tails")
      .Add(job_key)
      .Add(attempt)
      .Add(rank)
      .Add(tail.sequence)
      .Add(tail.step)
      .value();
}

absl::StatusOr<int64_t> NameId(SqliteDatabase& db, const std::string& name) {
  {
    SqliteStatement find = db.Prepare("SELECT name_id FROM metric_names WHERE name = ?1");
    find.Bind(1, name);
    NIBBLE_ASSIGN_OR_RETURN(const bool found, find.Step());
    if (found) return find.Int(0);
  }
  int64_t id;
  {
    SqliteStatement count = db.Prepare("SELECT coalesce(max(name_id), -1) + 1 FROM metric_names");
    NIBBLE_RETURN_IF_ERROR(count.Step().status());
    id = count.Int(0);
  }
  if (id >= kMaxMetricNames) return TooManyNamesError();
  SqliteStatement add = db.Prepare("INSERT INTO metric_names (name_id, name) VALUES (?1, ?2)");
  NIBBLE_RETURN_IF_ERROR(add.Bind(1, id).Bind(2, name).Run());
  return id;
}

absl::StatusOr<std::map<int64_t, std::string>> AllNames(SqliteDatabase& db) {
  std::map<int64_t, std::string> names;
  SqliteStatement select = db.Prepare("SELECT name_id, name FROM metric_names");
  while (true) {
    NIBBLE_ASSIGN_OR_RETURN(const bool found, select.Step());
    if (!found) return names;
    names[select.Int(0)] = std::string(select.Text(1));
  }
}

bool DecodePairs(absl::string_view pairs, const std::map<int64_t, std::string>& names,
                 MetricValues& values) {
  values.clear();
  if (pairs.size() % kPairBytes != 0) return false;
  for (size_t at = 0; at < pairs.size(); at += kPairBytes) {
    uint16_t id;
    double value;
    std::memcpy(&id, pairs.data() + at, sizeof(id));
    std::memcpy(&value, pairs.data() + at + sizeof(id), sizeof(value));
    const auto name = names.find(id);
    if (name == names.end()) return false;
    values.emplace_back(name->second, value);
  }
  return true;
}

}  // namespace

absl::StatusOr<int64_t> FindJobKey(SqliteDatabase& db, absl::string_view job_id) {
  SqliteStatement find = db.Prepare("SELECT job_key FROM metric_jobs WHERE job_id = ?1");
  find.Bind(1, job_id);
  NIBBLE_ASSIGN_OR_RETURN(const bool found, find.Step());
  return found ? find.Int(0) : 0;
}

absl::StatusOr<int64_t> FindOrAddJobKey(SqliteDatabase& db, absl::string_view job_id) {
  NIBBLE_ASSIGN_OR_RETURN(const int64_t job_key, FindJobKey(db, job_id));
  if (job_key != 0) return job_key;
  NIBBLE_RETURN_IF_ERROR(
      db.Prepare("INSERT INTO metric_jobs (job_id) VALUES (?1)").Bind(1, job_id).Run());
  return FindJobKey(db, job_id);
}

absl::StatusOr<WriterTail> ReadMetricTail(SqliteDatabase& db, int64_t job_key,
                                          const MetricSource& source) {
  SqliteStatement select = db.Prepare(
      "SELECT last_sequence, last_step, crc FROM metric_tails "
      "WHERE job_key = ?1 AND attempt = ?2 AND rank = ?3");
  select.Bind(1, job_key).Bind(2, source.attempt.attempt).Bind(3, int64_t{source.rank});
  NIBBLE_ASSIGN_OR_RETURN(const bool found, select.Step());
  if (!found) return WriterTail{};
  const WriterTail tail{select.Int(0), select.Int(1)};
  if (TailCrc(job_key, source.attempt.attempt, source.rank, tail) != select.Int(2)) {
    return CorruptRowError("metric_tails", source.attempt.job_id);
  }
  return tail;
}

absl::Status InsertMetrics(SqliteDatabase& db, int64_t job_key, const MetricSource& source,
                           absl::Span<const MetricRecord> records) {
  if (records.empty()) return absl::OkStatus();
  std::map<std::string, uint16_t> ids;
  std::string pairs;
  for (const MetricRecord& record : records) {
    pairs.clear();
    for (const auto& [name, value] : record.values) {
      auto id = ids.find(name);
      if (id == ids.end()) {
        NIBBLE_ASSIGN_OR_RETURN(const int64_t new_id, NameId(db, name));
        id = ids.emplace(name, static_cast<uint16_t>(new_id)).first;
      }
      pairs.append(reinterpret_cast<const char*>(&id->second), sizeof(uint16_t));
      pairs.append(reinterpret_cast<const char*>(&value), sizeof(double));
    }
    const RecordKey key{record.step, source.rank, source.attempt.attempt, record.sequence};
    SqliteStatement insert = db.Prepare(
        "INSERT INTO metrics (job_key, step, rank, attempt, sequence, wall_micros, value_pairs, "
        "crc) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)");
    insert.Bind(1, job_key).Bind(2, key.step).Bind(3, int64_t{key.rank}).Bind(4, key.attempt);
    insert.Bind(5, key.sequence).Bind(6, record.wall_micros).BindBlob(7, pairs);
    insert.Bind(8, MetricCrc(job_key, key, record.wall_micros, pairs));
    NIBBLE_RETURN_IF_ERROR(insert.Run());
  }
  const WriterTail tail{records.back().sequence, records.back().step};
  SqliteStatement put = db.Prepare(
      "INSERT OR REPLACE INTO metric_tails (job_key, attempt, rank, last_sequence, last_step, crc) "
      "VALUES (?1, ?2, ?3, ?4, ?5, ?6)");
  put.Bind(1, job_key).Bind(2, source.attempt.attempt).Bind(3, int64_t{source.rank});
  put.Bind(4, tail.sequence).Bind(5, tail.step);
  put.Bind(6, TailCrc(job_key, source.attempt.attempt, source.rank, tail));
  return put.Run();
}

absl::StatusOr<int64_t> ReadLastStep(SqliteDatabase& db, absl::string_view job_id) {
  NIBBLE_ASSIGN_OR_RETURN(const int64_t job_key, FindJobKey(db, job_id));
  if (job_key == 0) return 0;
  SqliteStatement select = db.Prepare(
      "SELECT attempt, rank, last_sequence, last_step, crc FROM metric_tails WHERE job_key = ?1 "
      "ORDER BY attempt DESC, last_step DESC LIMIT 1");
  select.Bind(1, job_key);
  NIBBLE_ASSIGN_OR_RETURN(const bool found, select.Step());
  if (!found) return 0;
  const WriterTail tail{select.Int(2), select.Int(3)};
  if (TailCrc(job_key, select.Int(0), select.Int(1), tail) != select.Int(4)) {
    return CorruptRowError("metric_tails", job_id);
  }
  return tail.step;
}

absl::StatusOr<ScanResult> ScanMetrics(SqliteDatabase& db, int64_t job_key, int64_t last_step,
                                       int64_t most, RecordKey& position, RowBuilder& builder) {
  NIBBLE_ASSIGN_OR_RETURN(const auto names, AllNames(db));
  SqliteStatement select = db.Prepare(
      "SELECT step, rank, attempt, sequence, wall_micros, value_pairs, crc FROM metrics "
      "WHERE job_key = ?1 AND (step, rank, attempt, sequence) > (?2, ?3, ?4, ?5) AND step <= ?6 "
      "ORDER BY step, rank, attempt, sequence LIMIT ?7");
  select.Bind(1, job_key).Bind(2, position.step).Bind(3, int64_t{position.rank});
  select.Bind(4, position.attempt).Bind(5, position.sequence).Bind(6, last_step).Bind(7, most);
  ScanResult result;
  MetricValues values;
  for (int64_t rows = 0; rows < most; ++rows) {
    NIBBLE_ASSIGN_OR_RETURN(const bool found, select.Step());
    if (!found) {
      result.at_end = true;
      return result;
    }
    const RecordKey key{select.Int(0), static_cast<int32_t>(select.Int(1)), select.Int(2),
                        select.Int(3)};
    const absl::string_view pairs = select.Blob(5);
    position = key;
    if (MetricCrc(job_key, key, select.Int(4), pairs) != select.Int(6) ||
        !DecodePairs(pairs, names, values)) {
      ++result.corrupt_rows;
      continue;
    }
    if (!builder.Add(key, select.Int(4), values)) {
      result.page_is_full = true;
      return result;
    }
  }
  return result;
}

absl::StatusOr<bool> DeleteSome(SqliteDatabase& db, absl::string_view job_id) {
  NIBBLE_ASSIGN_OR_RETURN(const int64_t job_key, FindJobKey(db, job_id));
  if (job_key == 0) return true;
  // Up to and with the step of the row that far on; all of them where there is none.
  int64_t bound = -1;
  {
    SqliteStatement select =
        db.Prepare("SELECT step FROM metrics WHERE job_key = ?1 ORDER BY step LIMIT 1 OFFSET ?2");
    select.Bind(1, job_key).Bind(2, kRowsPerDelete);
    NIBBLE_ASSIGN_OR_RETURN(const bool found, select.Step());
    if (found) bound = select.Int(0);
  }
  if (bound >= 0) {
    NIBBLE_RETURN_IF_ERROR(db.Prepare("DELETE FROM metrics WHERE job_key = ?1 AND step <= ?2")
                               .Bind(1, job_key)
                               .Bind(2, bound)
                               .Run());
    return false;
  }
  for (const char* sql :
       {"DELETE FROM metrics WHERE job_key = ?1", "DELETE FROM metric_tails WHERE job_key = ?1",
        "DELETE FROM logs WHERE job_key = ?1", "DELETE FROM log_tails WHERE job_key = ?1",
        "DELETE FROM metric_jobs WHERE job_key = ?1"}) {
    NIBBLE_RETURN_IF_ERROR(db.Prepare(sql).Bind(1, job_key).Run());
  }
  return true;
}

}  // namespace nibble::store
