#include "tests/sim/trainer.h"

#include <algorithm>
#include <csignal>
#include <utility>

#include "absl/strings/str_cat.h"

namespace nibble::sim {

SimTrainer::SimTrainer(Site* site, Disk* disk, const Checkers* checkers, std::string worker,
                       const agent::LaunchRequest& request, std::function<void()> notify)
    : site_(site),
      world_(site->world),
      disk_(disk),
      checkers_(checkers),
      notify_(std::move(notify)),
      start_(request.start),
      plan_(site->plans->at(request.start.spec().name())) {
  view_.worker = std::move(worker);
  view_.attempt = {start_.key().job_id(), start_.key().attempt()};
  view_.slots = start_.spec().resources().slots();
  disk_->MakeAttempt(view_.worker, view_.attempt.job_id, view_.attempt.attempt);
  site_->trainers.push_back(&view_);
  Later(world_->Between(100, 1500) * kMillis, &SimTrainer::Load);
}

SimTrainer::~SimTrainer() {
  if (!exit_.has_value()) Die(SIGKILL);
}

void SimTrainer::Later(int64_t nanos, void (SimTrainer::*next)()) {
  world_->At(nanos, life_, [this, next] { (this->*next)(); });
}

void SimTrainer::Die(int signal) {
  if (exit_.has_value()) return;
  Exit(0);
  exit_->signal = signal;
}

void SimTrainer::Exit(int code) {
  exit_.emplace();
  exit_->exit_code = code;
  life_.reset();
  auto& all = site_->trainers;
  all.erase(std::find(all.begin(), all.end(), &view_));
  notify_();
}

void SimTrainer::Report(v1::TrainerReport report) {
  reports_.push_back(std::move(report));
  notify_();
}

void SimTrainer::FailWith(scheduler::FailureClass failure_class, const std::string& message) {
  v1::TrainerReport report;
  report.mutable_failed()->set_failure_class(static_cast<v1::FailureClass>(failure_class));
  report.mutable_failed()->set_message(message);
  Report(std::move(report));
  Exit(1);
}

void SimTrainer::Load() {
  state_ = {0, FirstWeights(plan_.seed)};
  if (start_.has_resume_from()) {
    const std::optional<SavedState> saved = disk_->Read(start_.resume_from().path());
    if (!saved.has_value() || saved->Digest() != start_.resume_from().manifest_digest()) {
      // The checkers say whether it was a committed one.
      return FailWith(scheduler::FailureClass::kData, "the checkpoint is not there");
    }
    state_ = *saved;
  }
  for (const auto& checker : *checkers_) {
    checker->TrainerLoaded(view_, state_.step, state_.weights);
  }
  logs_.push_back({site_->world->clock().WallMicros(), "loaded"});
  v1::TrainerReport report;
  report.mutable_started()->set_step(state_.step);
  Report(std::move(report));
  if (state_.step == plan_.steps) return End();
  Later(plan_.step_nanos, &SimTrainer::TrainStep);
}

void SimTrainer::TrainStep() {
  if (plan_.fails_at != 0 && state_.step + 1 == plan_.fails_at) {
    return FailWith(plan_.failure, "as planned");
  }
  ++state_.step;
  state_.weights = NextWeights(state_.weights, plan_.seed, state_.step);
  v1::TrainerReport report;
  v1::MetricRecord* const row = report.mutable_metrics();
  row->set_sequence(++sequence_);
  row->set_step(state_.step);
  (*row->mutable_values())["loss"] = LossOf(state_.weights);
  Report(std::move(report));
  AfterStep();
}

// As RunLoop: a save runs beside the training, one at a time; the last one of a run is waited for.
void SimTrainer::AfterStep() {
  const bool last = state_.step == plan_.steps;
  const bool pause = pause_requested_ && !plan_.deaf;
  ending_ = last || pause;
  const bool due = state_.step % plan_.checkpoint_interval == 0;
  if (ending_ || due) {
    if (saving_.has_value()) {
      save_wanted_ = true;  // training waits for the disk
      return;
    }
    StartSave();
  }
  if (!ending_) Later(plan_.step_nanos, &SimTrainer::TrainStep);
}

void SimTrainer::StartSave() {
  saving_ = state_;
  Later(world_->Between(20, 900) * kMillis, &SimTrainer::SaveWritten);
}

void SimTrainer::SaveWritten() {
  const std::string path = absl::StrCat(start_.output_directory(), "/step-", saving_->step);
  disk_->Write(path, *saving_);
  v1::TrainerReport report;
  v1::CheckpointWritten* const written = report.mutable_checkpoint();
  written->set_step(saving_->step);
  written->set_path(path);
  written->set_manifest_digest(saving_->Digest());
  written->set_size_bytes(8);
  written->set_metric_sequence(sequence_);
  saving_.reset();
  Report(std::move(report));
  if (!save_wanted_) return;
  save_wanted_ = false;
  StartSave();
  if (!ending_) Later(plan_.step_nanos, &SimTrainer::TrainStep);
}

void SimTrainer::End() {
  v1::TrainerReport report;
  if (state_.step < plan_.steps) {
    report.mutable_paused()->set_step(state_.step);
  } else {
    v1::TrainingResult* const result = report.mutable_succeeded()->mutable_result();
    result->set_steps(state_.step);
    result->set_tokens(state_.step);
    result->set_digest(DigestOf(state_.weights));
  }
  Report(std::move(report));
  // Between its last word and its death it still holds the device, sometimes for longer than the
  // worker waits.
  ended_ = true;
  Later(world_->Chance(50) ? 30 * kSeconds : world_->Between(0, 2000) * kMillis,
        &SimTrainer::ExitInOrder);
}

void SimTrainer::Send(const v1::TrainerCommand& command) {
  if (exit_.has_value()) return;
  if (command.has_pause()) {
    pause_requested_ = true;
    if (plan_.deaf) world_->Reached("trainer: deaf to a pause");
  }
  if (command.has_checkpoint_refused()) Exit(1);
  if (!command.has_checkpoint_committed()) return;
  committed_step_ = std::max(committed_step_, command.checkpoint_committed().step());
  if (ending_ && !ended_ && committed_step_ >= state_.step) End();
}

std::vector<v1::TrainerReport> SimTrainer::TakeReports(size_t max) {
  std::vector<v1::TrainerReport> taken;
  while (!reports_.empty() && taken.size() < max) {
    taken.push_back(std::move(reports_.front()));
    reports_.pop_front();
  }
  return taken;
}

std::vector<agent::LogEntry> SimTrainer::TakeLogs(size_t max) {
  std::vector<agent::LogEntry> taken;
  while (!logs_.empty() && taken.size() < max) {
    taken.push_back(std::move(logs_.front()));
    logs_.pop_front();
  }
  return taken;
}

void SimTrainer::Signal(int signal) {
  if (exit_.has_value()) return;
  if (signal == SIGKILL) view_.killed = true;
  // A trainer may take its time over SIGTERM.
  const int64_t delay = signal == SIGKILL     ? world_->Below(50)
                        : world_->Chance(100) ? 20'000
                                              : world_->Below(400);
  world_->At(delay * kMillis, life_, [this, signal] { Die(signal); });
}

}  // namespace nibble::sim
