// A dataset that is being prepared, in a directory beside its own place: what is needed to go on
// after the process was killed, and the exchange of the finished one for what was there. Internal
// to worker/data.
//   <output>.partial/train-00000.bin ...  shards so far
//   <output>.partial/plan.bin             which documents are held out, once that is known
//   <output>.partial/progress.json        how far the shards go
//   <output>.partial/lock                 held by the process that prepares
#ifndef WORKER_DATA_PARTIAL_DATASET_H_
#define WORKER_DATA_PARTIAL_DATASET_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/data/prepare.h"
#include "worker/data/split_plan.h"
#include "worker/data/token_shards.h"

namespace nibble::data {

// What a preparation is of: equal ones go on from each other's state.
struct PreparationIdentity {
  struct Input {
    std::string path;
    int64_t size = 0;
    int64_t modified_nanos = 0;
  };
  std::vector<Input> inputs;
  std::string options;  // digest of everything else that makes the dataset
};

struct SideState {
  int64_t documents = 0;
  int64_t bytes = 0;
  int64_t tokens = 0;
  ShardWriterState shards;
};

// After so many documents (empty ones not counted).
struct PreparationState {
  int64_t documents = 0;
  int64_t dropped_nul_bytes = 0;
  SideState train;
  SideState validation;
};

// One at a time a process. Not thread-safe.
class PartialDataset {
 public:
  // Takes over what an interrupted preparation of the same identity left; with `restart`, or where
  // it had no state yet, makes the directory anew. ALREADY_EXISTS: `output` is there and may not be
  // replaced. FAILED_PRECONDITION: another process prepares it, or what was left is of other inputs
  // or options, which the message names.
  static absl::StatusOr<std::unique_ptr<PartialDataset>> Open(std::string output, bool overwrite,
                                                              bool restart,
                                                              const PreparationIdentity& identity);
  // Removes the directory, whatever became of it: only a process that dies leaves one.
  ~PartialDataset();
  PartialDataset(const PartialDataset&) = delete;
  PartialDataset& operator=(const PartialDataset&) = delete;

  const std::string& directory() const { return directory_; }
  // Where an earlier process got to; all 0 at the start.
  const PreparationState& state() const { return state_; }

  // The plan that an earlier process made; NOT_FOUND: none did.
  absl::StatusOr<LastSplitPlan> LoadPlan() const;
  absl::Status SavePlan(const LastSplitPlan& plan) const;
  // REQUIRES: the shards are on disk as far as `state` says.
  absl::Status Save(const PreparationState& state);

  // The directory without its state becomes the dataset; an old one goes with this object.
  absl::Status Publish(bool overwrite);

 private:
  PartialDataset(std::string output, std::string directory, int lock_fd)
      : output_(std::move(output)), directory_(std::move(directory)), lock_fd_(lock_fd) {}
  absl::Status Load(const PreparationIdentity& identity);
  absl::Status StartAnew();

  const std::string output_;
  const std::string directory_;
  int lock_fd_;  // -1: the directory stays as it is
  PreparationIdentity identity_;
  PreparationState state_;
};

}  // namespace nibble::data

#endif  // WORKER_DATA_PARTIAL_DATASET_H_
