#include <map>
#include <string>

#include "tests/sim/checkers/all.h"

namespace nibble::sim {
namespace {

class SlotChecker : public Checker {
 public:
  using Checker::Checker;

  // A slot is given only where no trainer can still hold the device: every process that lives, and
  // every other attempt that the rows call live, counts.
  void Committed(const scheduler::Transaction& t) override {
    for (const auto& event : t.events) {
      if (event.after != scheduler::JobState::kStarting || event.before == event.after) continue;
      const scheduler::JobRecord* const job = site_.rows.Find(event.job_id);
      if (job == nullptr || job->attempt != event.attempt) continue;
      for (const auto& share : job->placement) CheckWorker(share.worker_id, event.job_id);
    }
  }

  void TrainerLaunched(const TrainerView& trainer) override {
    int32_t used = 0;
    for (const TrainerView* each : site_.trainers) {
      if (each->worker == trainer.worker) used += each->slots;
    }
    if (used > site_.slots_of_worker) {
      Fail(absl::StrCat(trainer.worker, " runs trainers for ", used, " slots of ",
                        site_.slots_of_worker));
    }
  }

 private:
  void CheckWorker(const std::string& worker, const std::string& job_id) {
    std::map<scheduler::AttemptId, int32_t> holders;
    for (const auto& [id, job] : site_.rows.jobs) {
      for (const auto& share : job.placement) {
        if (share.worker_id == worker) holders[{id, job.attempt}] = share.slots;
      }
    }
    for (const TrainerView* trainer : site_.trainers) {
      // One that is being killed is dead before the worker starts another.
      if (trainer->worker == worker && !trainer->killed) {
        holders[trainer->attempt] = trainer->slots;
      }
    }
    int32_t used = 0;
    std::string who;
    for (const auto& [attempt, slots] : holders) {
      used += slots;
      absl::StrAppend(&who, " ", Name(attempt), " (", slots, ")");
    }
    if (used > site_.slots_of_worker) {
      Fail(absl::StrCat("slots of ", worker, " are given to ", job_id, " while held: ", used,
                        " of ", site_.slots_of_worker, " by", who));
    }
  }
};

}  // namespace

std::unique_ptr<Checker> MakeSlotChecker(Site* site) { return std::make_unique<SlotChecker>(site); }

}  // namespace nibble::sim
