// The operators of a Mamba-2 layer against FP64 written plainly, gradients against differences.
#include <cmath>
#include <functional>

#include "gtest/gtest.h"
#include "tests/ops/operator_harness.h"

namespace nibble::kernels {
namespace {

using Vector = std::vector<double>;

// sequences, sequence_length, heads, head_size, groups, state_size, conv_width, chunk_size
constexpr MambaShape kSmall = {2, 7, 4, 3, 2, 5, 4, 3};
constexpr MambaShape kShapes[] = {
    {1, 1, 1, 1, 1, 1, 1, 1},     {2, 9, 2, 16, 1, 16, 4, 4},   {1, 33, 6, 5, 3, 7, 3, 16},
    {3, 70, 2, 20, 2, 40, 4, 64}, {2, 64, 4, 8, 4, 8, 2, 1000},
};

double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

// What the three operators read, as FP64 values of the chosen type.
struct Values {
  Vector projected, conv_weight, conv_bias, xbc, dt_bias, a_log, d, y, norm_weight;
  // Gradients of the three outputs.
  Vector d_conv, d_scan, d_norm;

  Values(DType dtype, const MambaShape& s) {
    Inputs inputs(static_cast<uint32_t>(s.tokens() * 31 + s.inner()));
    const auto normal = [&](int64_t size, float scale = 1) {
      return Widen(inputs.Normal(dtype, size, scale));
    };
    const auto parameters = [&](int64_t size, float scale = 1) {
      return Widen(inputs.Normal(DType::kF32, size, scale));
    };
    projected = normal(s.tokens() * s.projected_width());
    conv_weight = parameters(s.channels() * s.conv_width, 0.5);
    conv_bias = parameters(s.channels(), 0.5);
    xbc = normal(s.tokens() * s.channels());
    dt_bias = parameters(s.heads);
    a_log = parameters(s.heads);
    d = parameters(s.heads);
    y = normal(s.tokens() * s.inner());
    norm_weight = parameters(s.inner());
    d_conv = normal(s.tokens() * s.channels());
    d_scan = normal(s.tokens() * s.inner());
    d_norm = normal(s.tokens() * s.inner());
  }
};

Vector ConvInFp64(const MambaShape& s, const Values& v) {
  Vector out;
  for (int64_t n = 0; n < s.tokens(); ++n) {
    for (int64_t c = 0; c < s.channels(); ++c) {
      double pre = v.conv_bias[c];
      for (int64_t back = 0; back < s.conv_width && back <= n % s.sequence_length; ++back) {
        pre += v.conv_weight[c * s.conv_width + s.conv_width - 1 - back] *
               v.projected[(n - back) * s.projected_width() + s.inner() + c];
      }
      out.push_back(pre * Sigmoid(pre));
    }
  }
  return out;
}

// As attention: y_t = sum over j <= t of exp(-A (dt_{j+1} + ... + dt_t)) dt_j (C_t . B_j) x_j.
Vector ScanInFp64(const MambaShape& s, const Values& v) {
  Vector out(s.tokens() * s.inner());
  for (int64_t n = 0; n < s.tokens(); ++n) {
    const int64_t start = n / s.sequence_length * s.sequence_length;
    for (int64_t h = 0; h < s.heads; ++h) {
      const int64_t b = s.inner() + h / (s.heads / s.groups) * s.state_size;
      const int64_t c = b + s.groups * s.state_size;
      const auto dt = [&](int64_t t) {
        return std::log(
            1 + std::exp(v.projected[t * s.projected_width() + s.dt_column() + h] + v.dt_bias[h]));
      };
      double decay = 0;
      for (int64_t j = n; j >= start; --j) {
        double dot = 0;
        for (int64_t k = 0; k < s.state_size; ++k) {
          dot += v.xbc[n * s.channels() + c + k] * v.xbc[j * s.channels() + b + k];
        }
        for (int64_t i = 0; i < s.head_size; ++i) {
          const double x = v.xbc[j * s.channels() + h * s.head_size + i];
          double& y = out[n * s.inner() + h * s.head_size + i];
          y += std::exp(-std::exp(v.a_log[h]) * decay) * dt(j) * dot * x;
          if (j == n) y += v.d[h] * x;
        }
        decay += dt(j);
      }
    }
  }
  return out;
}

constexpr float kEpsilon = 1e-5f;

Vector GatedNormInFp64(const MambaShape& s, const Values& v) {
  Vector out;
  for (int64_t n = 0; n < s.tokens(); ++n) {
    Vector gated, squares(s.groups);
    for (int64_t c = 0; c < s.inner(); ++c) {
      const double z = v.projected[n * s.projected_width() + c];
      gated.push_back(v.y[n * s.inner() + c] * z * Sigmoid(z));
      squares[c / s.group_width()] += gated[c] * gated[c] / s.group_width();
    }
    for (int64_t c = 0; c < s.inner(); ++c) {
      out.push_back(gated[c] / std::sqrt(squares[c / s.group_width()] + kEpsilon) *
                    v.norm_weight[c]);
    }
  }
  return out;
}

std::vector<float> Narrow(const Vector& values) { return {values.begin(), values.end()}; }

// One run of all operators. Parameter gradients are added to the parameters themselves.
struct Results {
  std::vector<float> conv, scan, norm;
  std::vector<float> d_projected, d_xbc, d_y;
  std::vector<float> d_conv_weight, d_conv_bias, d_dt_bias, d_a_log, d_d, d_norm_weight;

  Results(Backend& backend, DType dtype, const MambaShape& s, const Values& v) {
    const auto activations = [&](int64_t cols, const Vector& values) {
      return Tensor(backend, dtype, s.tokens(), cols, Narrow(values));
    };
    const auto parameter = [&](const Vector& values) {
      return Tensor(backend, DType::kF32, 1, static_cast<int64_t>(values.size()), Narrow(values));
    };
    const Tensor projected = activations(s.projected_width(), v.projected);
    const Tensor xbc = activations(s.channels(), v.xbc), y = activations(s.inner(), v.y);
    const Tensor conv_weight = parameter(v.conv_weight), conv_bias = parameter(v.conv_bias),
                 dt_bias = parameter(v.dt_bias), a_log = parameter(v.a_log), d = parameter(v.d),
                 norm_weight = parameter(v.norm_weight);
    Tensor conv_out(backend, dtype, s.tokens(), s.channels());
    Tensor scan_out(backend, dtype, s.tokens(), s.inner());
    Tensor norm_out(backend, dtype, s.tokens(), s.inner());
    Tensor reciprocal(backend, DType::kF32, s.tokens(), s.groups);
    backend.CausalConvForward(
        {s, projected.matrix(), conv_weight.f32(), conv_bias.f32(), conv_out.matrix()});
    backend.ScanForward({s, xbc.matrix(), projected.matrix(), dt_bias.f32(), a_log.f32(), d.f32(),
                         scan_out.matrix()});
    backend.GatedNormForward({s, y.matrix(), projected.matrix(), norm_weight.f32(),
                              norm_out.matrix(), reciprocal.f32(), kEpsilon});

    const Tensor d_conv = activations(s.channels(), v.d_conv),
                 d_scan = activations(s.inner(), v.d_scan),
                 d_norm = activations(s.inner(), v.d_norm);
    Tensor d_projected_out(backend, dtype, s.tokens(), s.projected_width());
    Tensor d_xbc_out(backend, dtype, s.tokens(), s.channels());
    Tensor d_y_out(backend, dtype, s.tokens(), s.inner());
    const Tensor d_weight = parameter(v.conv_weight), d_bias = parameter(v.conv_bias),
                 d_dt = parameter(v.dt_bias), d_a = parameter(v.a_log), d_skip = parameter(v.d),
                 d_scale = parameter(v.norm_weight);
    backend.CausalConvBackward({s, d_conv.matrix(), projected.matrix(), conv_weight.f32(),
                                conv_bias.f32(), d_projected_out.matrix(), d_weight.f32(),
                                d_bias.f32()});
    backend.ScanBackward({s, d_scan.matrix(), xbc.matrix(), projected.matrix(), dt_bias.f32(),
                          a_log.f32(), d.f32(), d_xbc_out.matrix(), d_projected_out.matrix(),
                          d_dt.f32(), d_a.f32(), d_skip.f32()});
    backend.GatedNormBackward({s, d_norm.matrix(), y.matrix(), projected.matrix(),
                               norm_weight.f32(), reciprocal.f32(), d_y_out.matrix(),
                               d_projected_out.matrix(), d_scale.f32()});
    for (const Tensor* input : {&projected, &xbc, &y, &conv_weight, &conv_bias, &dt_bias, &a_log,
                                &d, &norm_weight, &d_conv, &d_scan, &d_norm}) {
      input->ExpectUnchanged();
    }
    conv = conv_out.Read(), scan = scan_out.Read(), norm = norm_out.Read();
    d_projected = d_projected_out.Read(), d_xbc = d_xbc_out.Read(), d_y = d_y_out.Read();
    d_conv_weight = d_weight.Read(), d_conv_bias = d_bias.Read(), d_dt_bias = d_dt.Read();
    d_a_log = d_a.Read(), d_d = d_skip.Read(), d_norm_weight = d_scale.Read();
  }
  Outputs all() const {
    return {conv,          scan,        norm,      d_projected, d_xbc, d_y,
            d_conv_weight, d_conv_bias, d_dt_bias, d_a_log,     d_d,   d_norm_weight};
  }
};

TEST(Mamba, ForwardIsFp64RoundedOnce) {
  for (const char* name : TestedBackends()) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      for (const MambaShape& shape : kShapes) {
        const Values values(dtype, shape);
        const Results got(*MakeBackend(name), dtype, shape, values);
        // FP32 sums: of the convolution at most four terms; of the scan up to seventy tokens, each
        // a product of forty terms, times gates up to about 30; of a group's squares.
        ExpectRounded(got.conv, ConvInFp64(shape, values), dtype, 5e-6);
        ExpectRounded(got.scan, ScanInFp64(shape, values), dtype, 3e-4);
        ExpectRounded(got.norm, GatedNormInFp64(shape, values), dtype, 2e-5);
      }
    }
  }
}

using Formula = Vector (*)(const MambaShape&, const Values&);

// Of sum(formula * d_out), with respect to one of the inputs.
Vector Differences(Formula formula, const Vector& d_out, Vector Values::*input, bool add_input) {
  const Values values(DType::kF32, kSmall);
  Vector gradient = NumericGradient(
      [&](const Vector& x) {
        Values moved = values;
        moved.*input = x;
        const Vector out = formula(kSmall, moved);
        double sum = 0;
        for (size_t i = 0; i < out.size(); ++i) sum += out[i] * d_out[i];
        return sum;
      },
      values.*input);
  for (size_t i = 0; add_input && i < gradient.size(); ++i) gradient[i] += (values.*input)[i];
  return gradient;
}

// FP32 sums over fourteen tokens and five columns of state.
TEST(Mamba, GradientsAreThoseOfFiniteDifferences) {
  constexpr double kBound = 2e-5;
  const Values v(DType::kF32, kSmall);
  // Every column of the in-projection goes to one operator.
  Vector d_projected = Differences(ConvInFp64, v.d_conv, &Values::projected, false);
  for (const auto& [formula, d_out] : {std::pair<Formula, Vector>{ScanInFp64, v.d_scan},
                                       std::pair<Formula, Vector>{GatedNormInFp64, v.d_norm}}) {
    const Vector part = Differences(formula, d_out, &Values::projected, false);
    for (size_t i = 0; i < part.size(); ++i) d_projected[i] += part[i];
  }
  const auto conv = [&](Vector Values::*input) {
    return Differences(ConvInFp64, v.d_conv, input, /*add_input=*/true);
  };
  const auto scan = [&](Vector Values::*input, bool parameter) {
    return Differences(ScanInFp64, v.d_scan, input, parameter);
  };
  for (const char* name : TestedBackends()) {
    const Results got(*MakeBackend(name), DType::kF32, kSmall, v);
    ExpectRounded(got.d_projected, d_projected, DType::kF32, kBound);
    ExpectRounded(got.d_conv_weight, conv(&Values::conv_weight), DType::kF32, kBound);
    ExpectRounded(got.d_conv_bias, conv(&Values::conv_bias), DType::kF32, kBound);
    ExpectRounded(got.d_xbc, scan(&Values::xbc, false), DType::kF32, kBound);
    ExpectRounded(got.d_dt_bias, scan(&Values::dt_bias, true), DType::kF32, kBound);
    ExpectRounded(got.d_a_log, scan(&Values::a_log, true), DType::kF32, kBound);
    ExpectRounded(got.d_d, scan(&Values::d, true), DType::kF32, kBound);
    ExpectRounded(got.d_y, Differences(GatedNormInFp64, v.d_norm, &Values::y, false), DType::kF32,
                  kBound);
    ExpectRounded(got.d_norm_weight,
                  Differences(GatedNormInFp64, v.d_norm, &Values::norm_weight, true), DType::kF32,
                  kBound);
  }
}

double Largest(const std::vector<float>& values) {
  double largest = 0;
  for (const float value : values) largest = std::fmax(largest, std::fabs(value));
  return largest;
}

// Other shapes and BF16: the reference's gradients are those of the differences above.
TEST(Mamba, CpuAgreesWithReference) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const MambaShape& shape : kShapes) {
      const Values values(dtype, shape);
      const Outputs got = Results(*MakeBackend("cpu"), dtype, shape, values).all();
      const Outputs want = Results(*MakeBackend("reference"), dtype, shape, values).all();
      for (size_t i = 0; i < want.size(); ++i) {
        SCOPED_TRACE(testing::Message() << "output " << i << " of " << shape.sequence_length);
        // FP32 sums over a sequence, relative to the largest value.
        ExpectAdjacent(got[i], want[i], dtype, 1e-5 * (1 + Largest(want[i])));
      }
    }
  }
}

TEST(Mamba, ChunksChangeTheRoundingOnly) {
  MambaShape shape = {2, 70, 4, 8, 2, 16, 4, 1};
  const Values values(DType::kF32, shape);
  auto backend = MakeBackend("cpu");
  const Outputs want = Results(*backend, DType::kF32, shape, values).all();
  for (const int64_t chunk_size : {2, 16, 69, 70, 128}) {
    shape.chunk_size = chunk_size;
    const Outputs got = Results(*backend, DType::kF32, shape, values).all();
    for (size_t i = 0; i < want.size(); ++i) {
      ExpectAdjacent(got[i], want[i], DType::kF32, 1e-5 * (1 + Largest(want[i])));
    }
  }
}

// A long gap: every state has decayed to nothing, exponents are far below FP32's range.
TEST(Mamba, FastDecayIsHarmless) {
  const MambaShape shape = {1, 40, 2, 4, 1, 4, 4, 16};
  Values values(DType::kF32, shape);
  values.a_log = {6, -6};
  values.dt_bias = {4, -100};
  for (const char* name : TestedBackends()) {
    const Results got(*MakeBackend(name), DType::kF32, shape, values);
    ExpectRounded(got.scan, ScanInFp64(shape, values), DType::kF32, 1e-4);
    for (const std::vector<float>& output : got.all()) {
      for (const float value : output) ASSERT_TRUE(std::isfinite(value));
    }
  }
}

TEST(Mamba, BitsDoNotDependOnThreads) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const MambaShape shape = {3, 70, 6, 20, 3, 10, 4, 16};
    const Values values(dtype, shape);
    ExpectThreadInvariant(
        [&](Backend& backend) { return Results(backend, dtype, shape, values).all(); });
  }
}

}  // namespace
}  // namespace nibble::kernels
