#include "server/store/memory_store.h"

#include <algorithm>
#include <map>
#include <set>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/mutex.h"
#include "base/planted.h"
#include "server/store/job_filter.h"

namespace nibble::store {
namespace {

using scheduler::CheckpointRecord;
using scheduler::IdempotencyRecord;
using scheduler::JobEventRecord;
using scheduler::JobRecord;
using scheduler::JobState;
using scheduler::PurgeRecord;
using scheduler::Transaction;

class MemoryStore : public Store {
 public:
  absl::Status Commit(const Transaction& t) override {
    MutexLock lock(mutex_);
    for (const IdempotencyRecord& key : t.keys) {
      if (keys_.count(key.key) != 0) {
        return absl::InternalError(absl::StrCat("key ", key.key, " is there already"));
      }
    }
    for (const JobRecord& job : t.jobs) PutJob(job);
    for (const JobEventRecord& event : t.events) {
      events_[event.event_id] = event;
      last_event_id_ = std::max(last_event_id_, event.event_id);
    }
    for (const CheckpointRecord& c : t.checkpoints) checkpoints_[c.job_id][c.step] = c;
    for (const CheckpointRecord& c : t.removed_checkpoints) checkpoints_[c.job_id].erase(c.step);
    for (const IdempotencyRecord& key : t.keys) keys_[key.key] = key;
    for (const std::string& job_id : t.deleted_jobs) DeleteJob(job_id);
    purges_.insert(t.purges.begin(), t.purges.end());
    for (const PurgeRecord& purge : t.finished_purges) purges_.erase(purge);
    for (const auto& worker : t.workers) workers_[worker.worker_id] = worker;
    for (const std::string& worker_id : t.removed_workers) workers_.erase(worker_id);
    for (const auto& usage : t.usages) usages_[usage.project] = usage;
    return absl::OkStatus();
  }

  absl::StatusOr<JobRecord> GetJob(absl::string_view job_id) override {
    MutexLock lock(mutex_);
    const auto found = sequences_.find(job_id);
    if (found == sequences_.end()) return absl::NotFoundError(absl::StrCat("no job ", job_id));
    return jobs_.at(found->second);
  }

  absl::StatusOr<JobPage> ListJobs(const JobQuery& query) override {
    if (absl::Status status = CheckLimit(query.limit, kMaxPage); !status.ok()) return status;
    MutexLock lock(mutex_);
    JobPage page;
    auto it = query.before_sequence > 0 ? jobs_.lower_bound(query.before_sequence) : jobs_.end();
    while (it != jobs_.begin()) {
      --it;
      if (!Matches(query, it->second)) continue;
      if (static_cast<int32_t>(page.jobs.size()) == query.limit) {
        page.next = page.jobs.back().submit_sequence;
        break;
      }
      page.jobs.push_back(it->second);
    }
    return page;
  }

  absl::StatusOr<EventPage> ListEvents(const EventQuery& query) override {
    if (absl::Status status = CheckLimit(query.limit, kMaxPage); !status.ok()) return status;
    MutexLock lock(mutex_);
    EventPage page;
    for (auto it = events_.upper_bound(query.after_event_id); it != events_.end(); ++it) {
      if (!query.job_id.empty() && it->second.job_id != query.job_id) continue;
      if (static_cast<int32_t>(page.events.size()) == query.limit) {
        page.next = page.events.back().event_id;
        break;
      }
      page.events.push_back(it->second);
    }
    return page;
  }

  absl::StatusOr<std::vector<CheckpointRecord>> ListCheckpoints(absl::string_view job_id) override {
    MutexLock lock(mutex_);
    return CheckpointsOf(job_id);
  }

  absl::StatusOr<std::optional<IdempotencyRecord>> FindKey(absl::string_view key) override {
    MutexLock lock(mutex_);
    const auto found = keys_.find(key);
    if (found == keys_.end()) return std::optional<IdempotencyRecord>();
    return std::optional<IdempotencyRecord>(found->second);
  }

  absl::StatusOr<LiveState> LoadLive() override {
    MutexLock lock(mutex_);
    LiveState state;
    for (const auto& [sequence, job] : jobs_) {
      if (scheduler::IsTerminal(job.state)) continue;
      state.recovered.jobs.push_back({job, CheckpointsOf(job.job_id)});
    }
    state.recovered.purges.assign(purges_.begin(), purges_.end());
    for (const auto& [id, worker] : workers_) state.recovered.workers.push_back(worker);
    for (const auto& [project, usage] : usages_) state.recovered.usages.push_back(usage);
    state.recovered.last_event_id = last_event_id_;
    state.recovered.last_submit_sequence = last_submit_sequence_;
    return state;
  }

  absl::StatusOr<std::array<int64_t, 10>> CountJobs() override {
    MutexLock lock(mutex_);
    return counts_;
  }

 private:
  void PutJob(const JobRecord& job) REQUIRES(mutex_) {
    const auto found = jobs_.find(job.submit_sequence);
    if (found != jobs_.end() && !NIBBLE_PLANTED("gauge_drifts"))
      --counts_[static_cast<int>(found->second.state)];
    ++counts_[static_cast<int>(job.state)];
    jobs_[job.submit_sequence] = job;
    sequences_[job.job_id] = job.submit_sequence;
    last_submit_sequence_ = std::max(last_submit_sequence_, job.submit_sequence);
  }

  void DeleteJob(const std::string& job_id) REQUIRES(mutex_) {
    const auto found = sequences_.find(job_id);
    if (found == sequences_.end()) return;
    const auto job = jobs_.find(found->second);
    --counts_[static_cast<int>(job->second.state)];
    keys_.erase(job->second.document->request_key);
    jobs_.erase(job);
    sequences_.erase(found);
    checkpoints_.erase(job_id);
    for (auto it = events_.begin(); it != events_.end();) {
      it = it->second.job_id == job_id ? events_.erase(it) : std::next(it);
    }
  }

  std::vector<CheckpointRecord> CheckpointsOf(absl::string_view job_id) REQUIRES(mutex_) {
    std::vector<CheckpointRecord> newest_first;
    const auto found = checkpoints_.find(job_id);
    if (found == checkpoints_.end()) return newest_first;
    for (auto it = found->second.rbegin(); it != found->second.rend(); ++it) {
      newest_first.push_back(it->second);
    }
    return newest_first;
  }

  Mutex mutex_;
  std::map<int64_t, JobRecord> jobs_ GUARDED_BY(mutex_);  // by submit_sequence
  std::map<std::string, int64_t, std::less<>> sequences_ GUARDED_BY(mutex_);
  std::map<int64_t, JobEventRecord> events_ GUARDED_BY(mutex_);
  std::map<std::string, std::map<int64_t, CheckpointRecord>, std::less<>> checkpoints_
      GUARDED_BY(mutex_);
  std::map<std::string, IdempotencyRecord, std::less<>> keys_ GUARDED_BY(mutex_);
  std::set<PurgeRecord> purges_ GUARDED_BY(mutex_);
  std::map<std::string, scheduler::WorkerRecord> workers_ GUARDED_BY(mutex_);
  std::map<std::string, scheduler::ProjectUsage> usages_ GUARDED_BY(mutex_);
  std::array<int64_t, 10> counts_ GUARDED_BY(mutex_) = {};
  int64_t last_event_id_ GUARDED_BY(mutex_) = 0;
  int64_t last_submit_sequence_ GUARDED_BY(mutex_) = 0;
};

}  // namespace

std::unique_ptr<Store> MakeMemoryStore() { return std::make_unique<MemoryStore>(); }

}  // namespace nibble::store
