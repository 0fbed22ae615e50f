// What users ask for.
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/scheduler/machine.h"

namespace nibble::scheduler {

void Scheduler::Machine::Handle(const JobSubmitted& event) {
  const JobDocument& document = *event.document;
  if (!document.request_key.empty()) {
    std::optional<IdempotencyRecord> known = event.stored_key;
    const auto live = job_of_key_.find(document.request_key);
    if (live != job_of_key_.end()) {
      known = {document.request_key, live->second,
               jobs_.at(live->second).record.document->fingerprint};
    }
    if (known.has_value()) {
      if (known->fingerprint != document.fingerprint) {
        return Fail(absl::StatusCode::kAlreadyExists, ErrorReason::kRequestIdReused,
                    absl::StrCat("request_id was used with another spec, for job ", known->job_id));
      }
      if (FindLive(known->job_id) == nullptr && stored_job_ == nullptr) {
        return Fail(absl::StatusCode::kNotFound, ErrorReason::kJobNotFound,
                    absl::StrCat("job ", known->job_id, " of this request_id is gone"));
      }
      return AnswerWithJob(known->job_id);
    }
  }
  if (static_cast<int64_t>(jobs_.size()) >= options_.max_live_jobs) {
    return Fail(absl::StatusCode::kResourceExhausted, ErrorReason::kTooManyJobs,
                absl::StrCat("there are ", jobs_.size(), " unfinished jobs, the most allowed"));
  }
  if (document.slots < 1 || document.slots > kMaxSlotsOfWorker) {
    return Fail(absl::StatusCode::kInvalidArgument, ErrorReason::kInvalidArgument,
                absl::StrCat("slots is ", document.slots, "; allowed: 1 to ", kMaxSlotsOfWorker));
  }
  if (jobs_.count(event.job_id) != 0 || stored_job_ != nullptr) {
    return Fail(absl::StatusCode::kAlreadyExists, ErrorReason::kJobIdTaken,
                absl::StrCat("there is a job ", event.job_id, " already"));
  }

  LiveJob& job = jobs_[event.job_id];
  job.record.job_id = event.job_id;
  job.record.document = event.document;
  job.record.submit_sequence = ++last_submit_sequence_;
  job.record.create_micros = now_.wall_micros;
  if (!document.request_key.empty()) {
    job_of_key_[document.request_key] = event.job_id;
    transaction_.keys.push_back({document.request_key, event.job_id, document.fingerprint});
  }
  Transition(job, {JobState::kQueued, JobReason::kSubmitted, "submitted"}, event.actor);
  // Overwritten in this same step where it starts at once.
  job.record.reason = JobReason::kWaitingForSlots;
  job.record.reason_message =
      absl::StrCat("waits for ", document.slots, " free slot", document.slots == 1 ? "" : "s");
  AddToQueue(job, now_.monotonic_nanos);
  AnswerWithJob(event.job_id);
}

void Scheduler::Machine::Handle(const CancelRequested& event) {
  if (FindLive(event.job_id) == nullptr && stored_job_ != nullptr &&
      stored_job_->state == JobState::kCancelled) {
    return AnswerWithJob(event.job_id);
  }
  LiveJob* const job = FindLiveOrFail(event.job_id, "cancelled");
  if (job == nullptr) return;
  AnswerWithJob(event.job_id);
  switch (job->record.state) {
    case JobState::kQueued:
    case JobState::kPaused:
      return Transition(*job,
                        {JobState::kCancelled, JobReason::kCancelRequested, "cancelled by request"},
                        event.actor);
    case JobState::kStarting:
    case JobState::kRunning:
    case JobState::kPausing:
      return Transition(
          *job,
          {JobState::kStopping, JobReason::kCancelRequested,
           absl::StrCat("waits for worker ", job->record.worker_id, " to report the trainer dead")},
          event.actor);
    default:  // STOPPING: asked for already.
      return;
  }
}

void Scheduler::Machine::Handle(const PauseRequested& event) {
  LiveJob* const job = FindLiveOrFail(event.job_id, "paused");
  if (job == nullptr) return;
  switch (job->record.state) {
    case JobState::kQueued:
      Transition(*job, {JobState::kPaused, JobReason::kPauseRequested, "paused by request"},
                 event.actor);
      break;
    case JobState::kStarting:
    case JobState::kRunning:
      Transition(*job,
                 {JobState::kPausing, JobReason::kPauseRequested,
                  absl::StrCat("waits for worker ", job->record.worker_id, " to checkpoint")},
                 event.actor);
      break;
    default:
      return Fail(absl::StatusCode::kFailedPrecondition, ErrorReason::kWrongState,
                  absl::StrCat("job ", event.job_id, " is ", JobStateName(job->record.state),
                               "; only QUEUED, STARTING and RUNNING jobs can be paused"));
  }
  AnswerWithJob(event.job_id);
}

void Scheduler::Machine::Handle(const ResumeRequested& event) {
  LiveJob* const job = FindLiveOrFail(event.job_id, "resumed");
  if (job == nullptr) return;
  if (job->record.state != JobState::kPaused) {
    return Fail(absl::StatusCode::kFailedPrecondition, ErrorReason::kWrongState,
                absl::StrCat("job ", event.job_id, " is ", JobStateName(job->record.state),
                             "; only PAUSED jobs can be resumed"));
  }
  Requeue(*job, {JobState::kQueued, JobReason::kResumeRequested, "resumed by request"},
          /*delay_nanos=*/0, event.actor);
  AnswerWithJob(event.job_id);
}

void Scheduler::Machine::Handle(const DeleteRequested& event) {
  if (const LiveJob* const job = FindLive(event.job_id)) {
    return Fail(absl::StatusCode::kFailedPrecondition, ErrorReason::kWrongState,
                absl::StrCat("job ", event.job_id, " is ", JobStateName(job->record.state),
                             "; only ended jobs can be deleted, so cancel it first"));
  }
  if (stored_job_ == nullptr) {
    return Fail(absl::StatusCode::kNotFound, ErrorReason::kJobNotFound,
                absl::StrCat("no job ", event.job_id));
  }
  transaction_.deleted_jobs.push_back(event.job_id);
  for (const std::string& worker_id : stored_job_->workers) {
    purges_[worker_id].insert(event.job_id);
    transaction_.purges.push_back({event.job_id, worker_id});
    changed_workers_.insert(worker_id);
  }
  purges_[""].insert(event.job_id);
  transaction_.purges.push_back({event.job_id, ""});
  metric_purges_.push_back({event.job_id});
  deletions_.push_back({*stored_job_, /*deleted=*/true});
}

void Scheduler::Machine::Handle(const MetricsPurged& event) {
  const auto own = purges_.find("");
  if (own == purges_.end() || own->second.erase(event.job_id) == 0) return;
  if (own->second.empty()) purges_.erase(own);
  transaction_.finished_purges.push_back({event.job_id, ""});
}

}  // namespace nibble::scheduler
