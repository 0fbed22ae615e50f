// Workers that take no new work: drained by people, or because jobs of all kinds fail there.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/scheduler/machine.h"

namespace nibble::scheduler {
namespace {

constexpr char kActor[] = "scheduler";

}  // namespace

void Scheduler::Machine::PersistWorker(const std::string& worker_id) {
  const WorkerRecord& record = worker_records_.at(worker_id);
  if (!record.drained && record.failed_jobs.empty()) {
    transaction_.removed_workers.push_back(worker_id);
    auto& rows = transaction_.workers;
    rows.erase(std::remove_if(rows.begin(), rows.end(),
                              [&](const auto& row) { return row.worker_id == worker_id; }),
               rows.end());
    worker_records_.erase(worker_id);
    return;
  }
  auto& removed = transaction_.removed_workers;
  removed.erase(std::remove(removed.begin(), removed.end(), worker_id), removed.end());
  transaction_.workers.push_back(record);
}

void Scheduler::Machine::AddWorkerEvent(const std::string& worker_id, JobReason reason,
                                        std::string message, absl::string_view actor) {
  JobRecord nobody;
  AddEvent(nobody, JobState::kUnspecified,
           {JobState::kUnspecified, reason, std::move(message), absl::StrCat("worker:", worker_id)},
           actor);
}

void Scheduler::Machine::Drain(const std::string& worker_id, const std::string& reason,
                               absl::string_view actor) {
  WorkerRecord& record = worker_records_[worker_id];
  record.worker_id = worker_id;
  record.drained = true;
  record.drain_reason = reason;
  record.drain_actor = std::string(actor);
  record.drain_micros = now_.wall_micros;
  PersistWorker(worker_id);
  AddWorkerEvent(worker_id, JobReason::kWorkerDrained,
                 absl::StrCat("worker ", worker_id, " takes no new work",
                              reason.empty() ? "" : absl::StrCat(": ", reason)),
                 actor);
  UpdateSlots(worker_id);
}

void Scheduler::Machine::CountAgainstWorker(const std::string& worker_id,
                                            const std::string& job_id) {
  WorkerRecord& record = worker_records_[worker_id];
  record.worker_id = worker_id;
  std::vector<std::string>& jobs = record.failed_jobs;
  if (std::find(jobs.begin(), jobs.end(), job_id) != jobs.end()) return;
  if (jobs.size() >= options_.lemon_jobs) return;  // alerted already
  jobs.push_back(job_id);
  PersistWorker(worker_id);
  if (jobs.size() < options_.lemon_jobs) return;
  const std::string reason =
      absl::StrCat(jobs.size(), " different jobs failed on it one after the other");
  // The last worker that takes work is kept: the jobs have nowhere else to go.
  const bool others = std::any_of(workers_.begin(), workers_.end(), [&](const auto& other) {
    return other.first != worker_id && other.second.info.slots > 0 && IsOpen(other.second);
  });
  alerts_.push_back(
      {AlertKind::kLemonWorker,
       absl::StrCat("worker ", worker_id, ": ", reason,
                    others ? "; it is drained" : "; it is the only one that is left")});
  if (others && !record.drained) Drain(worker_id, reason, kActor);
}

void Scheduler::Machine::WorkerProved(const std::string& worker_id) {
  const auto found = worker_records_.find(worker_id);
  if (found == worker_records_.end() || found->second.failed_jobs.empty()) return;
  found->second.failed_jobs.clear();
  PersistWorker(worker_id);
}

void Scheduler::Machine::Handle(const DrainRequested& event) {
  const auto found = workers_.find(event.worker_id);
  if (found == workers_.end() || !found->second.registered) {
    return Fail(absl::StatusCode::kNotFound, ErrorReason::kWorkerNotFound,
                absl::StrCat("no worker ", event.worker_id));
  }
  const auto record = worker_records_.find(event.worker_id);
  if (record == worker_records_.end() || !record->second.drained) {
    Drain(event.worker_id, event.reason, event.actor);
  }
  if (event.evict) {
    const std::map<AttemptId, int32_t> holders = tracker_.Find(event.worker_id)->holders;
    for (const auto& [attempt, slots] : holders) {
      LiveJob* const job = FindAttempt(event.worker_id, attempt);
      if (job == nullptr ||
          (job->record.state != JobState::kRunning && job->record.state != JobState::kStarting)) {
        continue;
      }
      Evict(*job,
            {JobState::kPausing, JobReason::kWorkerDrained,
             absl::StrCat("leaves worker ", event.worker_id, ", which is drained"),
             absl::StrCat("worker:", event.worker_id)},
            event.actor);
    }
  }
  reply_.answer = InfoOf(event.worker_id);
}

void Scheduler::Machine::Handle(const UndrainRequested& event) {
  const auto found = workers_.find(event.worker_id);
  const auto record = worker_records_.find(event.worker_id);
  const bool registered = found != workers_.end() && found->second.registered;
  if (!registered && record == worker_records_.end()) {
    return Fail(absl::StatusCode::kNotFound, ErrorReason::kWorkerNotFound,
                absl::StrCat("no worker ", event.worker_id));
  }
  if (record != worker_records_.end() && record->second.drained) {
    WorkerRecord& row = record->second;
    row = WorkerRecord();
    row.worker_id = event.worker_id;
    AddWorkerEvent(event.worker_id, JobReason::kWorkerUndrained,
                   absl::StrCat("worker ", event.worker_id, " takes work again"), event.actor);
    PersistWorker(event.worker_id);
    if (found != workers_.end()) UpdateSlots(event.worker_id);
  }
  if (registered) {
    reply_.answer = InfoOf(event.worker_id);
  } else {
    WorkerInfo info;
    info.worker_id = event.worker_id;
    reply_.answer = std::move(info);
  }
}

}  // namespace nibble::scheduler
