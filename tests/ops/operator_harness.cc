#include "tests/ops/operator_harness.h"

#include <cmath>
#include <cstdlib>
#include <cstring>

#include "gtest/gtest.h"
#include "kernels/cuda/emulation/emulated_device.h"

namespace nibble::kernels {
namespace {

constexpr int64_t kBand = 512;  // a multiple of the buffers' alignment
constexpr char kPattern = static_cast<char>(0xA5);

std::vector<float> Nans(int64_t size) { return std::vector<float>(size, std::nanf("")); }

}  // namespace

bool CanEmulateCuda() {
#if defined(NIBBLE_WITHOUT_FIBERS)
  return false;
#else
  return true;
#endif
}

std::vector<const char*> TestedBackends() {
  std::vector<const char*> names = {"reference", "cpu"};
  if (CanEmulateCuda()) names.push_back(kEmulatedCuda);
  if (const char* extra = std::getenv("NIBBLE_TEST_BACKEND"); extra != nullptr) {
    names.push_back(extra);
  }
  return names;
}

std::unique_ptr<OpEngine> MakeEngine(absl::string_view name, int threads) {
  if (name == kEmulatedCuda) return cuda::CreateEmulatedEngine(/*capability=*/80);
  if (name == kEmulatedHopper) return cuda::CreateEmulatedEngine(/*capability=*/90);
  if (name == kEmulatedBlackwell) return cuda::CreateEmulatedEngine(/*capability=*/100);
  auto engine = CreateOpEngine(name, {.threads = threads});
  EXPECT_TRUE(engine.ok()) << engine.status();
  return *std::move(engine);
}

std::unique_ptr<Backend> MakeBackend(absl::string_view name, int threads) {
  if (name == kEmulatedCuda) return cuda::CreateEmulatedBackend(/*capability=*/80);
  if (name == kEmulatedHopper) return cuda::CreateEmulatedBackend(/*capability=*/90);
  if (name == kEmulatedBlackwell) return cuda::CreateEmulatedBackend(/*capability=*/100);
  BackendOptions options;
  options.threads = threads;
  auto backend = CreateBackend(name, options);
  EXPECT_TRUE(backend.ok()) << backend.status();
  return *std::move(backend);
}

uint16_t ToBf16Bits(float value) {
  if (std::isnan(value)) return 0x7fc0;
  // The two neighbours in BF16 and the distance to each, in exact double arithmetic.
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const uint16_t low = bits >> 16;
  const double below = std::fabs(double{value} - FromBf16Bits(low));
  if (below == 0 || std::isinf(value)) return low;
  const uint16_t high = low + 1;
  const double next =
      std::isinf(FromBf16Bits(high)) ? std::copysign(0x1p128, value) : double{FromBf16Bits(high)};
  const double above = std::fabs(next - value);
  if (below == above) return (low & 1) ? high : low;
  return below < above ? low : high;
}

float FromBf16Bits(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

float RoundTo(DType dtype, float value) {
  return dtype == DType::kBF16 ? FromBf16Bits(ToBf16Bits(value)) : value;
}

Tensor::Tensor(Backend& backend, DType dtype, int64_t rows, int64_t cols,
               const std::vector<float>& values)
    : backend_(backend) {
  matrix_ = {nullptr, dtype, rows, cols};
  EXPECT_EQ(static_cast<int64_t>(values.size()), matrix_.size());
  if (dtype == DType::kF32) {
    Upload(values.data());
    return;
  }
  std::vector<uint16_t> bits(values.size());
  for (size_t i = 0; i < values.size(); ++i) bits[i] = ToBf16Bits(values[i]);
  Upload(bits.data());
}

Tensor::Tensor(Backend& backend, const std::vector<int32_t>& values) : backend_(backend) {
  matrix_ = {nullptr, DType::kI32, 1, static_cast<int64_t>(values.size())};
  Upload(values.data());
}

Tensor::Tensor(Backend& backend, DType dtype, int64_t rows, int64_t cols)
    : Tensor(backend, dtype, rows, cols, Nans(rows * cols)) {}

void Tensor::Upload(const void* values) {
  uploaded_.assign(matrix_.bytes() + 2 * kBand, kPattern);
  std::memcpy(uploaded_.data() + kBand, values, matrix_.bytes());
  auto buffer = backend_.Allocate(static_cast<int64_t>(uploaded_.size()));
  ASSERT_TRUE(buffer.ok()) << buffer.status();
  buffer_ = *std::move(buffer);
  backend_.CopyToDevice(buffer_->data(), uploaded_.data(), static_cast<int64_t>(uploaded_.size()));
  matrix_.data = static_cast<char*>(buffer_->data()) + kBand;
}

std::vector<char> Tensor::Download() const {
  std::vector<char> bytes(uploaded_.size());
  backend_.CopyToHost(bytes.data(), buffer_->data(), static_cast<int64_t>(bytes.size()));
  EXPECT_TRUE(backend_.Synchronize().ok());
  for (int64_t i = 0; i < kBand; ++i) {
    EXPECT_EQ(bytes[i], kPattern) << "written before the tensor, byte -" << kBand - i;
    EXPECT_EQ(bytes[bytes.size() - 1 - i], kPattern) << "written behind the tensor";
    if (::testing::Test::HasFailure()) break;
  }
  return bytes;
}

Operand Tensor::operand() const {
  Operand operand;
  operand.data = matrix_.data;
  operand.format.format = matrix_.dtype == DType::kBF16 ? Format::kBF16 : Format::kF32;
  operand.storage = matrix_.dtype;
  operand.rows = matrix_.rows;
  operand.cols = matrix_.cols;
  return operand;
}

std::vector<float> Tensor::Read() const {
  const std::vector<char> bytes = Download();
  std::vector<float> values(matrix_.size());
  if (matrix_.dtype == DType::kF32) {
    std::memcpy(values.data(), bytes.data() + kBand, matrix_.bytes());
    return values;
  }
  for (int64_t i = 0; i < matrix_.size(); ++i) {
    uint16_t bits;
    std::memcpy(&bits, bytes.data() + kBand + 2 * i, 2);
    values[i] = FromBf16Bits(bits);
  }
  return values;
}

void Tensor::ExpectUnchanged() const {
  EXPECT_TRUE(Download() == uploaded_) << "an operator has changed its input";
}

std::vector<float> Inputs::Normal(DType dtype, int64_t size, float scale) {
  std::normal_distribution<float> distribution(0, scale);
  std::vector<float> values(size);
  for (float& value : values) value = RoundTo(dtype, distribution(generator_));
  return values;
}

std::vector<int32_t> Inputs::Integers(int64_t size, int32_t low, int32_t high) {
  std::uniform_int_distribution<int32_t> distribution(low, high);
  std::vector<int32_t> values(size);
  for (int32_t& value : values) value = distribution(generator_);
  return values;
}

std::vector<double> Widen(const std::vector<float>& values) {
  return {values.begin(), values.end()};
}

void ExpectRounded(const std::vector<float>& got, const std::vector<double>& want, DType dtype,
                   double bound) {
  ASSERT_EQ(got.size(), want.size());
  const double half_ulp = dtype == DType::kBF16 ? 0x1p-8 : 0x1p-23;
  for (size_t i = 0; i < got.size(); ++i) {
    const double allowed = half_ulp * std::fabs(want[i]) + bound;
    ASSERT_TRUE(std::fabs(got[i] - want[i]) <= allowed)
        << "element " << i << ": " << got[i] << ", wanted " << want[i] << " +- " << allowed;
  }
}

void ExpectAdjacent(const std::vector<float>& got, const std::vector<float>& want, DType dtype,
                    double bound) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) {
    double allowed = bound;
    if (dtype == DType::kBF16) allowed += std::fabs(want[i]) * 0x1p-7;
    ASSERT_TRUE(std::fabs(double{got[i]} - want[i]) <= allowed)
        << "element " << i << ": " << got[i] << ", wanted " << want[i] << " +- " << allowed;
  }
}

void ExpectSameBits(const std::vector<float>& got, const std::vector<float>& want) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) {
    if (std::isnan(got[i]) && std::isnan(want[i])) continue;
    ASSERT_EQ(std::memcmp(&got[i], &want[i], 4), 0)
        << "element " << i << ": " << got[i] << ", wanted " << want[i];
  }
}

}  // namespace nibble::kernels
