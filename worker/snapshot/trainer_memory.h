// Memory that a worker shares with one trainer and that outlives the trainer: where the trainer is,
// for a worker that looks for hangs, and the trainer's last state, from which another process goes
// on after a crash without touching a disk (after REFT, arXiv 2310.12670).
//
// The worker makes it (a memfd), the trainer inherits the descriptor. It is gone when both have let
// go of it. Layout: docs/formats/trainer_memory.md.
//
// There are two halves; a snapshot is written to the one that does not hold the newest whole
// snapshot, and counts only once its header is complete: a trainer killed at any instant of the
// copy leaves the other half as it was.
#ifndef WORKER_SNAPSHOT_TRAINER_MEMORY_H_
#define WORKER_SNAPSHOT_TRAINER_MEMORY_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace nibble::snapshot {

// What a trainer does at the moment.
enum class Phase : uint32_t {
  kStarting = 0,  // builds the model, loads its state
  kData = 1,
  kForward = 2,
  kBackward = 3,
  kOptimizer = 4,
  kCheckpoint = 5,
  kValidation = 6,
  kSnapshot = 7,
  // For its worker or the daemon: not its fault, however long it takes.
  kWaiting = 8,
};
// "forward".
absl::string_view PhaseName(Phase phase);

struct Progress {
  Phase phase = Phase::kStarting;
  int64_t step = 0;    // updates done
  uint64_t count = 0;  // rises with everything that the trainer gets done
};

// Of one snapshot, verified; valid until the next one is begun.
struct Snapshot {
  int64_t step = 0;
  absl::string_view state;  // as it was given to Begin
  absl::string_view data;
};

// The trainer's side is for one thread at a time, but Enter, which any thread may call; the
// worker's (progress, has_snapshot, snapshot_step) is for another process and trusts nothing that
// it reads.
class TrainerMemory {
 public:
  static constexpr int64_t kMaxStateBytes = 128 * 1024;

  // Worker. INTERNAL or RESOURCE_EXHAUSTED where the kernel gives none.
  static absl::StatusOr<std::unique_ptr<TrainerMemory>> Create();
  // Trainer; takes the descriptor. INVALID_ARGUMENT where it is none that Create made.
  static absl::StatusOr<std::unique_ptr<TrainerMemory>> Open(int fd);
  ~TrainerMemory();
  TrainerMemory(const TrainerMemory&) = delete;
  TrainerMemory& operator=(const TrainerMemory&) = delete;

  int fd() const { return fd_; }

  // ---- progress ----
  void Enter(Phase phase, int64_t step);
  Progress progress() const;

  // ---- snapshots, trainer ----
  // Takes memory for two snapshots of so many bytes, really: later writes cannot fail.
  // RESOURCE_EXHAUSTED where the machine, or this process's control group, has not so much left.
  absl::Status Reserve(int64_t data_bytes);
  bool reserved() const { return data_bytes_ > 0; }
  // Begins a snapshot: where its data goes, 64-byte aligned. REQUIRES: reserved(), and
  // state.size() <= kMaxStateBytes.
  char* Begin(int64_t step, absl::string_view state);
  // The data are whole, and `digest` is their Xxh3: from here on it is the newest.
  void Commit(uint64_t digest);
  // The newest snapshot, where one half or the other verifies. NOT_FOUND: none was ever taken.
  // DATA_LOSS: there is one, but none verifies.
  absl::StatusOr<Snapshot> Newest();

  // ---- snapshots, worker ----
  // Step of the newest snapshot by its header, data unverified; -1 for none.
  int64_t snapshot_step() const;
  // The trainer is dead and must not be continued from here: nothing is left to Newest().
  void Discard();

 private:
  struct Header;
  struct Half;
  explicit TrainerMemory(int fd) : fd_(fd) {}
  absl::Status MapHeader();
  absl::Status MapHalves();
  const Half* NewestHalf() const;
  char* StateOf(int half) const;

  const int fd_;
  Header* header_ = nullptr;
  char* halves_ = nullptr;
  int64_t mapped_bytes_ = 0;
  int64_t data_bytes_ = 0;  // of one snapshot, as reserved
  int writing_ = -1;
  uint64_t last_sequence_ = 0;
};

// What can still be taken without the kernel having to kill for it: of the machine and of this
// process's control group.
int64_t AvailableMemoryBytes();

}  // namespace nibble::snapshot

#endif  // WORKER_SNAPSHOT_TRAINER_MEMORY_H_
