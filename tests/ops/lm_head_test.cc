// Output head with cross-entropy: against FP64 written plainly, gradients against differences,
// ignored targets, huge logits, and independence of chunks, blocks and threads.
#include <cmath>
#include <tuple>

#include "gtest/gtest.h"
#include "tests/ops/operator_harness.h"

namespace nibble::kernels {
namespace {

struct Case {
  int64_t rows, features, vocabulary;
  float scale = 1;  // of the weights
};

// Around the blocks (128 rows, 256 columns), the groups of 2,048 columns, and one vector.
const Case kCases[] = {{1, 1, 1},     {1, 16, 2},    {5, 7, 3},      {33, 20, 17},  {130, 24, 256},
                       {129, 8, 257}, {20, 16, 511}, {40, 10, 4099}, {3, 520, 130}, {2, 4, 9000}};

struct Values {
  std::vector<float> x, weight, d_weight;
  std::vector<int32_t> targets;
};

Values MakeValues(const Case& c, DType dtype) {
  Inputs inputs(static_cast<uint32_t>(c.rows * 31 + c.vocabulary));
  Values values;
  values.x = inputs.Normal(dtype, c.rows * c.features);
  values.weight = inputs.Normal(dtype, c.vocabulary * c.features, c.scale);
  values.d_weight = inputs.Normal(DType::kF32, c.vocabulary * c.features);
  values.targets = inputs.Integers(c.rows, 0, static_cast<int32_t>(c.vocabulary) - 1);
  for (int64_t n = 2; n < c.rows; n += 5) values.targets[n] = -1;
  return values;
}

constexpr float kLossScale = 0.25f;

// losses; with `backward` d_x and d_weight as well.
Outputs RunHead(Backend& backend, const Case& c, DType dtype, const Values& values, bool backward) {
  Tensor x(backend, dtype, c.rows, c.features, values.x);
  Tensor weight(backend, dtype, c.vocabulary, c.features, values.weight);
  Tensor targets(backend, values.targets);
  Tensor losses(backend, DType::kF32, c.rows, 1);
  Tensor d_x(backend, dtype, c.rows, c.features);
  Tensor d_weight(backend, DType::kF32, c.vocabulary, c.features, values.d_weight);
  LmHeadArgs args{};
  args.x = x.matrix();
  args.weight = weight.operand();
  args.targets = targets.i32();
  args.losses = losses.f32();
  args.loss_scale = kLossScale;
  if (backward) {
    args.d_x = d_x.matrix();
    args.d_weight = d_weight.f32();
  }
  backend.LmHead(args);
  x.ExpectUnchanged();
  weight.ExpectUnchanged();
  targets.ExpectUnchanged();
  if (backward) return {losses.Read(), d_x.Read(), d_weight.Read()};
  d_weight.ExpectUnchanged();
  return {losses.Read()};
}

std::vector<double> LossesInFp64(const Case& c, const std::vector<double>& x,
                                 const std::vector<double>& weight,
                                 const std::vector<int32_t>& targets) {
  std::vector<double> losses;
  for (int64_t n = 0; n < c.rows; ++n) {
    std::vector<double> logits(c.vocabulary, 0.0);
    double max = -INFINITY;
    for (int64_t v = 0; v < c.vocabulary; ++v) {
      for (int64_t i = 0; i < c.features; ++i) {
        logits[v] += x[n * c.features + i] * weight[v * c.features + i];
      }
      max = std::fmax(max, logits[v]);
    }
    double sum = 0;
    for (const double logit : logits) sum += std::exp(logit - max);
    losses.push_back(targets[n] < 0 ? 0 : max + std::log(sum) - logits[targets[n]]);
  }
  return losses;
}

class LmHeadTest : public ::testing::TestWithParam<std::tuple<const char*, DType>> {
 protected:
  std::unique_ptr<Backend> backend_ = MakeBackend(std::get<0>(GetParam()));
  DType dtype_ = std::get<1>(GetParam());
};

// Seen red with ignored rows given a loss.
TEST_P(LmHeadTest, LossesAreThoseOfFp64) {
  for (const Case& c : kCases) {
    const Values values = MakeValues(c, dtype_);
    const auto want = LossesInFp64(c, Widen(values.x), Widen(values.weight), values.targets);
    for (const bool backward : {false, true}) {
      const Outputs got = RunHead(*backend_, c, dtype_, values, backward);
      // Logits up to about 80, summed in FP32.
      ExpectRounded(got[0], want, DType::kF32, 2e-5);
    }
  }
}

// In FP32; how BF16 differs from it other tests say.
class LmHeadGradientTest : public ::testing::TestWithParam<const char*> {
 protected:
  static constexpr DType dtype_ = DType::kF32;
  std::unique_ptr<Backend> backend_ = MakeBackend(GetParam());
};

// Seen red without the one-hot term, without loss_scale, and with d_weight overwritten.
TEST_P(LmHeadGradientTest, GradientIsThatOfFiniteDifferences) {
  for (const Case& c : {Case{5, 7, 3}, Case{3, 18, 21}, Case{2, 3, 300}}) {
    const Values values = MakeValues(c, dtype_);
    const auto loss = [&](const std::vector<double>& x, const std::vector<double>& weight) {
      double sum = 0;
      for (const double value : LossesInFp64(c, x, weight, values.targets)) sum += value;
      return sum * kLossScale;
    };
    const auto d_x = NumericGradient([&](const auto& x) { return loss(x, Widen(values.weight)); },
                                     Widen(values.x));
    auto d_weight = NumericGradient([&](const auto& w) { return loss(Widen(values.x), w); },
                                    Widen(values.weight));
    for (size_t i = 0; i < d_weight.size(); ++i) d_weight[i] += values.d_weight[i];
    const Outputs got = RunHead(*backend_, c, dtype_, values, true);
    ExpectRounded(got[1], d_x, DType::kF32, 5e-6);
    ExpectRounded(got[2], d_weight, DType::kF32, 5e-6);
  }
}

// Seen red with the maximum of the first block only.
TEST_P(LmHeadTest, HugeLogitsAreStable) {
  const Case c{40, 16, 600, 1000};  // logits of about +-10,000
  Values values = MakeValues(c, dtype_);
  const auto want = LossesInFp64(c, Widen(values.x), Widen(values.weight), values.targets);
  const Outputs got = RunHead(*backend_, c, dtype_, values, true);
  // The logits themselves are FP32 sums of sixteen terms: some 5e-3 at 10,000.
  ExpectRounded(got[0], want, DType::kF32, 0.02);
  for (const auto& output : got) {
    for (const float value : output) ASSERT_TRUE(std::isfinite(value));
  }
}

TEST_P(LmHeadTest, ANotANumberReachesItsLossOnly) {
  const Case c{30, 16, 300};
  Values values = MakeValues(c, dtype_);
  values.x[4 * 16 + 3] = std::nanf("");
  const Outputs got = RunHead(*backend_, c, dtype_, values, false);
  for (int64_t n = 0; n < c.rows; ++n) EXPECT_EQ(std::isnan(got[0][n]), n == 4) << n;
}

TEST_P(LmHeadTest, IgnoredRowsHaveNoGradient) {
  const Case c{7, 16, 300};
  Values values = MakeValues(c, dtype_);
  for (int32_t& target : values.targets) target = -1;
  const Outputs got = RunHead(*backend_, c, dtype_, values, true);
  ExpectSameBits(got[0], std::vector<float>(7, 0.0f));
  ExpectSameBits(got[1], std::vector<float>(7 * 16, 0.0f));
  ExpectSameBits(got[2], values.d_weight);
}

INSTANTIATE_TEST_SUITE_P(Backends, LmHeadGradientTest, ::testing::Values("reference", "cpu"));
INSTANTIATE_TEST_SUITE_P(Backends, LmHeadTest,
                         ::testing::Combine(::testing::Values("reference", "cpu"),
                                            ::testing::Values(DType::kF32, DType::kBF16)));

TEST(LmHeadCpu, BackwardAgreesWithReference) {
  auto cpu = MakeBackend("cpu");
  auto reference = MakeBackend("reference");
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const Case& c : kCases) {
      const Values values = MakeValues(c, dtype);
      const Outputs got = RunHead(*cpu, c, dtype, values, true);
      const Outputs want = RunHead(*reference, c, dtype, values, true);
      // In BF16 a gradient near a rounding boundary may fall to its other side: one part in 256 of
      // a logit's gradient (at most loss_scale) in a few of the terms.
      const double bound = dtype == DType::kBF16 ? 2 * kLossScale / 256 : 2e-5;
      ExpectAdjacent(got[1], want[1], dtype, bound);
      ExpectAdjacent(got[2], want[2], DType::kF32, bound);
    }
  }
}

// A vocabulary of 110,000 leaves 128 rows to a chunk: 300 rows are three.
TEST(LmHeadCpu, ChunksAgreeWithOneAnother) {
  const Case c{300, 2, 110000};
  const Values values = MakeValues(c, DType::kF32);
  auto cpu = MakeBackend("cpu");
  const Outputs got = RunHead(*cpu, c, DType::kF32, values, true);
  const Outputs want = RunHead(*MakeBackend("reference"), c, DType::kF32, values, true);
  ExpectRounded(got[0], Widen(want[0]), DType::kF32, 2e-5);
  ExpectRounded(got[1], Widen(want[1]), DType::kF32, 2e-5);
  ExpectRounded(got[2], Widen(want[2]), DType::kF32, 2e-5);
}

TEST(LmHeadCpu, BitsDoNotDependOnThreads) {
  for (const Case& c : {Case{300, 48, 257}, Case{140, 16, 9000}}) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      const Values values = MakeValues(c, dtype);
      ExpectThreadInvariant(
          [&](Backend& backend) { return RunHead(backend, c, dtype, values, true); });
    }
  }
}

}  // namespace
}  // namespace nibble::kernels
