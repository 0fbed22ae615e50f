// RMS norm with the residual addition: against FP64, and its gradient against differences.
#include <cmath>
#include <tuple>

#include "gtest/gtest.h"
#include "tests/ops/operator_harness.h"

namespace nibble::kernels {
namespace {

struct Shape {
  int64_t rows, cols;
};
constexpr Shape kShapes[] = {{1, 1}, {1, 16}, {3, 5}, {7, 48}, {65, 33}, {130, 100}, {200, 257}};
constexpr float kEpsilon = 1e-5f;

std::vector<double> NormInFp64(const std::vector<double>& input,
                               const std::vector<double>& weight) {
  const size_t cols = weight.size();
  std::vector<double> out(input.size());
  for (size_t n = 0; n < input.size() / cols; ++n) {
    double mean = 0;
    for (size_t c = 0; c < cols; ++c) mean += input[n * cols + c] * input[n * cols + c] / cols;
    for (size_t c = 0; c < cols; ++c) {
      out[n * cols + c] = input[n * cols + c] / std::sqrt(mean + kEpsilon) * weight[c];
    }
  }
  return out;
}

enum class Form { kPlain, kWithDelta, kInPlace };

// residual_out (or residual), normed, reciprocal_rms.
Outputs Forward(Backend& backend, DType dtype, Shape shape, Form form) {
  Inputs inputs(static_cast<uint32_t>(shape.rows * 1000 + shape.cols));
  const int64_t size = shape.rows * shape.cols;
  Tensor residual(backend, dtype, shape.rows, shape.cols, inputs.Normal(dtype, size, 2));
  Tensor delta(backend, dtype, shape.rows, shape.cols, inputs.Normal(dtype, size, 0.5));
  Tensor weight(backend, DType::kF32, 1, shape.cols, inputs.Normal(DType::kF32, shape.cols));
  Tensor residual_out(backend, dtype, shape.rows, shape.cols);
  Tensor normed(backend, dtype, shape.rows, shape.cols);
  Tensor reciprocal(backend, DType::kF32, shape.rows, 1);
  RmsNormArgs args{};
  args.residual = residual.matrix();
  if (form != Form::kPlain) {
    args.delta = delta.matrix();
    args.residual_out = form == Form::kInPlace ? residual.matrix() : residual_out.matrix();
  }
  args.weight = weight.f32();
  args.normed = normed.matrix();
  args.reciprocal_rms = reciprocal.f32();
  args.epsilon = kEpsilon;
  backend.RmsNormForward(args);
  if (form != Form::kInPlace) residual.ExpectUnchanged();
  delta.ExpectUnchanged();
  weight.ExpectUnchanged();
  return {form == Form::kWithDelta ? residual_out.Read() : residual.Read(), normed.Read(),
          reciprocal.Read()};
}

// d_input, d_weight.
Outputs Backward(Backend& backend, DType dtype, Shape shape, DType values = DType::kBF16) {
  Inputs inputs(static_cast<uint32_t>(shape.rows * 999 + shape.cols));
  const int64_t size = shape.rows * shape.cols;
  Tensor d_normed(backend, dtype, shape.rows, shape.cols, inputs.Normal(values, size));
  Tensor input(backend, dtype, shape.rows, shape.cols, inputs.Normal(values, size, 2));
  Tensor weight(backend, DType::kF32, 1, shape.cols, inputs.Normal(DType::kF32, shape.cols));
  Tensor reciprocal(backend, DType::kF32, shape.rows, 1,
                    inputs.Normal(DType::kF32, shape.rows, 0.5));
  Tensor d_input(backend, dtype, shape.rows, shape.cols, inputs.Normal(values, size));
  Tensor d_weight(backend, DType::kF32, 1, shape.cols, inputs.Normal(DType::kF32, shape.cols));
  backend.RmsNormBackward({d_normed.matrix(), input.matrix(), weight.f32(), reciprocal.f32(),
                           d_input.matrix(), d_weight.f32()});
  d_normed.ExpectUnchanged();
  input.ExpectUnchanged();
  weight.ExpectUnchanged();
  reciprocal.ExpectUnchanged();
  return {d_input.Read(), d_weight.Read()};
}

class RmsNormTest : public ::testing::TestWithParam<std::tuple<const char*, DType>> {
 protected:
  std::unique_ptr<Backend> backend_ = MakeBackend(std::get<0>(GetParam()));
  DType dtype_ = std::get<1>(GetParam());
};

TEST_P(RmsNormTest, ForwardIsFp64RoundedOnce) {
  for (const Shape& shape : kShapes) {
    Inputs inputs(static_cast<uint32_t>(shape.rows * 1000 + shape.cols));
    const int64_t size = shape.rows * shape.cols;
    const auto residual = inputs.Normal(dtype_, size, 2);
    const auto delta = inputs.Normal(dtype_, size, 0.5);
    const auto weight = inputs.Normal(DType::kF32, shape.cols);
    for (const Form form : {Form::kPlain, Form::kWithDelta, Form::kInPlace}) {
      std::vector<float> sum = residual;
      for (int64_t i = 0; form != Form::kPlain && i < size; ++i) {
        sum[i] = RoundTo(dtype_, residual[i] + delta[i]);
      }
      const Outputs got = Forward(*backend_, dtype_, shape, form);
      ExpectSameBits(got[0], sum);
      // In FP32: a sum of squares in fixed order, a root, two products: a few units in the last
      // place of values up to about 40.
      ExpectRounded(got[1], NormInFp64(Widen(sum), Widen(weight)), dtype_, 2e-5);
      for (int64_t n = 0; n < shape.rows; ++n) {
        double mean = 0;
        for (int64_t c = 0; c < shape.cols; ++c) {
          mean += double{sum[n * shape.cols + c]} * sum[n * shape.cols + c];
        }
        const double want = 1 / std::sqrt(mean / static_cast<double>(shape.cols) + kEpsilon);
        ASSERT_NEAR(got[2][n], want, 1e-6 * want);
      }
    }
  }
}

// In FP32; how BF16 differs from it other tests say.
class RmsNormGradientTest : public ::testing::TestWithParam<const char*> {
 protected:
  std::unique_ptr<Backend> backend_ = MakeBackend(GetParam());
};

// Seen red without the second term of dx, and with d_weight overwritten.
TEST_P(RmsNormGradientTest, GradientIsThatOfFiniteDifferences) {
  constexpr Shape kSmall = {3, 21};
  Inputs inputs(5);
  const auto input = inputs.Normal(DType::kF32, 63, 2);
  const auto weight = inputs.Normal(DType::kF32, 21);
  const auto d_normed = inputs.Normal(DType::kF32, 63);
  const auto d_input_before = inputs.Normal(DType::kF32, 63);
  const auto d_weight_before = inputs.Normal(DType::kF32, 21);
  const auto loss = [&](const std::vector<double>& x, const std::vector<double>& w) {
    const auto out = NormInFp64(x, w);
    double sum = 0;
    for (size_t i = 0; i < out.size(); ++i) sum += out[i] * d_normed[i];
    return sum;
  };
  auto d_input =
      NumericGradient([&](const auto& x) { return loss(x, Widen(weight)); }, Widen(input));
  auto d_weight =
      NumericGradient([&](const auto& w) { return loss(Widen(input), w); }, Widen(weight));
  for (size_t i = 0; i < d_input.size(); ++i) d_input[i] += d_input_before[i];
  for (size_t i = 0; i < d_weight.size(); ++i) d_weight[i] += d_weight_before[i];

  Tensor input_tensor(*backend_, DType::kF32, kSmall.rows, kSmall.cols, input);
  Tensor weight_tensor(*backend_, DType::kF32, 1, kSmall.cols, weight);
  Tensor normed(*backend_, DType::kF32, kSmall.rows, kSmall.cols);
  Tensor reciprocal(*backend_, DType::kF32, kSmall.rows, 1);
  RmsNormArgs forward{};
  forward.residual = input_tensor.matrix();
  forward.weight = weight_tensor.f32();
  forward.normed = normed.matrix();
  forward.reciprocal_rms = reciprocal.f32();
  forward.epsilon = kEpsilon;
  backend_->RmsNormForward(forward);
  Tensor d_normed_tensor(*backend_, DType::kF32, kSmall.rows, kSmall.cols, d_normed);
  Tensor d_input_tensor(*backend_, DType::kF32, kSmall.rows, kSmall.cols, d_input_before);
  Tensor d_weight_tensor(*backend_, DType::kF32, 1, kSmall.cols, d_weight_before);
  backend_->RmsNormBackward({d_normed_tensor.matrix(), input_tensor.matrix(), weight_tensor.f32(),
                             reciprocal.f32(), d_input_tensor.matrix(), d_weight_tensor.f32()});
  ExpectRounded(d_input_tensor.Read(), d_input, DType::kF32, 5e-6);
  ExpectRounded(d_weight_tensor.Read(), d_weight, DType::kF32, 5e-6);
}

INSTANTIATE_TEST_SUITE_P(Backends, RmsNormGradientTest, ::testing::ValuesIn(TestedBackends()));
INSTANTIATE_TEST_SUITE_P(Backends, RmsNormTest,
                         ::testing::Combine(::testing::ValuesIn(TestedBackends()),
                                            ::testing::Values(DType::kF32, DType::kBF16)));

// The reference computes in doubles whatever the type, so BF16 results are FP32 results rounded.
TEST(RmsNormReference, RoundsOnceToBf16) {
  auto backend = MakeBackend("reference");
  const Outputs narrow = Backward(*backend, DType::kBF16, {65, 33});
  Outputs wide = Backward(*backend, DType::kF32, {65, 33});
  for (float& value : wide[0]) value = RoundTo(DType::kBF16, value);
  ExpectSameBits(narrow[0], wide[0]);
  ExpectSameBits(narrow[1], wide[1]);
}

TEST(RmsNormCpu, BackwardAgreesWithReference) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const Shape& shape : kShapes) {
      const Outputs got = Backward(*MakeBackend("cpu"), dtype, shape);
      const Outputs want = Backward(*MakeBackend("reference"), dtype, shape);
      // FP32 sums over a row of terms up to about 30.
      ExpectAdjacent(got[0], want[0], dtype, 1e-4);
      ExpectAdjacent(got[1], want[1], DType::kF32, 2e-5 * static_cast<double>(shape.rows));
    }
  }
}

TEST(RmsNormCpu, BitsDoNotDependOnThreads) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    ExpectThreadInvariant([&](Backend& backend) {
      return Forward(backend, dtype, {333, 100}, Form::kWithDelta);
    });
    ExpectThreadInvariant([&](Backend& backend) { return Backward(backend, dtype, {333, 100}); });
  }
}

}  // namespace
}  // namespace nibble::kernels
