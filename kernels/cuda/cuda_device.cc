#include "kernels/cuda/cuda_device.h"

#include <cuda_runtime_api.h>

#include <array>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/hardware_error.h"
#include "base/status_macros.h"
#include "kernels/cuda/cublaslt.h"

namespace nibble::kernels::cuda {
namespace {

constexpr int kEvents = 64;
// Copies of up to this size to and from ordinary host memory pass through pinned memory, so that
// the host does not wait for the stream.
constexpr int64_t kStagedBytes = int64_t{1} << 20;
constexpr int kStages = 8;
constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;  // cuBLASLt's advice for Hopper

// A status of the runtime with its call and device.
absl::Status CudaStatus(cudaError_t error, absl::string_view call, absl::string_view device) {
  if (error == cudaSuccess) return absl::OkStatus();
  const std::string text =
      absl::StrCat(call, " on ", device, ": ", cudaGetErrorName(error), ", ",
                   cudaGetErrorString(error), " (kernels/cuda/cuda_device.cc)");
  if (error == cudaErrorMemoryAllocation) return absl::ResourceExhaustedError(text);
  return HardwareError(text);
}

class CudaBuffer : public DeviceBuffer {
 public:
  CudaBuffer(void* data, int64_t bytes) : data_(data), bytes_(bytes) {}
  ~CudaBuffer() override { cudaFree(data_); }
  void* data() const override { return data_; }
  int64_t bytes() const override { return bytes_; }

 private:
  void* const data_;
  const int64_t bytes_;
};

// One piece of pinned memory on its way.
struct Stage {
  void* pinned = nullptr;
  cudaEvent_t done = nullptr;
  // A copy to the host that ends in `pinned` and is due at `to`.
  void* to = nullptr;
  int64_t bytes = 0;
};

class CudaDevice : public Device {
 public:
  CudaDevice() = default;
  CudaDevice(const CudaDevice&) = delete;
  CudaDevice& operator=(const CudaDevice&) = delete;
  ~CudaDevice() override {
    if (stream_ != nullptr) cudaStreamSynchronize(stream_);
    library_.reset();
    for (cudaEvent_t event : events_) {
      if (event != nullptr) cudaEventDestroy(event);
    }
    for (Stage& stage : stages_) {
      if (stage.done != nullptr) cudaEventDestroy(stage.done);
      cudaFreeHost(stage.pinned);
    }
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
  }

  absl::Status Open();

  const std::string& description() const override { return description_; }
  int capability() const override { return capability_; }
  void* stream() const override { return stream_; }

  absl::StatusOr<std::unique_ptr<DeviceBuffer>> Allocate(int64_t bytes) override;
  void CopyToDevice(void* device, const void* host, int64_t bytes) override;
  void CopyToHost(void* host, const void* device, int64_t bytes) override;
  void CopyOnDevice(void* to, const void* from, int64_t bytes) override {
    Check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_), "cudaMemcpyAsync");
  }
  void Zero(void* device, int64_t bytes) override {
    Check(cudaMemsetAsync(device, 0, bytes, stream_), "cudaMemsetAsync");
  }
  Fence Record() override {
    ++fences_;
    Check(cudaEventRecord(events_[fences_ % kEvents], stream_), "cudaEventRecord");
    return fences_;
  }
  absl::Status Wait(Fence fence) override {
    NIBBLE_CHECK(fence <= fences_);
    // An event that was recorded again since is of a later fence: waiting for it is enough.
    Check(cudaEventSynchronize(events_[fence % kEvents]), "cudaEventSynchronize");
    DeliverFinished();
    return status_;
  }
  absl::Status Synchronize() override {
    Check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
    DeliverFinished();
    return status_;
  }
  void CheckLaunch(absl::string_view what) override { Check(cudaGetLastError(), what); }
  void Fail(absl::Status status) override { status_.Update(std::move(status)); }
  void Multiply(const Product& product) override {
    if (status_.ok()) status_.Update(library_->Multiply(product, stream_));
  }

 private:
  void Check(cudaError_t error, absl::string_view call) {
    if (error != cudaSuccess) status_.Update(CudaStatus(error, call, description_));
  }
  // A stage whose last use is over.
  Stage& NextStage();
  void Deliver(Stage& stage) {
    if (stage.to != nullptr && status_.ok()) std::memcpy(stage.to, stage.pinned, stage.bytes);
    stage.to = nullptr;
  }
  // What has arrived of copies to the host goes to its place, oldest first.
  void DeliverFinished() {
    for (int i = 0; i < kStages; ++i) {
      Stage& stage = stages_[(next_stage_ + i) % kStages];
      if (stage.to != nullptr && cudaEventQuery(stage.done) == cudaSuccess) Deliver(stage);
    }
  }

  std::string description_ = "GPU 0";
  int capability_ = 0;
  cudaStream_t stream_ = nullptr;
  std::array<cudaEvent_t, kEvents> events_ = {};
  std::array<Stage, kStages> stages_ = {};
  int next_stage_ = 0;
  Fence fences_ = 0;
  absl::Status status_;
  std::unique_ptr<CublasLt> library_;
};

absl::Status CudaDevice::Open() {
  int count = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess || count == 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("backend 'cuda' needs an NVIDIA GPU and its driver: cudaGetDeviceCount: ",
                     error != cudaSuccess ? cudaGetErrorString(error) : "no device"));
  }
  cudaDeviceProp properties;
  NIBBLE_RETURN_IF_ERROR(
      CudaStatus(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties", description_));
  capability_ = properties.major * 10 + properties.minor;
  description_ =
      absl::StrFormat("%s, %d.%d, %.1f GiB", properties.name, properties.major, properties.minor,
                      static_cast<double>(properties.totalGlobalMem) / 0x1p30);
  // The kernels are built for these and carry no intermediate code.
  if (capability_ != 90 && capability_ != 100 && capability_ != 120) {
    return absl::FailedPreconditionError(
        absl::StrCat("backend 'cuda': ", description_,
                     ": this build has kernels for compute capability 9.0, 10.0 and 12.0"));
  }
  NIBBLE_RETURN_IF_ERROR(CudaStatus(cudaSetDevice(0), "cudaSetDevice", description_));
  NIBBLE_RETURN_IF_ERROR(CudaStatus(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking),
                                    "cudaStreamCreateWithFlags", description_));
  for (cudaEvent_t& event : events_) {
    // Blocking: a waiting host thread leaves its core to others.
    NIBBLE_RETURN_IF_ERROR(
        CudaStatus(cudaEventCreateWithFlags(&event, cudaEventDisableTiming | cudaEventBlockingSync),
                   "cudaEventCreateWithFlags", description_));
  }
  for (Stage& stage : stages_) {
    NIBBLE_RETURN_IF_ERROR(
        CudaStatus(cudaMallocHost(&stage.pinned, kStagedBytes), "cudaMallocHost", description_));
    NIBBLE_RETURN_IF_ERROR(CudaStatus(cudaEventCreateWithFlags(&stage.done, cudaEventDisableTiming),
                                      "cudaEventCreateWithFlags", description_));
  }
  NIBBLE_ASSIGN_OR_RETURN(std::unique_ptr<DeviceBuffer> workspace, Allocate(kWorkspaceBytes));
  NIBBLE_ASSIGN_OR_RETURN(std::unique_ptr<DeviceBuffer> constants, Allocate(2 * sizeof(float)));
  const float zero_and_one[2] = {0, 1};
  CopyToDevice(constants->data(), zero_and_one, sizeof(zero_and_one));
  NIBBLE_RETURN_IF_ERROR(Synchronize());
  NIBBLE_ASSIGN_OR_RETURN(library_,
                          CublasLt::Open(std::move(workspace), std::move(constants), description_));
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<DeviceBuffer>> CudaDevice::Allocate(int64_t bytes) {
  if (bytes < 0) return absl::InvalidArgumentError(absl::StrCat("Allocate: ", bytes, " bytes"));
  void* data = nullptr;
  const cudaError_t error = cudaMalloc(&data, bytes == 0 ? 1 : bytes);
  if (error != cudaSuccess) {
    cudaGetLastError();  // not left behind for the next launch's check
    return CudaStatus(error, absl::StrCat("cudaMalloc of ", bytes, " bytes"), description_);
  }
  auto buffer = std::make_unique<CudaBuffer>(data, bytes);
  Zero(data, bytes);
  if (!status_.ok()) return status_;
  return buffer;
}

Stage& CudaDevice::NextStage() {
  Stage& stage = stages_[next_stage_];
  next_stage_ = (next_stage_ + 1) % kStages;
  Check(cudaEventSynchronize(stage.done), "cudaEventSynchronize");
  Deliver(stage);
  return stage;
}

void CudaDevice::CopyToDevice(void* device, const void* host, int64_t bytes) {
  if (bytes > kStagedBytes) {
    Check(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream_), "cudaMemcpyAsync");
    Check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");  // the host may change it now
    return;
  }
  Stage& stage = NextStage();
  std::memcpy(stage.pinned, host, bytes);
  Check(cudaMemcpyAsync(device, stage.pinned, bytes, cudaMemcpyHostToDevice, stream_),
        "cudaMemcpyAsync");
  Check(cudaEventRecord(stage.done, stream_), "cudaEventRecord");
}

void CudaDevice::CopyToHost(void* host, const void* device, int64_t bytes) {
  if (bytes > kStagedBytes) {
    Check(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream_), "cudaMemcpyAsync");
    return;
  }
  Stage& stage = NextStage();
  Check(cudaMemcpyAsync(stage.pinned, device, bytes, cudaMemcpyDeviceToHost, stream_),
        "cudaMemcpyAsync");
  Check(cudaEventRecord(stage.done, stream_), "cudaEventRecord");
  stage.to = host;
  stage.bytes = bytes;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Device>> CreateCudaDevice() {
  auto device = std::make_unique<CudaDevice>();
  NIBBLE_RETURN_IF_ERROR(device->Open());
  return device;
}

}  // namespace nibble::kernels::cuda
