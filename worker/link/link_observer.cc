#include "worker/link/link_observer.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/hardware_error.h"
#include "worker/link/frame.h"
#include "worker/link/text.h"

namespace nibble::link {
namespace {

// A failure's message goes on to the daemon, which keeps it with the job.
constexpr size_t kMaxFailureMessageBytes = 4096;

void AddFinite(const std::string& name, double value, v1::MetricRecord* record) {
  // The daemon refuses NaN and infinities; a run whose loss is not finite ends by itself.
  if (std::isfinite(value)) (*record->mutable_values())[name] = value;
}

// "epoch" of a single source, data/<i>/epoch and data/<i>/tokens of each of several.
void AddDataProgress(const std::vector<data::SourceProgress>& sources, v1::MetricRecord* record) {
  // A record holds 64 values; the result names every source.
  constexpr size_t kMaxSourcesReported = 8;
  if (sources.size() == 1) AddFinite("epoch", sources[0].epochs, record);
  if (sources.size() < 2) return;
  for (size_t i = 0; i < std::min(sources.size(), kMaxSourcesReported); ++i) {
    AddFinite(absl::StrCat("data/", i, "/epoch").c_str(), sources[i].epochs, record);
    AddFinite(absl::StrCat("data/", i, "/tokens").c_str(), static_cast<double>(sources[i].tokens),
              record);
  }
}

// What a step of training reports, beside scores.
void AddTraining(const trainer::StepReport& step, v1::MetricRecord* record) {
  AddFinite("loss", step.loss, record);
  if (step.has_objective) AddFinite("objective", step.objective, record);
  AddFinite("learning_rate", step.learning_rate, record);
  AddFinite("grad_norm", step.grad_norm, record);
  AddFinite("step_seconds", step.step_seconds, record);
  AddFinite("tokens", static_cast<double>(step.tokens), record);
  if (step.step > 0 && step.step_seconds > 0) {
    // Every step of a run has as many tokens as any other.
    const double tokens_per_step = static_cast<double>(step.tokens) / step.step;
    AddFinite("tokens_per_second", tokens_per_step / step.step_seconds, record);
  }
  for (const auto& [name, value] : step.efficiency) {
    AddFinite(absl::StrCat("efficiency/", name), value, record);
  }
  if (step.has_validation) {
    AddFinite("validation_loss", step.validation_loss, record);
    if (step.validation_bits_per_byte > 0) {
      AddFinite("validation_bits_per_byte", step.validation_bits_per_byte, record);
    }
  }
  if (step.skipped_batches > 0) {
    AddFinite("safety/skipped_batches", static_cast<double>(step.skipped_batches), record);
  }
  for (const auto& [name, value] : step.health) AddFinite(name, value, record);
  AddDataProgress(step.data, record);
}

}  // namespace

v1::FailureClass FailureClassOf(const absl::Status& status) {
  if (status.GetPayload(trainer::kHardwareFault).has_value()) return v1::HARDWARE;
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kUnimplemented:
      return v1::USER;
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kDataLoss:
    case absl::StatusCode::kPermissionDenied:
      return v1::DATA;
    case absl::StatusCode::kOutOfRange:
      return v1::NUMERIC;
    case absl::StatusCode::kResourceExhausted:
      return v1::OUT_OF_MEMORY;
    case absl::StatusCode::kUnavailable:
      return IsHardwareError(status) ? v1::HARDWARE : v1::NETWORK;
    default:
      return v1::CONTROL;
  }
}

absl::StatusOr<std::unique_ptr<LinkObserver>> LinkObserver::Connect(int fd, const Clock& clock) {
  int type = 0;
  socklen_t size = sizeof(type);
  if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) != 0 || type != SOCK_STREAM) {
    return absl::InvalidArgumentError(
        absl::StrCat("trainer link: descriptor ", fd, " is not a stream socket"));
  }
  fcntl(fd, F_SETFD, FD_CLOEXEC);
  return std::unique_ptr<LinkObserver>(new LinkObserver(fd, clock));
}

LinkObserver::LinkObserver(int fd, const Clock& clock) : fd_(fd), clock_(clock) {
  reader_ = std::thread([this] { ReadCommands(); });
}

LinkObserver::~LinkObserver() {
  // Only the reading side: what was sent last may still be on its way to the worker.
  shutdown(fd_, SHUT_RD);
  reader_.join();
  close(fd_);
}

void LinkObserver::ReadCommands() {
  absl::Status end;
  while (end.ok()) {
    v1::TrainerCommand command;
    const absl::StatusOr<bool> read = ReadFrame(fd_, &command);
    if (!read.ok()) {
      end = absl::AbortedError(absl::StrCat("lost the worker: ", read.status().message()));
    } else if (!*read) {
      end = absl::AbortedError("the worker is gone");
    } else {
      end = Handle(command);
    }
  }
  MutexLock lock(mutex_);
  if (ended_.ok()) ended_ = end;
  changed_.SignalAll();
}

absl::Status LinkObserver::Handle(const v1::TrainerCommand& command) {
  MutexLock lock(mutex_);
  changed_.SignalAll();
  if (!has_start_ && !command.has_start()) {
    return absl::InvalidArgumentError("trainer link: a command before StartTraining");
  }
  switch (command.command_case()) {
    case v1::TrainerCommand::kStart:
      if (has_start_) return absl::AbortedError("trainer link: StartTraining twice");
      has_start_ = true;
      start_ = command.start();
      return absl::OkStatus();
    case v1::TrainerCommand::kPause:
      pause_requested_ = true;
      return absl::OkStatus();
    case v1::TrainerCommand::kCheckpointCommitted:
      if (command.checkpoint_committed().step() > committed_step_) {
        committed_step_ = command.checkpoint_committed().step();
      }
      return absl::OkStatus();
    case v1::TrainerCommand::kCheckpointRefused:
      return absl::AbortedError(
          absl::StrCat("the checkpoint of step ", command.checkpoint_refused().step(),
                       " was refused: ", command.checkpoint_refused().message()));
    case v1::TrainerCommand::COMMAND_NOT_SET:
      break;
  }
  return absl::AbortedError("trainer link: an unknown command");
}

absl::StatusOr<v1::StartTraining> LinkObserver::WaitForStart() {
  MutexLock lock(mutex_);
  while (!has_start_ && ended_.ok()) changed_.Wait(mutex_);
  if (!has_start_) return ended_;
  backend_ = start_.spec().resources().backend();
  metric_sequence_ = start_.metric_sequence();
  reported_step_ = start_.reported_step();
  return start_;
}

absl::Status LinkObserver::Alive() {
  MutexLock lock(mutex_);
  return ended_;
}

absl::Status LinkObserver::Send(const v1::TrainerReport& report) {
  NIBBLE_RETURN_IF_ERROR(Alive());
  const absl::Status status = WriteFrame(fd_, report);
  if (!absl::IsUnavailable(status)) return status;
  return absl::AbortedError("the worker is gone");
}

absl::Status LinkObserver::OnStarted(int64_t step) {
  v1::TrainerReport report;
  report.mutable_started()->set_step(step);
  report.mutable_started()->set_backend(backend_);
  return Send(report);
}

v1::Checkpoint LinkObserver::CheckpointAt(const std::string& path) {
  MutexLock lock(mutex_);
  for (const v1::Checkpoint& older : start_.fallbacks()) {
    if (older.path() == path) return older;
  }
  return start_.resume_from();
}

absl::Status LinkObserver::OnNote(const trainer::RunNote& note) {
  v1::TrainerReport report;
  switch (note.kind) {
    case trainer::NoteKind::kCheckpointDamaged:
      report.mutable_note()->set_reason(v1::CHECKPOINT_QUARANTINED);
      *report.mutable_note()->mutable_damaged() = CheckpointAt(note.path);
      break;
    case trainer::NoteKind::kGuardTripped:
      report.mutable_note()->set_reason(v1::GUARD_TRIPPED);
      break;
    case trainer::NoteKind::kSnapshotRefused:
      report.mutable_note()->set_reason(v1::SNAPSHOT_REFUSED);
      break;
  }
  report.mutable_note()->set_cause(note.cause);
  report.mutable_note()->set_message(SafeText(note.message, kMaxFailureMessageBytes));
  return Send(report);
}

absl::Status LinkObserver::OnStep(const trainer::StepReport& step) {
  if (step.step <= reported_step_) return Alive();
  v1::TrainerReport report;
  v1::MetricRecord* record = report.mutable_metrics();
  record->set_sequence(++metric_sequence_);
  record->set_step(step.step);
  const int64_t micros = clock_.WallMicros();
  record->mutable_time()->set_seconds(micros / 1'000'000);
  record->mutable_time()->set_nanos(static_cast<int32_t>(micros % 1'000'000 * 1000));
  if (step.trained) AddTraining(step, record);
  for (const auto& [name, value] : step.evaluation) AddFinite(name, value, record);
  return Send(report);
}

absl::Status LinkObserver::OnCheckpoint(const trainer::CheckpointReport& checkpoint,
                                        bool must_commit) {
  v1::TrainerReport report;
  v1::CheckpointWritten* written = report.mutable_checkpoint();
  written->set_step(checkpoint.step);
  written->set_path(checkpoint.path);
  written->set_manifest_digest(checkpoint.manifest_digest);
  written->set_size_bytes(checkpoint.size_bytes);
  written->set_metric_sequence(metric_sequence_);
  NIBBLE_RETURN_IF_ERROR(Send(report));
  if (!must_commit) return absl::OkStatus();
  MutexLock lock(mutex_);
  while (committed_step_ < checkpoint.step && ended_.ok()) changed_.Wait(mutex_);
  return committed_step_ >= checkpoint.step ? absl::OkStatus() : ended_;
}

bool LinkObserver::PauseRequested() {
  MutexLock lock(mutex_);
  return pause_requested_;
}

absl::Status LinkObserver::Finish(const absl::StatusOr<trainer::RunResult>& result) {
  v1::TrainerReport report;
  if (!result.ok()) {
    v1::TrainingFailed* failed = report.mutable_failed();
    failed->set_failure_class(FailureClassOf(result.status()));
    failed->set_message(SafeText(result.status().message(), kMaxFailureMessageBytes));
    // Where the worker is gone there is nobody to tell, and `result` says so itself.
    Send(report).IgnoreError();
    return result.status();
  }
  if (result->paused) {
    report.mutable_paused()->set_step(result->steps);
    report.mutable_paused()->set_cause(result->pause_cause);
    report.mutable_paused()->set_message(SafeText(result->pause_message, kMaxFailureMessageBytes));
    return Send(report);
  }
  v1::TrainingResult* succeeded = report.mutable_succeeded()->mutable_result();
  succeeded->set_steps(result->steps);
  succeeded->set_tokens(result->tokens);
  succeeded->set_train_loss(result->train_loss);
  if (result->has_validation) {
    succeeded->set_validation_loss(result->validation_loss);
    succeeded->set_validation_bits_per_byte(result->validation_bits_per_byte);
  }
  succeeded->set_tokens_per_second(result->tokens_per_second);
  succeeded->set_digest(result->digest);
  for (const auto& [name, value] : result->efficiency) {
    if (std::isfinite(value)) (*succeeded->mutable_efficiency())[name] = value;
  }
  return Send(report);
}

}  // namespace nibble::link
