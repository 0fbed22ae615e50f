#include "server/scheduler/invariants.h"

#include <algorithm>
#include <set>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"

namespace nibble::scheduler {
namespace {

// A queued job that is not backing off.
bool IsReady(const JobRecord& job) {
  return job.state == JobState::kQueued &&
         (job.reason == JobReason::kWaitingForSlots || job.reason == JobReason::kResumeRequested);
}

// SchedulerOptions::ageing_nanos of the worlds that are checked.
constexpr int64_t kAgeingNanos = 60'000'000'000;

auto OrderOf(const JobRecord& job) {
  return std::make_tuple(job.queued_clock_nanos - int64_t{job.document->priority} * kAgeingNanos,
                         job.submit_sequence);
}

// Jobs that whatever lets one start lets the other start.
bool Alike(const JobRecord& a, const JobRecord& b) {
  return a.document->slots == b.document->slots && a.document->project == b.document->project &&
         a.document->constraints == b.document->constraints &&
         a.document->max_run_nanos == b.document->max_run_nanos &&
         a.failed_workers == b.failed_workers;
}

}  // namespace

namespace {

bool Places(const JobRecord& job, const std::string& worker_id) {
  for (const WorkerShare& share : job.placement) {
    if (share.worker_id == worker_id) return true;
  }
  return false;
}

}  // namespace

void InvariantChecker::Fail(std::string what) {
  violations_.push_back(absl::StrCat(what, " [", context_, "]"));
}

void InvariantChecker::Check(const Event& event, const std::vector<Effect>& effects,
                             const Scheduler& scheduler, const Ledger& ledger,
                             const std::map<std::string, AssignmentsChanged>& lists) {
  context_ = absl::StrCat("event ", event.request_token, " of kind ", event.body.index());
  CheckOrderOfEffects(effects, ledger);
  if (!effects.empty()) {
    if (const auto* t = std::get_if<Transaction>(&effects[0])) CheckRows(*t);
  }
  CheckLists(lists, ledger);
  CheckSlots(scheduler);
  CheckQueue(effects, scheduler);
  CheckMemory(scheduler, ledger);
  CheckCommit(event, effects, ledger);
}

void InvariantChecker::CheckOrderOfEffects(const std::vector<Effect>& effects,
                                           const Ledger& ledger) {
  int replies = 0;
  for (size_t i = 0; i < effects.size(); ++i) {
    if (i > 0 && std::holds_alternative<Transaction>(effects[i])) {
      Fail("a transaction after another effect");
    }
    const JobRecord* said = nullptr;
    if (const auto* changed = std::get_if<JobChanged>(&effects[i])) {
      if (!changed->deleted) said = &changed->job;
    }
    if (const auto* reply = std::get_if<Reply>(&effects[i])) {
      ++replies;
      said = std::get_if<JobRecord>(&reply->answer);
    }
    if (said == nullptr) continue;
    const auto row = ledger.jobs.find(said->job_id);
    if (row == ledger.jobs.end() || !(row->second == *said)) {
      Fail(absl::StrCat("job ", said->job_id, " was shown otherwise than written"));
    }
  }
  if (replies != 1) Fail(absl::StrCat(replies, " replies"));
}

void InvariantChecker::CheckRows(const Transaction& transaction) {
  std::map<std::string, JobState> after;
  for (const JobEventRecord& event : transaction.events) {
    if (event.event_id != ++last_event_id_) Fail("event ids do not count up");
    const auto known = after.find(event.job_id);
    const JobState before = known != after.end() ? known->second : seen_[event.job_id].state;
    if (event.job_id.empty()) {
      if (event.cause.empty()) Fail("an event of nothing");
      continue;
    }
    const bool moved = event.before != event.after;
    if (event.before != before || (moved && !IsTransition(event.before, event.after))) {
      Fail(absl::StrCat("job ", event.job_id, " went from ", JobStateName(before), " by ",
                        JobStateName(event.before), " to ", JobStateName(event.after)));
    }
    if (moved && event.after == JobState::kStarting &&
        event.attempt != ++seen_[event.job_id].started) {
      Fail(absl::StrCat("attempt ", event.attempt, " of ", event.job_id, " was started twice"));
    }
    after[event.job_id] = event.after;
  }
  for (const JobRecord& job : transaction.jobs) {
    Seen& seen = seen_[job.job_id];
    if (IsTerminal(seen.state)) Fail(absl::StrCat("ended job ", job.job_id, " changed"));
    if (job.attempt != seen.attempt && job.attempt != seen.attempt + 1) {
      Fail(absl::StrCat("epoch of ", job.job_id, " went from ", seen.attempt, " to ", job.attempt));
    }
    if (job.revision != seen.revision + 1) Fail(absl::StrCat("revision of ", job.job_id));
    const auto event = after.find(job.job_id);
    const JobState expected = event != after.end() ? event->second : seen.state;
    if (job.state != expected) Fail(absl::StrCat("job ", job.job_id, " changed without an event"));
    if (HasLiveAttempt(job.state) == job.placement.empty()) {
      Fail(absl::StrCat("job ", job.job_id, " is ", JobStateName(job.state), " on worker '",
                        job.worker_id(), "'"));
    }
    if (job.state == JobState::kSucceeded && !job.result.has_value()) Fail("no result");
    seen.state = job.state;
    seen.attempt = job.attempt;
    seen.revision = job.revision;
    after.erase(job.job_id);
  }
  if (!after.empty()) Fail(absl::StrCat("an event without its row: ", after.begin()->first));
}

void InvariantChecker::CheckLists(const std::map<std::string, AssignmentsChanged>& lists,
                                  const Ledger& ledger) {
  std::set<std::pair<std::string, std::string>> listed;
  for (const auto& [worker_id, list] : lists) {
    for (const Assignment& assignment : list.assignments) {
      const std::string& job_id = assignment.attempt.job_id;
      const auto row = ledger.jobs.find(job_id);
      if (!listed.emplace(job_id, worker_id).second) Fail(absl::StrCat(job_id, " is listed twice"));
      if (row == ledger.jobs.end() || !HasLiveAttempt(row->second.state) ||
          row->second.attempt != assignment.attempt.attempt || !Places(row->second, worker_id)) {
        Fail(absl::StrCat("worker ", worker_id, " is to hold ", job_id, "/",
                          assignment.attempt.attempt, ", which is not live there"));
      }
    }
  }
}

void InvariantChecker::CheckSlots(const Scheduler& scheduler) {
  const absl::Status verified = scheduler.resources().Verify();
  if (!verified.ok()) Fail(std::string(verified.message()));
  for (const WorkerInfo& worker : scheduler.Workers()) {
    if (worker.slots_used > worker.slots) {
      Fail(absl::StrCat("worker ", worker.worker_id, " has ", worker.slots_used, " of ",
                        worker.slots, " slots in use"));
    }
  }
  for (const JobRecord* job : scheduler.LiveJobs()) {
    for (const WorkerShare& share : job->placement) {
      const AttemptId attempt{job->job_id, job->attempt};
      if (scheduler.resources().Held(attempt, share.worker_id) != share.slots) {
        Fail(absl::StrCat("live attempt of ", job->job_id, " does not hold its slots"));
      }
    }
  }
}

void InvariantChecker::CheckQueue(const std::vector<Effect>& effects, const Scheduler& scheduler) {
  std::vector<const JobRecord*> ready;
  for (const JobRecord* job : scheduler.LiveJobs()) {
    if (IsReady(*job)) ready.push_back(job);
  }
  for (const JobRecord* job : ready) CheckNeedlessWait(*job, scheduler);
  if (effects.empty()) return;
  const auto* transaction = std::get_if<Transaction>(&effects[0]);
  if (transaction == nullptr) return;
  for (const JobEventRecord& event : transaction->events) {
    if (event.after != JobState::kStarting || event.before == event.after) continue;
    const JobRecord* const started = scheduler.FindJob(event.job_id);
    for (const JobRecord* job : ready) {
      // One that had to make room for a higher priority goes behind it.
      const bool gave_way = started != nullptr && job->preemptions > 0 &&
                            job->document->priority < started->document->priority;
      if (started != nullptr && !gave_way && Alike(*job, *started) &&
          OrderOf(*job) < OrderOf(*started)) {
        Fail(absl::StrCat("job ", event.job_id, " overtook ", job->job_id));
      }
    }
  }
}

// Work conserving: a job that a worker has room for waits only for its project's limit, or where
// the worker's slots are kept for the head of the queue.
void InvariantChecker::CheckNeedlessWait(const JobRecord& job, const Scheduler& scheduler) {
  const JobDocument& document = *job.document;
  for (const ProjectInfo& project : scheduler.Projects()) {
    if (project.options.name == document.project && project.options.limit_slots.has_value() &&
        project.held + document.slots > *project.options.limit_slots) {
      return;
    }
  }
  const std::optional<Reservation>& reservation = scheduler.reservation();
  for (const WorkerInfo& worker : scheduler.Workers()) {
    const auto& failed = job.failed_workers;
    if (std::find(failed.begin(), failed.end(), worker.worker_id) != failed.end()) continue;
    if (!document.constraints.empty()) continue;
    if (scheduler.resources().FreeSlots(worker.worker_id) < document.slots) continue;
    const bool kept = reservation.has_value() && reservation->job_id != job.job_id &&
                      reservation->slots.count(worker.worker_id) != 0;
    if (!kept) {
      Fail(absl::StrCat("job ", job.job_id, " waits, but ", worker.worker_id, " has room"));
    }
  }
}

void InvariantChecker::CheckMemory(const Scheduler& scheduler, const Ledger& ledger) {
  size_t live = 0;
  for (const auto& [job_id, row] : ledger.jobs) {
    const JobRecord* const job = scheduler.FindJob(job_id);
    if (IsTerminal(row.state)) {
      if (job != nullptr) Fail(absl::StrCat("ended job ", job_id, " is still in memory"));
      continue;
    }
    ++live;
    if (job == nullptr || !(*job == row)) {
      Fail(absl::StrCat("job ", job_id, " is otherwise in memory than written"));
    }
  }
  if (live != scheduler.LiveJobs().size()) Fail("a job in memory was never written");
  int64_t counted = 0;
  for (const int64_t count : scheduler.Stats().jobs_by_state) counted += count;
  if (counted != static_cast<int64_t>(live)) Fail("the gauge of jobs differs from the rows");
}

void InvariantChecker::CheckCommit(const Event& event, const std::vector<Effect>& effects,
                                   const Ledger& ledger) {
  const auto* commit = std::get_if<CheckpointCommitted>(&event.body);
  if (commit == nullptr) return;
  for (const Effect& effect : effects) {
    const auto* reply = std::get_if<Reply>(&effect);
    if (reply == nullptr || !reply->error.ok()) continue;
    const JobRecord& job = ledger.jobs.at(commit->checkpoint.job_id);
    Seen& seen = seen_[job.job_id];
    if (commit->checkpoint.attempt != job.attempt ||
        commit->checkpoint.attempt < seen.committed_attempt) {
      Fail(absl::StrCat("a checkpoint of old attempt ", commit->checkpoint.attempt,
                        " was accepted"));
    }
    seen.committed_attempt = commit->checkpoint.attempt;
    const auto rows = ledger.checkpoints.find(job.job_id);
    const size_t kept = rows == ledger.checkpoints.end() ? 0 : rows->second.size();
    if (kept == 0 || kept > static_cast<size_t>(job.document->keep_checkpoints)) {
      Fail(absl::StrCat(kept, " checkpoints of ", job.job_id, " are kept"));
    }
    const auto* answer = std::get_if<CheckpointAnswer>(&reply->answer);
    if (answer == nullptr || answer->retained.size() != kept) Fail("the answer differs from rows");
  }
}

}  // namespace nibble::scheduler
