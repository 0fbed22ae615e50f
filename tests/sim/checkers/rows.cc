#include <map>
#include <set>
#include <string>
#include <utility>

#include "tests/sim/checkers/all.h"

namespace nibble::sim {
namespace {

using scheduler::JobRecord;
using scheduler::JobState;

// docs/job_lifecycle.md, written once more.
bool MayMove(JobState from, JobState to) {
  using S = JobState;
  static constexpr std::pair<S, S> kMoves[] = {
      {S::kUnspecified, S::kQueued}, {S::kQueued, S::kStarting},    {S::kStarting, S::kRunning},
      {S::kRunning, S::kSucceeded},  {S::kRunning, S::kFailed},     {S::kStarting, S::kFailed},
      {S::kStarting, S::kQueued},    {S::kRunning, S::kQueued},     {S::kStarting, S::kPausing},
      {S::kRunning, S::kPausing},    {S::kPausing, S::kPaused},     {S::kPausing, S::kQueued},
      {S::kPausing, S::kSucceeded},  {S::kPaused, S::kQueued},      {S::kQueued, S::kPaused},
      {S::kQueued, S::kCancelled},   {S::kPaused, S::kCancelled},   {S::kStarting, S::kStopping},
      {S::kRunning, S::kStopping},   {S::kPausing, S::kStopping},   {S::kStopping, S::kCancelled},
      {S::kStopping, S::kFailed},    {S::kStopping, S::kSucceeded},
  };
  for (const auto& move : kMoves) {
    if (move == std::make_pair(from, to)) return true;
  }
  return false;
}

bool Ended(JobState state) {
  return state == JobState::kSucceeded || state == JobState::kFailed ||
         state == JobState::kCancelled;
}

bool HoldsSlots(JobState state) {
  return state == JobState::kStarting || state == JobState::kRunning ||
         state == JobState::kPausing || state == JobState::kStopping;
}

class RowsChecker : public Checker {
 public:
  using Checker::Checker;

  void Committed(const scheduler::Transaction& t) override {
    for (const auto& event : t.events) CheckEvent(event);
    std::set<std::string> changed;  // a group of steps may change one several times
    for (const JobRecord& job : t.jobs) changed.insert(job.job_id);
    for (const std::string& job_id : changed) CheckRow(job_id);
    for (const std::string& job_id : t.deleted_jobs) {
      if (!Ended(states_[job_id].state)) Fail(absl::StrCat("live job ", job_id, " was deleted"));
    }
    for (const auto& key : t.keys) {
      const auto [known, fresh] = jobs_of_keys_.emplace(key.key, key.job_id);
      if (!fresh && known->second != key.job_id && site_.rows.Find(known->second) != nullptr) {
        Fail(absl::StrCat("key ", key.key, " made a second job"));
      }
    }
  }

  // Nothing that was committed is lost, whatever the last daemon died of.
  void DaemonStarts() override {
    for (const auto& [job_id, row] : site_.rows.jobs) {
      const auto stored = site_.store->GetJob(job_id);
      if (!stored.ok()) return Fail(absl::StrCat("job ", job_id, " is lost: committed and gone"));
      if (!(*stored == row)) return Fail(absl::StrCat("job ", job_id, " is not as committed"));
      const auto checkpoints = site_.store->ListCheckpoints(job_id);
      const auto wanted = site_.rows.checkpoints.find(job_id);
      const size_t count = wanted == site_.rows.checkpoints.end() ? 0 : wanted->second.size();
      if (!checkpoints.ok() || checkpoints->size() != count) {
        return Fail(absl::StrCat("checkpoints of ", job_id, " are not as committed"));
      }
      const std::string& key = row.document->request_key;
      const auto found = site_.store->FindKey(key);
      if (!found.ok() || !found->has_value() || (*found)->job_id != job_id) {
        return Fail(absl::StrCat("key ", key, " is lost"));
      }
    }
    for (const std::string& job_id : site_.rows.deleted) {
      if (site_.store->GetJob(job_id).ok()) Fail(absl::StrCat("deleted job ", job_id, " is back"));
    }
  }

 private:
  struct Known {
    JobState state = JobState::kUnspecified;
    int64_t attempt = 0;
    int64_t sequence = 0;
    int64_t revision = 0;
  };

  void CheckEvent(const scheduler::JobEventRecord& event) {
    if (event.event_id != last_event_ + 1) {
      Fail(absl::StrCat("event ", event.event_id, " follows event ", last_event_));
    }
    last_event_ = event.event_id;
    site_.world->Reached(absl::StrCat("event: ", scheduler::JobReasonName(event.reason), " to ",
                                      scheduler::JobStateName(event.after)));
    if (event.job_id.empty()) return;
    Known& known = states_[event.job_id];
    site_.world->Trace(absl::StrCat("  ", event.job_id, "/", event.attempt, " ",
                                    scheduler::JobStateName(event.before), " -> ",
                                    scheduler::JobStateName(event.after), ": ", event.message));
    const std::string name = absl::StrCat("job ", event.job_id);
    if (event.before != known.state) Fail(absl::StrCat(name, ": an event from another state"));
    if (Ended(known.state) && event.before != event.after) {
      Fail(absl::StrCat(name, ": ended as ", scheduler::JobStateName(known.state), " and moved"));
    }
    if (event.before != event.after && !MayMove(event.before, event.after)) {
      Fail(absl::StrCat(name, ": moved from ", scheduler::JobStateName(event.before), " to ",
                        scheduler::JobStateName(event.after)));
    }
    if (event.after == JobState::kStarting && event.before != event.after) {
      if (event.attempt != known.attempt + 1) {
        Fail(absl::StrCat(name, ": attempt ", event.attempt, " after ", known.attempt));
      }
      known.attempt = event.attempt;
    }
    known.state = event.after;
  }

  void CheckRow(const std::string& job_id) {
    const JobRecord* const job = site_.rows.Find(job_id);
    if (job == nullptr) return;  // deleted in the same transaction
    Known& known = states_[job_id];
    const std::string name = absl::StrCat("job ", job_id);
    const auto old = site_.rows.before.find(job_id);
    if (old != site_.rows.before.end() && Ended(old->second.state)) {
      Fail(absl::StrCat(name, ": its row changed after its end"));
    }
    if (job->state != known.state) Fail(absl::StrCat(name, ": a state without an event"));
    if (job->attempt != known.attempt) Fail(absl::StrCat(name, ": an epoch without an event"));
    if (job->revision <= known.revision) Fail(absl::StrCat(name, ": its etag did not rise"));
    known.revision = job->revision;
    if (known.sequence == 0) {
      known.sequence = job->submit_sequence;
      if (!sequences_.emplace(job->submit_sequence, job_id).second) {
        Fail(absl::StrCat(name, ": its place in the queue was taken"));
      }
    }
    if (job->submit_sequence != known.sequence) Fail(absl::StrCat(name, ": another sequence"));
    if (HoldsSlots(job->state) == job->placement.empty()) {
      Fail(absl::StrCat(name, ": ", scheduler::JobStateName(job->state), " with ",
                        job->placement.size(), " shares"));
    }
    if (job->state == JobState::kSucceeded && !job->result.has_value()) {
      Fail(absl::StrCat(name, ": succeeded without a result"));
    }
    if (Ended(job->state) != (job->end_micros != 0)) Fail(absl::StrCat(name, ": end time"));
    if (old == site_.rows.before.end()) return;
    if (job->committed_step < old->second.committed_step) {
      Fail(absl::StrCat(name, ": its committed step went back"));
    }
    if (job->workers.size() < old->second.workers.size()) {
      Fail(absl::StrCat(name, ": forgot where its files lie"));
    }
    for (const auto& share : job->placement) {
      bool listed = false;
      for (const std::string& worker : job->workers) listed = listed || worker == share.worker_id;
      if (!listed) Fail(absl::StrCat(name, ": does not know that it ran on ", share.worker_id));
    }
  }

  int64_t last_event_ = 0;
  std::map<std::string, Known> states_;
  std::map<int64_t, std::string> sequences_;
  std::map<std::string, std::string> jobs_of_keys_;
};

}  // namespace

std::unique_ptr<Checker> MakeRowsChecker(Site* site) { return std::make_unique<RowsChecker>(site); }

}  // namespace nibble::sim
