// Every step's metrics and every trainer's log lines. metrics.db behind sqlite_metric_store.h; in
// memory behind memory_metric_store.h. A lost tail is sent again by the worker, so a commit here is
// atomic but not forced to the disk at once.
#ifndef SERVER_STORE_METRIC_STORE_H_
#define SERVER_STORE_METRIC_STORE_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "server/scheduler/types.h"

namespace nibble::store {

using MetricValues = std::vector<std::pair<std::string, double>>;

struct MetricRecord {
  int64_t sequence = 0;  // from 1, without gaps, per (job, attempt, rank)
  int64_t step = 0;
  int64_t wall_micros = 0;
  MetricValues values;
};

// Who writes: one trainer process of one attempt.
struct MetricSource {
  scheduler::AttemptId attempt;
  int32_t rank = 0;
};

// All values of one step and rank of one attempt. Records of one attempt for one step are merged;
// of a name given twice, the later sequence counts.
struct MetricRow {
  int64_t step = 0;
  int64_t attempt = 0;
  int32_t rank = 0;
  int64_t wall_micros = 0;
  MetricValues values;  // by name
  // A later attempt trained this step again.
  bool superseded = false;
};

// Place in the order of reading: by step, then rank, then attempt.
struct MetricCursor {
  int64_t step = 0;
  int32_t rank = 0;
  int64_t attempt = 0;
};

struct MetricQuery {
  std::string job_id;
  // Only these values, and only rows that have one of them; empty for all.
  std::vector<std::string> names;
  int64_t first_step = 0;
  int64_t last_step = 0;  // 0 for no bound
  // At most this many rows (2 to kMaxPoints), evenly spaced over the rows there are (to a sixteenth
  // of the spacing), the first and the last among them; `after` and `limit` then do not count. 0
  // for all rows.
  int32_t max_points = 0;
  // Also rows that a later attempt trained again; else per step and rank the highest attempt's.
  bool include_superseded = false;
  std::optional<MetricCursor> after;
  int32_t limit = 10'000;  // 1..100,000
};

struct MetricPage {
  std::vector<MetricRow> rows;       // in the cursor's order
  std::optional<MetricCursor> next;  // absent where this was the last
  // Rows left out because they fail their checksum.
  int64_t corrupt_rows = 0;
};

struct LogRecord {
  int64_t sequence = 0;  // rising per (job, attempt, rank)
  int64_t wall_micros = 0;
  std::string text;
};

struct LogQuery {
  std::string job_id;
  int64_t attempt = 0;  // 0 for the newest that logged
  int32_t rank = 0;
  int64_t after_sequence = 0;
  int32_t limit = 1000;  // 1..10,000
};

struct LogPage {
  int64_t attempt = 0;  // whose lines these are; 0 where there are none
  std::vector<LogRecord> lines;
  bool more = false;
  // Lines left out because they fail their checksum.
  int64_t corrupt_rows = 0;
};

// Quantisation health alone has up to 1,000 values a record, names by layer.
inline constexpr int kMaxMetricNames = 16'384;  // distinct, over all jobs
inline constexpr int kMaxMetricNameBytes = 64;
inline constexpr int kMaxValuesOfRecord = 2'048;
inline constexpr int kMaxPoints = 10'000;
inline constexpr int kMaxRecordsOfAppend = 10'000;
inline constexpr int kMaxLogLineBytes = 16 * 1024;        // longer lines are cut
inline constexpr int64_t kMaxLogBytesOfJob = 16LL << 20;  // the oldest lines go first

// A page of lines ends early where it has more text than this; LogPage::more is then set.
inline constexpr int64_t kMaxLogPageBytes = 1LL << 20;

// What an Append refused for a gap was waiting for; absent for other errors.
std::optional<int64_t> ExpectedSequence(const absl::Status& status);

// Thread-safe. UNAVAILABLE and RESOURCE_EXHAUSTED as for Store.
class MetricStore {
 public:
  virtual ~MetricStore() = default;

  // Appends what is new; records already there are passed over. Returns the last sequence that is
  // there (0 for none). Records rise by 1. Whether the attempt may write is the caller's question.
  // FAILED_PRECONDITION with ExpectedSequence() where records are missing in between;
  // INVALID_ARGUMENT for a value that is not finite, a step below 0, a name or a count over the
  // limits above. Then nothing is written.
  virtual absl::StatusOr<int64_t> Append(const MetricSource& source,
                                         absl::Span<const MetricRecord> records) = 0;
  virtual absl::StatusOr<MetricPage> Read(const MetricQuery& query) = 0;
  // For each job the last step of its newest attempt that has rows; 0 where none has.
  virtual absl::StatusOr<std::vector<int64_t>> LastSteps(absl::Span<const std::string> job_ids) = 0;
  // 0 for none.
  virtual absl::StatusOr<int64_t> LastSequence(const MetricSource& source) = 0;

  // Like Append, but gaps are allowed.
  virtual absl::StatusOr<int64_t> AppendLogs(const MetricSource& source,
                                             absl::Span<const LogRecord> records) = 0;
  virtual absl::StatusOr<LogPage> ReadLogs(const LogQuery& query) = 0;

  // Everything of a job, durably. OK where there is nothing.
  virtual absl::Status DeleteJob(absl::string_view job_id) = 0;
  // As Store::BackUp.
  virtual absl::Status BackUp(const std::string& path) {
    return absl::UnimplementedError(path + ": there is no file to copy");
  }
};

}  // namespace nibble::store

#endif  // SERVER_STORE_METRIC_STORE_H_
