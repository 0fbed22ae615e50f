#include "kernels/cuda/emulation/emulated_device.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/host_memory.h"
#include "base/status_macros.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/cuda_engine.h"
#include "kernels/nvfp4/bf16.h"
#include "kernels/nvfp4/e2m1.h"
#include "kernels/nvfp4/e4m3.h"
#include "kernels/nvfp4/e5m2.h"

namespace nibble::kernels::cuda {
namespace {

class EmulatedBuffer : public DeviceBuffer {
 public:
  explicit EmulatedBuffer(HostMemory memory) : memory_(std::move(memory)) {}
  void* data() const override { return memory_.data(); }
  int64_t bytes() const override { return memory_.bytes(); }

 private:
  const HostMemory memory_;
};

// The scale of (row, group) in cuBLASLt's layout, written apart from kernels/nvfp4/swizzle.h: 128x4
// tiles of scales, 512 bytes each, tiles row-major; in a tile 32 lines of 16 bytes, line r % 32
// holding the four columns of rows r % 32, + 32, + 64 and + 96 in turn.
uint8_t TiledScale(const uint8_t* scales, int64_t groups, int64_t row, int64_t group) {
  const int64_t tiles_across = (groups + 3) / 4;
  const uint8_t* tile = scales + 512 * (row / 128 * tiles_across + group / 4);
  const int64_t line = row % 32, quarter = row % 128 / 32;
  return tile[line * 16 + quarter * 4 + group % 4];
}

double ElementOf(const Product::Side& side, int64_t row, int64_t k, int64_t depth) {
  const int64_t at = side.transposed ? k * side.stride + row : row * side.stride + k;
  switch (side.storage) {
    case Storage::kF32:
      return static_cast<const float*>(side.data)[at];
    case Storage::kBF16:
      return nvfp4::Bf16ToF32(static_cast<const uint16_t*>(side.data)[at]);
    case Storage::kE4m3:
      return nvfp4::E4m3ToF32(static_cast<const uint8_t*>(side.data)[at]);
    case Storage::kE5m2:
      return nvfp4::E5m2ToF32(static_cast<const uint8_t*>(side.data)[at]);
    case Storage::kPackedE2m1:
      break;
  }
  const uint8_t scale = TiledScale(side.block_scales, depth / 16, row, k / 16);
  return double{nvfp4::E2m1ToF32(nvfp4::UnpackE2m1(static_cast<const uint8_t*>(side.data), at))} *
         nvfp4::E4m3ToF32(scale);
}

class EmulatedDevice : public Device {
 public:
  explicit EmulatedDevice(int capability)
      : capability_(capability),
        description_(absl::StrCat("CUDA kernels emulated on the host, capability ", capability / 10,
                                  ".", capability % 10)) {}

  const std::string& description() const override { return description_; }
  int capability() const override { return capability_; }
  void* stream() const override { return nullptr; }

  absl::StatusOr<std::unique_ptr<DeviceBuffer>> Allocate(int64_t bytes) override {
    NIBBLE_ASSIGN_OR_RETURN(HostMemory memory, HostMemory::Allocate(bytes));
    return std::make_unique<EmulatedBuffer>(std::move(memory));
  }
  void CopyToDevice(void* device, const void* host, int64_t bytes) override {
    std::memcpy(device, host, bytes);
  }
  void CopyToHost(void* host, const void* device, int64_t bytes) override {
    std::memcpy(host, device, bytes);
  }
  void CopyOnDevice(void* to, const void* from, int64_t bytes) override {
    std::memmove(to, from, bytes);
  }
  void Zero(void* device, int64_t bytes) override { std::memset(device, 0, bytes); }
  Fence Record() override { return ++fences_; }
  absl::Status Wait(Fence fence) override {
    NIBBLE_CHECK(fence <= fences_);
    return status_;
  }
  absl::Status Synchronize() override { return status_; }
  void CheckLaunch(absl::string_view) override {}
  void Fail(absl::Status status) override { status_.Update(std::move(status)); }

  void Multiply(const Product& p) override {
    NIBBLE_CHECK(!p.accumulate || p.c_type == DType::kF32);
    const float alpha = p.alpha == nullptr ? 1.0f : *p.alpha;
    for (int64_t i = 0; i < p.m; ++i) {
      for (int64_t j = 0; j < p.n; ++j) {
        double sum = 0;
        for (int64_t k = 0; k < p.k; ++k) {
          sum += ElementOf(p.a, i, k, p.k) * ElementOf(p.b, j, k, p.k);
        }
        const int64_t at = i * p.c_stride + j;
        const float value = static_cast<float>(sum) * alpha;
        if (p.c_type == DType::kBF16) {
          static_cast<uint16_t*>(p.c)[at] = nvfp4::F32ToBf16(value);
        } else {
          float* c = static_cast<float*>(p.c) + at;
          *c = p.accumulate ? *c + value : value;
        }
      }
    }
  }

 private:
  const int capability_;
  const std::string description_;
  Fence fences_ = 0;
  absl::Status status_;
};

}  // namespace

std::unique_ptr<Device> CreateEmulatedDevice(int capability) {
  return std::make_unique<EmulatedDevice>(capability);
}

std::unique_ptr<Backend> CreateEmulatedBackend(int capability) {
  return emulated::CudaBackend::Create(CreateEmulatedDevice(capability)).value();
}

std::unique_ptr<OpEngine> CreateEmulatedEngine(int capability) {
  return std::make_unique<emulated::CudaEngine>(
      emulated::CudaBackend::Create(CreateEmulatedDevice(capability)).value());
}

}  // namespace nibble::kernels::cuda
