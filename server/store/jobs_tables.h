// The tables of jobs.db: writes a transaction's rows and reads rows back, checking every checksum.
// On the database's thread.
#ifndef SERVER_STORE_JOBS_TABLES_H_
#define SERVER_STORE_JOBS_TABLES_H_

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/store/sqlite_database.h"
#include "server/store/store.h"

namespace nibble::store {

// What a transaction changed in the number of jobs by state.
using StateDeltas = std::array<int64_t, 10>;

absl::Status WriteTransaction(SqliteDatabase& db, const scheduler::Transaction& transaction,
                              StateDeltas& deltas);

absl::StatusOr<scheduler::JobRecord> ReadJob(SqliteDatabase& db, absl::string_view job_id);
// The job of this submit_sequence, or DATA_LOSS with its job_id in *corrupt_job_id.
absl::StatusOr<scheduler::JobRecord> ReadJobBySequence(SqliteDatabase& db, int64_t sequence,
                                                       std::string* corrupt_job_id);
// A row of jobs joined with job_documents, not yet checked.
struct JobRow {
  int64_t submit_sequence = 0;
  int64_t state = 0;
  int64_t crc = 0;
  int64_t document_crc = 0;
  absl::string_view job_id;
  absl::string_view name;
  absl::string_view record;
  absl::string_view document;
};
// DATA_LOSS where a checksum does not hold, or the parts do not belong together.
absl::StatusOr<scheduler::JobRecord> DecodeJobRow(const JobRow& row);
// All rows of jobs in this state, by submit_sequence. A row's texts are valid during the call.
absl::Status ScanJobs(SqliteDatabase& db, scheduler::JobState state,
                      const std::function<void(const JobRow&)>& visit);
// submit_sequences that may match, below `before`, falling; at most `most`.
absl::StatusOr<std::vector<int64_t>> CandidateJobs(SqliteDatabase& db, const JobQuery& query,
                                                   int64_t before, int64_t most);
absl::StatusOr<EventPage> ReadEvents(SqliteDatabase& db, const EventQuery& query);
absl::StatusOr<std::vector<scheduler::CheckpointRecord>> ReadCheckpoints(SqliteDatabase& db,
                                                                         absl::string_view job_id);
absl::StatusOr<std::optional<scheduler::IdempotencyRecord>> ReadKey(SqliteDatabase& db,
                                                                    absl::string_view key);
absl::StatusOr<std::vector<scheduler::PurgeRecord>> ReadPurges(SqliteDatabase& db,
                                                               std::vector<CorruptRow>& corrupt);
// Damaged rows are left out and named in *corrupt.
absl::StatusOr<std::vector<scheduler::WorkerRecord>> ReadWorkers(SqliteDatabase& db,
                                                                 std::vector<CorruptRow>& corrupt);
absl::StatusOr<std::vector<scheduler::ProjectUsage>> ReadUsages(SqliteDatabase& db,
                                                                std::vector<CorruptRow>& corrupt);
// The largest key the table ever had.
absl::StatusOr<int64_t> LastKey(SqliteDatabase& db, absl::string_view table);
absl::StatusOr<std::array<int64_t, 10>> CountByState(SqliteDatabase& db);
// Copies a job's damaged rows aside, once.
absl::Status Quarantine(SqliteDatabase& db, int64_t sequence, absl::string_view job_id);

}  // namespace nibble::store

#endif  // SERVER_STORE_JOBS_TABLES_H_
