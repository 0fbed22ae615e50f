// What every MetricStore does alike: checks what is appended, and makes rows of records.
#ifndef SERVER_STORE_METRIC_RULES_H_
#define SERVER_STORE_METRIC_RULES_H_

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "server/store/metric_store.h"

namespace nibble::store {

// INVALID_ARGUMENT as MetricStore::Append says. Records that do not rise by 1 are INVALID_ARGUMENT.
absl::Status CheckMetricRecords(absl::Span<const MetricRecord> records);
absl::Status CheckLogRecords(absl::Span<const LogRecord> records);
absl::Status CheckMetricQuery(const MetricQuery& query);
// The text as kept: at most kMaxLogLineBytes, cut between UTF-8 characters.
absl::string_view CutLogLine(absl::string_view text);

// FAILED_PRECONDITION that ExpectedSequence understands.
absl::Status GapError(const MetricSource& source, int64_t expected, int64_t got);

// INVALID_ARGUMENT: kMaxMetricNames are in use.
absl::Status TooManyNamesError();

// Position of one record in the order of reading.
struct RecordKey {
  int64_t step = 0;
  int32_t rank = 0;
  int64_t attempt = 0;
  int64_t sequence = 0;
};

// Makes the rows that a query asks for out of records that come in the order of RecordKey.
class RowBuilder {
 public:
  explicit RowBuilder(const MetricQuery& query);
  // Hands the rows that are complete by now to the page. False once the page is full.
  bool Add(const RecordKey& key, int64_t wall_micros, const MetricValues& values);
  // After the last record.
  MetricPage Finish(bool page_is_full);

 private:
  bool EmitGroup();
  bool Emit(MetricRow row);
  void Thin();

  const MetricQuery& query_;
  const std::set<std::string> names_;
  // Rows of the step and rank at hand, one per attempt, not yet known to be complete.
  std::vector<MetricRow> group_;
  MetricPage page_;
  // Down-sampling keeps every stride-th row, and doubles the stride when there are many: memory
  // stays bounded and the spacing even, however many rows there are.
  int64_t matched_ = 0;
  int64_t stride_ = 1;
  std::optional<MetricRow> last_;
};

}  // namespace nibble::store

#endif  // SERVER_STORE_METRIC_RULES_H_
