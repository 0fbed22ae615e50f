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

// Options of the objective.
struct Options {
  float softcap = 0;
  float z_loss = 0;
  bool row_scales = false;
};

struct Values {
  std::vector<float> x, weight, d_weight, row_scales;
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
  for (int64_t n = 0; n < c.rows; ++n)
    values.row_scales.push_back(0.25f * static_cast<float>(n % 7));
  return values;
}

constexpr float kLossScale = 0.25f;

// losses and log sum exp; with `backward` d_x and d_weight before that.
Outputs RunHead(Backend& backend, const Case& c, DType dtype, const Values& values, bool backward,
                const Options& options = {}) {
  Tensor x(backend, dtype, c.rows, c.features, values.x);
  Tensor weight(backend, dtype, c.vocabulary, c.features, values.weight);
  Tensor targets(backend, values.targets);
  Tensor losses(backend, DType::kF32, c.rows, 1);
  Tensor log_sum_exp(backend, DType::kF32, c.rows, 1);
  Tensor row_scales(backend, DType::kF32, c.rows, 1, values.row_scales);
  Tensor d_x(backend, dtype, c.rows, c.features);
  Tensor d_weight(backend, DType::kF32, c.vocabulary, c.features, values.d_weight);
  LmHeadArgs args{};
  args.x = x.matrix();
  args.weight = weight.operand();
  args.targets = targets.i32();
  args.losses = losses.f32();
  args.log_sum_exp = log_sum_exp.f32();
  args.logit_softcap = options.softcap;
  args.z_loss = options.z_loss;
  if (options.row_scales) args.row_scales = row_scales.f32();
  args.loss_scale = kLossScale;
  if (backward) {
    args.d_x = d_x.matrix();
    args.d_weight = d_weight.f32();
  }
  backend.LmHead(args);
  x.ExpectUnchanged();
  weight.ExpectUnchanged();
  targets.ExpectUnchanged();
  row_scales.ExpectUnchanged();
  if (backward) return {losses.Read(), d_x.Read(), d_weight.Read(), log_sum_exp.Read()};
  d_weight.ExpectUnchanged();
  return {losses.Read(), log_sum_exp.Read()};
}

struct HeadInFp64 {
  std::vector<double> losses, log_sum_exp;
};

HeadInFp64 InFp64(const Case& c, const std::vector<double>& x, const std::vector<double>& weight,
                  const std::vector<int32_t>& targets, double softcap = 0) {
  HeadInFp64 head;
  for (int64_t n = 0; n < c.rows; ++n) {
    std::vector<double> logits(c.vocabulary, 0.0);
    double max = -INFINITY;
    for (int64_t v = 0; v < c.vocabulary; ++v) {
      for (int64_t i = 0; i < c.features; ++i) {
        logits[v] += x[n * c.features + i] * weight[v * c.features + i];
      }
      if (softcap != 0) logits[v] = softcap * std::tanh(logits[v] / softcap);
      max = std::fmax(max, logits[v]);
    }
    double sum = 0;
    for (const double logit : logits) sum += std::exp(logit - max);
    const bool counts = targets[n] >= 0;
    head.log_sum_exp.push_back(counts ? max + std::log(sum) : 0);
    head.losses.push_back(counts ? max + std::log(sum) - logits[targets[n]] : 0);
  }
  return head;
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
    for (const float softcap : {0.0f, 5.0f, 30.0f}) {
      const HeadInFp64 want =
          InFp64(c, Widen(values.x), Widen(values.weight), values.targets, softcap);
      for (const bool backward : {false, true}) {
        // Of these options only the cap changes losses.
        const Options options{softcap, backward ? 1e-3f : 0, backward};
        const Outputs got = RunHead(*backend_, c, dtype_, values, backward, options);
        // Logits up to about 80, summed in FP32.
        ExpectRounded(got[0], want.losses, DType::kF32, 2e-5);
        ExpectRounded(got.back(), want.log_sum_exp, DType::kF32, 2e-5);
      }
    }
  }
}

// In FP32; how BF16 differs from it other tests say.
class LmHeadGradientTest : public ::testing::TestWithParam<const char*> {
 protected:
  static constexpr DType dtype_ = DType::kF32;
  std::unique_ptr<Backend> backend_ = MakeBackend(GetParam());
};

// Seen red without the one-hot term, without loss_scale, and with d_weight overwritten; without the
// cap's derivative, also at the target alone; with z_loss times z instead of twice that; with
// row_scales left out of the one-hot term.
TEST_P(LmHeadGradientTest, GradientIsThatOfFiniteDifferences) {
  const Options kinds[] = {{}, {0, 0.01f, false}, {3, 0, false}, {0, 0, true}, {3, 0.01f, true}};
  for (const Case& c : {Case{5, 7, 3}, Case{3, 18, 21}, Case{2, 3, 300}}) {
    const Values values = MakeValues(c, dtype_);
    for (const Options& options : kinds) {
      const auto loss = [&](const std::vector<double>& x, const std::vector<double>& weight) {
        const HeadInFp64 head = InFp64(c, x, weight, values.targets, options.softcap);
        double sum = 0;
        for (int64_t n = 0; n < c.rows; ++n) {
          const double term =
              head.losses[n] + options.z_loss * head.log_sum_exp[n] * head.log_sum_exp[n];
          sum += term * (options.row_scales ? values.row_scales[n] : 1);
        }
        return sum * kLossScale;
      };
      const auto d_x = NumericGradient([&](const auto& x) { return loss(x, Widen(values.weight)); },
                                       Widen(values.x));
      auto d_weight = NumericGradient([&](const auto& w) { return loss(Widen(values.x), w); },
                                      Widen(values.weight));
      for (size_t i = 0; i < d_weight.size(); ++i) d_weight[i] += values.d_weight[i];
      const Outputs got = RunHead(*backend_, c, dtype_, values, true, options);
      ExpectRounded(got[1], d_x, DType::kF32, 1e-5);
      ExpectRounded(got[2], d_weight, DType::kF32, 1e-5);
    }
  }
}

// Seen red with the maximum of the first block only.
TEST_P(LmHeadTest, HugeLogitsAreStable) {
  const Case c{40, 16, 600, 1000};  // logits of about +-10,000
  Values values = MakeValues(c, dtype_);
  const auto want = InFp64(c, Widen(values.x), Widen(values.weight), values.targets).losses;
  const Outputs got = RunHead(*backend_, c, dtype_, values, true);
  // The logits themselves are FP32 sums of sixteen terms: some 5e-3 at 10,000.
  ExpectRounded(got[0], want, DType::kF32, 0.02);
  for (const auto& output : got) {
    for (const float value : output) ASSERT_TRUE(std::isfinite(value));
  }
}

// Capped, they are all the same from afar.
TEST_P(LmHeadTest, HugeLogitsUnderACap) {
  const Case c{40, 16, 600, 1000};
  Values values = MakeValues(c, dtype_);
  const auto want = InFp64(c, Widen(values.x), Widen(values.weight), values.targets, 30).losses;
  const Outputs got = RunHead(*backend_, c, dtype_, values, true, {30, 1e-4f, true});
  ExpectRounded(got[0], want, DType::kF32, 2e-5);
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

INSTANTIATE_TEST_SUITE_P(Backends, LmHeadGradientTest, ::testing::ValuesIn(TestedBackends()));
INSTANTIATE_TEST_SUITE_P(Backends, LmHeadTest,
                         ::testing::Combine(::testing::ValuesIn(TestedBackends()),
                                            ::testing::Values(DType::kF32, DType::kBF16)));

TEST(LmHeadCpu, BackwardAgreesWithReference) {
  auto cpu = MakeBackend("cpu");
  auto reference = MakeBackend("reference");
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const Case& c : kCases) {
      const Values values = MakeValues(c, dtype);
      for (const Options& options : {Options{}, Options{10, 1e-3f, true}}) {
        const Outputs got = RunHead(*cpu, c, dtype, values, true, options);
        const Outputs want = RunHead(*reference, c, dtype, values, true, options);
        // In BF16 a gradient near a rounding boundary may fall to its other side: one part in 256
        // of a logit's gradient (at most loss_scale, times a row's 1.5) in a few of the terms.
        const double bound = dtype == DType::kBF16 ? 3 * kLossScale / 256 : 2e-5;
        ExpectAdjacent(got[1], want[1], dtype, bound);
        ExpectAdjacent(got[2], want[2], DType::kF32, bound);
      }
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
      ExpectThreadInvariant([&](Backend& backend) {
        return RunHead(backend, c, dtype, values, true, {10, 1e-3f, true});
      });
    }
  }
}

}  // namespace
}  // namespace nibble::kernels
