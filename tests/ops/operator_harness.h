// What the operator tests share: device tensors between guard bands, seeded inputs, comparisons.
#ifndef TESTS_OPS_OPERATOR_HARNESS_H_
#define TESTS_OPS_OPERATOR_HARNESS_H_

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/op_engine.h"

namespace nibble::kernels {

// The CUDA backend with its kernels run by the host: as a GPU without native products of quantised
// operands (every operand is dequantised), with those of FP8, with those of NVFP4 as well.
inline constexpr char kEmulatedCuda[] = "emulated_cuda";
inline constexpr char kEmulatedHopper[] = "emulated_hopper";
inline constexpr char kEmulatedBlackwell[] = "emulated_blackwell";

// Not under sanitizers: they take its fibers' stacks for one.
bool CanEmulateCuda();

// Every backend that can run here, and what NIBBLE_TEST_BACKEND names (tests/gpu: "cuda").
std::vector<const char*> TestedBackends();

std::unique_ptr<OpEngine> MakeEngine(absl::string_view name, int threads = 2);
std::unique_ptr<Backend> MakeBackend(absl::string_view name, int threads = 2);

// Nearest even, written apart from the product's own conversion.
uint16_t ToBf16Bits(float value);
float FromBf16Bits(uint16_t bits);
float RoundTo(DType dtype, float value);

// A matrix on the device between two bands of a known pattern. Read() and ExpectUnchanged() fail
// the running test where an operator has written outside.
class Tensor {
 public:
  // The values are rounded to `dtype`.
  Tensor(Backend& backend, DType dtype, int64_t rows, int64_t cols,
         const std::vector<float>& values);
  Tensor(Backend& backend, const std::vector<int32_t>& values);
  // An output: filled with NaN, so that an element that is never written is noticed.
  Tensor(Backend& backend, DType dtype, int64_t rows, int64_t cols);

  Matrix matrix() const { return matrix_; }
  float* f32() const { return static_cast<float*>(matrix_.data); }
  int32_t* i32() const { return static_cast<int32_t*>(matrix_.data); }
  // As an operand of its own type, without a copy.
  Operand operand() const;

  std::vector<float> Read() const;
  void ExpectUnchanged() const;

 private:
  void Upload(const void* values);
  std::vector<char> Download() const;

  Backend& backend_;
  std::unique_ptr<DeviceBuffer> buffer_;
  Matrix matrix_;
  std::vector<char> uploaded_;
};

// Seeded inputs.
class Inputs {
 public:
  explicit Inputs(uint32_t seed) : generator_(seed) {}

  // Normally distributed, already rounded to `dtype`.
  std::vector<float> Normal(DType dtype, int64_t size, float scale = 1);
  std::vector<int32_t> Integers(int64_t size, int32_t low, int32_t high);

 private:
  std::mt19937 generator_;
};

std::vector<double> Widen(const std::vector<float>& values);

// |got - want| <= half a unit in the last place of `dtype` at `want`, plus `bound`: the error that
// FP32 arithmetic before the rounding may have.
void ExpectRounded(const std::vector<float>& got, const std::vector<double>& want, DType dtype,
                   double bound);
// Every value is the same or the next one of `dtype` (two results rounded once from FP32 values
// that differ by less than such a step), or within `bound` of it.
void ExpectAdjacent(const std::vector<float>& got, const std::vector<float>& want, DType dtype,
                    double bound);
// Bit for bit; any NaN equals any NaN.
void ExpectSameBits(const std::vector<float>& got, const std::vector<float>& want);

// What one run of an operator has written.
using Outputs = std::vector<std::vector<float>>;

// Runs with 1, 2, 3 and 7 threads on the CPU backend and expects equal bits.
template <class Run>
void ExpectThreadInvariant(const Run& run);

// The gradient of `loss` at `x` by central differences in FP64, element by element; `step` 1e-5
// leaves an error of about 1e-10 of the loss' third derivatives and 1e-11 of rounding.
template <class Loss>
std::vector<double> NumericGradient(const Loss& loss, std::vector<double> x, double step = 1e-5) {
  std::vector<double> gradient(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    const double saved = x[i];
    x[i] = saved + step;
    const double above = loss(x);
    x[i] = saved - step;
    const double below = loss(x);
    x[i] = saved;
    gradient[i] = (above - below) / (2 * step);
  }
  return gradient;
}

template <class Run>
void ExpectThreadInvariant(const Run& run) {
  const Outputs first = run(*MakeBackend("cpu", 1));
  for (const int threads : {2, 3, 7}) {
    const Outputs other = run(*MakeBackend("cpu", threads));
    for (size_t i = 0; i < first.size(); ++i) ExpectSameBits(other[i], first[i]);
  }
}

}  // namespace nibble::kernels

#endif  // TESTS_OPS_OPERATOR_HARNESS_H_
