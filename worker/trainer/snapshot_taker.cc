#include "worker/trainer/snapshot_taker.h"

#include <algorithm>
#include <utility>

#include "absl/strings/string_view.h"
#include "base/bulk_copy.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "base/xxh3.h"
#include "kernels/host_backend.h"

namespace nibble::trainer {
namespace {

// Digested, and copied while it is in the cache.
constexpr int64_t kPieceBytes = 128 * 1024;
// Below it starting a thread costs more than the copy.
constexpr int64_t kInlineBytes = 128 * 1024;

}  // namespace

absl::StatusOr<std::unique_ptr<SnapshotTaker>> SnapshotTaker::Create(
    kernels::Backend& backend, std::vector<optimizer::StateTensor> tensors,
    snapshot::TrainerMemory& memory) {
  std::unique_ptr<SnapshotTaker> taker(new SnapshotTaker(backend, std::move(tensors), memory));
  for (const optimizer::StateTensor& tensor : taker->tensors_) taker->bytes_ += tensor.size * 4;
  taker->host_readable_ = kernels::ComputesOnHost(backend);
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
      memory_.Commit(Xxh3Of({to, static_cast<size_t>(bytes_)}));
    });
  } else if (bytes_ < kInlineBytes) {
    CopyFromHost(to);
  } else {
    copier_ = std::thread([this, to] { CopyFromHost(to); });
  }
  return absl::OkStatus();
}

void SnapshotTaker::CopyFromHost(char* to) {
  Xxh3 digest;
  for (const optimizer::StateTensor& tensor : tensors_) {
    const char* const from = reinterpret_cast<const char*>(tensor.values);
    const int64_t bytes = tensor.size * 4;
    for (int64_t first = 0; first < bytes; first += kPieceBytes) {
      const size_t piece = static_cast<size_t>(std::min(kPieceBytes, bytes - first));
      digest.Update({from + first, piece});
      BulkCopy(to, from + first, piece);
      to += piece;
    }
  }
  memory_.Commit(digest.Value());
}

absl::Status SnapshotTaker::CopyFromDevice(char* to) {
  for (const optimizer::StateTensor& tensor : tensors_) {
    backend_.CopyToHost(to, tensor.values, tensor.size * 4);
    to += tensor.size * 4;
  }
  return backend_.Wait(backend_.Record());
}

}  // namespace nibble::trainer
