// Why a job is not running yet, for people and programs; nibble.v1.ExplainJobResponse.
#ifndef SERVER_SCHEDULER_EXPLANATION_H_
#define SERVER_SCHEDULER_EXPLANATION_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "server/scheduler/types.h"

namespace nibble::scheduler {

// Numbers as in the proto.
enum class BlockingCode : int {
  kPaused = 1,
  kBackingOff = 2,        // waits after a failure
  kNoWorkers = 3,         // none is there at all
  kWorkersClosed = 4,     // those that could run it are drained, unreachable or leaving
  kNoMatchingWorker = 5,  // none satisfies scheduling.constraints
  kTooWide = 6,           // asks for more slots than all matching workers have
  kProjectLimit = 7,      // its project may not hold more slots
  kBehindOthers = 8,      // jobs that wait go first
  kSlotsBusy = 9,         // too few slots are free
  kReserved = 10,         // free slots are kept for the head of the queue
  kMakingRoom = 11,       // jobs were told to give it their slots
  kWorkerExcluded = 12,   // the worker where it just failed is avoided
};

// Name as in the proto: "BACKING_OFF".
absl::string_view BlockingCodeName(BlockingCode code);

struct BlockingReason {
  BlockingCode code = BlockingCode::kSlotsBusy;
  std::string message;
};

// An attempt that holds slots on a worker that the job could use.
struct SlotHolder {
  std::string job_id;
  int64_t attempt = 0;
  std::string project;
  std::string worker_id;
  int32_t slots = 0;
  // Until its run time is over; absent where it has no bound.
  std::optional<int64_t> remaining_nanos;
};

struct Explanation {
  JobRecord job;
  // What stands in the way, the first obstacle first; empty for a job that holds slots.
  std::vector<BlockingReason> reasons;
  std::vector<SlotHolder> holders;  // at most kMaxHolders
  // It starts at the latest so long from now, where that can be foretold: the jobs in its way have
  // bounds, and no other waits before it.
  std::optional<int64_t> start_in_nanos;
  // When this was so.
  int64_t wall_micros = 0;
};

inline constexpr int kMaxHolders = 256;

}  // namespace nibble::scheduler

#endif  // SERVER_SCHEDULER_EXPLANATION_H_
