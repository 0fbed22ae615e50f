// Activations without a gate, biases and positions: against FP64 written plainly, gradients against
// differences.
#include <cfloat>
#include <cmath>
#include <tuple>

#include "gtest/gtest.h"
#include "tests/ops/operator_harness.h"

namespace nibble::kernels {
namespace {

constexpr Activation kActivations[] = {Activation::kSquaredRelu, Activation::kGelu,
                                       Activation::kGeluTanh};

double InFp64(Activation activation, double x) {
  switch (activation) {
    case Activation::kSquaredRelu:
      return std::pow(std::fmax(x, 0), 2);
    case Activation::kGelu:
      return x * (1 + std::erf(x / std::sqrt(2.0))) / 2;
    case Activation::kGeluTanh:
      return x / (1 + std::exp(-2 * std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
  }
  return NAN;
}

// The curve and its flat ends; a few are far out.
std::vector<float> Points(DType dtype, int64_t size) {
  auto values = Inputs(4).Normal(dtype, size, 2);
  const float extremes[] = {-200, 200, -88, 88, 0, -1e-30f, 30, -30, 1e-3f, -1e-3f};
  for (size_t i = 0; i < values.size() && i < 10; ++i) values[i] = RoundTo(dtype, extremes[i]);
  return values;
}

class ActivationTest : public ::testing::TestWithParam<std::tuple<const char*, DType>> {
 protected:
  std::unique_ptr<Backend> backend_ = MakeBackend(std::get<0>(GetParam()));
  DType dtype_ = std::get<1>(GetParam());
};

TEST_P(ActivationTest, ForwardIsFp64RoundedOnce) {
  for (const Activation activation : kActivations) {
    for (const int64_t cols : {1, 16, 33, 20000}) {
      Tensor in(*backend_, dtype_, 3, cols, Points(dtype_, 3 * cols));
      Tensor out(*backend_, dtype_, 3, cols);
      backend_->ActivationForward(activation, in.matrix(), out.matrix());
      in.ExpectUnchanged();
      std::vector<double> want;
      for (const float x : in.Read()) want.push_back(InFp64(activation, x));
      // The tail of the normal distribution is within 1e-7, times an x below about 6; an
      // exponential within 2 ulp. What is below FLT_MIN underflows.
      ExpectRounded(out.Read(), want, dtype_, 1e-6 + FLT_MIN);
    }
  }
}

TEST_P(ActivationTest, GradientIsThatOfFiniteDifferences) {
  for (const Activation activation : kActivations) {
    const auto x = Points(dtype_, 3 * 35);
    const auto dy = Inputs(6).Normal(dtype_, 3 * 35);
    Tensor in(*backend_, dtype_, 3, 35, x), d_out(*backend_, dtype_, 3, 35, dy);
    Tensor d_in(*backend_, dtype_, 3, 35);
    backend_->ActivationBackward(activation, d_out.matrix(), in.matrix(), d_in.matrix());
    in.ExpectUnchanged();
    d_out.ExpectUnchanged();
    std::vector<double> want;
    for (size_t i = 0; i < x.size(); ++i) {
      const double step = 1e-6 * std::fmax(1, std::fabs(x[i]));
      want.push_back(dy[i] * (InFp64(activation, x[i] + step) - InFp64(activation, x[i] - step)) /
                     (2 * step));
    }
    // Slopes up to 400 (squared ReLU of 200) whose differences are good to nine digits; the tail's
    // error times x, as above.
    ExpectRounded(d_in.Read(), want, dtype_, 5e-6);
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, ActivationTest,
                         ::testing::Combine(::testing::ValuesIn(TestedBackends()),
                                            ::testing::Values(DType::kF32, DType::kBF16)));

Outputs RunActivations(Backend& backend) {
  Outputs outputs;
  for (const Activation activation : kActivations) {
    Tensor in(backend, DType::kBF16, 333, 100, Points(DType::kBF16, 33300));
    Tensor out(backend, DType::kBF16, 333, 100), d_in(backend, DType::kBF16, 333, 100);
    backend.ActivationForward(activation, in.matrix(), out.matrix());
    backend.ActivationBackward(activation, out.matrix(), in.matrix(), d_in.matrix());
    outputs.push_back(out.Read());
    outputs.push_back(d_in.Read());
  }
  return outputs;
}

TEST(ActivationCpu, BitsDoNotDependOnThreads) { ExpectThreadInvariant(RunActivations); }

// ---- rows added over and over ----
struct RowsCase {
  int64_t rows, cols, period;
};
constexpr RowsCase kRowsCases[] = {{1, 1, 1},   {5, 7, 1},     {130, 33, 1},
                                   {12, 16, 4}, {130, 33, 65}, {200, 100, 200}};

// The sum, then the table's gradient added to the table itself.
Outputs AddAndSum(Backend& backend, DType dtype, const RowsCase& c) {
  Inputs inputs(3);
  Tensor out(backend, dtype, c.rows, c.cols, inputs.Normal(dtype, c.rows * c.cols));
  Tensor table(backend, DType::kF32, c.period, c.cols,
               inputs.Normal(DType::kF32, c.period * c.cols));
  backend.AddRows(out.matrix(), table.f32(), c.period);
  table.ExpectUnchanged();
  Tensor d_table(backend, DType::kF32, c.period, c.cols, table.Read());
  Tensor d_out(backend, dtype, c.rows, c.cols, out.Read());
  backend.AddRowsBackward(d_out.matrix(), d_table.f32(), c.period);
  d_out.ExpectUnchanged();
  return {out.Read(), d_table.Read()};
}

TEST(AddedRows, AreAddedAndSummedUp) {
  for (const char* name : TestedBackends()) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      for (const RowsCase& c : kRowsCases) {
        const Outputs got = AddAndSum(*MakeBackend(name), dtype, c);
        Inputs inputs(3);
        const auto before = inputs.Normal(dtype, c.rows * c.cols);
        const auto table = inputs.Normal(DType::kF32, c.period * c.cols);
        std::vector<float> sum;
        std::vector<double> gradient = Widen(table);
        for (int64_t i = 0; i < c.rows * c.cols; ++i) {
          const int64_t at = i / c.cols % c.period * c.cols + i % c.cols;
          sum.push_back(RoundTo(dtype, before[i] + table[at]));
          gradient[at] += got[0][i];
        }
        ExpectSameBits(got[0], sum);
        // An FP32 sum of up to 200 values of size one.
        ExpectRounded(got[1], gradient, DType::kF32, 2e-5);
      }
    }
  }
}

TEST(AddedRows, BitsDoNotDependOnThreads) {
  for (const RowsCase& c : kRowsCases) {
    ExpectThreadInvariant([&](Backend& backend) { return AddAndSum(backend, DType::kF32, c); });
  }
}

}  // namespace
}  // namespace nibble::kernels
