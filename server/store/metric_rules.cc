#include "server/store/metric_rules.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "server/store/job_filter.h"

namespace nibble::store {
namespace {

constexpr char kExpectedSequenceUrl[] = "nibble.v1/expected_sequence";

// Rows held for each point that is wanted, before every second one goes.
constexpr size_t kRowsPerPoint = 16;

absl::Status CheckValues(const MetricRecord& record) {
  if (record.values.size() > kMaxValuesOfRecord) {
    return absl::InvalidArgumentError(absl::StrCat("record ", record.sequence, " has ",
                                                   record.values.size(),
                                                   " values; allowed: ", kMaxValuesOfRecord));
  }
  for (const auto& [name, value] : record.values) {
    const bool plain = std::all_of(name.begin(), name.end(), [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '/' || c == '.' ||
             c == '-' || (c >= 'A' && c <= 'Z');
    });
    if (name.empty() || name.size() > kMaxMetricNameBytes || !plain) {
      return absl::InvalidArgumentError(
          absl::StrCat("record ", record.sequence, " has a name that is not 1 to ",
                       kMaxMetricNameBytes, " characters of [A-Za-z0-9_./-]"));
    }
    if (!std::isfinite(value)) {
      return absl::InvalidArgumentError(
          absl::StrCat("record ", record.sequence, ": ", name, " is not finite"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckCount(size_t count) {
  if (count <= kMaxRecordsOfAppend) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(count, " records; allowed: ", kMaxRecordsOfAppend));
}

}  // namespace

absl::Status CheckMetricRecords(absl::Span<const MetricRecord> records) {
  NIBBLE_RETURN_IF_ERROR(CheckCount(records.size()));
  for (size_t i = 0; i < records.size(); ++i) {
    const MetricRecord& record = records[i];
    if (record.sequence < 1 || record.step < 0 ||
        (i > 0 && record.sequence != records[i - 1].sequence + 1)) {
      return absl::InvalidArgumentError(
          absl::StrCat("records[", i, "] has sequence ", record.sequence, " and step ", record.step,
                       "; sequences count up from 1 and steps are not negative"));
    }
    NIBBLE_RETURN_IF_ERROR(CheckValues(record));
  }
  return absl::OkStatus();
}

absl::Status CheckLogRecords(absl::Span<const LogRecord> records) {
  NIBBLE_RETURN_IF_ERROR(CheckCount(records.size()));
  for (size_t i = 0; i < records.size(); ++i) {
    if (records[i].sequence < 1 || (i > 0 && records[i].sequence <= records[i - 1].sequence)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "records[", i, "] has sequence ", records[i].sequence, "; sequences rise from 1"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckMetricQuery(const MetricQuery& query) {
  if (query.max_points != 0 && (query.max_points < 2 || query.max_points > kMaxPoints)) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_points is ", query.max_points, "; allowed: 0, or 2 to ", kMaxPoints));
  }
  return CheckLimit(query.limit, 100'000);
}

absl::string_view CutLogLine(absl::string_view text) {
  if (text.size() <= kMaxLogLineBytes) return text;
  size_t end = kMaxLogLineBytes;
  while (end > 0 && (static_cast<uint8_t>(text[end]) & 0xc0) == 0x80) --end;
  return text.substr(0, end);
}

absl::Status GapError(const MetricSource& source, int64_t expected, int64_t got) {
  absl::Status status = absl::FailedPreconditionError(
      absl::StrCat("expected sequence ", expected, " of job ", source.attempt.job_id, " attempt ",
                   source.attempt.attempt, " rank ", source.rank, ", got ", got));
  status.SetPayload(kExpectedSequenceUrl, absl::Cord(absl::StrCat(expected)));
  return status;
}

std::optional<int64_t> ExpectedSequence(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kExpectedSequenceUrl);
  int64_t expected = 0;
  if (!payload.has_value() || !absl::SimpleAtoi(std::string(*payload), &expected)) {
    return std::nullopt;
  }
  return expected;
}

absl::Status TooManyNamesError() {
  return absl::InvalidArgumentError(
      absl::StrCat("a new metric name; ", kMaxMetricNames, " names are in use, the most allowed"));
}

RowBuilder::RowBuilder(const MetricQuery& query)
    : query_(query), names_(query.names.begin(), query.names.end()) {}

bool RowBuilder::Add(const RecordKey& key, int64_t wall_micros, const MetricValues& values) {
  if (!group_.empty() && (group_[0].step != key.step || group_[0].rank != key.rank) &&
      !EmitGroup()) {
    return false;
  }
  if (group_.empty() || group_.back().attempt != key.attempt) {
    group_.push_back({key.step, key.attempt, key.rank, wall_micros, {}, false});
  }
  MetricRow& row = group_.back();
  row.wall_micros = wall_micros;
  for (const auto& [name, value] : values) {
    if (!names_.empty() && names_.count(name) == 0) continue;
    const auto place = std::lower_bound(
        row.values.begin(), row.values.end(), name,
        [](const auto& pair, const std::string& wanted) { return pair.first < wanted; });
    if (place != row.values.end() && place->first == name) {
      place->second = value;
    } else {
      row.values.insert(place, {name, value});
    }
  }
  return true;
}

bool RowBuilder::EmitGroup() {
  for (size_t i = 0; i < group_.size(); ++i) {
    const bool newest = i + 1 == group_.size();
    if (!newest && !query_.include_superseded) continue;
    if (!names_.empty() && group_[i].values.empty()) continue;
    group_[i].superseded = !newest;
    if (!Emit(std::move(group_[i]))) return false;
  }
  group_.clear();
  return true;
}

bool RowBuilder::Emit(MetricRow row) {
  if (query_.max_points == 0) {
    if (static_cast<int32_t>(page_.rows.size()) == query_.limit) {
      const MetricRow& last = page_.rows.back();
      page_.next = MetricCursor{last.step, last.rank, last.attempt};
      return false;
    }
    page_.rows.push_back(std::move(row));
    return true;
  }
  if (matched_ % stride_ == 0) {
    page_.rows.push_back(row);
    if (page_.rows.size() >= kRowsPerPoint * query_.max_points) Thin();
  }
  last_ = std::move(row);
  ++matched_;
  return true;
}

void RowBuilder::Thin() {
  size_t kept = 1;  // the first stays: moving a row onto itself would empty it
  for (size_t i = 2; i < page_.rows.size(); i += 2) page_.rows[kept++] = std::move(page_.rows[i]);
  page_.rows.resize(kept);
  stride_ *= 2;
}

MetricPage RowBuilder::Finish(bool page_is_full) {
  if (!page_is_full) EmitGroup();
  if (query_.max_points == 0 || matched_ <= 1) return std::move(page_);
  // The last row always counts; the rest is picked at equal distances.
  std::vector<MetricRow>& rows = page_.rows;
  if ((matched_ - 1) % stride_ != 0) rows.push_back(*std::move(last_));
  const int64_t have = static_cast<int64_t>(rows.size());
  const int64_t want = std::min<int64_t>(query_.max_points, have);
  std::vector<MetricRow> picked;
  picked.reserve(want);
  for (int64_t i = 0; i < want; ++i) {
    // Rounded i * (have - 1) / (want - 1); rises strictly, since have >= want.
    picked.push_back(std::move(rows[(2 * i * (have - 1) + want - 1) / (2 * (want - 1))]));
  }
  rows = std::move(picked);
  return std::move(page_);
}

}  // namespace nibble::store
