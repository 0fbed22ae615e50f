#include "kernels/host_backend.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace nibble::kernels {
namespace {

constexpr int64_t kHugePage = int64_t{2} << 20;

class HostBuffer : public DeviceBuffer {
 public:
  HostBuffer(void* data, int64_t bytes, int64_t mapped)
      : data_(data), bytes_(bytes), mapped_(mapped) {}
  ~HostBuffer() override { munmap(data_, mapped_); }
  void* data() const override { return data_; }
  int64_t bytes() const override { return bytes_; }

 private:
  void* const data_;
  const int64_t bytes_;
  const int64_t mapped_;
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
  NIBBLE_CHECK(bytes >= 0);
  const int64_t memory = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  const auto exhausted = [&] {
    return absl::ResourceExhaustedError(absl::StrCat(
        "cannot allocate ", bytes, " bytes; this machine has ", memory, " bytes of memory"));
  };
  if (bytes > memory) return exhausted();
  const int64_t unit = bytes >= kHugePage ? kHugePage : 4096;
  const int64_t mapped = (bytes + unit) / unit * unit;  // at least one page, also for 0 bytes
  void* data = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) return exhausted();
  if (bytes >= kHugePage) madvise(data, mapped, MADV_HUGEPAGE);
  std::memset(data, 0, mapped);
  return std::make_unique<HostBuffer>(data, bytes, mapped);
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
