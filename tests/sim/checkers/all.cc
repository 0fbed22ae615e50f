#include "tests/sim/checkers/all.h"

namespace nibble::sim {

Checkers AllCheckers(Site* site) {
  Checkers checkers;
  for (const auto make :
       {MakeRowsChecker, MakeBudgetChecker, MakeFencingChecker, MakeLeaseChecker,
        MakeAssignmentChecker, MakeCheckpointChecker, MakeClientChecker, MakeGaugeChecker,
        MakeTrainingChecker, MakeSlotChecker, MakeQueueChecker}) {
    checkers.push_back(make(site));
  }
  return checkers;
}

}  // namespace nibble::sim
