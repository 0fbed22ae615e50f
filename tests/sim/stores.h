// The daemon's disk: stores that fill up, crash in the middle of a commit, and after a power cut
// have what was durable. jobs.db is lost from nothing that was acknowledged; metrics.db may lose
// its tail (docs/operations.md), which the workers send again. In some runs the rows lie in SQLite
// files, so that every record passes through its encoding and back.
#ifndef TESTS_SIM_STORES_H_
#define TESTS_SIM_STORES_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "server/store/crash_losing_store.h"
#include "server/store/metric_store.h"
#include "tests/sim/world.h"

namespace nibble::sim {

class SimStore : public store::Store {
 public:
  // `directory`: for SQLite files; empty for stores in memory.
  SimStore(World* world, std::string directory);

  // Called for each transaction that is durable, before its Commit returns.
  std::function<void(const scheduler::Transaction&)> on_commit;

  // Called where a transaction is refused.
  std::function<void()> on_full;

  void CrashAtNextCommit(bool crash = true) { crash_next_ = crash; }
  void FillDisk(bool full) { full_ = full; }
  // The process is gone and a new one opens the store. `power_cut`: what was not synced is gone.
  void Reopen(bool power_cut);

  absl::Status Commit(const scheduler::Transaction& transaction) override;
  absl::StatusOr<scheduler::JobRecord> GetJob(absl::string_view job_id) override {
    return inner_->GetJob(job_id);
  }
  absl::StatusOr<store::JobPage> ListJobs(const store::JobQuery& query) override {
    return inner_->ListJobs(query);
  }
  absl::StatusOr<store::EventPage> ListEvents(const store::EventQuery& query) override {
    return inner_->ListEvents(query);
  }
  absl::StatusOr<std::vector<scheduler::CheckpointRecord>> ListCheckpoints(
      absl::string_view job_id) override {
    return inner_->ListCheckpoints(job_id);
  }
  absl::StatusOr<std::optional<scheduler::IdempotencyRecord>> FindKey(
      absl::string_view key) override {
    return inner_->FindKey(key);
  }
  absl::StatusOr<store::LiveState> LoadLive() override { return inner_->LoadLive(); }
  absl::StatusOr<std::array<int64_t, 10>> CountJobs() override { return inner_->CountJobs(); }

 private:
  World* const world_;
  const std::string directory_;
  std::unique_ptr<store::CrashLosingStore> memory_;  // null where the rows are in files
  std::unique_ptr<store::Store> files_;
  store::Store* inner_ = nullptr;
  bool crash_next_ = false;
  bool full_ = false;
};

class SimMetricStore : public store::MetricStore {
 public:
  SimMetricStore(World* world, std::string directory);

  // What was appended last is gone. Jobs whose rows were lost are in lost_jobs().
  void PowerCut();
  const std::set<std::string>& lost_jobs() const { return lost_jobs_; }

  absl::StatusOr<int64_t> Append(const store::MetricSource& source,
                                 absl::Span<const store::MetricRecord> records) override;
  absl::StatusOr<store::MetricPage> Read(const store::MetricQuery& query) override {
    return inner_->Read(query);
  }
  absl::StatusOr<std::vector<int64_t>> LastSteps(absl::Span<const std::string> jobs) override {
    return inner_->LastSteps(jobs);
  }
  absl::StatusOr<int64_t> LastSequence(const store::MetricSource& source) override {
    return inner_->LastSequence(source);
  }
  absl::StatusOr<int64_t> AppendLogs(const store::MetricSource& source,
                                     absl::Span<const store::LogRecord> records) override {
    return inner_->AppendLogs(source, records);
  }
  absl::StatusOr<store::LogPage> ReadLogs(const store::LogQuery& query) override {
    return inner_->ReadLogs(query);
  }
  absl::Status DeleteJob(absl::string_view job_id) override;

 private:
  struct Write {  // an append, or without records a deletion
    store::MetricSource source;
    std::vector<store::MetricRecord> records;
    int64_t at = 0;
  };
  void OpenInner();
  void Apply(const Write& write);

  World* const world_;
  const std::string directory_;
  int files_ = 0;
  std::unique_ptr<store::MetricStore> inner_;
  std::vector<Write> writes_;
  std::set<std::string> lost_jobs_;
};

}  // namespace nibble::sim

#endif  // TESTS_SIM_STORES_H_
