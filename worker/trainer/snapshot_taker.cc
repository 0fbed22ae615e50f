#include "worker/trainer/snapshot_taker.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/string_view.h"
#include "base/check.h"
#include "base/crc32c.h"
#include "base/status_macros.h"

namespace nibble::trainer {
namespace {

// Copied and summed while it is in the cache.
constexpr int64_t kPieceBytes = 128 * 1024;
// Below it starting a thread costs more than the copy.
constexpr int64_t kInlineBytes = 128 * 1024;

}  // namespace

absl::StatusOr<std::unique_ptr<SnapshotTaker>> SnapshotTaker::Create(
    kernels::Backend& backend, std::vector<optimizer::StateTensor> tensors,
    snapshot::TrainerMemory& memory) {
  std::unique_ptr<SnapshotTaker> taker(new SnapshotTaker(backend, std::move(tensors), memory));
  for (const optimizer::StateTensor& tensor : taker->tensors_) taker->bytes_ += tensor.size * 4;
  // These compute on the host, at once: their memory is what it is when a call has returned.
  taker->host_readable_ = backend.name() == "cpu" || backend.name() == "reference";
  NIBBLE_RETURN_IF_ERROR(memory.Reserve(taker->bytes_));
  return taker;
}

SnapshotTaker::~SnapshotTaker() { Finish(); }

absl::Status SnapshotTaker::Start(const checkpoint::TrainingState& state) {
  NIBBLE_CHECK(!copier_.joinable());
  const std::string text = checkpoint::StateToJson(state);
  if (static_cast<int64_t>(text.size()) > snapshot::TrainerMemory::kMaxStateBytes) {
    return absl::ResourceExhaustedError("the state of the run is too long for a snapshot");
  }
  char* const to = memory_.Begin(state.step, text);
  if (!host_readable_) {
    NIBBLE_RETURN_IF_ERROR(CopyFromDevice(to));
    copier_ = std::thread([this, to] {
      memory_.Commit(Crc32c({to, static_cast<size_t>(bytes_)}));
    });
  } else if (bytes_ < kInlineBytes) {
    CopyFromHost(to);
  } else {
    copier_ = std::thread([this, to] { CopyFromHost(to); });
  }
  return absl::OkStatus();
}

void SnapshotTaker::CopyFromHost(char* to) {
  uint32_t crc = 0;
  for (const optimizer::StateTensor& tensor : tensors_) {
    const char* const from = reinterpret_cast<const char*>(tensor.values);
    const int64_t bytes = tensor.size * 4;
    for (int64_t first = 0; first < bytes; first += kPieceBytes) {
      const size_t piece = static_cast<size_t>(std::min(kPieceBytes, bytes - first));
      std::memcpy(to, from + first, piece);
      // Of what was written: whatever the source does later, it is what the sum says.
      crc = Crc32c({to, piece}, crc);
      to += piece;
    }
  }
  memory_.Commit(crc);
}

absl::Status SnapshotTaker::CopyFromDevice(char* to) {
  for (const optimizer::StateTensor& tensor : tensors_) {
    backend_.CopyToHost(to, tensor.values, tensor.size * 4);
    to += tensor.size * 4;
  }
  return backend_.Wait(backend_.Record());
}

}  // namespace nibble::trainer
