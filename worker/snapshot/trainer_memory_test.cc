#include "worker/snapshot/trainer_memory.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <string>

#include "base/status_matchers.h"
#include "base/xxh3.h"
#include "gtest/gtest.h"

namespace nibble::snapshot {
namespace {

constexpr int64_t kBytes = 100'000;

// Both sides of one memory, in one process.
struct Pair {
  Pair() {
    worker = *TrainerMemory::Create();
    trainer = *TrainerMemory::Open(dup(worker->fd()));
  }
  std::unique_ptr<TrainerMemory> worker, trainer;
};

void Take(TrainerMemory& memory, int64_t step) {
  const std::string data(kBytes, static_cast<char>('a' + step % 26));
  std::memcpy(memory.Begin(step, "state " + std::to_string(step)), data.data(), data.size());
  memory.Commit(Xxh3Of(data));
}

TEST(TrainerMemory, TheNewestSnapshotIsWhatWasTakenLast) {
  Pair pair;
  EXPECT_EQ(pair.worker->snapshot_step(), -1);
  ASSERT_TRUE(pair.trainer->Reserve(kBytes).ok());
  EXPECT_TRUE(absl::IsNotFound(pair.trainer->Newest().status()));
  for (int64_t step = 0; step < 5; ++step) {
    Take(*pair.trainer, step);
    EXPECT_EQ(pair.worker->snapshot_step(), step);
  }
  // The next process.
  const auto next = *TrainerMemory::Open(dup(pair.worker->fd()));
  const absl::StatusOr<Snapshot> newest = next->Newest();
  ASSERT_TRUE(newest.ok()) << newest.status();
  EXPECT_EQ(newest->step, 4);
  EXPECT_EQ(newest->state, "state 4");
  EXPECT_EQ(newest->data, std::string(kBytes, 'e'));
  // It goes on to take its own.
  ASSERT_TRUE(next->Reserve(kBytes).ok());
  Take(*next, 9);
  EXPECT_EQ(next->Newest()->step, 9);
  pair.worker->Discard();
  EXPECT_EQ(pair.worker->snapshot_step(), -1);
  EXPECT_TRUE(absl::IsNotFound(next->Newest().status()));
}

// Seen red with Begin taking the half of the newest snapshot.
TEST(TrainerMemory, AnUnfinishedCopyLeavesTheOneBefore) {
  Pair pair;
  ASSERT_TRUE(pair.trainer->Reserve(kBytes).ok());
  for (int64_t step = 1; step <= 3; ++step) {
    Take(*pair.trainer, step);
    std::memset(pair.trainer->Begin(step + 1, "never whole"), 'x', kBytes / 2);
    const auto next = *TrainerMemory::Open(dup(pair.worker->fd()));
    ASSERT_TRUE(next->Newest().ok());
    EXPECT_EQ(next->Newest()->step, step);
    EXPECT_EQ(pair.worker->snapshot_step(), step);
  }
}

// Seen red without the comparison of the data's checksum.
TEST(TrainerMemory, ADamagedSnapshotIsNotBelieved) {
  Pair pair;
  ASSERT_TRUE(pair.trainer->Reserve(kBytes).ok());
  Take(*pair.trainer, 1);
  Take(*pair.trainer, 2);
  const_cast<char*>(pair.trainer->Newest()->data.data())[kBytes / 3] ^= 1;
  ASSERT_TRUE(pair.trainer->Newest().ok());
  EXPECT_EQ(pair.trainer->Newest()->step, 1) << "the other half still verifies";
  const_cast<char*>(pair.trainer->Newest()->state.data())[0] ^= 1;
  EXPECT_TRUE(absl::IsDataLoss(pair.trainer->Newest().status()));
}

TEST(TrainerMemory, AProcessKilledAtAnyInstantLeavesAWholeSnapshot) {
  for (int round = 0; round < 20; ++round) {
    const auto worker = *TrainerMemory::Create();
    const pid_t child = fork();
    if (child == 0) {
      const auto trainer = TrainerMemory::Open(dup(worker->fd()));
      if (!trainer.ok() || !(*trainer)->Reserve(kBytes).ok()) _exit(1);
      for (int64_t step = 0;; ++step) Take(**trainer, step);
    }
    while (worker->snapshot_step() < 3) usleep(100);
    usleep(1000 + round * 137);
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    const int64_t step = worker->snapshot_step();
    const auto next = *TrainerMemory::Open(dup(worker->fd()));
    const absl::StatusOr<Snapshot> newest = next->Newest();
    ASSERT_TRUE(newest.ok()) << newest.status();
    EXPECT_EQ(newest->step, step);
    EXPECT_EQ(newest->state, "state " + std::to_string(step));
  }
}

TEST(TrainerMemory, MoreThanThereIsIsRefused) {
  Pair pair;
  EXPECT_TRUE(absl::IsResourceExhausted(pair.trainer->Reserve(int64_t{1} << 50)));
  EXPECT_FALSE(pair.trainer->reserved());
  EXPECT_TRUE(pair.trainer->Reserve(kBytes).ok());
  EXPECT_GT(AvailableMemoryBytes(), kBytes);
}

TEST(TrainerMemory, TheWorkerSeesWhereTheTrainerIs) {
  Pair pair;
  const uint64_t before = pair.worker->progress().count;
  pair.trainer->Enter(Phase::kBackward, 17);
  EXPECT_EQ(pair.worker->progress().phase, Phase::kBackward);
  EXPECT_EQ(pair.worker->progress().step, 17);
  EXPECT_EQ(pair.worker->progress().count, before + 1);
  EXPECT_EQ(PhaseName(Phase::kBackward), "backward");
  EXPECT_NE(ftruncate(pair.worker->fd(), 0), 0) << "the header stays under the worker's feet";
}

TEST(TrainerMemory, AnotherDescriptorIsRefused) {
  EXPECT_TRUE(absl::IsInvalidArgument(TrainerMemory::Open(memfd_create("x", 0)).status()));
  const int zeros = memfd_create("x", 0);
  ASSERT_EQ(ftruncate(zeros, 8192), 0);
  EXPECT_TRUE(absl::IsInvalidArgument(TrainerMemory::Open(zeros).status()));
}

}  // namespace
}  // namespace nibble::snapshot
