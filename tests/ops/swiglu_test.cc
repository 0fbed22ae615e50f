// SwiGLU against FP64 written plainly, its gradient against differences.
#include <cfloat>
#include <cmath>
#include <tuple>

#include "gtest/gtest.h"
#include "tests/ops/operator_harness.h"

namespace nibble::kernels {
namespace {

struct Shape {
  int64_t rows, cols;
};
constexpr Shape kShapes[] = {{1, 1}, {3, 5}, {7, 48}, {65, 33}, {130, 200}};

// Gates cover the curve and its flat ends; a few are far out.
std::vector<float> GateUp(DType dtype, Shape shape) {
  auto values = Inputs(4).Normal(dtype, shape.rows * shape.cols * 2, 3);
  const float extremes[] = {-200, 200, -88, 88, 0, -1e-30f, 30, -30};
  for (size_t i = 0; i < values.size() && i < 8; i += 2) values[i] = RoundTo(dtype, extremes[i]);
  return values;
}

std::vector<double> InFp64(const std::vector<double>& gate_up, Shape shape) {
  std::vector<double> out;
  for (int64_t n = 0; n < shape.rows; ++n) {
    for (int64_t c = 0; c < shape.cols; ++c) {
      const double gate = gate_up[n * 2 * shape.cols + c];
      out.push_back(gate / (1 + std::exp(-gate)) * gate_up[n * 2 * shape.cols + shape.cols + c]);
    }
  }
  return out;
}

std::vector<float> Forward(Backend& backend, DType dtype, Shape shape) {
  Tensor gate_up(backend, dtype, shape.rows, shape.cols * 2, GateUp(dtype, shape));
  Tensor out(backend, dtype, shape.rows, shape.cols);
  backend.SwiGluForward(gate_up.matrix(), out.matrix());
  gate_up.ExpectUnchanged();
  return out.Read();
}

std::vector<float> DOut(DType dtype, Shape shape) {
  return Inputs(6).Normal(dtype, shape.rows * shape.cols);
}

std::vector<float> Backward(Backend& backend, DType dtype, Shape shape,
                            const std::vector<float>& gate_up_values,
                            const std::vector<float>& d_out_values) {
  Tensor gate_up(backend, dtype, shape.rows, shape.cols * 2, gate_up_values);
  Tensor d_out(backend, dtype, shape.rows, shape.cols, d_out_values);
  Tensor d_gate_up(backend, dtype, shape.rows, shape.cols * 2);
  backend.SwiGluBackward(d_out.matrix(), gate_up.matrix(), d_gate_up.matrix());
  gate_up.ExpectUnchanged();
  d_out.ExpectUnchanged();
  return d_gate_up.Read();
}

class SwiGluTest : public ::testing::TestWithParam<std::tuple<const char*, DType>> {
 protected:
  std::unique_ptr<Backend> backend_ = MakeBackend(std::get<0>(GetParam()));
  DType dtype_ = std::get<1>(GetParam());
};

TEST_P(SwiGluTest, ForwardIsFp64RoundedOnce) {
  for (const Shape& shape : kShapes) {
    const auto want = InFp64(Widen(GateUp(dtype_, shape)), shape);
    // Three FP32 operations and an exponential within 2 ulp, on products up to about 1,000;
    // tiny ones underflow.
    double largest = 0;
    for (const double value : want) largest = std::fmax(largest, std::fabs(value));
    ExpectRounded(Forward(*backend_, dtype_, shape), want, dtype_, 5e-7 * largest + FLT_MIN);
  }
}

// In FP32; how BF16 differs from it other tests say.
class SwiGluGradientTest : public ::testing::TestWithParam<const char*> {
 protected:
  static constexpr DType dtype_ = DType::kF32;
  std::unique_ptr<Backend> backend_ = MakeBackend(GetParam());
};

// Seen red without the factor gate of d_up, and with 1 + gate * sigmoid.
TEST_P(SwiGluGradientTest, GradientIsThatOfFiniteDifferences) {
  constexpr Shape kSmall = {3, 21};
  const auto gate_up = GateUp(dtype_, kSmall);
  const auto d_out = DOut(dtype_, kSmall);
  const auto want = NumericGradient(
      [&](const std::vector<double>& x) {
        const auto out = InFp64(x, kSmall);
        double sum = 0;
        for (size_t i = 0; i < out.size(); ++i) sum += out[i] * d_out[i];
        return sum;
      },
      Widen(gate_up));
  // Values up to about 500 in FP32.
  ExpectRounded(Backward(*backend_, dtype_, kSmall, gate_up, d_out), want, dtype_, 5e-5);
}

INSTANTIATE_TEST_SUITE_P(Backends, SwiGluGradientTest, ::testing::ValuesIn(TestedBackends()));
INSTANTIATE_TEST_SUITE_P(Backends, SwiGluTest,
                         ::testing::Combine(::testing::ValuesIn(TestedBackends()),
                                            ::testing::Values(DType::kF32, DType::kBF16)));

// The reference computes in doubles whatever the type, so BF16 results are FP32 results rounded.
TEST(SwiGluReference, RoundsOnceToBf16) {
  auto backend = MakeBackend("reference");
  constexpr Shape kShape = {65, 33};
  const auto gate_up = GateUp(DType::kBF16, kShape);
  const auto d_out = DOut(DType::kBF16, kShape);
  auto wide = Backward(*backend, DType::kF32, kShape, gate_up, d_out);
  for (float& value : wide) value = RoundTo(DType::kBF16, value);
  ExpectSameBits(Backward(*backend, DType::kBF16, kShape, gate_up, d_out), wide);
}

TEST(SwiGluCpu, BackwardAgreesWithReference) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const Shape& shape : kShapes) {
      const auto gate_up = GateUp(dtype, shape);
      const auto d_out = DOut(dtype, shape);
      ExpectAdjacent(Backward(*MakeBackend("cpu"), dtype, shape, gate_up, d_out),
                     Backward(*MakeBackend("reference"), dtype, shape, gate_up, d_out), dtype,
                     1e-4);
    }
  }
}

TEST(SwiGluCpu, BitsDoNotDependOnThreads) {
  ExpectThreadInvariant([](Backend& backend) {
    constexpr Shape kShape = {333, 100};
    return Outputs{Forward(backend, DType::kBF16, kShape),
                   Backward(backend, DType::kBF16, kShape, GateUp(DType::kBF16, kShape),
                            DOut(DType::kBF16, kShape))};
  });
}

}  // namespace
}  // namespace nibble::kernels
