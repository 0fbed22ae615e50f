#include "tests/sim/planted_bugs.h"

#include <cstring>

#include "base/planted.h"

namespace nibble {
namespace {

const char* planted = nullptr;

}  // namespace

bool IsPlanted(const char* name) { return planted != nullptr && std::strcmp(planted, name) == 0; }

namespace sim {

const std::vector<PlantedBug>& PlantedBugs() {
  static const std::vector<PlantedBug> kBugs = {
      // The coordinator and the stores.
      {"acknowledge_before_commit", "answers leave before the commit", 64},
      {"missing_fsync", "the store acknowledges a commit before it is durable", 64},
      {"ahead_of_full_disk", "after a refused commit the scheduler goes on as if it had been made",
       64},
      {"append_unchecked", "metrics are taken from stale attempts", 64},
      {"gauge_drifts", "the store's counters are not lowered", 64},
      // Epochs, leases and processes.
      {"no_epoch_check", "an attempt's number is not looked at", 64},
      {"epoch_reused", "the next attempt has the number of the last", 64},
      {"stale_adopted", "a worker's stale attempt is adopted", 64},
      {"dead_process_believed", "calls of a replaced worker process are taken", 256},
      {"wall_clock_leases", "leases are measured on the wall clock", 64},
      {"no_term_after_restart", "leases get no new term after a restart of the daemon", 64},
      {"stall_not_forgiven", "leases expire because the daemon stood still", 128},
      {"mass_expiry", "most leases expire at once", 256},
      {"double_placement", "slots are free once the lease has expired, whoever still trains", 64},
      // Budgets.
      {"retry_without_budget", "failures are not added up", 128},
      {"budget_lost_on_restart", "a restart of the daemon forgets failures", 64},
      {"losses_forgotten", "lost attempts are not added up", 256},
      {"poison_spreads", "a job that fails on every worker is tried on", 256},
      {"run_time_ignored", "max_run_time has no effect", 128},
      // Scheduling.
      {"quota_not_returned", "a project's share is not lowered when an attempt ends", 64},
      {"ageing_off", "priority counts for more than any wait", 256},
      {"reservation_ignored", "nothing is kept for the head of the queue", 256},
      {"preempt_without_checkpoint", "a preempted job is stopped at once", 256},
      {"drain_forgotten", "a restart of the daemon undrains workers", 64},
      // Users.
      {"key_not_stored", "an idempotency key is kept in memory alone", 64},
      {"terminal_rewritten", "cancelling an ended job changes its row", 128},
      {"pause_lost_on_restart", "a restart of the daemon resumes paused jobs", 64},
      {"purge_not_stored", "what a deletion has to remove is kept in memory alone", 128},
      // Checkpoints and training.
      {"one_too_few_retained", "one checkpoint less is kept", 64},
      {"kept_checkpoint_removed", "the worker removes checkpoints that are kept", 64},
      {"commit_before_metrics", "a checkpoint is committed before its metrics are there", 64},
      {"restart_from_zero", "an attempt starts at step 0", 64},
      {"stale_trainer_lives", "a trainer of a stale attempt is not killed", 128},
      {"orphans_live_on", "trainers outlive the orphan limit", 256},
      {"end_before_death", "an attempt ends while its trainer lives", 128},
  };
  return kBugs;
}

bool Plant(const std::string& name) {
  planted = nullptr;
  for (const PlantedBug& bug : PlantedBugs()) {
    if (name == bug.name) planted = bug.name;
  }
  return planted != nullptr || name.empty();
}

}  // namespace sim
}  // namespace nibble
