// Records and transactions for tests of stores.
#ifndef SERVER_STORE_STORE_TEST_UTIL_H_
#define SERVER_STORE_STORE_TEST_UTIL_H_

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "server/scheduler/effects.h"
#include "server/scheduler/types.h"

namespace nibble::store {

inline std::string JobId(int64_t sequence) {
  return absl::StrCat("j-", absl::Hex(sequence, absl::kZeroPad16));
}

// A job with every field set to something of its own.
inline scheduler::JobRecord MakeJob(int64_t sequence,
                                    scheduler::JobState state = scheduler::JobState::kQueued) {
  auto document = std::make_shared<scheduler::JobDocument>();
  document->name = sequence % 2 == 0 ? "even" : "odd";
  document->labels = {{"team", sequence % 3 == 0 ? "three" : "other"}, {"all", "yes"}};
  document->spec = std::string("\x00\xff spec\n", 8) + std::to_string(sequence);
  document->precision = "precision";
  document->priority = -3;
  document->slots = 2;
  document->max_failures = 7;
  document->keep_checkpoints = 4;
  document->total_steps = 1000;
  document->parameters = 123456789012;
  document->request_key = absl::StrCat("key-", sequence);
  document->fingerprint = "fingerprint";
  document->project = "lab";
  document->max_run_nanos = 3'600'000'000'000;
  document->preemptible = false;
  document->constraints = {"cuda", int64_t{1} << 36, {{"zone", "a"}}};
  scheduler::JobRecord job;
  job.job_id = JobId(sequence);
  job.document = document;
  job.submit_sequence = sequence;
  job.state = state;
  job.reason = scheduler::JobReason::kTrainerFailed;
  job.reason_message = "a sentence";
  job.attempt = 5;
  job.placement = {{"w1", "i1", 1}, {"w2", "i2", 1}};
  job.workers = {"w0", "w1"};
  job.failures = 2;
  job.failures_without_progress = 1;
  job.losses_without_progress = 3;
  job.last_failure = scheduler::FailureClass::kNumeric;
  job.reported_attempt = 4;
  job.reported_status = scheduler::AttemptStatus::kFailed;
  job.committed_step = 300;
  if (state == scheduler::JobState::kSucceeded) {
    job.result = scheduler::TrainingResult{10,  640,     1.5,   1.25,
                                           2.0, 12345.5, "abc", {{"step_seconds_p50", 0.25}}};
  }
  job.create_micros = 1'700'000'000'000'000;
  job.start_micros = job.create_micros + 1;
  job.end_micros = job.create_micros + 2;
  job.update_micros = job.create_micros + 3;
  job.revision = 9;
  job.class_failures = {0, 0, 1, 0, 0, 1, 0, 0, 0};
  job.failed_workers = {"w0"};
  job.preemptions = 6;
  job.retry_delay_nanos = 500'000'000;
  job.queued_clock_nanos = 11;
  job.attempt_clock_nanos = 12;
  job.commit_clock_nanos = 13;
  return job;
}

inline scheduler::JobEventRecord MakeEvent(int64_t event_id, const std::string& job_id) {
  scheduler::JobEventRecord event;
  event.event_id = event_id;
  event.job_id = job_id;
  event.attempt = 3;
  event.wall_micros = 42;
  event.actor = "user";
  event.before = scheduler::JobState::kQueued;
  event.after = scheduler::JobState::kStarting;
  event.reason = scheduler::JobReason::kSlotsAssigned;
  event.message = "why";
  event.cause = "job:j-1";
  return event;
}

inline scheduler::CheckpointRecord MakeCheckpoint(const std::string& job_id, int64_t step) {
  return {job_id, 2, step, "/checkpoints/step", "digest", 1 << 20, 77, "w1"};
}

// What the scheduler writes at a submission.
inline scheduler::Transaction Submission(int64_t sequence) {
  const scheduler::JobRecord job = MakeJob(sequence);
  scheduler::Transaction transaction;
  transaction.jobs = {job};
  transaction.events = {MakeEvent(sequence, job.job_id)};
  transaction.keys = {{job.document->request_key, job.job_id, job.document->fingerprint}};
  return transaction;
}

}  // namespace nibble::store

#endif  // SERVER_STORE_STORE_TEST_UTIL_H_
