#include "server/coordinator/assignment_board.h"

#include "absl/strings/str_cat.h"

namespace nibble::coordinator {

std::string AssignmentsTopic(absl::string_view worker_id) {
  return absl::StrCat("assignments/", worker_id);
}

void AssignmentBoard::Registered(const std::string& worker_id, const std::string& incarnation) {
  {
    MutexLock lock(mutex_);
    Worker& worker = workers_[worker_id];
    worker.incarnation = incarnation;
    worker.registered = true;
    worker.snapshot.revision = ++last_revision_;
  }
  feed_->Publish(AssignmentsTopic(worker_id));
}

void AssignmentBoard::Replace(const scheduler::AssignmentsChanged& change) {
  {
    MutexLock lock(mutex_);
    AssignmentSnapshot& snapshot = workers_[change.worker_id].snapshot;
    snapshot.revision = ++last_revision_;
    snapshot.assignments = change.assignments;
    snapshot.purge_job_ids = change.purge_job_ids;
  }
  feed_->Publish(AssignmentsTopic(change.worker_id));
}

void AssignmentBoard::ShutDownWorker(const std::string& worker_id) {
  {
    MutexLock lock(mutex_);
    AssignmentSnapshot& snapshot = workers_[worker_id].snapshot;
    snapshot.revision = ++last_revision_;
    snapshot.shut_down = true;
  }
  feed_->Publish(AssignmentsTopic(worker_id));
}

void AssignmentBoard::Clear() {
  std::vector<std::string> topics;
  {
    MutexLock lock(mutex_);
    for (auto& [worker_id, worker] : workers_) {
      const bool shut_down = worker.snapshot.shut_down;
      worker = Worker();
      worker.snapshot.shut_down = shut_down;
      topics.push_back(AssignmentsTopic(worker_id));
    }
  }
  for (const std::string& topic : topics) feed_->Publish(topic);
}

absl::StatusOr<AssignmentSnapshot> AssignmentBoard::Read(absl::string_view worker_id,
                                                         absl::string_view incarnation) const {
  MutexLock lock(mutex_);
  const auto found = workers_.find(std::string(worker_id));
  if (found == workers_.end() || !found->second.registered) {
    return absl::NotFoundError(absl::StrCat("worker ", worker_id, " is not registered"));
  }
  if (found->second.incarnation != incarnation) {
    return absl::FailedPreconditionError(
        absl::StrCat("another process registered as worker ", worker_id));
  }
  return found->second.snapshot;
}

}  // namespace nibble::coordinator
