// What must hold after every step of a Scheduler, whatever happened. For tests and simulators.
#ifndef SERVER_SCHEDULER_INVARIANTS_H_
#define SERVER_SCHEDULER_INVARIANTS_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "server/scheduler/scheduler.h"
#include "server/scheduler/test_world.h"

namespace nibble::scheduler {

class InvariantChecker {
 public:
  // `ledger` and `lists` (the newest one of each worker) with the effects of this step in them.
  void Check(const Event& event, const std::vector<Effect>& effects, const Scheduler& scheduler,
             const Ledger& ledger, const std::map<std::string, AssignmentsChanged>& lists);
  const std::vector<std::string>& violations() const { return violations_; }

 private:
  void Fail(std::string what);
  // Durable before anything else, and nothing is said that was not written.
  void CheckOrderOfEffects(const std::vector<Effect>& effects, const Ledger& ledger);
  // Epochs rise by one; terminal states stay; every state change has its event; revisions rise.
  void CheckRows(const Transaction& transaction);
  // At most one worker is told to hold a job, and only its live attempt.
  void CheckLists(const std::map<std::string, AssignmentsChanged>& lists, const Ledger& ledger);
  // Slots are never given twice, the tracker equals its recomputation, live attempts hold theirs.
  void CheckSlots(const Scheduler& scheduler);
  // Nothing that could run waits, and nothing overtakes its like that came first.
  void CheckQueue(const std::vector<Effect>& effects, const Scheduler& scheduler);
  void CheckNeedlessWait(const JobRecord& job, const Scheduler& scheduler);
  // The scheduler knows exactly the live jobs of the ledger, as they are there.
  void CheckMemory(const Scheduler& scheduler, const Ledger& ledger);
  // A checkpoint is accepted from the newest attempt alone, and the newest `keep` are kept.
  void CheckCommit(const Event& event, const std::vector<Effect>& effects, const Ledger& ledger);

  struct Seen {
    JobState state = JobState::kUnspecified;
    int64_t attempt = 0;
    int64_t started = 0;
    int64_t revision = 0;
    int64_t committed_attempt = 0;
  };
  int64_t last_event_id_ = 0;
  std::map<std::string, Seen> seen_;
  std::string context_;
  std::vector<std::string> violations_;
};

}  // namespace nibble::scheduler

#endif  // SERVER_SCHEDULER_INVARIANTS_H_
