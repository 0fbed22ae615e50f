// Reading the tables of jobs.db.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "server/store/jobs_tables.h"
#include "server/store/record_codec.h"
#include "server/store/row_crc.h"

namespace nibble::store {
namespace {

using scheduler::CheckpointRecord;
using scheduler::IdempotencyRecord;
using scheduler::JobDocument;
using scheduler::JobEventRecord;
using scheduler::JobRecord;
using scheduler::PurgeRecord;

// The row of jobs joined with job_documents that the statement stands on.
JobRow RowOf(const SqliteStatement& statement) {
  JobRow row;
  row.submit_sequence = statement.Int(0);
  row.job_id = statement.Text(1);
  row.state = statement.Int(2);
  row.name = statement.Text(3);
  row.record = statement.Blob(4);
  row.crc = statement.Int(5);
  row.document = statement.Blob(6);
  row.document_crc = statement.Int(7);
  return row;
}

absl::Status Collect(SqliteStatement& statement, std::vector<int64_t>& sequences) {
  while (true) {
    NIBBLE_ASSIGN_OR_RETURN(const bool found, statement.Step());
    if (!found) return absl::OkStatus();
    sequences.push_back(statement.Int(0));
  }
}

}  // namespace

absl::StatusOr<JobRecord> DecodeJobRow(const JobRow& row) {
  const int64_t crc = RowCrc("jobs")
                          .Add(row.submit_sequence)
                          .Add(row.job_id)
                          .Add(row.state)
                          .Add(row.name)
                          .Add(row.record)
                          .value();
  if (crc != row.crc) return CorruptRowError("jobs", row.job_id);
  if (RowCrc("job_documents").Add(row.submit_sequence).Add(row.document).value() !=
      row.document_crc) {
    return CorruptRowError("job_documents", row.job_id);
  }
  NIBBLE_ASSIGN_OR_RETURN(JobRecord job, DecodeJob(row.record));
  NIBBLE_ASSIGN_OR_RETURN(JobDocument document, DecodeDocument(row.document));
  if (job.job_id != row.job_id || job.submit_sequence != row.submit_sequence ||
      static_cast<int64_t>(job.state) != row.state) {
    return CorruptRowError("jobs", row.job_id);
  }
  for (scheduler::WorkerShare& share : job.placement) {
    if (share.slots == 0) share.slots = document.slots;  // of version 1: all on one worker
  }
  job.document = std::make_shared<const JobDocument>(std::move(document));
  return job;
}

absl::StatusOr<JobRecord> ReadJob(SqliteDatabase& db, absl::string_view job_id) {
  SqliteStatement select = db.Prepare(
      "SELECT jobs.submit_sequence, job_id, state, name, record, jobs.crc, document, "
      "job_documents.crc FROM jobs LEFT JOIN job_documents USING (submit_sequence) "
      "WHERE job_id = ?1");
  select.Bind(1, job_id);
  NIBBLE_ASSIGN_OR_RETURN(const bool found, select.Step());
  if (!found) return absl::NotFoundError(absl::StrCat("no job ", job_id));
  return DecodeJobRow(RowOf(select));
}

absl::StatusOr<JobRecord> ReadJobBySequence(SqliteDatabase& db, int64_t sequence,
                                            std::string* corrupt_job_id) {
  SqliteStatement select = db.Prepare(
      "SELECT jobs.submit_sequence, job_id, state, name, record, jobs.crc, document, "
      "job_documents.crc FROM jobs LEFT JOIN job_documents USING (submit_sequence) "
      "WHERE jobs.submit_sequence = ?1");
  select.Bind(1, sequence);
  NIBBLE_ASSIGN_OR_RETURN(const bool found, select.Step());
  if (!found) return absl::NotFoundError(absl::StrCat("no job with number ", sequence));
  absl::StatusOr<JobRecord> job = DecodeJobRow(RowOf(select));
  if (absl::IsDataLoss(job.status())) *corrupt_job_id = std::string(select.Text(1));
  return job;
}

absl::Status ScanJobs(SqliteDatabase& db, scheduler::JobState state,
                      const std::function<void(const JobRow&)>& visit) {
  // One walk along the index: finding each job by itself costs twice the time. job_id comes before
  // state so that state is the table's, which the checksum covers, and not the index's.
  SqliteStatement select = db.Prepare(
      "SELECT jobs.submit_sequence, job_id, state, name, record, jobs.crc, document, "
      "job_documents.crc FROM jobs LEFT JOIN job_documents USING (submit_sequence) "
      "WHERE state = ?1 ORDER BY jobs.submit_sequence");
  select.Bind(1, static_cast<int64_t>(state));
  while (true) {
    NIBBLE_ASSIGN_OR_RETURN(const bool found, select.Step());
    if (!found) return absl::OkStatus();
    visit(RowOf(select));
  }
}

absl::StatusOr<std::vector<int64_t>> CandidateJobs(SqliteDatabase& db, const JobQuery& query,
                                                   int64_t before, int64_t most) {
  std::vector<int64_t> sequences;
  if (!query.labels.empty()) {
    SqliteStatement select = db.Prepare(
        "SELECT submit_sequence FROM job_labels WHERE key = ?1 AND value = ?2 AND "
        "submit_sequence < ?3 ORDER BY submit_sequence DESC LIMIT ?4");
    select.Bind(1, query.labels.begin()->first).Bind(2, query.labels.begin()->second);
    NIBBLE_RETURN_IF_ERROR(Collect(select.Bind(3, before).Bind(4, most), sequences));
  } else if (!query.name.empty()) {
    SqliteStatement select = db.Prepare(
        "SELECT submit_sequence FROM jobs WHERE name = ?1 AND submit_sequence < ?2 "
        "ORDER BY submit_sequence DESC LIMIT ?3");
    select.Bind(1, query.name);
    NIBBLE_RETURN_IF_ERROR(Collect(select.Bind(2, before).Bind(3, most), sequences));
  } else if (!query.states.empty()) {
    for (const scheduler::JobState state : query.states) {
      SqliteStatement select = db.Prepare(
          "SELECT submit_sequence FROM jobs WHERE state = ?1 AND submit_sequence < ?2 "
          "ORDER BY submit_sequence DESC LIMIT ?3");
      select.Bind(1, static_cast<int64_t>(state));
      NIBBLE_RETURN_IF_ERROR(Collect(select.Bind(2, before).Bind(3, most), sequences));
    }
    std::sort(sequences.rbegin(), sequences.rend());
    sequences.erase(std::unique(sequences.begin(), sequences.end()), sequences.end());
    if (static_cast<int64_t>(sequences.size()) > most) sequences.resize(most);
  } else {
    SqliteStatement select = db.Prepare(
        "SELECT submit_sequence FROM jobs WHERE submit_sequence < ?1 "
        "ORDER BY submit_sequence DESC LIMIT ?2");
    NIBBLE_RETURN_IF_ERROR(Collect(select.Bind(1, before).Bind(2, most), sequences));
  }
  return sequences;
}

absl::StatusOr<EventPage> ReadEvents(SqliteDatabase& db, const EventQuery& query) {
  SqliteStatement select = query.job_id.empty()
                               ? db.Prepare(
                                     "SELECT event_id, job_id, record, crc FROM job_events "
                                     "WHERE event_id > ?2 ORDER BY event_id LIMIT ?3")
                               : db.Prepare(
                                     "SELECT event_id, job_id, record, crc FROM job_events "
                                     "WHERE job_id = ?1 AND event_id > ?2 ORDER BY event_id "
                                     "LIMIT ?3");
  if (!query.job_id.empty()) select.Bind(1, query.job_id);
  select.Bind(2, query.after_event_id).Bind(3, int64_t{query.limit} + 1);
  EventPage page;
  int32_t rows = 0;
  int64_t last_id = query.after_event_id;
  while (true) {
    NIBBLE_ASSIGN_OR_RETURN(const bool found, select.Step());
    if (!found) return page;
    if (rows++ == query.limit) {
      page.next = last_id;
      return page;
    }
    last_id = select.Int(0);
    const absl::string_view record = select.Blob(2);
    absl::StatusOr<JobEventRecord> event = DecodeEvent(record);
    if (RowCrc("job_events").Add(last_id).Add(select.Text(1)).Add(record).value() !=
            select.Int(3) ||
        !event.ok()) {
      page.corrupt_event_ids.push_back(last_id);
      continue;
    }
    page.events.push_back(*std::move(event));
  }
}

absl::StatusOr<std::vector<CheckpointRecord>> ReadCheckpoints(SqliteDatabase& db,
                                                              absl::string_view job_id) {
  SqliteStatement select =
      db.Prepare("SELECT step, record, crc FROM checkpoints WHERE job_id = ?1 ORDER BY step DESC");
  select.Bind(1, job_id);
  std::vector<CheckpointRecord> checkpoints;
  while (true) {
    NIBBLE_ASSIGN_OR_RETURN(const bool found, select.Step());
    if (!found) return checkpoints;
    const absl::string_view record = select.Blob(1);
    if (RowCrc("checkpoints").Add(job_id).Add(select.Int(0)).Add(record).value() != select.Int(2)) {
      return CorruptRowError("checkpoints", absl::StrCat(job_id, " step ", select.Int(0)));
    }
    NIBBLE_ASSIGN_OR_RETURN(CheckpointRecord checkpoint, DecodeCheckpoint(record));
    checkpoints.push_back(std::move(checkpoint));
  }
}

absl::StatusOr<std::optional<IdempotencyRecord>> ReadKey(SqliteDatabase& db,
                                                         absl::string_view key) {
  SqliteStatement select =
      db.Prepare("SELECT job_id, fingerprint, crc FROM idempotency_keys WHERE key = ?1");
  select.Bind(1, key);
  NIBBLE_ASSIGN_OR_RETURN(const bool found, select.Step());
  if (!found) return std::optional<IdempotencyRecord>();
  IdempotencyRecord record{std::string(key), std::string(select.Text(0)),
                           std::string(select.Text(1))};
  if (RowCrc("idempotency_keys").Add(key).Add(record.job_id).Add(record.fingerprint).value() !=
      select.Int(2)) {
    return CorruptRowError("idempotency_keys", key);
  }
  return std::optional<IdempotencyRecord>(std::move(record));
}

absl::StatusOr<std::vector<PurgeRecord>> ReadPurges(SqliteDatabase& db,
                                                    std::vector<CorruptRow>& corrupt) {
  SqliteStatement select = db.Prepare("SELECT job_id, worker_id, crc FROM purges");
  std::vector<PurgeRecord> purges;
  while (true) {
    NIBBLE_ASSIGN_OR_RETURN(const bool found, select.Step());
    if (!found) return purges;
    PurgeRecord purge{std::string(select.Text(0)), std::string(select.Text(1))};
    if (RowCrc("purges").Add(purge.job_id).Add(purge.worker_id).value() != select.Int(2)) {
      // Acting on it could remove the files of a living job.
      corrupt.push_back({"purges", absl::StrCat(purge.job_id, " on ", purge.worker_id)});
      continue;
    }
    purges.push_back(std::move(purge));
  }
}

absl::StatusOr<std::vector<scheduler::WorkerRecord>> ReadWorkers(SqliteDatabase& db,
                                                                 std::vector<CorruptRow>& corrupt) {
  SqliteStatement select = db.Prepare("SELECT worker_id, record, crc FROM workers");
  std::vector<scheduler::WorkerRecord> workers;
  while (true) {
    NIBBLE_ASSIGN_OR_RETURN(const bool found, select.Step());
    if (!found) return workers;
    const std::string worker_id(select.Text(0));
    const absl::string_view record = select.Blob(1);
    absl::StatusOr<scheduler::WorkerRecord> worker = DecodeWorker(record);
    if (RowCrc("workers").Add(worker_id).Add(record).value() != select.Int(2) || !worker.ok()) {
      corrupt.push_back({"workers", worker_id});
      continue;
    }
    workers.push_back(*std::move(worker));
  }
}

absl::StatusOr<std::vector<scheduler::ProjectUsage>> ReadUsages(SqliteDatabase& db,
                                                                std::vector<CorruptRow>& corrupt) {
  SqliteStatement select = db.Prepare("SELECT project, record, crc FROM project_usage");
  std::vector<scheduler::ProjectUsage> usages;
  while (true) {
    NIBBLE_ASSIGN_OR_RETURN(const bool found, select.Step());
    if (!found) return usages;
    const std::string project(select.Text(0));
    const absl::string_view record = select.Blob(1);
    absl::StatusOr<scheduler::ProjectUsage> usage = DecodeUsage(record);
    if (RowCrc("project_usage").Add(project).Add(record).value() != select.Int(2) || !usage.ok()) {
      corrupt.push_back({"project_usage", project});
      continue;
    }
    usages.push_back(*std::move(usage));
  }
}

absl::StatusOr<int64_t> LastKey(SqliteDatabase& db, absl::string_view table) {
  SqliteStatement select = db.Prepare("SELECT seq FROM sqlite_sequence WHERE name = ?1");
  select.Bind(1, table);
  NIBBLE_ASSIGN_OR_RETURN(const bool found, select.Step());
  return found ? select.Int(0) : 0;
}

absl::StatusOr<std::array<int64_t, 10>> CountByState(SqliteDatabase& db) {
  std::array<int64_t, 10> counts{};
  SqliteStatement select = db.Prepare("SELECT state, count(*) FROM jobs GROUP BY state");
  while (true) {
    NIBBLE_ASSIGN_OR_RETURN(const bool found, select.Step());
    if (!found) return counts;
    const int64_t state = select.Int(0);
    if (state >= 0 && state < static_cast<int64_t>(counts.size())) counts[state] = select.Int(1);
  }
}

}  // namespace nibble::store
