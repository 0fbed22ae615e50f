// Copies a trainer's state to the memory that its worker holds (worker/snapshot/trainer_memory.h),
// while the next step computes: until its update, which Finish() comes before, a step writes
// neither weights nor moments. On a device whose memory the host cannot read the copy is made at
// once.
#ifndef WORKER_TRAINER_SNAPSHOT_TAKER_H_
#define WORKER_TRAINER_SNAPSHOT_TAKER_H_

#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "worker/checkpoint/manifest.h"
#include "worker/optimizer/optimizer.h"
#include "worker/snapshot/trainer_memory.h"

namespace nibble::trainer {

// Used by the thread that trains.
class SnapshotTaker {
 public:
  // `tensors`: everything that a snapshot holds, in order; the device memory that they name and
  // `memory` outlive the object. RESOURCE_EXHAUSTED where there is no memory for two snapshots.
  static absl::StatusOr<std::unique_ptr<SnapshotTaker>> Create(
      kernels::Backend& backend, std::vector<optimizer::StateTensor> tensors,
      snapshot::TrainerMemory& memory);
  // Waits for one that is under way, which counts.
  ~SnapshotTaker();

  // Begins to copy what the tensors hold now. REQUIRES: none is under way.
  absl::Status Start(const checkpoint::TrainingState& state);
  // From here on the tensors may change. Free where none is under way.
  void Finish() {
    if (copier_.joinable()) copier_.join();
  }

 private:
  SnapshotTaker(kernels::Backend& backend, std::vector<optimizer::StateTensor> tensors,
                snapshot::TrainerMemory& memory)
      : backend_(backend), tensors_(std::move(tensors)), memory_(memory) {}
  // Into memory that nobody reads for now: past the cache, which the step needs.
  void CopyFromHost(char* to);
  absl::Status CopyFromDevice(char* to);

  kernels::Backend& backend_;
  const std::vector<optimizer::StateTensor> tensors_;
  snapshot::TrainerMemory& memory_;
  bool host_readable_ = false;
  int64_t bytes_ = 0;
  std::thread copier_;
};

}  // namespace nibble::trainer

#endif  // WORKER_TRAINER_SNAPSHOT_TAKER_H_
