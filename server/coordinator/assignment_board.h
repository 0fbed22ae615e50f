// What each worker should hold, for the streams that tell it. Level-triggered: a stream reads the
// newest complete list whenever it can send, and what lies between two reads is lost on purpose.
#ifndef SERVER_COORDINATOR_ASSIGNMENT_BOARD_H_
#define SERVER_COORDINATOR_ASSIGNMENT_BOARD_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/mutex.h"
#include "server/coordinator/change_feed.h"
#include "server/scheduler/effects.h"

namespace nibble::coordinator {

struct AssignmentSnapshot {
  int64_t revision = 0;  // rises with every change, over all workers, within one process
  std::vector<scheduler::Assignment> assignments;
  std::vector<std::string> purge_job_ids;
  bool shut_down = false;
};

// Published after every change of the worker's list, incarnation or shut_down.
std::string AssignmentsTopic(absl::string_view worker_id);

// Thread-safe.
class AssignmentBoard {
 public:
  explicit AssignmentBoard(ChangeFeed* feed) : feed_(feed) {}

  void Registered(const std::string& worker_id, const std::string& incarnation);
  void Replace(const scheduler::AssignmentsChanged& change);
  // The worker is to pause everything and exit, now and whenever it registers again.
  void ShutDownWorker(const std::string& worker_id);
  // Every worker has to register again: the scheduler was started anew.
  void Clear();

  // NOT_FOUND where the worker has not registered (or no list was made for it yet);
  // FAILED_PRECONDITION where another incarnation did.
  absl::StatusOr<AssignmentSnapshot> Read(absl::string_view worker_id,
                                          absl::string_view incarnation) const;

 private:
  struct Worker {
    std::string incarnation;
    bool registered = false;
    AssignmentSnapshot snapshot;
  };
  ChangeFeed* const feed_;
  mutable Mutex mutex_;
  int64_t last_revision_ GUARDED_BY(mutex_) = 0;
  std::map<std::string, Worker, std::less<>> workers_ GUARDED_BY(mutex_);
};

}  // namespace nibble::coordinator

#endif  // SERVER_COORDINATOR_ASSIGNMENT_BOARD_H_
