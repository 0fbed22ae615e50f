// Who holds which slots of which worker. Reserves all or nothing.
#ifndef SERVER_SCHEDULER_RESOURCE_TRACKER_H_
#define SERVER_SCHEDULER_RESOURCE_TRACKER_H_

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "server/scheduler/types.h"

namespace nibble::scheduler {

class ResourceTracker {
 public:
  struct WorkerSlots {
    int32_t total = 0;
    int32_t used = 0;
    // Takes new work. Slots of a worker that does not are counted, not offered.
    bool open = false;
    std::map<AttemptId, int32_t> holders;
  };

  // Adds a worker or changes it. FAILED_PRECONDITION, and no change, where its holders have more
  // than `total`.
  absl::Status SetWorker(const std::string& worker_id, int32_t total, bool open);
  // FAILED_PRECONDITION while anything is held. OK for an unknown worker.
  absl::Status RemoveWorker(const std::string& worker_id);

  // RESOURCE_EXHAUSTED where fewer than `slots` are free, ALREADY_EXISTS where the attempt holds
  // slots of this worker, NOT_FOUND for an unknown worker, INVALID_ARGUMENT for slots < 1; then
  // nothing changed. `open` does not matter here: an adopted attempt keeps its slots on a closed
  // worker.
  absl::Status Reserve(const AttemptId& attempt, const std::string& worker_id, int32_t slots);
  // As above on several workers: all of them or none.
  absl::Status Reserve(const AttemptId& attempt, const std::vector<WorkerShare>& shares);
  // Gives back what the attempt holds of the worker. NOT_FOUND where that is nothing.
  absl::Status Release(const AttemptId& attempt, const std::string& worker_id);
  // Slots that the attempt holds of the worker.
  int32_t Held(const AttemptId& attempt, absl::string_view worker_id) const;

  // Free slots of an open worker, else 0.
  int32_t FreeSlots(absl::string_view worker_id) const;
  // Open workers with free slots, by their number and then by name.
  const std::set<std::pair<int32_t, std::string>>& open_by_free() const { return open_by_free_; }
  // Null for an unknown worker. Valid until the next change.
  const WorkerSlots* Find(absl::string_view worker_id) const;

  int64_t total_slots() const { return total_slots_; }
  int64_t used_slots() const { return used_slots_; }

  // Recomputes every sum and index from the holders; an INTERNAL status names the first difference.
  absl::Status Verify() const;

 private:
  void Index(const std::string& worker_id, const WorkerSlots& worker);
  void Unindex(const std::string& worker_id, const WorkerSlots& worker);

  std::map<std::string, WorkerSlots, std::less<>> workers_;
  std::set<std::pair<int32_t, std::string>> open_by_free_;  // only free > 0
  int64_t total_slots_ = 0;
  int64_t used_slots_ = 0;
};

}  // namespace nibble::scheduler

#endif  // SERVER_SCHEDULER_RESOURCE_TRACKER_H_
