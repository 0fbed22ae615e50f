// The trainer's end of the trainer link: tells the worker how a run goes, and brings the worker's
// commands to it.
//
//   NIBBLE_ASSIGN_OR_RETURN(auto observer, LinkObserver::Connect(fd));
//   NIBBLE_ASSIGN_OR_RETURN(v1::StartTraining start, observer->WaitForStart());
//   absl::StatusOr<trainer::RunResult> result = trainer::RunTraining(ConfigOf(start), *observer);
//   return observer->Finish(result);
#ifndef WORKER_LINK_LINK_OBSERVER_H_
#define WORKER_LINK_LINK_OBSERVER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "nibble/v1/trainer_link.pb.h"
#include "worker/trainer/training_run.h"

namespace nibble::link {

// The failure class of a run that ended with `status` (not OK):
//   INVALID_ARGUMENT, FAILED_PRECONDITION, UNIMPLEMENTED  USER      the job cannot run as it is
//   NOT_FOUND, DATA_LOSS, PERMISSION_DENIED               DATA      data or checkpoint
//   OUT_OF_RANGE                                          NUMERIC   loss or gradient not finite
//   RESOURCE_EXHAUSTED                                    OUT_OF_MEMORY
//   UNAVAILABLE                                           NETWORK   another rank is gone
//   whatever has payload trainer::kHardwareFault           HARDWARE
//   everything else                                       CONTROL   a fault of nibble itself
v1::FailureClass FailureClassOf(const absl::Status& status);

// Once the worker is gone (end of stream, a broken frame) or has refused a checkpoint as stale,
// every callback answers ABORTED, so that the run ends: no trainer outlives its worker.
//
// Threads: the methods are called from one thread; a reader thread of its own takes commands.
class LinkObserver : public trainer::TrainingObserver {
 public:
  // Takes ownership of `fd`, a connected Unix stream socket, and sets close-on-exec on it. `clock`
  // dates metric rows and outlives the observer. INVALID_ARGUMENT: `fd` is no stream socket.
  static absl::StatusOr<std::unique_ptr<LinkObserver>> Connect(int fd,
                                                               const Clock& clock = RealClock());
  ~LinkObserver() override;
  LinkObserver(const LinkObserver&) = delete;
  LinkObserver& operator=(const LinkObserver&) = delete;

  // Blocks until the worker's first message. ABORTED: the worker is gone. INVALID_ARGUMENT: the
  // first message was another command.
  absl::StatusOr<v1::StartTraining> WaitForStart();

  absl::Status OnStarted(int64_t step) override;
  // Sends one metric row; sequence numbers count from 1. Blocks while the worker's queue is full.
  // Of steps that an earlier trainer of the attempt has sent already, none.
  absl::Status OnStep(const trainer::StepReport& report) override;
  absl::Status OnNote(const trainer::RunNote& note) override;
  // Sends it and returns; with `must_commit` only after the worker says that it is committed.
  absl::Status OnCheckpoint(const trainer::CheckpointReport& report, bool must_commit) override;
  bool PauseRequested() override;

  // Reports how the run ended: paused, succeeded, or failed with FailureClassOf. Call once, last.
  // `result` may also be an error from before the run, such as a spec that cannot be converted.
  // Returns the run's own status, or ABORTED where the worker is gone.
  absl::Status Finish(const absl::StatusOr<trainer::RunResult>& result);

 private:
  LinkObserver(int fd, const Clock& clock);

  void ReadCommands();
  absl::Status Handle(const v1::TrainerCommand& command) EXCLUDES(mutex_);
  // OK while the worker is there and the attempt is live.
  absl::Status Alive() EXCLUDES(mutex_);
  // Of those that the worker named.
  v1::Checkpoint CheckpointAt(const std::string& path) EXCLUDES(mutex_);
  absl::Status Send(const v1::TrainerReport& report) EXCLUDES(mutex_);

  const int fd_;
  const Clock& clock_;
  int64_t metric_sequence_ = 0;  // of the last row sent
  int64_t reported_step_ = 0;    // by an earlier trainer of the attempt
  std::string backend_;

  Mutex mutex_;
  CondVar changed_;
  bool has_start_ GUARDED_BY(mutex_) = false;
  v1::StartTraining start_ GUARDED_BY(mutex_);
  bool pause_requested_ GUARDED_BY(mutex_) = false;
  int64_t committed_step_ GUARDED_BY(mutex_) = -1;
  absl::Status ended_ GUARDED_BY(mutex_);  // not OK: why nothing more may be done

  std::thread reader_;
};

}  // namespace nibble::link

#endif  // WORKER_LINK_LINK_OBSERVER_H_
