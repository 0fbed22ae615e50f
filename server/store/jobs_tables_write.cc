// Writing the tables of jobs.db.
#include <map>
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
using scheduler::JobEventRecord;
using scheduler::JobRecord;
using scheduler::PurgeRecord;

absl::Status WriteDocument(SqliteDatabase& db, const JobRecord& job) {
  const std::string document = EncodeDocument(*job.document);
  SqliteStatement insert = db.Prepare(
      "INSERT OR REPLACE INTO job_documents (submit_sequence, document, crc) VALUES (?1, ?2, ?3)");
  insert.Bind(1, job.submit_sequence).BindBlob(2, document);
  insert.Bind(3, RowCrc("job_documents").Add(job.submit_sequence).Add(document).value());
  NIBBLE_RETURN_IF_ERROR(insert.Run());
  SqliteStatement forget = db.Prepare("DELETE FROM job_labels WHERE submit_sequence = ?1");
  NIBBLE_RETURN_IF_ERROR(forget.Bind(1, job.submit_sequence).Run());
  for (const auto& [key, value] : job.document->labels) {
    SqliteStatement label =
        db.Prepare("INSERT INTO job_labels (key, value, submit_sequence) VALUES (?1, ?2, ?3)");
    label.Bind(1, key).Bind(2, value).Bind(3, job.submit_sequence);
    NIBBLE_RETURN_IF_ERROR(label.Run());
  }
  return absl::OkStatus();
}

absl::Status WriteJob(SqliteDatabase& db, const JobRecord& job, StateDeltas& deltas) {
  bool is_new;
  {
    SqliteStatement before =
        db.Prepare("SELECT state, job_id FROM jobs WHERE submit_sequence = ?1");
    before.Bind(1, job.submit_sequence);
    NIBBLE_ASSIGN_OR_RETURN(const bool found, before.Step());
    is_new = !found;
    if (found) {
      if (before.Text(1) != job.job_id) {
        return absl::InternalError(
            absl::StrCat("jobs ", before.Text(1), " and ", job.job_id, " have one number"));
      }
      const int64_t state = before.Int(0);
      if (state >= 0 && state < static_cast<int64_t>(deltas.size())) --deltas[state];
    }
  }
  const int64_t state = static_cast<int64_t>(job.state);
  ++deltas[state];
  if (is_new) NIBBLE_RETURN_IF_ERROR(WriteDocument(db, job));
  const std::string record = EncodeJob(job);
  SqliteStatement put = db.Prepare(
      "INSERT INTO jobs (submit_sequence, job_id, state, name, record, crc) "
      "VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (submit_sequence) DO UPDATE SET "
      "state = excluded.state, record = excluded.record, crc = excluded.crc");
  put.Bind(1, job.submit_sequence).Bind(2, job.job_id).Bind(3, state);
  put.Bind(4, job.document->name).BindBlob(5, record);
  put.Bind(6, RowCrc("jobs")
                  .Add(job.submit_sequence)
                  .Add(job.job_id)
                  .Add(state)
                  .Add(job.document->name)
                  .Add(record)
                  .value());
  return put.Run();
}

absl::Status WriteEvent(SqliteDatabase& db, const JobEventRecord& event) {
  const std::string record = EncodeEvent(event);
  SqliteStatement put =
      db.Prepare("INSERT INTO job_events (event_id, job_id, record, crc) VALUES (?1, ?2, ?3, ?4)");
  put.Bind(1, event.event_id).Bind(2, event.job_id).BindBlob(3, record);
  put.Bind(4, RowCrc("job_events").Add(event.event_id).Add(event.job_id).Add(record).value());
  return put.Run();
}

absl::Status WriteCheckpoint(SqliteDatabase& db, const CheckpointRecord& checkpoint) {
  const std::string record = EncodeCheckpoint(checkpoint);
  SqliteStatement put = db.Prepare(
      "INSERT OR REPLACE INTO checkpoints (job_id, step, record, crc) VALUES (?1, ?2, ?3, ?4)");
  put.Bind(1, checkpoint.job_id).Bind(2, checkpoint.step).BindBlob(3, record);
  put.Bind(4,
           RowCrc("checkpoints").Add(checkpoint.job_id).Add(checkpoint.step).Add(record).value());
  return put.Run();
}

absl::Status WriteKey(SqliteDatabase& db, const IdempotencyRecord& key) {
  SqliteStatement put = db.Prepare(
      "INSERT INTO idempotency_keys (key, job_id, fingerprint, crc) VALUES (?1, ?2, ?3, ?4)");
  put.Bind(1, key.key).Bind(2, key.job_id).Bind(3, key.fingerprint);
  put.Bind(4, RowCrc("idempotency_keys").Add(key.key).Add(key.job_id).Add(key.fingerprint).value());
  return put.Run();
}

absl::Status DeleteJobRows(SqliteDatabase& db, const std::string& job_id, StateDeltas& deltas) {
  int64_t sequence = 0;
  {
    SqliteStatement find = db.Prepare("SELECT submit_sequence, state FROM jobs WHERE job_id = ?1");
    find.Bind(1, job_id);
    NIBBLE_ASSIGN_OR_RETURN(const bool found, find.Step());
    if (!found) return absl::OkStatus();
    sequence = find.Int(0);
    const int64_t state = find.Int(1);
    if (state >= 0 && state < static_cast<int64_t>(deltas.size())) --deltas[state];
  }
  for (const char* sql : {"DELETE FROM job_documents WHERE submit_sequence = ?1",
                          "DELETE FROM job_labels WHERE submit_sequence = ?1",
                          "DELETE FROM jobs WHERE submit_sequence = ?1"}) {
    NIBBLE_RETURN_IF_ERROR(db.Prepare(sql).Bind(1, sequence).Run());
  }
  for (const char* sql :
       {"DELETE FROM job_events WHERE job_id = ?1", "DELETE FROM checkpoints WHERE job_id = ?1",
        "DELETE FROM idempotency_keys WHERE job_id = ?1"}) {
    NIBBLE_RETURN_IF_ERROR(db.Prepare(sql).Bind(1, absl::string_view(job_id)).Run());
  }
  return absl::OkStatus();
}

absl::Status WriteWorker(SqliteDatabase& db, const scheduler::WorkerRecord& worker) {
  const std::string record = EncodeWorker(worker);
  SqliteStatement put =
      db.Prepare("INSERT OR REPLACE INTO workers (worker_id, record, crc) VALUES (?1, ?2, ?3)");
  put.Bind(1, worker.worker_id).BindBlob(2, record);
  put.Bind(3, RowCrc("workers").Add(worker.worker_id).Add(record).value());
  return put.Run();
}

absl::Status WriteUsage(SqliteDatabase& db, const scheduler::ProjectUsage& usage) {
  const std::string record = EncodeUsage(usage);
  SqliteStatement put =
      db.Prepare("INSERT OR REPLACE INTO project_usage (project, record, crc) VALUES (?1, ?2, ?3)");
  put.Bind(1, usage.project).BindBlob(2, record);
  put.Bind(3, RowCrc("project_usage").Add(usage.project).Add(record).value());
  return put.Run();
}

absl::Status WritePurge(SqliteDatabase& db, const PurgeRecord& purge) {
  SqliteStatement put =
      db.Prepare("INSERT OR REPLACE INTO purges (job_id, worker_id, crc) VALUES (?1, ?2, ?3)");
  put.Bind(1, purge.job_id).Bind(2, purge.worker_id);
  put.Bind(3, RowCrc("purges").Add(purge.job_id).Add(purge.worker_id).value());
  return put.Run();
}

}  // namespace

absl::Status WriteTransaction(SqliteDatabase& db, const scheduler::Transaction& t,
                              StateDeltas& deltas) {
  // Steps committed together often change a job several times: only its last row counts.
  std::map<absl::string_view, const JobRecord*> newest;
  for (const JobRecord& job : t.jobs) newest[job.job_id] = &job;
  for (const auto& [job_id, job] : newest) NIBBLE_RETURN_IF_ERROR(WriteJob(db, *job, deltas));
  for (const std::string& job_id : t.updated_documents) {
    const auto job = newest.find(job_id);
    if (job != newest.end()) NIBBLE_RETURN_IF_ERROR(WriteDocument(db, *job->second));
  }
  for (const JobEventRecord& event : t.events) NIBBLE_RETURN_IF_ERROR(WriteEvent(db, event));
  for (const CheckpointRecord& c : t.checkpoints) NIBBLE_RETURN_IF_ERROR(WriteCheckpoint(db, c));
  for (const CheckpointRecord& c : t.removed_checkpoints) {
    SqliteStatement remove = db.Prepare("DELETE FROM checkpoints WHERE job_id = ?1 AND step = ?2");
    NIBBLE_RETURN_IF_ERROR(remove.Bind(1, c.job_id).Bind(2, c.step).Run());
  }
  for (const IdempotencyRecord& key : t.keys) NIBBLE_RETURN_IF_ERROR(WriteKey(db, key));
  for (const std::string& job_id : t.deleted_jobs) {
    NIBBLE_RETURN_IF_ERROR(DeleteJobRows(db, job_id, deltas));
  }
  for (const PurgeRecord& purge : t.purges) NIBBLE_RETURN_IF_ERROR(WritePurge(db, purge));
  for (const PurgeRecord& purge : t.finished_purges) {
    SqliteStatement remove = db.Prepare("DELETE FROM purges WHERE job_id = ?1 AND worker_id = ?2");
    NIBBLE_RETURN_IF_ERROR(remove.Bind(1, purge.job_id).Bind(2, purge.worker_id).Run());
  }
  for (const auto& worker : t.workers) NIBBLE_RETURN_IF_ERROR(WriteWorker(db, worker));
  for (const std::string& worker_id : t.removed_workers) {
    SqliteStatement remove = db.Prepare("DELETE FROM workers WHERE worker_id = ?1");
    NIBBLE_RETURN_IF_ERROR(remove.Bind(1, absl::string_view(worker_id)).Run());
  }
  for (const auto& usage : t.usages) NIBBLE_RETURN_IF_ERROR(WriteUsage(db, usage));
  return absl::OkStatus();
}

absl::Status Quarantine(SqliteDatabase& db, int64_t sequence, absl::string_view job_id) {
  for (const char* sql : {"INSERT OR IGNORE INTO quarantine (table_name, row_key, record, crc) "
                          "SELECT 'jobs', ?2, record, crc FROM jobs WHERE submit_sequence = ?1",
                          "INSERT OR IGNORE INTO quarantine (table_name, row_key, record, crc) "
                          "SELECT 'job_documents', ?2, document, crc FROM job_documents WHERE "
                          "submit_sequence = ?1"}) {
    NIBBLE_RETURN_IF_ERROR(db.Prepare(sql).Bind(1, sequence).Bind(2, job_id).Run());
  }
  return absl::OkStatus();
}

}  // namespace nibble::store
