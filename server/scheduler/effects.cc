#include "server/scheduler/effects.h"

#include <algorithm>
#include <iterator>
#include <type_traits>

#include "server/scheduler/events.h"

namespace nibble::scheduler {
namespace {

template <typename T>
void AppendAll(std::vector<T>& to, std::vector<T>& from) {
  to.insert(to.end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
}

}  // namespace

bool Transaction::empty() const {
  return jobs.empty() && events.empty() && checkpoints.empty() && removed_checkpoints.empty() &&
         keys.empty() && deleted_jobs.empty() && purges.empty() && finished_purges.empty() &&
         updated_documents.empty() && workers.empty() && removed_workers.empty() && usages.empty();
}

void Transaction::Append(Transaction later) {
  // Removals are applied after additions, so a removal that a later addition undoes must go.
  for (const CheckpointRecord& added : later.checkpoints) {
    removed_checkpoints.erase(std::remove_if(removed_checkpoints.begin(), removed_checkpoints.end(),
                                             [&added](const CheckpointRecord& removed) {
                                               return removed.job_id == added.job_id &&
                                                      removed.step == added.step;
                                             }),
                              removed_checkpoints.end());
  }
  for (const WorkerRecord& worker : later.workers) {
    removed_workers.erase(
        std::remove(removed_workers.begin(), removed_workers.end(), worker.worker_id),
        removed_workers.end());
  }
  AppendAll(jobs, later.jobs);
  AppendAll(events, later.events);
  AppendAll(checkpoints, later.checkpoints);
  AppendAll(removed_checkpoints, later.removed_checkpoints);
  AppendAll(keys, later.keys);
  AppendAll(deleted_jobs, later.deleted_jobs);
  AppendAll(purges, later.purges);
  AppendAll(finished_purges, later.finished_purges);
  AppendAll(updated_documents, later.updated_documents);
  AppendAll(workers, later.workers);
  AppendAll(removed_workers, later.removed_workers);
  AppendAll(usages, later.usages);
}

absl::string_view ErrorReasonName(ErrorReason reason) {
  switch (reason) {
    case ErrorReason::kNone:
      return "";
    case ErrorReason::kJobNotFound:
      return "JOB_NOT_FOUND";
    case ErrorReason::kWrongState:
      return "WRONG_STATE";
    case ErrorReason::kStaleAttempt:
      return "STALE_ATTEMPT";
    case ErrorReason::kUnknownWorker:
      return "UNKNOWN_WORKER";
    case ErrorReason::kStaleIncarnation:
      return "STALE_INCARNATION";
    case ErrorReason::kRequestIdReused:
      return "REQUEST_ID_REUSED";
    case ErrorReason::kTooManyJobs:
      return "TOO_MANY_JOBS";
    case ErrorReason::kTooManyWorkers:
      return "TOO_MANY_WORKERS";
    case ErrorReason::kCheckpointOrder:
      return "CHECKPOINT_ORDER";
    case ErrorReason::kInvalidArgument:
      return "INVALID_ARGUMENT";
    case ErrorReason::kJobIdTaken:
      return "JOB_ID_TAKEN";
    case ErrorReason::kEtagMismatch:
      return "ETAG_MISMATCH";
    case ErrorReason::kWorkerNotFound:
      return "WORKER_NOT_FOUND";
  }
  return "UNKNOWN";
}

absl::string_view JobIdOf(const EventBody& body) {
  return std::visit(
      [](const auto& event) -> absl::string_view {
        using T = std::decay_t<decltype(event)>;
        if constexpr (std::is_same_v<T, AttemptReported>) {
          return event.attempt.job_id;
        } else if constexpr (std::is_same_v<T, CheckpointCommitted>) {
          return event.checkpoint.job_id;
        } else if constexpr (std::is_same_v<T, JobSubmitted>) {
          return event.stored_key.has_value() ? event.stored_key->job_id : event.job_id;
        } else if constexpr (requires { event.job_id; }) {
          return event.job_id;
        } else {
          return "";
        }
      },
      body);
}

}  // namespace nibble::scheduler
