#include "server/store/check.h"

#include <map>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/status_macros.h"
#include "server/store/jobs_tables.h"
#include "server/store/row_crc.h"
#include "server/store/sqlite_database.h"
#include "server/store/sqlite_store.h"
#include "server/store/state_directory.h"

namespace nibble::store {
namespace {

using scheduler::JobEventRecord;
using scheduler::JobRecord;
using scheduler::JobState;

class Checker {
 public:
  absl::Status CheckJobs(SqliteDatabase& db);
  absl::Status CheckMetrics(SqliteDatabase& db);
  void Problem(std::string what) {
    if (++problems_ <= kMaxProblems) report_.problems.push_back(std::move(what));
  }
  CheckReport Take() {
    if (problems_ > kMaxProblems) {
      report_.problems.push_back(absl::StrCat("and ", problems_ - kMaxProblems, " more"));
    }
    return std::move(report_);
  }

 private:
  absl::Status CheckIntegrity(SqliteDatabase& db, const char* name);
  absl::Status CheckJob(SqliteDatabase& db, const JobRecord& job);
  void CheckRecord(const JobRecord& job);
  absl::Status CheckHistory(SqliteDatabase& db, const JobRecord& job);
  absl::Status CheckCheckpoints(SqliteDatabase& db, const JobRecord& job);
  absl::Status CheckSubmission(SqliteDatabase& db, const JobRecord& job);
  absl::Status CheckOrphans(SqliteDatabase& db);
  // Rows of `sql` whose last column is the crc of the ones before; `table` names them.
  absl::Status CheckSums(SqliteDatabase& db, const char* sql, const char* table,
                         absl::string_view types);
  template <typename F>
  absl::Status ForEach(SqliteStatement& select, F each) {
    while (true) {
      NIBBLE_ASSIGN_OR_RETURN(const bool found, select.Step());
      if (!found) return absl::OkStatus();
      each();
    }
  }

  CheckReport report_;
  size_t problems_ = 0;
};

absl::Status Checker::CheckIntegrity(SqliteDatabase& db, const char* name) {
  SqliteStatement check = db.Prepare("PRAGMA integrity_check");
  return ForEach(check, [&] {
    if (check.Text(0) != "ok") Problem(absl::StrCat(name, ": SQLite says: ", check.Text(0)));
  });
}

void Checker::CheckRecord(const JobRecord& job) {
  const auto must = [&](bool holds, absl::string_view what) {
    if (!holds) Problem(absl::StrCat("job ", job.job_id, ": ", what));
  };
  const int state = static_cast<int>(job.state);
  must(state >= 1 && state <= 9, absl::StrCat("its state is ", state));
  must(HasLiveAttempt(job.state) != job.placement.empty(),
       absl::StrCat("it is ", JobStateName(job.state), " on ", job.placement.size(), " workers"));
  must((job.state == JobState::kSucceeded) == job.result.has_value(),
       "it has a result without success, or success without a result");
  must(IsTerminal(job.state) == (job.end_micros != 0), "its end time is not that of its state");
  must(job.attempt >= 0 && job.reported_attempt <= job.attempt,
       "an attempt was reported that never was");
  must(!HasLiveAttempt(job.state) || job.attempt > 0, "it runs without an attempt");
  must(job.committed_step >= 0 && job.committed_step <= job.document->total_steps,
       absl::StrCat("it committed step ", job.committed_step, " of ", job.document->total_steps));
  int64_t slots = 0;
  for (const auto& share : job.placement) slots += share.slots;
  // While it stops, workers drop out one by one.
  must(slots <= job.document->slots, "it holds more slots than it asked for");
}

absl::Status Checker::CheckHistory(SqliteDatabase& db, const JobRecord& job) {
  EventQuery query;
  query.job_id = job.job_id;
  query.limit = 1000;
  JobState state = JobState::kUnspecified;
  int64_t attempt = 0;
  bool damaged = false;
  do {
    NIBBLE_ASSIGN_OR_RETURN(const EventPage page, ReadEvents(db, query));
    damaged = damaged || !page.corrupt_event_ids.empty();
    for (const JobEventRecord& event : page.events) {
      ++report_.events;
      const bool moves = event.before != event.after;
      if (!damaged && (event.before != state || (moves && !IsTransition(state, event.after)))) {
        Problem(absl::StrCat("job_events ", event.event_id, ": job ", job.job_id, " goes from ",
                             JobStateName(event.before), " to ", JobStateName(event.after),
                             " after it was ", JobStateName(state)));
      }
      if (event.attempt < attempt || event.attempt > job.attempt) {
        Problem(absl::StrCat("job_events ", event.event_id, ": attempt ", event.attempt, " of job ",
                             job.job_id, " is out of order"));
      }
      state = event.after;
      attempt = event.attempt;
    }
    query.after_event_id = page.next;
  } while (query.after_event_id != 0);
  if (!damaged && state != job.state) {
    Problem(absl::StrCat("job ", job.job_id, " is ", JobStateName(job.state),
                         ", but its last event left it ", JobStateName(state)));
  }
  return absl::OkStatus();
}

absl::Status Checker::CheckCheckpoints(SqliteDatabase& db, const JobRecord& job) {
  const auto checkpoints = ReadCheckpoints(db, job.job_id);
  if (absl::IsDataLoss(checkpoints.status())) {
    Problem(std::string(checkpoints.status().message()));
    return absl::OkStatus();
  }
  NIBBLE_RETURN_IF_ERROR(checkpoints.status());
  for (const auto& checkpoint : *checkpoints) {
    if (checkpoint.step > job.committed_step || checkpoint.attempt > job.attempt ||
        checkpoint.job_id != job.job_id) {
      Problem(absl::StrCat("checkpoint of step ", checkpoint.step, " of job ", job.job_id,
                           " is not one that the job committed"));
    }
  }
  if (static_cast<int64_t>(checkpoints->size()) > job.document->keep_checkpoints) {
    Problem(absl::StrCat("job ", job.job_id, " keeps ", checkpoints->size(), " checkpoints of ",
                         job.document->keep_checkpoints));
  }
  return absl::OkStatus();
}

// Rows written with the submission: labels and the idempotency key.
absl::Status Checker::CheckSubmission(SqliteDatabase& db, const JobRecord& job) {
  std::map<std::string, std::string> labels;
  SqliteStatement select =
      db.Prepare("SELECT key, value FROM job_labels WHERE submit_sequence = ?1");
  select.Bind(1, job.submit_sequence);
  NIBBLE_RETURN_IF_ERROR(
      ForEach(select, [&] { labels[std::string(select.Text(0))] = std::string(select.Text(1)); }));
  if (labels != job.document->labels) {
    Problem(absl::StrCat("job_labels of job ", job.job_id, " are not those of its document"));
  }
  if (job.document->request_key.empty()) return absl::OkStatus();
  const auto key = ReadKey(db, job.document->request_key);
  if (!key.ok() && !absl::IsDataLoss(key.status())) return key.status();
  if (!key.ok() || !key->has_value() || (*key)->job_id != job.job_id ||
      (*key)->fingerprint != job.document->fingerprint) {
    Problem(absl::StrCat("the idempotency key of job ", job.job_id, " is missing or another's"));
  }
  return absl::OkStatus();
}

absl::Status Checker::CheckJob(SqliteDatabase& db, const JobRecord& job) {
  CheckRecord(job);
  NIBBLE_RETURN_IF_ERROR(CheckHistory(db, job));
  NIBBLE_RETURN_IF_ERROR(CheckCheckpoints(db, job));
  return CheckSubmission(db, job);
}

absl::Status Checker::CheckOrphans(SqliteDatabase& db) {
  const std::pair<const char*, const char*> orphans[] = {
      {"job_documents",
       "SELECT submit_sequence FROM job_documents WHERE submit_sequence NOT IN (SELECT "
       "submit_sequence FROM jobs)"},
      {"job_labels",
       "SELECT DISTINCT submit_sequence FROM job_labels WHERE submit_sequence NOT IN (SELECT "
       "submit_sequence FROM jobs)"},
      {"job_events",
       "SELECT event_id FROM job_events WHERE job_id <> '' AND job_id NOT IN (SELECT job_id FROM "
       "jobs)"},
      {"checkpoints",
       "SELECT DISTINCT job_id FROM checkpoints WHERE job_id NOT IN (SELECT job_id FROM jobs)"},
      {"idempotency_keys",
       "SELECT key FROM idempotency_keys WHERE job_id NOT IN (SELECT job_id FROM jobs)"},
      {"purges", "SELECT job_id FROM purges WHERE job_id IN (SELECT job_id FROM jobs)"},
      {"quarantine", "SELECT table_name || ' ' || row_key FROM quarantine"},
  };
  for (const auto& [table, sql] : orphans) {
    SqliteStatement select = db.Prepare(sql);
    const bool quarantine = absl::string_view(table) == "quarantine";
    const bool purges = absl::string_view(table) == "purges";
    NIBBLE_RETURN_IF_ERROR(ForEach(select, [&, table = table] {
      Problem(absl::StrCat(table, " ", select.Text(0),
                           quarantine ? ": a damaged row was set aside"
                           : purges   ? ": the job still exists"
                                      : ": its job does not exist"));
    }));
  }
  return absl::OkStatus();
}

absl::Status Checker::CheckSums(SqliteDatabase& db, const char* sql, const char* table,
                                absl::string_view types) {
  SqliteStatement select = db.Prepare(sql);
  return ForEach(select, [&] {
    RowCrc crc(table);
    std::string key;
    for (int column = 0; column < static_cast<int>(types.size()); ++column) {
      if (types[column] == 'i') {
        crc.Add(select.Int(column));
        absl::StrAppend(&key, " ", select.Int(column));
      } else if (types[column] == 't') {
        crc.Add(select.Text(column));
        absl::StrAppend(&key, " ", select.Text(column));
      } else {
        crc.Add(select.Blob(column));
      }
    }
    if (crc.value() != select.Int(static_cast<int>(types.size()))) {
      Problem(absl::StrCat(table, key.substr(0, 100), ": fails its checksum"));
    }
    if (absl::string_view(table) == "metrics") ++report_.metric_rows;
  });
}

absl::Status Checker::CheckJobs(SqliteDatabase& db) {
  NIBBLE_RETURN_IF_ERROR(CheckIntegrity(db, "jobs.db"));
  std::vector<int64_t> sequences;
  {
    SqliteStatement select = db.Prepare("SELECT submit_sequence FROM jobs");
    NIBBLE_RETURN_IF_ERROR(ForEach(select, [&] { sequences.push_back(select.Int(0)); }));
  }
  for (const int64_t sequence : sequences) {
    std::string corrupt_job_id;
    const auto job = ReadJobBySequence(db, sequence, &corrupt_job_id);
    ++report_.jobs;
    if (absl::IsDataLoss(job.status())) {
      Problem(absl::StrCat("job ", corrupt_job_id, ": ", job.status().message()));
      continue;
    }
    NIBBLE_RETURN_IF_ERROR(job.status());
    NIBBLE_RETURN_IF_ERROR(CheckJob(db, *job));
  }
  NIBBLE_RETURN_IF_ERROR(
      CheckSums(db, "SELECT event_id, job_id, record, crc FROM job_events", "job_events", "itb"));
  NIBBLE_RETURN_IF_ERROR(CheckSums(db, "SELECT key, job_id, fingerprint, crc FROM idempotency_keys",
                                   "idempotency_keys", "ttt"));
  std::vector<CorruptRow> corrupt;
  NIBBLE_RETURN_IF_ERROR(ReadPurges(db, corrupt).status());
  NIBBLE_RETURN_IF_ERROR(ReadWorkers(db, corrupt).status());
  NIBBLE_RETURN_IF_ERROR(ReadUsages(db, corrupt).status());
  for (const CorruptRow& row : corrupt) {
    Problem(absl::StrCat(row.table, " ", row.key, ": fails its checksum"));
  }
  return CheckOrphans(db);
}

absl::Status Checker::CheckMetrics(SqliteDatabase& db) {
  NIBBLE_RETURN_IF_ERROR(CheckIntegrity(db, "metrics.db"));
  NIBBLE_RETURN_IF_ERROR(CheckSums(db,
                                   "SELECT job_key, step, rank, attempt, sequence, wall_micros, "
                                   "value_pairs, crc FROM metrics",
                                   "metrics", "iiiiiib"));
  NIBBLE_RETURN_IF_ERROR(CheckSums(
      db, "SELECT job_key, attempt, rank, last_sequence, last_step, crc FROM metric_tails",
      "metric_tails", "iiiii"));
  NIBBLE_RETURN_IF_ERROR(
      CheckSums(db, "SELECT job_key, attempt, rank, sequence, wall_micros, text, crc FROM logs",
                "logs", "iiiiib"));
  NIBBLE_RETURN_IF_ERROR(CheckSums(
      db, "SELECT job_key, attempt, rank, last_sequence, crc FROM log_tails", "log_tails", "iiii"));
  SqliteStatement lost = db.Prepare(
      "SELECT DISTINCT job_key FROM metrics WHERE job_key NOT IN (SELECT job_key FROM "
      "metric_jobs)");
  return ForEach(lost, [&] {
    Problem(absl::StrCat("metrics of job number ", lost.Int(0), ", which metric_jobs lacks"));
  });
}

// Opens one database as it is: none is made, none is migrated.
absl::Status CheckFile(const std::string& path, int32_t application_id,
                       const Migrations& migrations, Checker* checker,
                       absl::Status (Checker::*check)(SqliteDatabase&)) {
  SqliteDatabase::Options options;
  options.application_id = application_id;
  options.existing_only = true;
  const auto database = SqliteDatabase::Open(path, options, migrations);
  const absl::Status status = database.ok() ? (checker->*check)(**database) : database.status();
  if (!status.ok()) checker->Problem(std::string(status.message()));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<CheckReport> CheckStateDirectory(const std::string& directory) {
  const std::string jobs = JoinPath(directory, "jobs.db");
  if (!FileExists(jobs)) {
    return absl::NotFoundError(absl::StrCat("there is no jobs.db in ", directory));
  }
  NIBBLE_ASSIGN_OR_RETURN(const StateDirectoryLock lock, StateDirectoryLock::Acquire(directory));
  Checker checker;
  NIBBLE_RETURN_IF_ERROR(
      CheckFile(jobs, kJobsApplicationId, JobsMigrations(), &checker, &Checker::CheckJobs));
  NIBBLE_RETURN_IF_ERROR(CheckFile(lock.metrics_database(), kMetricsApplicationId,
                                   MetricsMigrations(), &checker, &Checker::CheckMetrics));
  return checker.Take();
}

}  // namespace nibble::store
