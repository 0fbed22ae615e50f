// Products of prepared operands on both backends.
//
// Seen red: the transposed flag of B not inverted, one tensor scale left out, accumulate ignored
// with scaled operands, tiles that depend on the number of threads, a tile one column too wide.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "kernels/op_engine.h"
#include "tests/ops/nvfp4_oracle.h"
#include "tests/ops/operator_harness.h"

namespace nibble::kernels {
namespace {

constexpr OperandFormat kF32Format = {Format::kF32};
constexpr OperandFormat kBF16Format = {Format::kBF16};
constexpr OperandFormat kRowFormat = {Format::kNvfp4, 1, 0, Rounding::kNearest};
constexpr OperandFormat kTileFormat = {Format::kNvfp4, 16, 0, Rounding::kNearest};
constexpr OperandFormat kGradientFormat = {Format::kNvfp4, 1, 16, Rounding::kStochastic};

// A source on the device and an operand made of it.
struct Prepared {
  Prepared(Backend& backend, DType dtype, int64_t rows, int64_t cols,
           const std::vector<float>& values, OperandFormat format, bool transpose,
           uint32_t step = 0)
      : source(backend, dtype, rows, cols, values) {
    OperandRequest request = {source.matrix(), transpose, format, {}};
    request.key = {1, 2, step, 0, 0, transpose ? rows : cols};
    storage = backend.Allocate(backend.OperandBytes(format, dtype, rows, cols)).value();
    operand = backend.PrepareOperand(request, storage->data());
  }
  Tensor source;
  std::unique_ptr<DeviceBuffer> storage;
  Operand operand;
};

struct Shape {
  int64_t m, n, k;
};

class ProductTest : public testing::TestWithParam<std::string> {
 protected:
  ProductTest() : backend_(MakeBackend(GetParam(), 2)) {}

  // Against FP64 over the operands' own values. FP32 accumulation in any order is off by at most
  // k 2^-24 of the sum of magnitudes; the rounding to c by half a unit in the last place.
  void ExpectProduct(const Operand& a, const Operand& b, DType c_type, bool accumulate) {
    const std::vector<float> left = DequantizedValues(a);
    const std::vector<float> right = DequantizedValues(b);
    const std::vector<float> before = Inputs(9).Normal(DType::kF32, a.rows * b.rows);
    Tensor c = accumulate ? Tensor(*backend_, c_type, a.rows, b.rows, before)
                          : Tensor(*backend_, c_type, a.rows, b.rows);
    backend_->Multiply(a, b, c.matrix(), accumulate);
    const std::vector<float> got = c.Read();
    for (int64_t m = 0; m < a.rows; ++m) {
      for (int64_t n = 0; n < b.rows; ++n) {
        double want = accumulate ? before[m * b.rows + n] : 0;
        double magnitude = std::fabs(want);
        for (int64_t k = 0; k < a.cols; ++k) {
          const double term = static_cast<double>(left[m * a.cols + k]) * right[n * a.cols + k];
          want += term;
          magnitude += std::fabs(term);
        }
        const double bound = (a.cols + 4) * std::ldexp(magnitude, -24) +
                             (c_type == DType::kBF16 ? std::ldexp(std::fabs(want), -8) : 0);
        ASSERT_NEAR(got[m * b.rows + n], want, bound) << m << ", " << n;
      }
    }
  }

  std::unique_ptr<Backend> backend_;
};

std::vector<std::string> ProductBackends() {
  const std::vector<const char*> names = TestedBackends();
  return {names.begin(), names.end()};
}

INSTANTIATE_TEST_SUITE_P(Backends, ProductTest, testing::ValuesIn(ProductBackends()),
                         [](const auto& info) { return info.param; });

TEST_P(ProductTest, EveryFormatAndLayoutEqualsTheExactProduct) {
  const Shape shapes[] = {{16, 16, 16}, {48, 80, 112}, {144, 272, 64}};
  for (const Shape& s : shapes) {
    for (DType type : {DType::kF32, DType::kBF16}) {
      const std::vector<float> x = Inputs(1).Normal(type, s.m * s.k);
      const std::vector<float> w = Inputs(2).Normal(type, s.n * s.k, 0.02f);
      for (const OperandFormat& first : {kF32Format, kBF16Format, kRowFormat}) {
        const OperandFormat second = first == kRowFormat ? kTileFormat : first;
        Prepared a(*backend_, type, s.m, s.k, x, first, false);
        Prepared b(*backend_, type, s.n, s.k, w, second, false);
        ExpectProduct(a.operand, b.operand, type, false);
        Prepared a_t(*backend_, type, s.k, s.m, OracleTranspose(x, s.m, s.k), first, true);
        Prepared b_t(*backend_, type, s.k, s.n, OracleTranspose(w, s.n, s.k), second, true);
        ExpectProduct(a_t.operand, b_t.operand, DType::kF32, true);
        ExpectProduct(a.operand, b_t.operand, DType::kBF16, false);
        if (backend_->CanTranspose(b.operand)) {
          Prepared dy(*backend_, type, s.m, s.n, Inputs(3).Normal(type, s.m * s.n), first, false);
          ExpectProduct(dy.operand, backend_->Transposed(b.operand), type, false);
        }
      }
    }
  }
}

TEST_P(ProductTest, MixedFormatsMultiply) {
  const std::vector<float> x = Inputs(1).Normal(DType::kBF16, 32 * 64);
  Prepared wide(*backend_, DType::kF32, 32, 64, x, kF32Format, false);
  Prepared narrow(*backend_, DType::kBF16, 32, 64, x, kBF16Format, false);
  Prepared quantised(*backend_, DType::kBF16, 32, 64, x, kRowFormat, false);
  ExpectProduct(wide.operand, quantised.operand, DType::kF32, false);
  ExpectProduct(quantised.operand, narrow.operand, DType::kF32, true);
  ExpectProduct(narrow.operand, wide.operand, DType::kBF16, false);
}

TEST_P(ProductTest, TransposeExistsWhereItHoldsTheSameValues) {
  const std::vector<float> x = Inputs(1).Normal(DType::kF32, 32 * 48);
  for (const OperandFormat& format : {kF32Format, kBF16Format, kTileFormat}) {
    Prepared p(*backend_, DType::kF32, 32, 48, x, format, false);
    ASSERT_TRUE(backend_->CanTranspose(p.operand));
    const Operand t = backend_->Transposed(p.operand);
    EXPECT_EQ(t.rows, 48);
    EXPECT_EQ(t.cols, 32);
    EXPECT_EQ(DequantizedValues(t), OracleTranspose(DequantizedValues(p.operand), 32, 48));
  }
  Prepared rows(*backend_, DType::kF32, 32, 48, x, kRowFormat, false);
  EXPECT_FALSE(backend_->CanTranspose(rows.operand));
}

// s_dec_A * s_dec_B below the smallest normal number: as one factor it would lose digits.
TEST_P(ProductTest, TensorScalesWhoseProductIsSubnormalKeepTheirDigits) {
  std::vector<float> tiny = Inputs(1).Normal(DType::kF32, 32 * 64, 1e-22f);
  const std::vector<float> one = Inputs(2).Normal(DType::kF32, 32 * 64, 3e-14f);
  Prepared a(*backend_, DType::kF32, 32, 64, tiny, kRowFormat, false);
  Prepared b(*backend_, DType::kF32, 32, 64, one, kRowFormat, false);
  ASSERT_LT(static_cast<double>(*a.operand.tensor_scale) * *b.operand.tensor_scale, 1.1754944e-38);
  Tensor c(*backend_, DType::kF32, 32, 32);
  backend_->Multiply(a.operand, b.operand, c.matrix(), false);
  const std::vector<float> got = c.Read();
  const std::vector<float> left = DequantizedValues(a.operand);
  const std::vector<float> right = DequantizedValues(b.operand);
  double error = 0, norm = 0;
  for (int m = 0; m < 32; ++m) {
    for (int n = 0; n < 32; ++n) {
      double want = 0;
      for (int k = 0; k < 64; ++k) want += double{left[m * 64 + k]} * right[n * 64 + k];
      error += (got[m * 32 + n] - want) * (got[m * 32 + n] - want);
      norm += want * want;
    }
  }
  EXPECT_LT(std::sqrt(error / norm), 1e-5);
}

std::vector<double> Product(Backend& backend, const Operand& a, const Operand& b) {
  Tensor c(backend, DType::kF32, a.rows, b.rows);
  backend.Multiply(a, b, c.matrix(), false);
  return Widen(c.Read());
}

double Dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

TEST_P(ProductTest, HadamardOnBothSidesCancels) {
  // Small integers, so that the transform is exact in BF16.
  constexpr int64_t kTokens = 64, kOut = 32, kIn = 48;
  std::vector<float> dy(kTokens * kOut), x(kTokens * kIn);
  const std::vector<int32_t> left = Inputs(1).Integers(dy.size(), -2, 3);
  const std::vector<int32_t> right = Inputs(2).Integers(x.size(), -2, 3);
  for (size_t i = 0; i < dy.size(); ++i) dy[i] = static_cast<float>(left[i]);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(right[i]);
  auto engine = MakeEngine(GetParam());
  const auto transformed = [&](std::vector<float>& values, int64_t cols) {
    OperandRequest request = {
        {values.data(), DType::kF32, kTokens, cols}, true, kGradientFormat, {}};
    return engine->Hadamard(request);
  };
  Prepared a(*backend_, DType::kF32, kOut, kTokens, transformed(dy, kOut), kF32Format, false);
  Prepared b(*backend_, DType::kF32, kIn, kTokens, transformed(x, kIn), kF32Format, false);
  Prepared a0(*backend_, DType::kF32, kTokens, kOut, dy, kF32Format, true);
  Prepared b0(*backend_, DType::kF32, kTokens, kIn, x, kF32Format, true);
  EXPECT_EQ(Product(*backend_, a.operand, b.operand), Product(*backend_, a0.operand, b0.operand));
}

// The recipe's weight gradient: projected on the exact one it has a gain near 1, and the noise of
// stochastic rounding averages out: 16 draws leave about a quarter of one draw's error.
TEST_P(ProductTest, QuantisedWeightGradientHasUnitGainAndNoBias) {
  constexpr int64_t kTokens = 512, kOut = 64, kIn = 48;
  std::vector<float> dy = Inputs(1).Normal(DType::kBF16, kTokens * kOut, 1e-3f);
  const std::vector<float> x = Inputs(2).Normal(DType::kBF16, kTokens * kIn);
  for (int64_t t = 0; t < kTokens; ++t) {  // a gradient that is not noise alone
    for (int64_t o = 0; o < std::min(kOut, kIn); ++o) {
      dy[t * kOut + o] = RoundTo(DType::kBF16, dy[t * kOut + o] + 1e-3f * x[t * kIn + o]);
    }
  }
  Prepared exact_dy(*backend_, DType::kBF16, kTokens, kOut, dy, kBF16Format, true);
  Prepared exact_x(*backend_, DType::kBF16, kTokens, kIn, x, kBF16Format, true);
  const std::vector<double> exact = Product(*backend_, exact_dy.operand, exact_x.operand);
  const OperandFormat nearest = {Format::kNvfp4, 1, 16, Rounding::kNearest};
  Prepared x_q(*backend_, DType::kBF16, kTokens, kIn, x, nearest, true);
  Prepared dy_q(*backend_, DType::kBF16, kTokens, kOut, dy, kGradientFormat, true);
  const std::vector<double> quantised = Product(*backend_, dy_q.operand, x_q.operand);
  EXPECT_NEAR(Dot(quantised, exact) / Dot(exact, exact), 1.0, 0.02);

  // Without rounding on the other side, what is left is the stochastic rounding's error.
  Prepared x_h(*backend_, DType::kBF16, kTokens, kIn, x, kBF16Format, true);
  const OperandFormat plain = {Format::kNvfp4, 1, 0, Rounding::kStochastic};
  std::vector<double> mean(exact.size(), 0);
  double single = 0;
  for (uint32_t draw = 0; draw < 16; ++draw) {
    Prepared sample(*backend_, DType::kBF16, kTokens, kOut, dy, plain, true, draw);
    std::vector<double> g = Product(*backend_, sample.operand, x_h.operand);
    double error = 0;
    for (size_t i = 0; i < g.size(); ++i) {
      mean[i] += g[i] / 16;
      error += (g[i] - exact[i]) * (g[i] - exact[i]);
    }
    single += std::sqrt(error) / 16;
  }
  double error = 0;
  for (size_t i = 0; i < mean.size(); ++i) error += (mean[i] - exact[i]) * (mean[i] - exact[i]);
  EXPECT_LT(std::sqrt(error), 0.35 * single);
  EXPECT_GT(std::sqrt(error), 0.15 * single);
}

double Distance(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return std::sqrt(sum);
}

// What stochastic rounding is for: its error averages out over steps, that of rounding to nearest
// stays. With the activations' own error, which no draw changes, 16 draws leave about .57 of one
// draw's (a variance of 2.5 times theirs falling to a sixteenth).
TEST_P(ProductTest, ErrorOfTheStochasticWeightGradientFallsOverDrawsAndThatOfNearestDoesNot) {
  constexpr int64_t kTokens = 256, kOut = 48, kIn = 64;
  constexpr int kDraws = 16;
  const std::vector<float> dy = Inputs(1).Normal(DType::kBF16, kTokens * kOut, 1e-3f);
  const std::vector<float> x = Inputs(2).Normal(DType::kBF16, kTokens * kIn);
  Prepared exact_dy(*backend_, DType::kBF16, kTokens, kOut, dy, kBF16Format, true);
  Prepared exact_x(*backend_, DType::kBF16, kTokens, kIn, x, kBF16Format, true);
  const std::vector<double> exact = Product(*backend_, exact_dy.operand, exact_x.operand);
  OperandFormat nearest = kGradientFormat;
  nearest.rounding = Rounding::kNearest;
  Prepared x_q(*backend_, DType::kBF16, kTokens, kIn, x, nearest, true);
  for (const OperandFormat& format : {kGradientFormat, nearest}) {
    std::vector<double> mean(exact.size(), 0);
    double single = 0;
    for (uint32_t draw = 0; draw < kDraws; ++draw) {
      Prepared dy_q(*backend_, DType::kBF16, kTokens, kOut, dy, format, true, draw);
      const std::vector<double> g = Product(*backend_, dy_q.operand, x_q.operand);
      for (size_t i = 0; i < g.size(); ++i) mean[i] += g[i] / kDraws;
      single += Distance(g, exact) / kDraws;
    }
    const double left = Distance(mean, exact) / single;
    if (format.rounding == Rounding::kStochastic) {
      EXPECT_LT(left, 0.75);
      EXPECT_GT(left, 0.4);
    } else {
      EXPECT_NEAR(left, 1.0, 1e-9);  // every draw is the same
    }
  }
}

// Tiles are a function of the shape alone.
TEST(ProductThreadsTest, BitsDoNotDependOnTheNumberOfThreads) {
  for (const Shape& s : {Shape{48, 80, 112}, Shape{256, 256, 512}, Shape{1040, 528, 96}}) {
    const std::vector<float> x = Inputs(1).Normal(DType::kBF16, s.m * s.k);
    const std::vector<float> w = Inputs(2).Normal(DType::kBF16, s.n * s.k);
    ExpectThreadInvariant([&](Backend& backend) {
      Outputs outputs;
      for (const OperandFormat& format : {kBF16Format, kTileFormat}) {
        Prepared a(backend, DType::kBF16, s.m, s.k, x, format, false);
        Prepared b(backend, DType::kBF16, s.n, s.k, w, format, false);
        Tensor c(backend, DType::kF32, s.m, s.n);
        backend.Multiply(a.operand, b.operand, c.matrix(), false);
        backend.Multiply(a.operand, b.operand, c.matrix(), true);
        outputs.push_back(c.Read());
      }
      return outputs;
    });
  }
}

}  // namespace
}  // namespace nibble::kernels
