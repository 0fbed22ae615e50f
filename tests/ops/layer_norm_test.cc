// Layer norm with the residual addition: against FP64, and its gradient against differences.
#include <cmath>
#include <tuple>

#include "gtest/gtest.h"
#include "tests/ops/operator_harness.h"

namespace nibble::kernels {
namespace {

struct Shape {
  int64_t rows, cols;
};
constexpr Shape kShapes[] = {{1, 16}, {3, 5}, {7, 48}, {65, 33}, {130, 100}, {200, 257}};
constexpr float kEpsilon = 1e-5f;

std::vector<double> NormInFp64(const std::vector<double>& input, const std::vector<double>& weight,
                               const std::vector<double>& bias) {
  const size_t cols = weight.size();
  std::vector<double> out(input.size());
  for (size_t n = 0; n < input.size() / cols; ++n) {
    double mean = 0, variance = 0;
    for (size_t c = 0; c < cols; ++c) mean += input[n * cols + c] / cols;
    for (size_t c = 0; c < cols; ++c) variance += std::pow(input[n * cols + c] - mean, 2) / cols;
    for (size_t c = 0; c < cols; ++c) {
      out[n * cols + c] =
          (input[n * cols + c] - mean) / std::sqrt(variance + kEpsilon) * weight[c] + bias[c];
    }
  }
  return out;
}

// Rows lie around 3: a variance taken as a difference of large numbers would show.
struct Values {
  std::vector<float> residual, delta, weight, bias, d_normed, d_input;
  Values(DType dtype, Shape shape) {
    Inputs inputs(static_cast<uint32_t>(shape.rows * 1000 + shape.cols));
    const int64_t size = shape.rows * shape.cols;
    residual = inputs.Normal(dtype, size, 2);
    for (float& value : residual) value = RoundTo(dtype, value + 3);
    delta = inputs.Normal(dtype, size, 0.5);
    weight = inputs.Normal(DType::kF32, shape.cols);
    bias = inputs.Normal(DType::kF32, shape.cols);
    d_normed = inputs.Normal(dtype, size);
    d_input = inputs.Normal(dtype, size);
  }
};

// residual_out, normed; then d_input, d_weight, d_bias, added to what `values` holds.
Outputs ForwardBackward(Backend& backend, DType dtype, Shape shape, const Values& values) {
  Tensor residual(backend, dtype, shape.rows, shape.cols, values.residual);
  Tensor delta(backend, dtype, shape.rows, shape.cols, values.delta);
  Tensor weight(backend, DType::kF32, 1, shape.cols, values.weight);
  Tensor bias(backend, DType::kF32, 1, shape.cols, values.bias);
  Tensor residual_out(backend, dtype, shape.rows, shape.cols);
  Tensor normed(backend, dtype, shape.rows, shape.cols);
  Tensor mean(backend, DType::kF32, shape.rows, 1), deviation(backend, DType::kF32, shape.rows, 1);
  backend.LayerNormForward({residual.matrix(), delta.matrix(), residual_out.matrix(), weight.f32(),
                            bias.f32(), normed.matrix(), mean.f32(), deviation.f32(), kEpsilon});
  Tensor d_normed(backend, dtype, shape.rows, shape.cols, values.d_normed);
  Tensor d_input(backend, dtype, shape.rows, shape.cols, values.d_input);
  Tensor d_weight(backend, DType::kF32, 1, shape.cols, values.bias);
  Tensor d_bias(backend, DType::kF32, 1, shape.cols, values.weight);
  backend.LayerNormBackward({d_normed.matrix(), residual_out.matrix(), weight.f32(), mean.f32(),
                             deviation.f32(), d_input.matrix(), d_weight.f32(), d_bias.f32()});
  for (const Tensor* input : {&residual, &delta, &weight, &bias, &d_normed}) {
    input->ExpectUnchanged();
  }
  return {residual_out.Read(), normed.Read(), d_input.Read(), d_weight.Read(), d_bias.Read()};
}

class LayerNormTest : public ::testing::TestWithParam<std::tuple<const char*, DType>> {
 protected:
  std::unique_ptr<Backend> backend_ = MakeBackend(std::get<0>(GetParam()));
  DType dtype_ = std::get<1>(GetParam());
};

TEST_P(LayerNormTest, ForwardIsFp64RoundedOnce) {
  for (const Shape& shape : kShapes) {
    const Values values(dtype_, shape);
    const Outputs got = ForwardBackward(*backend_, dtype_, shape, values);
    std::vector<float> sum = values.residual;
    for (size_t i = 0; i < sum.size(); ++i) sum[i] = RoundTo(dtype_, sum[i] + values.delta[i]);
    ExpectSameBits(got[0], sum);
    // A mean, a sum of squares and a root in FP32, on values up to about 15.
    ExpectRounded(got[1], NormInFp64(Widen(sum), Widen(values.weight), Widen(values.bias)), dtype_,
                  2e-5);
  }
}

// Without a delta the residual is normalised as it is, and may be residual_out too.
TEST_P(LayerNormTest, NothingIsAddedWithoutDelta) {
  constexpr Shape kShape = {7, 48};
  const Values values(dtype_, kShape);
  Tensor residual(*backend_, dtype_, kShape.rows, kShape.cols, values.residual);
  Tensor weight(*backend_, DType::kF32, 1, kShape.cols, values.weight);
  Tensor bias(*backend_, DType::kF32, 1, kShape.cols, values.bias);
  Tensor normed(*backend_, dtype_, kShape.rows, kShape.cols);
  Tensor mean(*backend_, DType::kF32, kShape.rows, 1);
  Tensor deviation(*backend_, DType::kF32, kShape.rows, 1);
  backend_->LayerNormForward({residual.matrix(), Matrix{}, residual.matrix(), weight.f32(),
                              bias.f32(), normed.matrix(), mean.f32(), deviation.f32(), kEpsilon});
  residual.ExpectUnchanged();
  ExpectRounded(normed.Read(),
                NormInFp64(Widen(values.residual), Widen(values.weight), Widen(values.bias)),
                dtype_, 2e-5);
}

// In FP32; how BF16 differs from it other tests say.
TEST(LayerNormGradient, IsThatOfFiniteDifferences) {
  constexpr Shape kSmall = {3, 21};
  for (const char* name : TestedBackends()) {
    const Values values(DType::kF32, kSmall);
    const Outputs got = ForwardBackward(*MakeBackend(name), DType::kF32, kSmall, values);
    const auto loss = [&](const std::vector<double>& x, const std::vector<double>& w,
                          const std::vector<double>& b) {
      const auto out = NormInFp64(x, w, b);
      double sum = 0;
      for (size_t i = 0; i < out.size(); ++i) sum += out[i] * values.d_normed[i];
      return sum;
    };
    const auto x = Widen(got[0]), w = Widen(values.weight), b = Widen(values.bias);
    auto d_input = NumericGradient([&](const auto& v) { return loss(v, w, b); }, x);
    auto d_weight = NumericGradient([&](const auto& v) { return loss(x, v, b); }, w);
    auto d_bias = NumericGradient([&](const auto& v) { return loss(x, w, v); }, b);
    for (size_t i = 0; i < d_input.size(); ++i) d_input[i] += values.d_input[i];
    for (size_t i = 0; i < w.size(); ++i) {
      d_weight[i] += values.bias[i];
      d_bias[i] += values.weight[i];
    }
    // FP32 sums over rows of 21 and over three rows.
    ExpectRounded(got[2], d_input, DType::kF32, 1e-5);
    ExpectRounded(got[3], d_weight, DType::kF32, 1e-5);
    ExpectRounded(got[4], d_bias, DType::kF32, 1e-5);
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, LayerNormTest,
                         ::testing::Combine(::testing::ValuesIn(TestedBackends()),
                                            ::testing::Values(DType::kF32, DType::kBF16)));

TEST(LayerNormCpu, AgreesWithReference) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const Shape& shape : kShapes) {
      const Values values(dtype, shape);
      const Outputs got = ForwardBackward(*MakeBackend("cpu"), dtype, shape, values);
      const Outputs want = ForwardBackward(*MakeBackend("reference"), dtype, shape, values);
      // FP32 sums over a row, or over the rows, of terms up to about 30.
      ExpectAdjacent(got[2], want[2], dtype, 1e-4);
      for (int i : {3, 4}) {
        ExpectAdjacent(got[i], want[i], DType::kF32, 2e-5 * static_cast<double>(shape.rows));
      }
    }
  }
}

TEST(LayerNormCpu, BitsDoNotDependOnThreads) {
  constexpr Shape kShape = {333, 100};
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    ExpectThreadInvariant([&](Backend& backend) {
      return ForwardBackward(backend, dtype, kShape, Values(dtype, kShape));
    });
  }
}

}  // namespace
}  // namespace nibble::kernels
