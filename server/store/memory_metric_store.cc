#include <deque>
#include <map>
#include <set>
#include <tuple>
#include <utility>

#include "base/mutex.h"
#include "base/status_macros.h"
#include "server/store/job_filter.h"
#include "server/store/memory_store.h"
#include "server/store/metric_rules.h"

namespace nibble::store {
namespace {

using WriterKey = std::pair<int64_t, int32_t>;  // attempt, rank

struct Tail {
  int64_t sequence = 0;
  int64_t step = 0;
};

struct LogLine {
  WriterKey writer;
  LogRecord record;
};

struct JobMetrics {
  // By step, rank, attempt, sequence: the order of reading.
  std::map<std::tuple<int64_t, int32_t, int64_t, int64_t>, MetricRecord> records;
  std::map<WriterKey, Tail> tails;
  std::deque<LogLine> lines;  // oldest first
  std::map<WriterKey, int64_t> log_tails;
  int64_t log_bytes = 0;
};

WriterKey WriterOf(const MetricSource& source) { return {source.attempt.attempt, source.rank}; }

class MemoryMetricStore : public MetricStore {
 public:
  absl::StatusOr<int64_t> Append(const MetricSource& source,
                                 absl::Span<const MetricRecord> records) override {
    NIBBLE_RETURN_IF_ERROR(CheckMetricRecords(records));
    MutexLock lock(mutex_);
    JobMetrics& job = jobs_[source.attempt.job_id];
    Tail& tail = job.tails[WriterOf(source)];
    if (!records.empty() && records.front().sequence > tail.sequence + 1) {
      return GapError(source, tail.sequence + 1, records.front().sequence);
    }
    std::set<std::string> names = names_;
    for (const MetricRecord& record : records) {
      for (const auto& [name, value] : record.values) names.insert(name);
    }
    if (names.size() > kMaxMetricNames) return TooManyNamesError();
    names_ = std::move(names);
    for (const MetricRecord& record : records) {
      if (record.sequence <= tail.sequence) continue;
      job.records[{record.step, source.rank, source.attempt.attempt, record.sequence}] = record;
      tail = {record.sequence, record.step};
    }
    return tail.sequence;
  }

  absl::StatusOr<MetricPage> Read(const MetricQuery& query) override {
    NIBBLE_RETURN_IF_ERROR(CheckMetricQuery(query));
    MutexLock lock(mutex_);
    RowBuilder builder(query);
    const auto found = jobs_.find(query.job_id);
    if (found == jobs_.end()) return builder.Finish(/*page_is_full=*/false);
    const auto& records = found->second.records;
    auto it = records.lower_bound({query.first_step, 0, 0, 0});
    if (query.after.has_value() && query.max_points == 0) {
      const auto after =
          records.lower_bound({query.after->step, query.after->rank, query.after->attempt + 1, 0});
      if (it != records.end() && (after == records.end() || it->first < after->first)) it = after;
    }
    for (; it != records.end(); ++it) {
      const auto& [step, rank, attempt, sequence] = it->first;
      if (query.last_step > 0 && step > query.last_step) break;
      if (!builder.Add({step, rank, attempt, sequence}, it->second.wall_micros,
                       it->second.values)) {
        return builder.Finish(/*page_is_full=*/true);
      }
    }
    return builder.Finish(/*page_is_full=*/false);
  }

  absl::StatusOr<std::vector<int64_t>> LastSteps(absl::Span<const std::string> job_ids) override {
    MutexLock lock(mutex_);
    std::vector<int64_t> steps;
    for (const std::string& job_id : job_ids) {
      int64_t step = 0, attempt = 0;
      const auto found = jobs_.find(job_id);
      if (found != jobs_.end()) {
        for (const auto& [writer, tail] : found->second.tails) {
          if (tail.sequence == 0) continue;
          step = writer.first > attempt ? tail.step : std::max(step, tail.step);
          attempt = writer.first;
        }
      }
      steps.push_back(step);
    }
    return steps;
  }

  absl::StatusOr<int64_t> LastSequence(const MetricSource& source) override {
    MutexLock lock(mutex_);
    const auto job = jobs_.find(source.attempt.job_id);
    if (job == jobs_.end()) return 0;
    const auto tail = job->second.tails.find(WriterOf(source));
    return tail == job->second.tails.end() ? 0 : tail->second.sequence;
  }

  absl::StatusOr<int64_t> AppendLogs(const MetricSource& source,
                                     absl::Span<const LogRecord> records) override {
    NIBBLE_RETURN_IF_ERROR(CheckLogRecords(records));
    MutexLock lock(mutex_);
    JobMetrics& job = jobs_[source.attempt.job_id];
    int64_t& tail = job.log_tails[WriterOf(source)];
    for (const LogRecord& record : records) {
      if (record.sequence <= tail) continue;
      tail = record.sequence;
      LogRecord kept = record;
      kept.text = std::string(CutLogLine(record.text));
      job.log_bytes += static_cast<int64_t>(kept.text.size());
      job.lines.push_back({WriterOf(source), std::move(kept)});
    }
    while (job.log_bytes > kMaxLogBytesOfJob) {
      job.log_bytes -= static_cast<int64_t>(job.lines.front().record.text.size());
      job.lines.pop_front();
    }
    return tail;
  }

  absl::StatusOr<LogPage> ReadLogs(const LogQuery& query) override {
    NIBBLE_RETURN_IF_ERROR(CheckLimit(query.limit, 10'000));
    MutexLock lock(mutex_);
    LogPage page;
    const auto job = jobs_.find(query.job_id);
    if (job == jobs_.end()) return page;
    page.attempt = query.attempt;
    if (page.attempt == 0) {
      for (const auto& [writer, tail] : job->second.log_tails) {
        if (writer.second == query.rank) page.attempt = writer.first;
      }
    }
    int64_t bytes = 0;
    for (const LogLine& line : job->second.lines) {
      if (line.writer != WriterKey(page.attempt, query.rank) ||
          line.record.sequence <= query.after_sequence) {
        continue;
      }
      if (static_cast<int32_t>(page.lines.size()) == query.limit || bytes > kMaxLogPageBytes) {
        page.more = true;
        break;
      }
      bytes += static_cast<int64_t>(line.record.text.size());
      page.lines.push_back(line.record);
    }
    return page;
  }

  absl::Status DeleteJob(absl::string_view job_id) override {
    MutexLock lock(mutex_);
    jobs_.erase(std::string(job_id));
    return absl::OkStatus();
  }

 private:
  Mutex mutex_;
  std::map<std::string, JobMetrics> jobs_ GUARDED_BY(mutex_);
  std::set<std::string> names_ GUARDED_BY(mutex_);
};

}  // namespace

std::unique_ptr<MetricStore> MakeMemoryMetricStore() {
  return std::make_unique<MemoryMetricStore>();
}

}  // namespace nibble::store
