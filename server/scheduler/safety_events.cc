// What the training safety of a job makes of its attempts: notes, damaged checkpoints, pauses that
// nobody asked for.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/scheduler/machine.h"

namespace nibble::scheduler {

void Scheduler::Machine::AttemptNoted(LiveJob& job, const AttemptReported& event,
                                      absl::string_view actor) {
  // Sent again because the answer was lost. Not persisted: after a restart of the daemon an event
  // may stand there twice, which changes nothing else.
  if (job.noted == event.attempt && event.note_sequence <= job.note_sequence) return;
  job.noted = event.attempt;
  job.note_sequence = event.note_sequence;
  if (event.reason == JobReason::kTrainerRestarted) {
    // Shown, but not held against any budget: nothing was lost.
    ++job.record.failures;
    job.record.last_failure = event.failure_class;
  }
  if (event.reason == JobReason::kCheckpointQuarantined) Quarantine(job, event);
  Note(job,
       {job.record.state, event.reason, std::string(Shorten(event.message)),
        event.cause.empty() ? absl::StrCat("worker:", event.worker_id) : event.cause},
       actor);
}

void Scheduler::Machine::Quarantine(LiveJob& job, const AttemptReported& event) {
  std::vector<CheckpointRecord>& kept = job.checkpoints;
  const auto damaged = std::find_if(kept.begin(), kept.end(), [&](const CheckpointRecord& c) {
    return c.attempt == event.damaged_attempt && c.step == event.damaged_step;
  });
  if (damaged == kept.end() || kept.size() == 1) return;
  transaction_.removed_checkpoints.push_back(*damaged);
  kept.erase(damaged);
  changed_workers_.insert(event.worker_id);  // resume_from has changed
}

void Scheduler::Machine::PauseByGuard(LiveJob& job, const AttemptReported& event,
                                      absl::string_view actor) {
  if (EndRequested(job, Trainer::kDead, event.worker_id, actor)) return;
  if (job.record.state == JobState::kStarting) {
    // Its report of TRAINING was lost on the way.
    Transition(job, {JobState::kRunning, JobReason::kTrainerStarted, "training"}, actor);
  }
  const Change change{JobState::kPausing, JobReason::kGuardTripped,
                      std::string(Shorten(event.message)), event.cause};
  Transition(job, change, actor);
  EndAttempt(job, Trainer::kDead, event.worker_id);
  Change paused = change;
  paused.state = JobState::kPaused;
  Transition(job, std::move(paused), actor);
}

}  // namespace nibble::scheduler
