#include "kernels/cuda/cuda_engine.h"

#include <cstdint>

#include "base/check.h"

namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET {
namespace {

// Device memory with a copy of something on the host; a failure ends the program (op_runner,
// tests).
class OnDevice {
 public:
  OnDevice(Backend& backend, int64_t bytes)
      : backend_(backend), buffer_(backend.Allocate(bytes).value()) {}
  OnDevice(Backend& backend, const Matrix& matrix) : OnDevice(backend, matrix.bytes()) {
    backend.CopyToDevice(data(), matrix.data, matrix.bytes());
  }
  void* data() const { return buffer_->data(); }
  template <class T>
  T* as() const {
    return static_cast<T*>(data());
  }
  template <class T>
  std::vector<T> Read(int64_t size) const {
    std::vector<T> values(size);
    backend_.CopyToHost(values.data(), data(), size * static_cast<int64_t>(sizeof(T)));
    NIBBLE_CHECK(backend_.Wait(backend_.Record()).ok());
    return values;
  }

 private:
  Backend& backend_;
  const std::unique_ptr<DeviceBuffer> buffer_;
};

}  // namespace

PackedNvfp4 CudaEngine::Quantize(const OperandRequest& request) {
  const OnDevice source(*backend_, request.source);
  const int64_t size = request.source.size();
  const OnDevice codes(*backend_, size / 2), scales(*backend_, size / 16), header(*backend_, 8);
  OperandRequest on_device = request;
  on_device.source.data = source.data();
  backend_->QuantizeCodes(on_device, codes.as<uint8_t>(), scales.as<uint8_t>(), header.as<float>());
  PackedNvfp4 result;
  result.rows = request.transpose ? request.source.cols : request.source.rows;
  result.cols = request.transpose ? request.source.rows : request.source.cols;
  const std::vector<float> amax_and_decode = header.Read<float>(2);
  result.amax = amax_and_decode[0];
  result.decode = amax_and_decode[1];
  result.codes = codes.Read<uint8_t>(size / 2);
  result.scales = scales.Read<uint8_t>(size / 16);
  return result;
}

std::vector<float> CudaEngine::RoundTrip(const OperandRequest& request) {
  const OnDevice source(*backend_, request.source);
  const int64_t size = request.source.size();
  const OnDevice values(*backend_, size * 4), header(*backend_, 4);
  OperandRequest on_device = request;
  on_device.source.data = source.data();
  if (IsQuantised(request.format.format)) {
    backend_->RoundTrip(on_device, values.as<float>(), header.as<float>());
    std::vector<float> result = values.Read<float>(size);
    const float decode = header.Read<float>(1)[0];
    for (float& value : result) value *= decode;
    return result;
  }
  // A cast to BF16, or nothing.
  const OnDevice cast(*backend_, size * 2);
  Matrix from = on_device.source;
  if (request.format.format == Format::kBF16) {
    const Matrix narrow = {cast.data(), DType::kBF16, from.rows, from.cols};
    backend_->Cast(from, narrow);
    from = narrow;
  }
  backend_->Cast(from, {values.data(), DType::kF32, from.rows, from.cols});
  std::vector<float> result = values.Read<float>(size);
  if (!request.transpose) return result;
  std::vector<float> transposed(size);
  for (int64_t r = 0; r < from.rows; ++r) {
    for (int64_t c = 0; c < from.cols; ++c) {
      transposed[c * from.rows + r] = result[r * from.cols + c];
    }
  }
  return transposed;
}

std::vector<float> CudaEngine::Hadamard(const OperandRequest& request) {
  const OnDevice source(*backend_, request.source);
  const OnDevice values(*backend_, request.source.size() * 4);
  OperandRequest on_device = request;
  on_device.source.data = source.data();
  backend_->Hadamard(on_device, values.as<float>());
  return values.Read<float>(request.source.size());
}

}  // namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET
