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
  if (format.hadamard_size != 0 && format.hadamard_size != 16) return Support::kUnsupported;
  if (format.format != Format::kNvfp4) {
    // Nothing to transform or to draw for: the values are the source's own.
    return format.hadamard_size == 0 && format.rounding == Rounding::kNearest &&
                   format.block_rows == 1
               ? Support::kNative
               : Support::kUnsupported;
  }
  if (format.block_rows != 1 && format.block_rows != 16) return Support::kUnsupported;
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

absl::Status HostBackend::Wait(Fence fence) {
  NIBBLE_CHECK(fence <= fences_);
  return absl::OkStatus();
}

}  // namespace nibble::kernels
