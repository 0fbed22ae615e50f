#include "worker/snapshot/trainer_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/crc32c.h"
#include "base/files.h"
#include "base/status_macros.h"
#include "base/xxh3.h"

namespace nibble::snapshot {
namespace {

constexpr int64_t kHeaderBytes = 4096;
constexpr uint64_t kMagic = 0x32304d656c62626e;  // "nbbleM02"
constexpr int64_t kHugePage = int64_t{2} << 20;

int64_t HalfBytes(int64_t data_bytes) {
  const int64_t bytes = TrainerMemory::kMaxStateBytes + data_bytes;
  return (bytes + kHeaderBytes - 1) / kHeaderBytes * kHeaderBytes;
}

}  // namespace

struct TrainerMemory::Half {
  std::atomic<uint64_t> sequence;  // 0: holds nothing whole
  int64_t step;
  int64_t state_bytes;
  int64_t data_bytes;
  uint64_t data_digest;
  uint32_t state_crc;
  uint32_t header_crc;  // of the above, with the sequence that it is to get

  uint32_t HeaderCrc(uint64_t with_sequence) const {
    uint32_t crc = Crc32c({reinterpret_cast<const char*>(&with_sequence), 8});
    return Crc32c({reinterpret_cast<const char*>(&step),
                   static_cast<size_t>(reinterpret_cast<const char*>(&header_crc) -
                                       reinterpret_cast<const char*>(&step))},
                  crc);
  }
  bool HeaderIsWhole(uint64_t with_sequence) const {
    return with_sequence != 0 && header_crc == HeaderCrc(with_sequence) && step >= 0 &&
           state_bytes >= 0 && state_bytes <= kMaxStateBytes && data_bytes >= 0;
  }
};

struct TrainerMemory::Header {
  std::atomic<uint64_t> magic;
  std::atomic<uint32_t> phase;
  std::atomic<int64_t> step;
  std::atomic<uint64_t> count;
  alignas(64) Half halves[2];
};

absl::string_view PhaseName(Phase phase) {
  switch (phase) {
    case Phase::kStarting:
      return "starting";
    case Phase::kData:
      return "data";
    case Phase::kForward:
      return "forward";
    case Phase::kBackward:
      return "backward";
    case Phase::kOptimizer:
      return "optimizer";
    case Phase::kCheckpoint:
      return "checkpoint";
    case Phase::kValidation:
      return "validation";
    case Phase::kSnapshot:
      return "snapshot";
    case Phase::kWaiting:
      return "waiting";
  }
  return "unknown";
}

absl::StatusOr<std::unique_ptr<TrainerMemory>> TrainerMemory::Create() {
  static_assert(sizeof(Header) <= kHeaderBytes);
  static_assert(std::atomic<uint64_t>::is_always_lock_free);
  const int fd = memfd_create("nibble-snapshot", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) return ErrnoStatus(errno, "memfd_create", "snapshot");
  std::unique_ptr<TrainerMemory> memory(new TrainerMemory(fd));
  // Sealed against shrinking: a trainer cannot take the header from under the worker.
  if (ftruncate(fd, kHeaderBytes) != 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) != 0) {
    return ErrnoStatus(errno, "set up", "snapshot memory");
  }
  NIBBLE_RETURN_IF_ERROR(memory->MapHeader());
  memory->header_->magic = kMagic;
  return memory;
}

absl::StatusOr<std::unique_ptr<TrainerMemory>> TrainerMemory::Open(int fd) {
  std::unique_ptr<TrainerMemory> memory(new TrainerMemory(fd));
  fcntl(fd, F_SETFD, FD_CLOEXEC);
  struct stat info;
  if (fstat(fd, &info) != 0 || info.st_size < kHeaderBytes || !S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat("descriptor ", fd, " is not the memory of a worker"));
  }
  NIBBLE_RETURN_IF_ERROR(memory->MapHeader());
  if (memory->header_->magic != kMagic) {
    return absl::InvalidArgumentError(
        absl::StrCat("descriptor ", fd, " is not the memory of a worker"));
  }
  memory->Enter(Phase::kStarting, 0);
  return memory;
}

TrainerMemory::~TrainerMemory() {
  if (header_ != nullptr) munmap(header_, kHeaderBytes);
  if (halves_ != nullptr) munmap(halves_, mapped_bytes_);
  close(fd_);
}

absl::Status TrainerMemory::MapHeader() {
  void* mapped = mmap(nullptr, kHeaderBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
  if (mapped == MAP_FAILED) return ErrnoStatus(errno, "map", "snapshot memory");
  header_ = static_cast<Header*>(mapped);
  return absl::OkStatus();
}

// All that is there behind the header.
absl::Status TrainerMemory::MapHalves() {
  struct stat info;
  if (fstat(fd_, &info) != 0) return ErrnoStatus(errno, "look at", "snapshot memory");
  const int64_t bytes = info.st_size - kHeaderBytes;
  if (bytes == mapped_bytes_) return absl::OkStatus();
  if (halves_ != nullptr) munmap(halves_, mapped_bytes_);
  halves_ = nullptr;
  mapped_bytes_ = 0;
  if (bytes <= 0) return absl::OkStatus();
  void* mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, kHeaderBytes);
  if (mapped == MAP_FAILED) return ErrnoStatus(errno, "map", "snapshot memory");
  halves_ = static_cast<char*>(mapped);
  mapped_bytes_ = bytes;
  return absl::OkStatus();
}

void TrainerMemory::Enter(Phase phase, int64_t step) {
  header_->phase.store(static_cast<uint32_t>(phase), std::memory_order_relaxed);
  header_->step.store(step, std::memory_order_relaxed);
  header_->count.fetch_add(1, std::memory_order_release);
}

Progress TrainerMemory::progress() const {
  Progress progress;
  progress.count = header_->count.load(std::memory_order_acquire);
  progress.phase = static_cast<Phase>(header_->phase.load(std::memory_order_relaxed));
  progress.step = header_->step.load(std::memory_order_relaxed);
  return progress;
}

absl::Status TrainerMemory::Reserve(int64_t data_bytes) {
  NIBBLE_CHECK(data_bytes > 0);
  const int64_t wanted = 2 * HalfBytes(data_bytes);
  struct stat info;
  if (fstat(fd_, &info) != 0) return ErrnoStatus(errno, "look at", "snapshot memory");
  const int64_t more = kHeaderBytes + wanted - info.st_size;
  if (more > 0) {
    // Asked first: where memory is short the kernel kills somebody rather than to say no.
    const int64_t available = AvailableMemoryBytes();
    if (more > available) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "snapshots take ", wanted, " bytes of memory; ", available, " bytes are left"));
    }
    if (fallocate(fd_, 0, 0, kHeaderBytes + wanted) != 0) {
      return absl::ResourceExhaustedError(
          absl::StrCat("snapshots take ", wanted, " bytes of memory: ", strerror(errno)));
    }
  }
  NIBBLE_RETURN_IF_ERROR(MapHalves());
  // Page by page now: a first touch must not fall into a step.
  if (wanted >= kHugePage) madvise(halves_, mapped_bytes_, MADV_HUGEPAGE);
  madvise(halves_, mapped_bytes_, MADV_POPULATE_WRITE);
  data_bytes_ = data_bytes;
  last_sequence_ = std::max(header_->halves[0].sequence.load(), header_->halves[1].sequence.load());
  return absl::OkStatus();
}

char* TrainerMemory::StateOf(int half) const { return halves_ + half * (mapped_bytes_ / 2); }

char* TrainerMemory::Begin(int64_t step, absl::string_view state) {
  NIBBLE_CHECK(reserved() && static_cast<int64_t>(state.size()) <= kMaxStateBytes);
  const Half* const newest = NewestHalf();
  writing_ = newest == &header_->halves[0] ? 1 : 0;
  Half& half = header_->halves[writing_];
  half.sequence.store(0, std::memory_order_seq_cst);
  half.step = step;
  half.state_bytes = static_cast<int64_t>(state.size());
  half.data_bytes = data_bytes_;
  half.state_crc = Crc32c(state);
  std::memcpy(StateOf(writing_), state.data(), state.size());
  return StateOf(writing_) + kMaxStateBytes;
}

void TrainerMemory::Commit(uint64_t digest) {
  NIBBLE_CHECK(writing_ >= 0);
  Half& half = header_->halves[writing_];
  half.data_digest = digest;
  half.header_crc = half.HeaderCrc(++last_sequence_);
  half.sequence.store(last_sequence_, std::memory_order_release);
  writing_ = -1;
}

const TrainerMemory::Half* TrainerMemory::NewestHalf() const {
  const Half* newest = nullptr;
  uint64_t best = 0;
  for (const Half& half : header_->halves) {
    const uint64_t sequence = half.sequence.load(std::memory_order_acquire);
    if (sequence > best && half.HeaderIsWhole(sequence)) {
      newest = &half;
      best = sequence;
    }
  }
  return newest;
}

int64_t TrainerMemory::snapshot_step() const {
  const Half* const newest = NewestHalf();
  return newest == nullptr ? -1 : newest->step;
}

absl::StatusOr<Snapshot> TrainerMemory::Newest() {
  NIBBLE_RETURN_IF_ERROR(MapHalves());
  bool any = false;
  while (const Half* const half = NewestHalf()) {
    any = true;
    const int index = static_cast<int>(half - header_->halves);
    if (mapped_bytes_ > 0 && half->data_bytes <= mapped_bytes_ / 2 - kMaxStateBytes) {
      const char* const start = StateOf(index);
      Snapshot snapshot;
      snapshot.step = half->step;
      snapshot.state = {start, static_cast<size_t>(half->state_bytes)};
      snapshot.data = {start + kMaxStateBytes, static_cast<size_t>(half->data_bytes)};
      if (Crc32c(snapshot.state) == half->state_crc && Xxh3Of(snapshot.data) == half->data_digest) {
        return snapshot;
      }
    }
    header_->halves[index].sequence = 0;
  }
  if (!any) return absl::NotFoundError("no snapshot was taken");
  return absl::DataLossError("the snapshot does not have the checksum that it was taken with");
}

void TrainerMemory::Discard() {
  for (Half& half : header_->halves) half.sequence = 0;
}

}  // namespace nibble::snapshot
