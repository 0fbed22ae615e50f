// Every checker, one file each.
#ifndef TESTS_SIM_CHECKERS_ALL_H_
#define TESTS_SIM_CHECKERS_ALL_H_

#include <memory>

#include "tests/sim/daemon.h"

namespace nibble::sim {

// Rows: states move only along docs/job_lifecycle.md, terminal ones never; epochs rise by one;
// every change has its event; what was committed is there after every start.
std::unique_ptr<Checker> MakeRowsChecker(Site* site);
// Failures and losses are counted, reset only by a new step, and bound the retries.
std::unique_ptr<Checker> MakeBudgetChecker(Site* site);
// Nothing of a stale attempt or process is accepted, and nothing of a live one refused.
std::unique_ptr<Checker> MakeFencingChecker(Site* site);
// A lease ends after a term without renewal, and not before.
std::unique_ptr<Checker> MakeLeaseChecker(Site* site);
// Workers are told exactly what the rows say.
std::unique_ptr<Checker> MakeAssignmentChecker(Site* site);
// A committed checkpoint verifies, the newest `keep` are there.
std::unique_ptr<Checker> MakeCheckpointChecker(Site* site);
// What a client was told is true for ever.
std::unique_ptr<Checker> MakeClientChecker(Site* site);
// Gauges and sums equal rows.
std::unique_ptr<Checker> MakeGaugeChecker(Site* site);
// Samples without gap or repeat: weights, metrics and results are those of an undisturbed run.
std::unique_ptr<Checker> MakeTrainingChecker(Site* site);
// Slots in use never exceed those that exist.
std::unique_ptr<Checker> MakeSlotChecker(Site* site);
// Alike jobs start in their order, and nothing waits while everything is idle.
std::unique_ptr<Checker> MakeQueueChecker(Site* site);

Checkers AllCheckers(Site* site);

}  // namespace nibble::sim

#endif  // TESTS_SIM_CHECKERS_ALL_H_
