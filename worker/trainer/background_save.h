// Writes checkpoints while training goes on: the state is copied to memory of the host at a step
// boundary, and a thread of its own writes the copy. Training stalls only for the copying.
//
// One checkpoint is under way at a time, so they come into being in the order of their steps, each
// as atomic as checkpoint::SaveCheckpoint makes it: a process killed at any instant leaves whole
// checkpoints and at most one temporary directory.
#ifndef WORKER_TRAINER_BACKGROUND_SAVE_H_
#define WORKER_TRAINER_BACKGROUND_SAVE_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/host_memory.h"
#include "kernels/backend.h"
#include "worker/checkpoint/checkpoint_store.h"
#include "worker/optimizer/optimizer.h"

namespace nibble::trainer {

// Used by the thread that trains.
class BackgroundSave {
 public:
  // `model` and `optimizer` in the order of their files; the device memory that they name outlives
  // the object. `texts` go into every checkpoint. Takes as much memory of the host as they have:
  // RESOURCE_EXHAUSTED.
  static absl::StatusOr<std::unique_ptr<BackgroundSave>> Create(
      kernels::Backend& backend, std::vector<optimizer::StateTensor> model,
      std::vector<optimizer::StateTensor> optimizer, std::vector<checkpoint::TextFile> texts);
  // Waits for a checkpoint that is under way.
  ~BackgroundSave();
  int64_t copy_bytes() const { return copy_.bytes(); }

  // Copies what the tensors hold now and begins to write <root>/step-<state.step>. REQUIRES: none
  // is under way.
  absl::Status Start(const std::string& root, const checkpoint::TrainingState& state);
  // Started and not yet finished by Finish().
  bool under_way() const { return writer_.joinable(); }
  // Finish() will not wait. REQUIRES: under_way().
  bool written() const { return written_.load(std::memory_order_acquire); }
  // Waits, and returns what checkpoint::SaveCheckpoint returned; or DATA_LOSS with payload
  // kHardwareFault (training_run.h) where the checkpoint, read back, is not what was written.
  // REQUIRES: under_way().
  absl::StatusOr<checkpoint::SavedCheckpoint> Finish();

 private:
  class CopiedTensors;
  BackgroundSave(kernels::Backend& backend, std::vector<optimizer::StateTensor> model,
                 std::vector<optimizer::StateTensor> optimizer,
                 std::vector<checkpoint::TextFile> texts)
      : backend_(backend),
        model_(std::move(model)),
        optimizer_(std::move(optimizer)),
        texts_(std::move(texts)) {}

  kernels::Backend& backend_;
  const std::vector<optimizer::StateTensor> model_, optimizer_;
  const std::vector<checkpoint::TextFile> texts_;
  HostMemory copy_;  // of model_, then optimizer_, densely
  std::thread writer_;
  std::atomic<bool> written_{false};
  absl::StatusOr<checkpoint::SavedCheckpoint> result_;  // of the thread, once written_
};

}  // namespace nibble::trainer

#endif  // WORKER_TRAINER_BACKGROUND_SAVE_H_
