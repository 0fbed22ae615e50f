// One attempt on this worker, from its launch to the daemon's receipt of how it ended.
//
// Level-triggered: Pump looks at where things stand and does what can be done now. Publishing
// (every call to the daemon about the attempt) follows rules R2 and R3 of docs/job_lifecycle.md:
//  - only within the attempt's lease;
//  - TRAINING before metrics; a checkpoint only after every metric row that precedes it is
//    acknowledged; the end only after the process group is dead, every row is acknowledged and
//    every checkpoint committed.
// All methods run on the event loop's thread.
#ifndef WORKER_AGENT_ATTEMPT_H_
#define WORKER_AGENT_ATTEMPT_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "base/clock.h"
#include "base/random.h"
#include "nibble/v1/worker_service.pb.h"
#include "worker/agent/backoff.h"
#include "worker/agent/daemon_link.h"
#include "worker/agent/event_loop.h"
#include "worker/agent/log_queue.h"
#include "worker/agent/metric_queue.h"
#include "worker/agent/task_runner.h"
#include "worker/agent/trainer_exit.h"
#include "worker/agent/trainer_process.h"
#include "worker/agent/work_directory.h"

namespace nibble::agent {

// What all attempts of a worker share. Everything pointed to outlives them.
struct AttemptContext {
  std::string worker_id;
  std::string incarnation;
  std::string data_directory;
  const Clock* clock = nullptr;
  RandomSource* random = nullptr;
  EventLoop* loop = nullptr;
  DaemonLink* link = nullptr;
  TrainerLauncher* launcher = nullptr;
  TaskRunner* tasks = nullptr;
  const JobDirectories* directory = nullptr;
  // A call showed that the worker must register again (or, with reason STALE_INCARNATION, end).
  std::function<void(const absl::Status&)> on_daemon_lost;
};

class Attempt : public std::enable_shared_from_this<Attempt> {
 public:
  // From SIGTERM to SIGKILL, and from a trainer's last report to SIGKILL.
  static constexpr int64_t kKillGraceNanos = 5'000'000'000;
  static constexpr int64_t kExitGraceNanos = 10'000'000'000;
  // Metric rows are gathered for so long before they are sent, unless something waits for them.
  static constexpr int64_t kMetricIntervalNanos = 100'000'000;
  // The end waits so long for the last log lines to be delivered.
  static constexpr int64_t kLogGraceNanos = 2'000'000'000;
  // Trainers that are started again within the attempt without getting further than the one before.
  static constexpr int kMaxRestartsWithoutProgress = 3;
  // Without safety.hang_seconds: no progress for so long, or for so many median steps, is a hang.
  static constexpr int64_t kHangNanos = 30'000'000'000;
  static constexpr int kHangSteps = 10;
  // Before its first step a trainer has so many times as long: it reads checkpoints and data.
  static constexpr int kStartingFactor = 10;
  // From the request of stacks to the end of a trainer that hangs.
  static constexpr int64_t kStackGraceNanos = 1'500'000'000;
  // Notes that wait for the daemon; further ones are dropped.
  static constexpr size_t kMaxWaitingNotes = 256;

  // REQUIRES: the assignment was checked (Agent). `context` outlives the attempt.
  Attempt(const AttemptContext& context, v1::Assignment assignment);

  // Starts the trainer. Without it the attempt is one that never ran: it only reports its end.
  void Start();

  // What the daemon wants; REQUIRES the same key.
  void SetAction(v1::Assignment::Action action);
  // The worker shuts down: pause and give the attempt back.
  void Release();
  // Ends the trainer now, whatever it is doing.
  void Kill();
  // The attempt is not live any more: ends the trainer and publishes nothing again.
  void Abandon(const std::string& why);

  // The lease holds until `deadline_nanos` (monotonic).
  void GrantLease(int64_t deadline_nanos);
  // The worker registered (again) and the daemon adopted this attempt.
  void Adopted();

  // Does everything that can be done now. `connected`: the worker is registered.
  void Pump(bool connected);
  // When Pump should be called again without an event; INT64_MAX for never.
  int64_t NextPump() const;

  const v1::AttemptKey& key() const { return assignment_.key(); }
  int32_t slots() const { return assignment_.spec().resources().slots(); }
  // A process may exist.
  bool alive() const { return process_ != nullptr; }
  bool abandoned() const { return abandoned_; }
  // The report of how it ended is on its way; its answer decides.
  bool reporting_end() const { return end_lane_.in_flight; }
  // Nothing is left to do: the daemon has the end, or the attempt is abandoned and dead.
  bool over() const { return reported_ || (abandoned_ && process_ == nullptr); }
  // The report of how it ended. REQUIRES: over() && !abandoned().
  const v1::ReportAttemptRequest& end_report() const { return end_report_; }

 private:
  // One kind of call: at most one in flight, with a back-off of its own.
  struct Lane {
    bool in_flight = false;
    Backoff backoff;
  };
  struct Outcome {  // what the trainer said before it ended
    bool succeeded = false;
    bool paused = false;
    std::string cause;    // of a pause that a guard wants; else empty
    std::string message;  // of it
    v1::TrainingResult result;
    std::optional<Failure> failure;
  };

  void Launch();
  void TakeFromProcess();
  void TakeReport(const v1::TrainerReport& report);
  void TakeCheckpoint(const v1::CheckpointWritten& written);
  void EnforceDeadlines();
  // Kills the trainer for something that is not its failure report.
  void FailWith(v1::FailureClass failure_class, const std::string& message);
  void SendPause();

  // attempt_safety.cc
  // The trainer crashed, and the state that it left in its memory is to go on.
  bool MayRestart(const TrainerExit& exit) const;
  void Restart(const TrainerExit& exit);
  void AnnounceRestart(int64_t step);
  // Looks for hangs.
  void WatchProgress();
  int64_t HangNanos() const;
  void FoundHung(const snapshot::Progress& progress);
  void AddStepSeconds(const v1::MetricRecord& record);
  void Quarantine(const v1::Checkpoint& damaged);
  void AddNote(v1::ReportAttemptRequest note);
  void PublishNote();
  void NoteAnswered(const absl::StatusOr<v1::ReportAttemptResponse>& response);

  bool Ready(const Lane& lane) const;
  // A callback that brings the answer back to this attempt on the loop, if it still exists. Common
  // errors are dealt with (see CallFailed); `handle` gets OK answers and refusals.
  template <typename Response>
  DaemonLink::Done<Response> Answer(
      Lane Attempt::*lane, void (Attempt::*handle)(const absl::StatusOr<Response>& response)) {
    (this->*lane).in_flight = true;
    return [weak = weak_from_this(), loop = context_.loop, lane,
            handle](absl::StatusOr<Response> response) {
      loop->Post([weak, lane, handle, response = std::move(response)] {
        const std::shared_ptr<Attempt> self = weak.lock();
        if (self != nullptr && self->Arrived(response.status(), lane)) ((*self).*handle)(response);
      });
    };
  }
  // An answer came; false where there is nothing to handle.
  bool Arrived(const absl::Status& status, Lane Attempt::*lane);
  // True where the error is dealt with: try again later, register again, or the attempt is stale.
  bool CallFailed(const absl::Status& status, Lane& lane);

  void PublishTraining();
  void TrainingAnswered(const absl::StatusOr<v1::ReportAttemptResponse>& response);
  void PublishMetrics();
  void MetricsAnswered(const absl::StatusOr<v1::AppendMetricsResponse>& response);
  v1::Checkpoint CheckpointOf(const v1::CheckpointWritten& written) const;
  void PublishCheckpoint();
  void CheckpointAnswered(const absl::StatusOr<v1::CommitCheckpointResponse>& response);
  void RemoveOldCheckpoints(int64_t step, const v1::CommitCheckpointResponse& response);
  void PublishLogs();
  void LogsAnswered(const absl::StatusOr<v1::AppendLogsResponse>& response);
  bool EndIsReady() const;
  void PublishEnd();
  void EndAnswered(const absl::StatusOr<v1::ReportAttemptResponse>& response);
  void FillEnd(v1::ReportAttemptRequest* report) const;
  // With worker_id and incarnation.
  template <typename Request>
  Request NewRequest() const {
    Request request;
    request.set_worker_id(context_.worker_id);
    request.set_incarnation(context_.incarnation);
    return request;
  }

  int64_t Now() const { return context_.clock->MonotonicNanos(); }
  std::string Name() const;

  const AttemptContext& context_;
  v1::Assignment assignment_;
  const std::string directory_;

  std::shared_ptr<snapshot::TrainerMemory> memory_;  // null: none
  std::unique_ptr<TrainerProcess> process_;
  bool ended_ = true;  // no process, and everything that it sent is taken
  int64_t ended_at_ = 0;
  std::optional<TrainerExit> exit_;  // absent where it never ran
  Outcome outcome_;
  std::optional<Failure> forced_failure_;
  bool started_ = false;
  bool releasing_ = false;
  bool pause_sent_ = false;
  bool abandoned_ = false;
  int64_t kill_at_;  // SIGKILL then

  // The newest checkpoint that this attempt has committed; absent before.
  std::optional<v1::Checkpoint> committed_;
  int64_t written_step_ = -1;  // of the newest checkpoint that a trainer reported
  std::string restart_cause_;  // of a trainer that was started again and has not begun yet
  v1::FailureClass restart_class_ = v1::FAILURE_CLASS_UNSPECIFIED;
  int restarts_without_progress_ = 0;
  int64_t restarted_at_step_ = -1;
  uint64_t progress_count_ = 0;
  int64_t progressed_at_ = 0;
  bool stepped_ = false;                        // the trainer at hand has reported a step
  std::string hang_;                            // what was found of it; empty: nothing
  std::deque<double> step_seconds_;             // of the newest steps
  std::deque<v1::ReportAttemptRequest> notes_;  // not acknowledged yet, oldest first
  int64_t note_sequence_ = 0;

  int64_t lease_deadline_ = 0;
  bool training_reported_ = false;
  bool reported_ = false;
  MetricQueue metrics_;
  int64_t next_metrics_at_ = 0;
  std::deque<v1::CheckpointWritten> checkpoints_;  // not committed yet, oldest first
  LogQueue logs_;
  v1::ReportAttemptRequest end_report_;
  Lane training_lane_;
  Lane metrics_lane_;
  Lane checkpoint_lane_;
  Lane logs_lane_;
  Lane notes_lane_;
  Lane end_lane_;
};

}  // namespace nibble::agent

#endif  // WORKER_AGENT_ATTEMPT_H_
