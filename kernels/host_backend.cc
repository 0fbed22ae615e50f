#include "kernels/host_backend.h"

#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/host_memory.h"
#include "base/status_macros.h"

namespace nibble::kernels {
namespace {

class HostBuffer : public DeviceBuffer {
 public:
  explicit HostBuffer(HostMemory memory) : memory_(std::move(memory)) {}
  void* data() const override { return memory_.data(); }
  int64_t bytes() const override { return memory_.bytes(); }

 private:
  const HostMemory memory_;
};

}  // namespace

Support HostBackend::Supports(const OperandFormat& format) const {
  if (!IsQuantised(format.format)) {
    // Nothing to transform or to draw for: the values are the source's own.
    OperandFormat plain;
    plain.format = format.format;
    return format == plain ? Support::kNative : Support::kUnsupported;
  }
  const int hadamard = format.hadamard_size;
  if (hadamard != 0 && hadamard != 4 && hadamard != 16 && hadamard != 32 && hadamard != 64 &&
      hadamard != 128) {
    return Support::kUnsupported;
  }
  // MX blocks run along one dimension only; FP8 tensor-wise has none.
  const bool tiles = format.format == Format::kNvfp4 || format.format == Format::kFp8Block;
  if (format.block_rows != 1 && !(tiles && format.block_rows == BlockSizeOf(format.format))) {
    return Support::kUnsupported;
  }
  if (format.rounding == Rounding::kStochastic && !HasE2m1Elements(format.format)) {
    return Support::kUnsupported;
  }
  if (format.block_target != BlockTarget::kSix &&
      (format.format != Format::kNvfp4 || hadamard != 0 ||
       format.rounding == Rounding::kStochastic)) {
    return Support::kUnsupported;
  }
  return Support::kEmulated;
}

absl::StatusOr<std::unique_ptr<DeviceBuffer>> HostBackend::Allocate(int64_t bytes) {
  NIBBLE_ASSIGN_OR_RETURN(HostMemory memory, HostMemory::Allocate(bytes));
  return std::make_unique<HostBuffer>(std::move(memory));
}

void HostBackend::CopyToDevice(void* device, const void* host, int64_t bytes) {
  std::memcpy(device, host, bytes);
}
void HostBackend::CopyToHost(void* host, const void* device, int64_t bytes) {
  std::memcpy(host, device, bytes);
}
void HostBackend::CopyOnDevice(void* to, const void* from, int64_t bytes) {
  std::memmove(to, from, bytes);
}
void HostBackend::Zero(void* device, int64_t bytes) { std::memset(device, 0, bytes); }

bool ComputesOnHost(const Backend& backend) {
  return dynamic_cast<const HostBackend*>(&backend) != nullptr;
}

absl::Status HostBackend::Wait(Fence fence) {
  NIBBLE_CHECK(fence <= fences_);
  return absl::OkStatus();
}

}  // namespace nibble::kernels
