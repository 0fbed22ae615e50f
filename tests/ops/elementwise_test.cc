// Addition, casts, the norm, AdamW: bit for bit where the definition fixes every operation.
#include <cmath>
#include <cstring>
#include <tuple>

#include "gtest/gtest.h"
#include "tests/ops/operator_harness.h"

namespace nibble::kernels {
namespace {

constexpr int64_t kSizes[] = {1, 15, 16, 17, 1000, 70001};

class ElementwiseTest : public ::testing::TestWithParam<const char*> {
 protected:
  std::unique_ptr<Backend> backend_ = MakeBackend(GetParam());
};

TEST_P(ElementwiseTest, AddRoundsOnce) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int64_t size : kSizes) {
      Inputs inputs(1);
      const auto a = inputs.Normal(dtype, size);
      const auto b = inputs.Normal(dtype, size, 100);
      Tensor out(*backend_, dtype, 1, size, a);
      Tensor in(*backend_, dtype, 1, size, b);
      backend_->AddInPlace(out.matrix(), in.matrix());
      std::vector<float> want(size);
      for (int64_t i = 0; i < size; ++i) want[i] = RoundTo(dtype, a[i] + b[i]);
      ExpectSameBits(out.Read(), want);
      in.ExpectUnchanged();
    }
  }
}

// Ties, overflow to infinity, subnormals, NaN. Seen red with truncation, and with NaN's payload
// rounded up to infinity.
TEST_P(ElementwiseTest, CastIsNearestEven) {
  std::vector<float> values = Inputs(2).Normal(DType::kF32, 5000, 1000);
  for (const uint32_t bits :
       {0x3f808000u, 0x3f818000u, 0x3f808001u, 0x3f807fffu, 0x7f7fffffu, 0xff7fffffu, 0x7f7f7fffu,
        0x00000001u, 0x00008000u, 0x00018000u, 0x007fffffu, 0x80000000u, 0x7f800000u, 0xff800000u,
        0x7fc00000u, 0x7f800001u, 0x7fffffffu, 0xffffffffu}) {
    float value;
    std::memcpy(&value, &bits, 4);
    values.push_back(value);
  }
  const auto size = static_cast<int64_t>(values.size());
  std::vector<float> want;
  for (const float value : values) want.push_back(RoundTo(DType::kBF16, value));
  Tensor wide(*backend_, DType::kF32, 1, size, values);
  Tensor narrow(*backend_, DType::kBF16, 1, size);
  backend_->Cast(wide.matrix(), narrow.matrix());
  ExpectSameBits(narrow.Read(), want);
  wide.ExpectUnchanged();
  Tensor widened(*backend_, DType::kF32, 1, size);
  backend_->Cast(narrow.matrix(), widened.matrix());
  ExpectSameBits(widened.Read(), want);
  Tensor same(*backend_, DType::kBF16, 1, size);
  backend_->Cast(narrow.matrix(), same.matrix());
  ExpectSameBits(same.Read(), want);
}

float NormOf(Backend& backend, const std::vector<float>& values) {
  Tensor tensor(backend, DType::kF32, 1, static_cast<int64_t>(values.size()), values);
  Tensor norm(backend, DType::kF32, 1, 1);
  backend.Norm(tensor.f32(), static_cast<int64_t>(values.size()), norm.f32());
  tensor.ExpectUnchanged();
  return norm.Read()[0];
}

TEST_P(ElementwiseTest, NormIsThatOfFp64) {
  for (const int64_t size : {int64_t{1}, int64_t{17}, int64_t{1000}, int64_t{200003}}) {
    // The squares of the extremes do not fit FP32.
    for (const float scale : {1.0f, 1e-30f, 1e25f}) {
      const auto values = Inputs(3).Normal(DType::kF32, size, scale);
      long double sum = 0;
      for (const float value : values) sum += static_cast<long double>(value) * value;
      const auto want = static_cast<double>(std::sqrt(sum));
      // Sums in doubles, rounded once: at most one unit in the last place.
      ASSERT_NEAR(NormOf(*backend_, values), want, want * 0x1p-23);
    }
  }
}

TEST_P(ElementwiseTest, NormOfWhatIsNotFiniteIsNotFinite) {
  for (const int64_t at : {0, 17, 65536, 70000}) {
    auto values = Inputs(3).Normal(DType::kF32, 70001);
    values[at] = std::nanf("");
    EXPECT_TRUE(std::isnan(NormOf(*backend_, values)));
    values[at] = -INFINITY;
    EXPECT_FALSE(std::isfinite(NormOf(*backend_, values)));
  }
}

struct AdamWCase {
  int64_t size;
  float max_gradient_norm;
  bool bf16;
  int64_t step;
};

// parameters, moments, BF16 parameters.
Outputs RunAdamW(Backend& backend, const AdamWCase& c) {
  Inputs inputs(7);
  Tensor parameters(backend, DType::kF32, 1, c.size, inputs.Normal(DType::kF32, c.size));
  Tensor gradients(backend, DType::kF32, 1, c.size, inputs.Normal(DType::kF32, c.size, 3));
  Tensor first(backend, DType::kF32, 1, c.size, inputs.Normal(DType::kF32, c.size, 0.1f));
  auto squares = inputs.Normal(DType::kF32, c.size, 0.1f);
  for (float& value : squares) value *= value;
  Tensor second(backend, DType::kF32, 1, c.size, squares);
  Tensor copy(backend, DType::kBF16, 1, c.size);
  Tensor norm(backend, DType::kF32, 1, 1, {7.5f});
  AdamWArgs args{};
  args.size = c.size;
  args.parameters = parameters.f32();
  args.gradients = gradients.f32();
  args.first_moment = first.f32();
  args.second_moment = second.f32();
  args.bf16_parameters = c.bf16 ? copy.matrix().data : nullptr;
  args.gradient_norm = c.max_gradient_norm != 0 ? norm.f32() : nullptr;
  args.max_gradient_norm = c.max_gradient_norm;
  args.learning_rate = 3e-3f;
  args.beta1 = 0.9f;
  args.beta2 = 0.95f;
  args.epsilon = 1e-8f;
  args.weight_decay = 0.1f;
  args.step = c.step;
  backend.AdamW(args);
  gradients.ExpectUnchanged();
  norm.ExpectUnchanged();
  return {parameters.Read(), first.Read(), second.Read(), copy.Read()};
}

const AdamWCase kAdamWCases[] = {{1, 0, true, 1},
                                 {17, 1, true, 2},
                                 {1000, 100, false, 1},
                                 {40001, 1, true, 9},
                                 {16, 7.5f, true, 100000}};

TEST_P(ElementwiseTest, AdamWIsTheFormula) {
  for (const AdamWCase& c : kAdamWCases) {
    Inputs inputs(7);
    const auto p = inputs.Normal(DType::kF32, c.size);
    const auto g = inputs.Normal(DType::kF32, c.size, 3);
    const auto m = inputs.Normal(DType::kF32, c.size, 0.1f);
    const auto v = inputs.Normal(DType::kF32, c.size, 0.1f);
    const Outputs got = RunAdamW(*backend_, c);
    const double clip =
        c.max_gradient_norm != 0 ? std::fmin(1, c.max_gradient_norm / (7.5 + 1e-6)) : 1;
    const double beta1 = 0.9f, beta2 = 0.95f;
    for (int64_t i = 0; i < c.size; ++i) {
      const double gradient = g[i] * clip;
      const double first = beta1 * m[i] + (1 - beta1) * gradient;
      const double second = beta2 * (v[i] * v[i]) + (1 - beta2) * gradient * gradient;
      const auto t = static_cast<double>(c.step);
      const double want =
          p[i] - 3e-3f * (first / (1 - std::pow(beta1, t)) /
                              (std::sqrt(second / (1 - std::pow(beta2, t))) + 1e-8f) +
                          0.1f * p[i]);
      // A few roundings each.
      ASSERT_NEAR(got[1][i], first, 1e-6);
      ASSERT_NEAR(got[2][i], second, 1e-6 * (second + 1));
      ASSERT_NEAR(got[0][i], want, 1e-6);
      if (c.bf16) {
        ASSERT_EQ(got[3][i], RoundTo(DType::kBF16, got[0][i]));
      } else {
        ASSERT_TRUE(std::isnan(got[3][i]));
      }
    }
  }
}

TEST_P(ElementwiseTest, AdamWAgreesWithReferenceBitForBit) {
  for (const AdamWCase& c : kAdamWCases) {
    const Outputs got = RunAdamW(*backend_, c);
    const Outputs want = RunAdamW(*MakeBackend("reference"), c);
    for (size_t i = 0; i < got.size(); ++i) ExpectSameBits(got[i], want[i]);
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, ElementwiseTest, ::testing::ValuesIn(TestedBackends()));

TEST(ElementwiseCpu, BitsDoNotDependOnThreads) {
  const auto values = Inputs(8).Normal(DType::kF32, 1000003);
  ExpectThreadInvariant([&](Backend& backend) {
    Outputs outputs = RunAdamW(backend, {100003, 1, true, 3});
    outputs.push_back({NormOf(backend, values)});
    return outputs;
  });
}

}  // namespace
}  // namespace nibble::kernels
