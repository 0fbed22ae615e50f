// What an attempt does for a trainer that goes wrong: starts it again from the state that it left
// in its memory, and tells the daemon.
#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "worker/agent/attempt.h"
#include "worker/link/text.h"

namespace nibble::agent {
namespace {

constexpr size_t kMaxNoteBytes = 2048;

}  // namespace

bool Attempt::MayRestart(const TrainerExit& exit) const {
  const bool crashed = exit.launch_error.ok() && exit.link_error.ok() && !outcome_.succeeded &&
                       !outcome_.paused && !outcome_.failure.has_value() &&
                       (exit.signal != 0 || exit.exit_code != 0);
  if (!crashed || abandoned_ || forced_failure_.has_value() || releasing_ ||
      assignment_.action() == v1::Assignment::STOP) {
    return false;
  }
  // One that crashes at the same place again and again is the daemon's to judge.
  const bool progress = metrics_.last_step() > restarted_at_step_;
  if (!progress && restarts_without_progress_ >= kMaxRestartsWithoutProgress) return false;
  return memory_ != nullptr && memory_->snapshot_step() >= 0;
}

void Attempt::Restart(const TrainerExit& exit) {
  const Failure failure =
      hang_.empty() ? ClassifyExit(exit, logs_.Tail()) : Failure{v1::CONTROL, hang_};
  restart_cause_ = failure.message;
  restart_class_ = failure.failure_class;
  if (metrics_.last_step() > restarted_at_step_) restarts_without_progress_ = 0;
  ++restarts_without_progress_;
  restarted_at_step_ = metrics_.last_step();
  NIBBLE_LOG(kWarning, absl::StrCat(Name(), ": ", failure.message,
                                    "; starting it again from the snapshot of step ",
                                    memory_->snapshot_step()));
  kill_at_ = std::numeric_limits<int64_t>::max();
  pause_sent_ = false;
  Launch();
  if (assignment_.action() == v1::Assignment::PAUSE) SendPause();
}

void Attempt::AnnounceRestart(int64_t step) {
  v1::ReportAttemptRequest note;
  note.set_reason(v1::TRAINER_RESTARTED);
  note.set_failure_class(restart_class_);
  note.set_cause(absl::StrCat("failure:", v1::FailureClass_Name(restart_class_)));
  note.set_message(absl::StrCat("after step ", restarted_at_step_, " ", restart_cause_,
                                "; training goes on from step ", step));
  restart_cause_.clear();
  AddNote(std::move(note));
}

void Attempt::AddStepSeconds(const v1::MetricRecord& record) {
  constexpr size_t kStepsForMedian = 31;
  stepped_ = true;
  const auto seconds = record.values().find("step_seconds");
  if (seconds == record.values().end()) return;
  step_seconds_.push_back(seconds->second);
  if (step_seconds_.size() > kStepsForMedian) step_seconds_.pop_front();
}

int64_t Attempt::HangNanos() const {
  const v1::SafetySpec& safety = assignment_.spec().safety();
  double seconds = safety.hang_seconds();
  if (seconds <= 0) {
    seconds = static_cast<double>(kHangNanos) * 1e-9;
    if (!step_seconds_.empty()) {
      std::vector<double> sorted(step_seconds_.begin(), step_seconds_.end());
      std::nth_element(sorted.begin(), sorted.begin() + sorted.size() / 2, sorted.end());
      seconds = std::max(seconds, kHangSteps * sorted[sorted.size() / 2]);
    }
  }
  if (!stepped_) seconds *= kStartingFactor;
  return static_cast<int64_t>(std::min(seconds, 1e9) * 1e9);
}

void Attempt::WatchProgress() {
  if (process_ == nullptr || memory_ == nullptr) return;
  const snapshot::Progress progress = memory_->progress();
  // It waits for this worker, that is for the daemon.
  const bool held_up =
      progress.phase == snapshot::Phase::kWaiting && (metrics_.full() || !checkpoints_.empty());
  if (progress.count != progress_count_ || held_up) {
    progress_count_ = progress.count;
    progressed_at_ = Now();
    if (!hang_.empty() && kill_at_ == std::numeric_limits<int64_t>::max()) {
      NIBBLE_LOG(kInfo, absl::StrCat(Name(), ": it makes progress again"));
      hang_.clear();
    }
    return;
  }
  const std::string& action = assignment_.spec().safety().hang();
  const bool wanted = action == "notify" || action == "restart";
  if (hang_.empty() && wanted && Now() - progressed_at_ >= HangNanos()) {
    FoundHung(progress);
  }
}

void Attempt::FoundHung(const snapshot::Progress& progress) {
  const std::string state = process_->DumpStacks();
  const absl::string_view phase = snapshot::PhaseName(progress.phase);
  hang_ = absl::StrCat("rank 0 has made no progress for ", (Now() - progressed_at_) / 1'000'000'000,
                       " s after step ", progress.step, ", in phase ", phase,
                       state.empty() ? "" : absl::StrCat(", ", state));
  v1::ReportAttemptRequest note;
  note.set_reason(v1::TRAINER_HUNG);
  note.set_cause(absl::StrCat("hang:", phase));
  note.set_message(absl::StrCat(hang_, "; the stacks of its threads are in its log"));
  AddNote(std::move(note));
  if (assignment_.spec().safety().hang() == "restart") {
    kill_at_ = std::min(kill_at_, Now() + kStackGraceNanos);
  }
}

void Attempt::Quarantine(const v1::Checkpoint& damaged) {
  context_.tasks->Run([directory = context_.directory, job_id = key().job_id(),
                       checkpoint = CheckpointKey(damaged.attempt(), damaged.step())] {
    const absl::Status status = directory->Quarantine(job_id, checkpoint);
    if (!status.ok()) NIBBLE_LOG(kWarning, status.ToString());
  });
}

void Attempt::AddNote(v1::ReportAttemptRequest note) {
  NIBBLE_LOG(kWarning, absl::StrCat(Name(), ": ", note.message()));
  if (notes_.size() >= kMaxWaitingNotes) return;
  note.set_worker_id(context_.worker_id);
  note.set_incarnation(context_.incarnation);
  *note.mutable_key() = key();
  note.set_status(v1::ReportAttemptRequest::NOTED);
  note.set_note_sequence(++note_sequence_);
  note.set_message(link::SafeText(note.message(), kMaxNoteBytes));
  notes_.push_back(std::move(note));
}

void Attempt::PublishNote() {
  if (notes_.empty() || !Ready(notes_lane_)) return;
  context_.link->ReportAttempt(notes_.front(), Answer<v1::ReportAttemptResponse>(
                                                   &Attempt::notes_lane_, &Attempt::NoteAnswered));
}

void Attempt::NoteAnswered(const absl::StatusOr<v1::ReportAttemptResponse>& response) {
  if (!response.ok()) {
    NIBBLE_LOG(kWarning,
               absl::StrCat(Name(), ": a note was refused: ", response.status().ToString()));
  }
  notes_.pop_front();
}

}  // namespace nibble::agent
