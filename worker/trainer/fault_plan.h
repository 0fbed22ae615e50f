// Faults that a test plants in a trainer (docs/training_safety.md): NIBBLE_TEST_FAULTS in its
// environment, a comma-separated list of
//   nan_loss:B nan_gradient:B   the loss or gradient norm of batch B (from 0) is NaN, however often
//                               it is computed, as bad data make it
//   loss_spike:B gradient_spike:B   is 1000 times as large
//   flaky:B                     the loss of batch B is NaN when it is computed first
//   hang:S crash:S stop:S       in step S (from 1), once in an attempt: hangs in the forward pass,
//                               aborts, stops itself with SIGSTOP
// A batch is counted in the data, so one that was skipped does not come back.
#ifndef WORKER_TRAINER_FAULT_PLAN_H_
#define WORKER_TRAINER_FAULT_PLAN_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace nibble::trainer {

class FaultPlan {
 public:
  // INVALID_ARGUMENT: not such a list. An empty one plants nothing.
  static absl::StatusOr<FaultPlan> Parse(absl::string_view text);

  bool empty() const { return faults_.empty(); }
  // Before step `step` computes. `marks`: a directory that tells the processes of an attempt what
  // has happened already.
  void BeforeStep(int64_t step, const std::string& marks) const;
  // After batch `batch` was computed, the `times`-th time (from 1) in a row.
  void AfterGradients(int64_t batch, int times, double* loss, double* gradient_norm) const;

 private:
  struct Fault {
    std::string kind;
    int64_t at = 0;
  };
  std::vector<Fault> faults_;
};

}  // namespace nibble::trainer

#endif  // WORKER_TRAINER_FAULT_PLAN_H_
