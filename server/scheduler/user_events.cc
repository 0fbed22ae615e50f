// What users ask for.
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/planted.h"
#include "server/scheduler/machine.h"

namespace nibble::scheduler {

void Scheduler::Machine::Handle(const JobSubmitted& event) {
  const JobDocument& document = *event.document;
  if (!document.request_key.empty()) {
    std::optional<IdempotencyRecord> known = event.stored_key;
    if (const LiveJob* const live = job_of_key_.Find(document.request_key)) {
      known = {document.request_key, live->record.job_id, live->record.document->fingerprint};
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
  if (document.slots < 1 || document.slots > kMaxSlotsOfJob) {
    return Fail(absl::StatusCode::kInvalidArgument, ErrorReason::kInvalidArgument,
                absl::StrCat("slots is ", document.slots, "; allowed: 1 to ", kMaxSlotsOfJob));
  }
  const int project = ProjectOf(document);
  const int64_t max_jobs = shares_.options(project).max_jobs;
  if (max_jobs > 0 && jobs_of_project_[project] >= max_jobs) {
    return Fail(absl::StatusCode::kResourceExhausted, ErrorReason::kTooManyJobs,
                absl::StrCat("project ", document.project, " has ", jobs_of_project_[project],
                             " unfinished jobs, the most it may have"));
  }
  if (jobs_.Find(event.job_id) != nullptr || stored_job_ != nullptr) {
    return Fail(absl::StatusCode::kAlreadyExists, ErrorReason::kJobIdTaken,
                absl::StrCat("there is a job ", event.job_id, " already"));
  }

  auto added = std::make_unique<LiveJob>();
  added->record.job_id = event.job_id;
  added->record.document = event.document;
  LiveJob& job = jobs_.Add(std::move(added));
  job.record.submit_sequence = ++last_submit_sequence_;
  job.record.create_micros = now_.wall_micros;
  job.record.queued_clock_nanos = clock_nanos();
  job.project = project;
  ++jobs_of_project_[project];
  if (!document.request_key.empty()) {
    job_of_key_.Add(&job);
    if (!NIBBLE_PLANTED("key_not_stored")) {
      transaction_.keys.push_back({document.request_key, event.job_id, document.fingerprint});
    }
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
  if (NIBBLE_PLANTED("terminal_rewritten") && stored_job_ != nullptr) {
    transaction_.jobs.push_back(*stored_job_);
    transaction_.jobs.back().state = JobState::kCancelled;
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
      return Transition(*job,
                        {JobState::kStopping, JobReason::kCancelRequested,
                         absl::StrCat("waits for worker ", job->record.worker_id(),
                                      " to report the trainer dead")},
                        event.actor);
    default:  // STOPPING: asked for already, or its time is over.
      if (job->record.reason == JobReason::kCancelRequested) return;
      job->record.reason = JobReason::kCancelRequested;
      return Note(*job, {JobState::kStopping, JobReason::kCancelRequested, "cancelled by request"},
                  event.actor);
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
                  absl::StrCat("waits for worker ", job->record.worker_id(), " to checkpoint")},
                 event.actor);
      break;
    case JobState::kPausing:
      if (job->record.reason != JobReason::kPauseRequested) {
        // It was to give its slots to others; now it stays paused afterwards.
        job->record.reason = JobReason::kPauseRequested;
        job->record.reason_message = "waits for its checkpoint";
        Note(*job, {JobState::kPausing, JobReason::kPauseRequested, "paused by request"},
             event.actor);
        break;
      }
      [[fallthrough]];
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

void Scheduler::Machine::Handle(const UpdateRequested& event) {
  LiveJob* const job = FindLiveOrFail(event.job_id, "changed");
  if (job == nullptr) return;
  JobRecord& record = job->record;
  if (event.revision != 0 && event.revision != record.revision) {
    return Fail(absl::StatusCode::kAborted, ErrorReason::kEtagMismatch,
                absl::StrCat("job ", event.job_id, " has changed: its etag is ", record.revision,
                             ", not ", event.revision));
  }
  AnswerWithJob(event.job_id);
  auto document = std::make_shared<JobDocument>(*record.document);
  if (event.priority.has_value()) document->priority = *event.priority;
  if (event.labels.has_value()) document->labels = *event.labels;
  if (*document == *record.document) return;
  std::string what;
  if (document->priority != record.document->priority) {
    what = absl::StrCat("priority ", record.document->priority, " -> ", document->priority);
  }
  if (document->labels != record.document->labels) {
    absl::StrAppend(&what, what.empty() ? "" : ", ", "labels");
  }
  const bool queued = queue_.Find(event.job_id) != nullptr;
  const int64_t not_before = queued ? queue_.NotBefore(event.job_id) : 0;
  const bool runs = record.state == JobState::kStarting || record.state == JobState::kRunning;
  if (queued) RemoveFromQueue(event.job_id);
  if (runs) CountRunning(*job, -1);
  record.document = std::move(document);
  if (runs) CountRunning(*job, 1);
  if (queued) AddToQueue(*job, not_before);
  transaction_.updated_documents.push_back(event.job_id);
  Note(*job, {record.state, JobReason::kUpdated, what}, event.actor);
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
    if (!NIBBLE_PLANTED("purge_not_stored")) {
      transaction_.purges.push_back({event.job_id, worker_id});
    }
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
