#include "worker/agent/attempt.h"

#include <algorithm>
#include <csignal>
#include <cstdint>
#include <limits>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/check.h"
#include "base/log.h"
#include "base/planted.h"
#include "worker/link/text.h"

namespace nibble::agent {
namespace {

constexpr int64_t kNever = std::numeric_limits<int64_t>::max();
constexpr size_t kTakeReports = 256;
constexpr size_t kTakeLogs = 256;
constexpr size_t kMaxMessageBytes = 8 * 1024;  // the daemon takes 16 KiB
constexpr char kStaleIncarnationReason[] = "STALE_INCARNATION";

// The daemon answered, and would give the same answer again.
bool IsRefusal(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kUnimplemented:
    case absl::StatusCode::kDataLoss:
      return true;
    default:
      return false;
  }
}

}  // namespace

Attempt::Attempt(const AttemptContext& context, v1::Assignment assignment)
    : context_(context),
      assignment_(std::move(assignment)),
      directory_(context.directory->AttemptDirectory(assignment_.key().job_id(),
                                                     assignment_.key().attempt())),
      kill_at_(kNever) {}

std::string Attempt::Name() const {
  return absl::StrCat("job ", key().job_id(), " attempt ", key().attempt());
}

void Attempt::Start() {
  memory_ = context_.launcher->MakeMemory();
  Launch();
}

void Attempt::Launch() {
  LaunchRequest request;
  request.memory = memory_;
  v1::StartTraining& start = request.start;
  *start.mutable_key() = key();
  start.set_rank(0);
  *start.mutable_spec() = assignment_.spec();
  *start.mutable_precision() = assignment_.precision();
  if (committed_.has_value()) {
    *start.mutable_resume_from() = *committed_;
    if (assignment_.has_resume_from()) *start.add_fallbacks() = assignment_.resume_from();
  } else if (assignment_.has_resume_from() && !NIBBLE_PLANTED("restart_from_zero")) {
    *start.mutable_resume_from() = assignment_.resume_from();
  }
  start.mutable_fallbacks()->MergeFrom(assignment_.fallbacks());
  start.set_metric_sequence(metrics_.last_sequence());
  start.set_reported_step(metrics_.last_step());
  start.set_output_directory(directory_);
  start.set_data_directory(context_.data_directory);
  request.attempt_directory = directory_;
  progressed_at_ = Now();
  stepped_ = false;
  hang_.clear();
  ended_ = false;
  // The event itself does nothing: the loop wakes, and pumps.
  process_ = context_.launcher->Launch(request, [loop = context_.loop] { loop->Post([] {}); });
  NIBBLE_LOG(kInfo, absl::StrCat(Name(), ": starting"));
}

void Attempt::SetAction(v1::Assignment::Action action) {
  if (action == assignment_.action()) return;
  assignment_.set_action(action);
  NIBBLE_LOG(kInfo, absl::StrCat(Name(), ": told to ", v1::Assignment::Action_Name(action)));
  if (action == v1::Assignment::PAUSE) SendPause();
  if (action == v1::Assignment::STOP && process_ != nullptr) {
    process_->Signal(SIGTERM);
    kill_at_ = std::min(kill_at_, Now() + kKillGraceNanos);
  }
}

void Attempt::Release() {
  if (releasing_) return;
  releasing_ = true;
  SendPause();
}

void Attempt::SendPause() {
  if (pause_sent_ || process_ == nullptr) return;
  pause_sent_ = true;
  v1::TrainerCommand command;
  command.mutable_pause();
  process_->Send(command);
}

void Attempt::Kill() {
  if (process_ != nullptr) process_->Signal(SIGKILL);
}

void Attempt::Abandon(const std::string& why) {
  if (abandoned_ || reported_) return;
  NIBBLE_LOG(kWarning, absl::StrCat(Name(), ": abandoned: ", why));
  abandoned_ = true;
  if (!NIBBLE_PLANTED("stale_trainer_lives")) Kill();
}

void Attempt::FailWith(v1::FailureClass failure_class, const std::string& message) {
  if (forced_failure_.has_value()) return;
  NIBBLE_LOG(kError, absl::StrCat(Name(), ": ", message));
  forced_failure_ = Failure{failure_class, message};
  checkpoints_.clear();
  Kill();
}

void Attempt::GrantLease(int64_t deadline_nanos) {
  lease_deadline_ = std::max(lease_deadline_, deadline_nanos);
}

void Attempt::Adopted() {
  metrics_.RewindOne();
  for (Lane Attempt::*lane :
       {&Attempt::training_lane_, &Attempt::metrics_lane_, &Attempt::checkpoint_lane_,
        &Attempt::logs_lane_, &Attempt::notes_lane_, &Attempt::end_lane_}) {
    (this->*lane).backoff.Succeeded();
  }
}

void Attempt::TakeFromProcess() {
  if (process_ == nullptr) return;
  // Asked first: what the process sent before its end is there by then.
  const std::optional<TrainerExit> exit = process_->exit();
  bool drained = false;
  while (!drained && (!metrics_.full() || abandoned_)) {
    const std::vector<v1::TrainerReport> reports = process_->TakeReports(kTakeReports);
    for (const v1::TrainerReport& report : reports) TakeReport(report);
    drained = reports.size() < kTakeReports;
  }
  while (true) {
    std::vector<LogEntry> logs = process_->TakeLogs(kTakeLogs);
    for (LogEntry& entry : logs) logs_.Push(std::move(entry));
    if (logs.size() < kTakeLogs) break;
  }
  if (!exit.has_value() || !drained) return;
  process_.reset();
  NIBBLE_LOG(kInfo, absl::StrCat(Name(), ": trainer ended, exit code ", exit->exit_code,
                                 ", signal ", exit->signal));
  if (MayRestart(*exit)) return Restart(*exit);
  memory_.reset();
  exit_ = exit;
  ended_ = true;
  ended_at_ = Now();
  kill_at_ = kNever;
}

void Attempt::TakeReport(const v1::TrainerReport& report) {
  if (abandoned_ || forced_failure_.has_value()) return;
  switch (report.report_case()) {
    case v1::TrainerReport::kStarted:
      started_ = true;
      NIBBLE_LOG(kInfo, absl::StrCat(Name(), ": training from step ", report.started().step()));
      if (!restart_cause_.empty()) AnnounceRestart(report.started().step());
      return;
    case v1::TrainerReport::kMetrics: {
      const absl::Status status = metrics_.Push(report.metrics());
      if (!status.ok()) FailWith(v1::CONTROL, std::string(status.message()));
      AddStepSeconds(report.metrics());
      return;
    }
    case v1::TrainerReport::kCheckpoint:
      TakeCheckpoint(report.checkpoint());
      return;
    case v1::TrainerReport::kPaused:
      outcome_.paused = true;
      outcome_.cause = report.paused().cause();
      outcome_.message = report.paused().message();
      break;
    case v1::TrainerReport::kSucceeded:
      outcome_.succeeded = true;
      outcome_.result = report.succeeded().result();
      break;
    case v1::TrainerReport::kFailed:
      outcome_.failure = Failure{report.failed().failure_class(), report.failed().message()};
      break;
    case v1::TrainerReport::kNote: {
      v1::ReportAttemptRequest note;
      note.set_reason(report.note().reason());
      note.set_cause(report.note().cause());
      note.set_message(report.note().message());
      if (report.note().has_damaged()) {
        *note.mutable_damaged() = report.note().damaged();
        Quarantine(report.note().damaged());
      }
      return AddNote(std::move(note));
    }
    case v1::TrainerReport::REPORT_NOT_SET:
      FailWith(v1::CONTROL, "the trainer sent an unknown report");
      return;
  }
  kill_at_ = std::min(kill_at_, Now() + kExitGraceNanos);
}

void Attempt::TakeCheckpoint(const v1::CheckpointWritten& written) {
  // Only what cleaning up will find again may become the job's checkpoint.
  if (written.path() != absl::StrCat(directory_, "/step-", written.step())) {
    FailWith(v1::CONTROL, absl::StrCat("the trainer wrote its checkpoint to an unexpected place: ",
                                       written.path()));
    return;
  }
  if (written.step() > written_step_) {
    written_step_ = written.step();
    checkpoints_.push_back(written);
  } else if (process_ != nullptr && committed_.has_value() &&
             committed_->step() >= written.step()) {
    // A trainer that was started again has written it once more.
    v1::TrainerCommand command;
    command.mutable_checkpoint_committed()->set_step(written.step());
    process_->Send(command);
  }
}

void Attempt::EnforceDeadlines() {
  if (process_ == nullptr || Now() < kill_at_) return;
  kill_at_ = kNever;
  NIBBLE_LOG(kWarning, absl::StrCat(Name(), ": the trainer did not end in time; killing it"));
  Kill();
}

void Attempt::Pump(bool connected) {
  TakeFromProcess();
  WatchProgress();
  EnforceDeadlines();
  if (abandoned_ || reported_ || !connected || Now() >= lease_deadline_) return;
  PublishTraining();
  PublishNote();
  PublishMetrics();
  PublishCheckpoint();
  PublishLogs();
  PublishEnd();
}

int64_t Attempt::NextPump() const {
  int64_t next = kill_at_;
  if (abandoned_ || reported_) return next;
  if (metrics_.waiting() > 0) next = std::min(next, next_metrics_at_);
  if (ended_ && !logs_.empty()) next = std::min(next, ended_at_ + kLogGraceNanos);
  for (const Lane Attempt::*lane :
       {&Attempt::training_lane_, &Attempt::metrics_lane_, &Attempt::checkpoint_lane_,
        &Attempt::logs_lane_, &Attempt::notes_lane_, &Attempt::end_lane_}) {
    const int64_t at = (this->*lane).backoff.ready_at();
    if (at > Now()) next = std::min(next, at);
  }
  // One that is due waits for an answer or a lease, which are events.
  return next > Now() ? next : kNever;
}

bool Attempt::Ready(const Lane& lane) const {
  return !abandoned_ && !lane.in_flight && lane.backoff.Ready(Now());
}

bool Attempt::Arrived(const absl::Status& status, Lane Attempt::*lane) {
  Lane& this_lane = this->*lane;
  this_lane.in_flight = false;
  if (status.ok()) {
    this_lane.backoff.Succeeded();
  } else if (CallFailed(status, this_lane)) {
    return false;
  }
  return !abandoned_;
}

bool Attempt::CallFailed(const absl::Status& status, Lane& lane) {
  const std::string reason = ReasonOf(status);
  if (reason == kStaleAttemptReason ||
      (absl::IsNotFound(status) && reason != kUnknownWorkerReason)) {
    Abandon(std::string(status.message()));
    return true;
  }
  if (absl::IsUnavailable(status) || reason == kUnknownWorkerReason ||
      reason == kStaleIncarnationReason) {
    lane.backoff.Failed(Now(), *context_.random);
    context_.on_daemon_lost(status);
    return true;
  }
  if (IsRefusal(status)) return false;
  NIBBLE_LOG(kWarning, absl::StrCat(Name(), ": will try again: ", status.ToString()));
  lane.backoff.Failed(Now(), *context_.random);
  return true;
}

void Attempt::PublishTraining() {
  if (!started_ || training_reported_ || !Ready(training_lane_)) return;
  auto request = NewRequest<v1::ReportAttemptRequest>();
  *request.mutable_key() = key();
  request.set_status(v1::ReportAttemptRequest::TRAINING);
  context_.link->ReportAttempt(request, Answer<v1::ReportAttemptResponse>(
                                            &Attempt::training_lane_, &Attempt::TrainingAnswered));
}

void Attempt::TrainingAnswered(const absl::StatusOr<v1::ReportAttemptResponse>& response) {
  training_reported_ = true;
  if (!response.ok()) {
    // The daemon lives without it: what follows says as much.
    NIBBLE_LOG(kWarning,
               absl::StrCat(Name(), ": TRAINING refused: ", response.status().ToString()));
  }
}

void Attempt::PublishMetrics() {
  if (metrics_.waiting() == 0 || !training_reported_ || !Ready(metrics_lane_)) return;
  const bool urgent =
      ended_ || !checkpoints_.empty() || metrics_.waiting() >= MetricQueue::kMaxBatchRows;
  if (!urgent && Now() < next_metrics_at_) return;
  next_metrics_at_ = Now() + kMetricIntervalNanos;
  auto request = NewRequest<v1::AppendMetricsRequest>();
  *request.mutable_key() = key();
  metrics_.FillBatch(&request);
  context_.link->AppendMetrics(request, Answer<v1::AppendMetricsResponse>(
                                            &Attempt::metrics_lane_, &Attempt::MetricsAnswered));
}

void Attempt::MetricsAnswered(const absl::StatusOr<v1::AppendMetricsResponse>& response) {
  if (response.ok()) {
    metrics_.Acknowledge(response->acknowledged_sequence());
    return;
  }
  absl::Status status = response.status();
  const std::optional<int64_t> expected = ExpectedSequenceOf(status);
  if (expected.has_value()) {
    NIBBLE_LOG(kWarning, absl::StrCat(Name(), ": the daemon lost metrics from row ", *expected,
                                      "; sending them again"));
    status = metrics_.RewindTo(*expected);
    if (status.ok()) return;
  }
  FailWith(v1::CONTROL, absl::StrCat("metrics refused: ", status.message()));
}

v1::Checkpoint Attempt::CheckpointOf(const v1::CheckpointWritten& written) const {
  v1::Checkpoint checkpoint;
  checkpoint.set_job_id(key().job_id());
  checkpoint.set_attempt(key().attempt());
  checkpoint.set_step(written.step());
  checkpoint.set_path(written.path());
  checkpoint.set_manifest_digest(written.manifest_digest());
  checkpoint.set_size_bytes(written.size_bytes());
  return checkpoint;
}

void Attempt::PublishCheckpoint() {
  if (checkpoints_.empty() || !Ready(checkpoint_lane_)) return;
  const v1::CheckpointWritten& written = checkpoints_.front();
  if (metrics_.acknowledged() < written.metric_sequence() &&
      !NIBBLE_PLANTED("commit_before_metrics")) {
    return;
  }
  auto request = NewRequest<v1::CommitCheckpointRequest>();
  *request.mutable_checkpoint() = CheckpointOf(written);
  context_.link->CommitCheckpoint(
      request, Answer<v1::CommitCheckpointResponse>(&Attempt::checkpoint_lane_,
                                                    &Attempt::CheckpointAnswered));
}

void Attempt::CheckpointAnswered(const absl::StatusOr<v1::CommitCheckpointResponse>& response) {
  // Only one is in flight, and only FailWith empties the queue.
  if (checkpoints_.empty()) return;
  const int64_t step = checkpoints_.front().step();
  if (response.ok()) committed_ = CheckpointOf(checkpoints_.front());
  checkpoints_.pop_front();
  v1::TrainerCommand command;
  if (response.ok()) {
    command.mutable_checkpoint_committed()->set_step(step);
    if (process_ != nullptr) process_->Send(command);
    RemoveOldCheckpoints(step, *response);
    return;
  }
  const std::string message(response.status().message());
  command.mutable_checkpoint_refused()->set_step(step);
  command.mutable_checkpoint_refused()->set_message(message);
  if (process_ != nullptr) process_->Send(command);
  FailWith(v1::CONTROL, absl::StrCat("checkpoint of step ", step, " refused: ", message));
}

void Attempt::RemoveOldCheckpoints(int64_t step, const v1::CommitCheckpointResponse& response) {
  std::set<CheckpointKey> retained = {{key().attempt(), step}};
  for (const v1::Checkpoint& checkpoint : response.retained()) {
    if (NIBBLE_PLANTED("kept_checkpoint_removed")) break;
    retained.insert({checkpoint.attempt(), checkpoint.step()});
  }
  context_.tasks->Run([directory = context_.directory, job_id = key().job_id(),
                       newest = CheckpointKey(key().attempt(), step), retained] {
    const absl::Status status = directory->RemoveCheckpoints(job_id, newest, retained);
    if (!status.ok()) NIBBLE_LOG(kWarning, status.ToString());
  });
}

void Attempt::PublishLogs() {
  if (logs_.empty() || !Ready(logs_lane_)) return;
  auto request = NewRequest<v1::AppendLogsRequest>();
  *request.mutable_key() = key();
  logs_.FillBatch(&request);
  context_.link->AppendLogs(
      request, Answer<v1::AppendLogsResponse>(&Attempt::logs_lane_, &Attempt::LogsAnswered));
}

void Attempt::LogsAnswered(const absl::StatusOr<v1::AppendLogsResponse>& response) {
  if (!response.ok())
    NIBBLE_LOG(kWarning, absl::StrCat(Name(), ": ", response.status().ToString()));
  logs_.BatchDone();
}

bool Attempt::EndIsReady() const {
  if ((!ended_ && !(NIBBLE_PLANTED("end_before_death") && outcome_.succeeded)) ||
      training_lane_.in_flight || checkpoint_lane_.in_flight)
    return false;
  if (!notes_.empty() || notes_lane_.in_flight) return false;
  if (!logs_.empty() && Now() < ended_at_ + kLogGraceNanos) return false;
  if (forced_failure_.has_value()) return true;
  if (started_ && !training_reported_) return false;
  return metrics_.waiting() == 0 && !metrics_lane_.in_flight && checkpoints_.empty();
}

void Attempt::PublishEnd() {
  if (!EndIsReady() || !Ready(end_lane_)) return;
  end_report_ = NewRequest<v1::ReportAttemptRequest>();
  FillEnd(&end_report_);
  context_.link->ReportAttempt(
      end_report_, Answer<v1::ReportAttemptResponse>(&Attempt::end_lane_, &Attempt::EndAnswered));
}

void Attempt::FillEnd(v1::ReportAttemptRequest* report) const {
  *report->mutable_key() = key();
  const bool stop = assignment_.action() == v1::Assignment::STOP;
  const bool pause = assignment_.action() == v1::Assignment::PAUSE;
  std::optional<Failure> failure = forced_failure_;
  if (!failure.has_value()) failure = outcome_.failure;
  const bool guarded = !failure.has_value() && outcome_.paused && !outcome_.cause.empty();
  if (stop) {
    report->set_status(v1::ReportAttemptRequest::STOPPED);
  } else if (!failure.has_value() && outcome_.succeeded) {
    report->set_status(v1::ReportAttemptRequest::SUCCEEDED);
    *report->mutable_result() = outcome_.result;
  } else if (guarded) {
    report->set_status(v1::ReportAttemptRequest::GUARD_PAUSED);
    report->set_cause(outcome_.cause);
    report->set_message(link::SafeText(outcome_.message, kMaxMessageBytes));
  } else if (!failure.has_value() && (outcome_.paused || !exit_.has_value())) {
    // A pause that nobody here asked for gives the attempt back, like a shutdown does.
    report->set_status(pause ? v1::ReportAttemptRequest::PAUSED
                             : v1::ReportAttemptRequest::RELEASED);
  } else if (!failure.has_value() && releasing_) {
    report->set_status(v1::ReportAttemptRequest::RELEASED);
    report->set_message("the worker shut down before the trainer could checkpoint");
  } else {
    if (!failure.has_value() && !hang_.empty()) failure = Failure{v1::CONTROL, hang_};
    if (!failure.has_value()) failure = ClassifyExit(*exit_, logs_.Tail());
    report->set_status(v1::ReportAttemptRequest::FAILED);
    report->set_failure_class(failure->failure_class);
    report->set_message(link::SafeText(failure->message, kMaxMessageBytes));
  }
}

void Attempt::EndAnswered(const absl::StatusOr<v1::ReportAttemptResponse>& response) {
  if (!response.ok()) {
    // The daemon knows better; its lists say what becomes of the job.
    Abandon(absl::StrCat("the report of its end was refused: ", response.status().ToString()));
    return;
  }
  NIBBLE_LOG(kInfo, absl::StrCat(Name(), ": reported ",
                                 v1::ReportAttemptRequest::Status_Name(end_report_.status())));
  reported_ = true;
}

}  // namespace nibble::agent
