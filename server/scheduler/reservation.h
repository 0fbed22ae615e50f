// Where and when a job that does not fit now will fit, and whose slots it takes where it may: pure
// functions of literal lists.
//
// The reservation is that of EASY backfilling (Lifka, "The ANL/IBM SP scheduling system", 1995):
// one, for the head of the queue, at the earliest time at which running jobs, by their bounds,
// leave room.
#ifndef SERVER_SCHEDULER_RESERVATION_H_
#define SERVER_SCHEDULER_RESERVATION_H_

#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace nibble::scheduler {

// An end that nobody can foretell.
inline constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

// A worker that may run the job.
struct WorkerOutlook {
  std::string worker_id;
  int32_t total = 0;
  int32_t free = 0;
  struct Release {
    int64_t at_nanos = kNever;  // at the latest; in the past for overdue ones
    int32_t slots = 0;
  };
  std::vector<Release> releases;  // of what is not free; any order
};

struct Reservation {
  std::string job_id;
  int64_t made_nanos = 0;
  // Slots kept by worker. On other workers nothing is.
  std::map<std::string, int32_t> slots;
  // When the job starts at the latest; kNever where that rests on jobs without a bound.
  int64_t start_nanos = 0;
  // Jobs that end by then may use the slots that are kept. start_nanos where that is known, else
  // the last release that is.
  int64_t shadow_nanos = 0;
  // Jobs were told to make room.
  bool preempting = false;
  // Jobs that had to give up slots for it: none of them takes its place, however early theirs was.
  std::vector<std::string> victims;
};

// The earliest room for `slots`: on one worker, or, with `spread`, over several. Of equally early
// ones the first by name. Absent where the workers together are too small.
std::optional<Reservation> PlanReservation(int32_t slots, bool spread,
                                           const std::vector<WorkerOutlook>& workers,
                                           int64_t now_nanos);

// A running job that may be preempted.
struct VictimCandidate {
  std::string job_id;
  std::map<std::string, int32_t> slots;  // by worker
  // Slot-nanoseconds of work that would be lost: since its last committed state.
  int64_t lost_slot_nanos = 0;
};

struct VictimChoice {
  std::vector<std::string> job_ids;      // empty where what is on its way suffices
  std::map<std::string, int32_t> slots;  // where the job will have them
  int64_t lost_slot_nanos = 0;
};

// The victims that make room for `slots` at the least loss, none of them needlessly: found
// greedily, by loss per slot. `workers`' releases that are not kNever count as on their way and
// cost nothing. Absent where even all candidates do not make room.
std::optional<VictimChoice> ChooseVictims(int32_t slots, bool spread,
                                          const std::vector<WorkerOutlook>& workers,
                                          const std::vector<VictimCandidate>& candidates);

}  // namespace nibble::scheduler

#endif  // SERVER_SCHEDULER_RESERVATION_H_
