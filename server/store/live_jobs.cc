#include "server/store/live_jobs.h"

#include <algorithm>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "base/status_macros.h"
#include "server/store/jobs_tables.h"

namespace nibble::store {
namespace {

using scheduler::CheckpointRecord;
using scheduler::JobRecord;
using scheduler::JobState;

// Large enough that handing a batch over costs nothing, small enough to stay in a cache.
constexpr size_t kBatchBytes = 256 << 10;
constexpr size_t kMaxBatches = 8;

// Rows of jobs in one state, copied out of SQLite's memory.
class Batch {
 public:
  explicit Batch(JobState state) : state_(state) {}

  void Add(const JobRow& row) {
    rows_.push_back(row);
    for (const absl::string_view JobRow::*text : kTexts) {
      bytes_.append((row.*text).data(), (row.*text).size());
    }
  }
  bool empty() const { return rows_.empty(); }
  bool full() const { return bytes_.size() >= kBatchBytes; }
  JobState state() const { return state_; }

  // The rows, whose texts lie in this batch.
  const std::vector<JobRow>& Rows() {
    const char* next = bytes_.data();
    for (JobRow& row : rows_) {
      for (absl::string_view JobRow::*text : kTexts) {
        row.*text = {next, (row.*text).size()};
        next += (row.*text).size();
      }
    }
    return rows_;
  }

 private:
  static constexpr absl::string_view JobRow::*kTexts[] = {&JobRow::job_id, &JobRow::name,
                                                          &JobRow::record, &JobRow::document};
  JobState state_;
  std::vector<JobRow> rows_;
  std::string bytes_;
};

// Batches on their way from one thread to another, at most kMaxBatches.
class BatchQueue {
 public:
  void Push(Batch batch) {
    MutexLock lock(mutex_);
    while (batches_.size() >= kMaxBatches) changed_.Wait(mutex_);
    batches_.push_back(std::move(batch));
    changed_.SignalAll();
  }
  // No batch comes any more.
  void Finish() {
    MutexLock lock(mutex_);
    finished_ = true;
    changed_.SignalAll();
  }
  // Absent after the last.
  std::optional<Batch> Pop() {
    MutexLock lock(mutex_);
    while (batches_.empty() && !finished_) changed_.Wait(mutex_);
    if (batches_.empty()) return std::nullopt;
    std::optional<Batch> batch = std::move(batches_.front());
    batches_.pop_front();
    changed_.SignalAll();
    return batch;
  }
  // The popping side has done what it had to with all of them.
  void Processed() {
    MutexLock lock(mutex_);
    processed_ = true;
    changed_.SignalAll();
  }
  void AwaitProcessed() {
    MutexLock lock(mutex_);
    while (!processed_) changed_.Wait(mutex_);
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  std::deque<Batch> batches_ GUARDED_BY(mutex_);
  bool finished_ GUARDED_BY(mutex_) = false;
  bool processed_ GUARDED_BY(mutex_) = false;
};

struct DamagedJob {
  int64_t submit_sequence = 0;
  std::string job_id;
};

absl::Status ReadBatches(SqliteDatabase& db, BatchQueue& queue) {
  for (int i = 1; i < 10; ++i) {
    const auto state = static_cast<JobState>(i);
    if (scheduler::IsTerminal(state)) continue;
    Batch batch(state);
    NIBBLE_RETURN_IF_ERROR(ScanJobs(db, state, [&](const JobRow& row) {
      batch.Add(row);
      if (batch.full()) queue.Push(std::exchange(batch, Batch(state)));
    }));
    if (!batch.empty()) queue.Push(std::move(batch));
  }
  return absl::OkStatus();
}

void Decode(Batch batch, scheduler::Recovered& recovered, std::vector<DamagedJob>& damaged) {
  for (const JobRow& row : batch.Rows()) {
    absl::StatusOr<JobRecord> job = DecodeJobRow(row);
    // The index that led here may be damaged too, and name another state.
    if (job.ok() && job->state == batch.state()) {
      recovered.jobs.push_back({*std::move(job), {}});
    } else {
      damaged.push_back({row.submit_sequence, std::string(row.job_id)});
    }
  }
}

// They come state by state. Most are of one state, so mostly there is nothing to do.
void SortBySequence(std::deque<scheduler::Recovered::Job>& jobs) {
  const auto earlier = [](const scheduler::Recovered::Job& a, const scheduler::Recovered::Job& b) {
    return a.record.submit_sequence < b.record.submit_sequence;
  };
  if (std::is_sorted(jobs.begin(), jobs.end(), earlier)) return;
  std::vector<scheduler::Recovered::Job*> order;
  order.reserve(jobs.size());
  for (auto& job : jobs) order.push_back(&job);
  std::sort(order.begin(), order.end(), [&](auto* a, auto* b) { return earlier(*a, *b); });
  std::deque<scheduler::Recovered::Job> sorted;
  for (auto* job : order) sorted.push_back(std::move(*job));
  jobs = std::move(sorted);
}

absl::Status AddCheckpoints(SqliteDatabase& db, LiveState& state) {
  std::deque<scheduler::Recovered::Job>& jobs = state.recovered.jobs;
  bool damaged = false;
  for (auto& [job, kept] : jobs) {
    if (job.attempt == 0) continue;  // it never ran
    absl::StatusOr<std::vector<CheckpointRecord>> checkpoints = ReadCheckpoints(db, job.job_id);
    if (absl::IsDataLoss(checkpoints.status())) {
      // Starting it again from step 0 would throw its work away without a word.
      state.corrupt.push_back({"checkpoints", job.job_id});
      job.job_id.clear();
      damaged = true;
      continue;
    }
    NIBBLE_RETURN_IF_ERROR(checkpoints.status());
    kept = *std::move(checkpoints);
  }
  if (damaged) {
    jobs.erase(std::remove_if(jobs.begin(), jobs.end(),
                              [](const auto& row) { return row.record.job_id.empty(); }),
               jobs.end());
  }
  return absl::OkStatus();
}

absl::Status LoadRest(SqliteDatabase& db, const std::vector<DamagedJob>& damaged,
                      LiveState& state) {
  for (const DamagedJob& job : damaged) {
    NIBBLE_RETURN_IF_ERROR(Quarantine(db, job.submit_sequence, job.job_id));
    state.corrupt.push_back({"jobs", job.job_id});
  }
  NIBBLE_RETURN_IF_ERROR(AddCheckpoints(db, state));
  scheduler::Recovered& recovered = state.recovered;
  NIBBLE_ASSIGN_OR_RETURN(recovered.purges, ReadPurges(db, state.corrupt));
  NIBBLE_ASSIGN_OR_RETURN(recovered.workers, ReadWorkers(db, state.corrupt));
  NIBBLE_ASSIGN_OR_RETURN(recovered.usages, ReadUsages(db, state.corrupt));
  NIBBLE_ASSIGN_OR_RETURN(recovered.last_event_id, LastKey(db, "job_events"));
  NIBBLE_ASSIGN_OR_RETURN(recovered.last_submit_sequence, LastKey(db, "jobs"));
  return absl::OkStatus();
}

}  // namespace

absl::Status LoadLiveState(DatabaseThread& thread, LiveState& state) {
  BatchQueue queue;
  std::vector<DamagedJob> damaged;
  absl::Status loaded;
  // A write, because damaged rows are copied aside; one, so that all is as at one instant. What
  // stays in memory is allocated by this thread: it is often the main one, whose heap grows with
  // far fewer calls of the system than another's.
  std::thread reader([&] {
    loaded = thread.Write([&](SqliteDatabase& db) {
      const absl::Status read = ReadBatches(db, queue);
      queue.Finish();
      queue.AwaitProcessed();
      return read.ok() ? LoadRest(db, damaged, state) : read;
    });
    queue.Finish();  // where it did not come to that
  });
  while (std::optional<Batch> batch = queue.Pop()) {
    Decode(*std::move(batch), state.recovered, damaged);
  }
  SortBySequence(state.recovered.jobs);
  queue.Processed();
  reader.join();
  return loaded;
}

}  // namespace nibble::store
