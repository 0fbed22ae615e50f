// Rotary embedding and causal grouped-query attention: against FP64 written plainly, gradients
// against differences, the mask, and independence of blocks and threads.
#include <cmath>
#include <tuple>

#include "gtest/gtest.h"
#include "tests/ops/operator_harness.h"

namespace nibble::kernels {
namespace {

AttentionShape Shape(int64_t sequences, int64_t length, int64_t heads, int64_t kv_heads,
                     int64_t head_size) {
  AttentionShape shape;
  shape.sequences = sequences;
  shape.sequence_length = length;
  shape.heads = heads;
  shape.kv_heads = kv_heads;
  shape.head_size = head_size;
  return shape;
}

// Around vectors, blocks of 64 queries and of 256 keys.
std::vector<AttentionShape> Shapes() {
  return {Shape(1, 1, 1, 1, 2),   Shape(2, 3, 2, 1, 4),     Shape(1, 17, 4, 2, 8),
          Shape(2, 33, 6, 2, 10), Shape(1, 70, 4, 4, 16),   Shape(1, 130, 3, 1, 24),
          Shape(1, 64, 2, 2, 64), Shape(1, 200, 2, 1, 128), Shape(1, 600, 2, 1, 8)};
}

struct Attended {
  std::vector<double> out;
  std::vector<double> log_sum_exp;
};

// The definition, over all keys with an explicit mask.
Attended AttendInFp64(const AttentionShape& s, const std::vector<double>& qkv) {
  Attended result;
  result.out.assign(s.tokens() * s.heads * s.head_size, 0.0);
  const auto at = [&](int64_t sequence, int64_t t, int64_t section_head, int64_t i) {
    return qkv[(sequence * s.sequence_length + t) * s.qkv_width() + section_head * s.head_size + i];
  };
  for (int64_t b = 0; b < s.sequences; ++b) {
    for (int64_t h = 0; h < s.heads; ++h) {
      const int64_t key_head = s.heads + h * s.kv_heads / s.heads;
      for (int64_t t = 0; t < s.sequence_length; ++t) {
        std::vector<double> weights(s.sequence_length, 0.0);
        double total = 0;
        for (int64_t j = 0; j < s.sequence_length; ++j) {
          if (j > t) continue;
          double dot = 0;
          for (int64_t i = 0; i < s.head_size; ++i) dot += at(b, t, h, i) * at(b, j, key_head, i);
          weights[j] = std::exp(dot / std::sqrt(static_cast<double>(s.head_size)));
          total += weights[j];
        }
        result.log_sum_exp.push_back(std::log(total));
        for (int64_t i = 0; i < s.head_size; ++i) {
          double sum = 0;
          for (int64_t j = 0; j < s.sequence_length; ++j) {
            sum += weights[j] / total * at(b, j, key_head + s.kv_heads, i);
          }
          result.out[((b * s.sequence_length + t) * s.heads + h) * s.head_size + i] = sum;
        }
      }
    }
  }
  return result;
}

std::vector<float> Qkv(const AttentionShape& shape, DType dtype) {
  return Inputs(static_cast<uint32_t>(shape.tokens() * 100 + shape.head_size))
      .Normal(dtype, shape.tokens() * shape.qkv_width());
}

// out, log_sum_exp.
Outputs Forward(Backend& backend, const AttentionShape& shape, DType dtype,
                const std::vector<float>& qkv) {
  Tensor qkv_tensor(backend, dtype, shape.tokens(), shape.qkv_width(), qkv);
  Tensor out(backend, dtype, shape.tokens(), shape.heads * shape.head_size);
  Tensor log_sum_exp(backend, DType::kF32, shape.sequences * shape.heads, shape.sequence_length);
  backend.AttentionForward({shape, qkv_tensor.matrix(), out.matrix(), log_sum_exp.f32()});
  qkv_tensor.ExpectUnchanged();
  return {out.Read(), log_sum_exp.Read()};
}

// d_qkv, from d_out and what the same backend's forward has left.
Outputs Backward(Backend& backend, const AttentionShape& shape, DType dtype,
                 const std::vector<float>& qkv, const std::vector<float>& d_out,
                 const Outputs& forward) {
  const int64_t width = shape.heads * shape.head_size;
  Tensor qkv_tensor(backend, dtype, shape.tokens(), shape.qkv_width(), qkv);
  Tensor d_out_tensor(backend, dtype, shape.tokens(), width, d_out);
  Tensor out(backend, dtype, shape.tokens(), width, forward[0]);
  Tensor log_sum_exp(backend, DType::kF32, shape.sequences * shape.heads, shape.sequence_length,
                     forward[1]);
  Tensor d_qkv(backend, dtype, shape.tokens(), shape.qkv_width());
  backend.AttentionBackward({shape, d_out_tensor.matrix(), qkv_tensor.matrix(), out.matrix(),
                             log_sum_exp.f32(), d_qkv.matrix()});
  qkv_tensor.ExpectUnchanged();
  d_out_tensor.ExpectUnchanged();
  out.ExpectUnchanged();
  log_sum_exp.ExpectUnchanged();
  return {d_qkv.Read()};
}

class AttentionTest : public ::testing::TestWithParam<std::tuple<const char*, DType>> {
 protected:
  // Scores up to about 5 in FP32 with an error of some 1e-6 turn into relative errors of
  // probabilities; values are up to about 4. Tensor cores take probabilities rounded to BF16: each
  // is off by 2^-9 of itself at most, and they sum to 1.
  double OutputBound() const {
    return 1e-5 + (backend_->name() == "cuda" && dtype_ == DType::kBF16 ? 4 * 0x1p-9 : 0);
  }
  std::unique_ptr<Backend> backend_ = MakeBackend(std::get<0>(GetParam()));
  DType dtype_ = std::get<1>(GetParam());
};

// Seen red with the mask one column too wide, with query heads h % kv_heads, and with the running
// sum not rescaled from one block of keys to the next.
TEST_P(AttentionTest, ForwardIsFp64RoundedOnce) {
  for (const AttentionShape& shape : Shapes()) {
    const auto qkv = Qkv(shape, dtype_);
    const Attended want = AttendInFp64(shape, Widen(qkv));
    const Outputs got = Forward(*backend_, shape, dtype_, qkv);
    ExpectRounded(got[0], want.out, dtype_, OutputBound());
    ExpectRounded(got[1], want.log_sum_exp, DType::kF32, 5e-6);
  }
}

// A cache of keys: the last queries alone get what a call for all of them gets.
TEST_P(AttentionTest, LaterQueriesAloneAreThoseOfAWholePass) {
  for (const AttentionShape& shape : Shapes()) {
    const auto qkv = Qkv(shape, dtype_);
    const Attended want = AttendInFp64(shape, Widen(qkv));
    const int64_t width = shape.heads * shape.head_size, length = shape.sequence_length;
    for (const int64_t first : {int64_t{1}, length / 2, length - 60, length - 1}) {
      if (first < 1) continue;
      const int64_t queries = length - first;
      Tensor qkv_tensor(*backend_, dtype_, shape.tokens(), shape.qkv_width(), qkv);
      Tensor out(*backend_, dtype_, shape.sequences * queries, width);
      Tensor log_sum_exp(*backend_, DType::kF32, shape.sequences * shape.heads, queries);
      backend_->AttentionForward(
          {shape, qkv_tensor.matrix(), out.matrix(), log_sum_exp.f32(), first});
      std::vector<double> rows, sums;
      for (int64_t s = 0; s < shape.sequences; ++s) {
        const auto begin = want.out.begin() + s * length * width;
        rows.insert(rows.end(), begin + first * width, begin + length * width);
        for (int64_t h = 0; h < shape.heads; ++h) {
          const auto of_head = want.log_sum_exp.begin() + (s * shape.heads + h) * length;
          sums.insert(sums.end(), of_head + first, of_head + length);
        }
      }
      ExpectRounded(out.Read(), rows, dtype_, OutputBound());
      ExpectRounded(log_sum_exp.Read(), sums, DType::kF32, 5e-6);
    }
  }
}

// In FP32; how BF16 differs from it other tests say.
class AttentionGradientTest : public ::testing::TestWithParam<const char*> {
 protected:
  static constexpr DType dtype_ = DType::kF32;
  std::unique_ptr<Backend> backend_ = MakeBackend(GetParam());
};

// Seen red with dk of the last head of a group only, and without delta.
TEST_P(AttentionGradientTest, GradientIsThatOfFiniteDifferences) {
  for (const AttentionShape& shape :
       {Shape(1, 1, 1, 1, 2), Shape(2, 5, 4, 2, 6), Shape(1, 18, 2, 1, 4), Shape(1, 7, 1, 1, 16)}) {
    const auto qkv = Qkv(shape, dtype_);
    const auto d_out = Inputs(9).Normal(dtype_, shape.tokens() * shape.heads * shape.head_size);
    const auto want = NumericGradient(
        [&](const std::vector<double>& x) {
          const Attended attended = AttendInFp64(shape, x);
          double sum = 0;
          for (size_t i = 0; i < d_out.size(); ++i) sum += attended.out[i] * d_out[i];
          return sum;
        },
        Widen(qkv));
    const Outputs forward = Forward(*backend_, shape, dtype_, qkv);
    const Outputs got = Backward(*backend_, shape, dtype_, qkv, d_out, forward);
    ExpectRounded(got[0], want, DType::kF32, 1e-5);
  }
}

// Bits before a changed token stay what they were.
TEST_P(AttentionTest, TheFutureIsMasked) {
  const AttentionShape shape = Shape(1, 150, 2, 1, 32);
  auto qkv = Qkv(shape, dtype_);
  const Outputs before = Forward(*backend_, shape, dtype_, qkv);
  for (const int64_t changed : {149, 128, 65, 64, 1}) {
    auto other = qkv;
    for (int64_t i = changed * shape.qkv_width(); i < static_cast<int64_t>(other.size()); ++i) {
      other[i] = RoundTo(dtype_, 100 - other[i]);
    }
    const Outputs after = Forward(*backend_, shape, dtype_, other);
    const int64_t width = shape.heads * shape.head_size;
    ExpectSameBits({after[0].begin(), after[0].begin() + changed * width},
                   {before[0].begin(), before[0].begin() + changed * width});
    ASSERT_NE(after[0][changed * width], before[0][changed * width]);
  }
}

// Scores of +-10,000 neither overflow nor leave NaN: each row then attends to its largest score.
TEST_P(AttentionTest, LargeScoresAreStable) {
  const AttentionShape shape = Shape(1, 90, 1, 1, 16);
  auto qkv = Qkv(shape, dtype_);
  for (float& value : qkv) value = RoundTo(dtype_, value * 100);
  const Outputs forward = Forward(*backend_, shape, dtype_, qkv);
  const auto d_out = Inputs(9).Normal(dtype_, shape.tokens() * 16);
  const Outputs backward = Backward(*backend_, shape, dtype_, qkv, d_out, forward);
  for (const float value : forward[0]) ASSERT_TRUE(std::isfinite(value));
  for (const float value : forward[1]) ASSERT_TRUE(std::isfinite(value));
  for (const float value : backward[0]) ASSERT_TRUE(std::isfinite(value));
  // The first token attends to itself alone.
  for (int64_t i = 0; i < 16; ++i) ASSERT_EQ(forward[0][i], qkv[32 + i]);
}

TEST_P(AttentionTest, ANotANumberReachesTheOutput) {
  const AttentionShape shape = Shape(1, 40, 1, 1, 8);
  auto qkv = Qkv(shape, dtype_);
  qkv[20 * shape.qkv_width()] = std::nanf("");  // the query of token 20
  const Outputs got = Forward(*backend_, shape, dtype_, qkv);
  EXPECT_TRUE(std::isnan(got[0][20 * 8]));
  EXPECT_FALSE(std::isnan(got[0][21 * 8]));
}

INSTANTIATE_TEST_SUITE_P(Backends, AttentionGradientTest, ::testing::ValuesIn(TestedBackends()));
INSTANTIATE_TEST_SUITE_P(Backends, AttentionTest,
                         ::testing::Combine(::testing::ValuesIn(TestedBackends()),
                                            ::testing::Values(DType::kF32, DType::kBF16)));

// The reference computes in doubles whatever the type, so BF16 results are FP32 results rounded.
TEST(AttentionReference, RoundsOnceToBf16) {
  auto backend = MakeBackend("reference");
  const AttentionShape shape = Shape(2, 33, 6, 2, 10);
  const auto qkv = Qkv(shape, DType::kBF16);
  const auto d_out = Inputs(9).Normal(DType::kBF16, shape.tokens() * 60);
  const Outputs forward = Forward(*backend, shape, DType::kBF16, qkv);
  const Outputs narrow = Backward(*backend, shape, DType::kBF16, qkv, d_out, forward);
  Outputs wide = Backward(*backend, shape, DType::kF32, qkv, d_out, forward);
  for (float& value : wide[0]) value = RoundTo(DType::kBF16, value);
  ExpectSameBits(narrow[0], wide[0]);
}

TEST(AttentionCpu, BackwardAgreesWithReference) {
  auto cpu = MakeBackend("cpu");
  auto reference = MakeBackend("reference");
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const AttentionShape& shape : Shapes()) {
      const auto qkv = Qkv(shape, dtype);
      const auto d_out = Inputs(9).Normal(dtype, shape.tokens() * shape.heads * shape.head_size);
      const Outputs forward = Forward(*reference, shape, dtype, qkv);
      const Outputs want = Backward(*reference, shape, dtype, qkv, d_out, forward);
      const Outputs got = Backward(*cpu, shape, dtype, qkv, d_out, forward);
      // FP32 sums of up to 600 terms, differences dp - delta included.
      ExpectAdjacent(got[0], want[0], dtype, 2e-5);
    }
  }
}

TEST(AttentionCpu, BitsDoNotDependOnThreads) {
  const AttentionShape shape = Shape(2, 300, 4, 2, 20);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    ExpectThreadInvariant([&](Backend& backend) {
      const auto qkv = Qkv(shape, dtype);
      const auto d_out = Inputs(9).Normal(dtype, shape.tokens() * 80);
      Outputs outputs = Forward(backend, shape, dtype, qkv);
      outputs.push_back(Backward(backend, shape, dtype, qkv, d_out, outputs)[0]);
      return outputs;
    });
  }
}

std::vector<float> RotationTable(const AttentionShape& shape) {
  std::vector<float> table;
  for (int64_t t = 0; t < shape.sequence_length; ++t) {
    for (int64_t i = 0; i < shape.head_size / 2; ++i) {
      const double angle =
          static_cast<double>(t) *
          std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(shape.head_size));
      table.push_back(static_cast<float>(std::cos(angle)));
      table.push_back(static_cast<float>(std::sin(angle)));
    }
  }
  return table;
}

class RopeTest : public AttentionTest {
 protected:
  std::vector<float> Rotate(const AttentionShape& shape, const std::vector<float>& qkv,
                            bool inverse) {
    Tensor tensor(*backend_, dtype_, shape.tokens(), shape.qkv_width(), qkv);
    const auto table = RotationTable(shape);
    Tensor cos_sin(*backend_, DType::kF32, shape.sequence_length, shape.head_size, table);
    RopeArgs args{shape, tensor.matrix(), cos_sin.f32(), inverse};
    backend_->Rope(args);
    cos_sin.ExpectUnchanged();
    return tensor.Read();
  }
};

// Seen red with neighbouring pairs (2i, 2i+1), and with v rotated too.
TEST_P(RopeTest, TurnsPairsHalfAHeadApart) {
  for (const AttentionShape& shape : Shapes()) {
    const auto qkv = Qkv(shape, dtype_);
    const auto table = RotationTable(shape);
    const int64_t half = shape.head_size / 2;
    for (const bool inverse : {false, true}) {
      std::vector<double> want = Widen(qkv);
      for (int64_t n = 0; n < shape.tokens(); ++n) {
        for (int64_t h = 0; h < shape.heads + shape.kv_heads; ++h) {
          for (int64_t i = 0; i < half; ++i) {
            const int64_t at = n * shape.qkv_width() + h * shape.head_size + i;
            const float* pair = &table[((n % shape.sequence_length) * half + i) * 2];
            const double sine = inverse ? -pair[1] : pair[1];
            want[at] = double{qkv[at]} * pair[0] - qkv[at + half] * sine;
            want[at + half] = double{qkv[at + half]} * pair[0] + qkv[at] * sine;
          }
        }
      }
      // Two FP32 products of up to about 4.
      ExpectRounded(Rotate(shape, qkv, inverse), want, dtype_, 1e-6);
    }
  }
}

TEST_P(RopeTest, BackendsAgreeBitForBit) {
  auto reference = MakeBackend("reference");
  for (const AttentionShape& shape : Shapes()) {
    const auto qkv = Qkv(shape, dtype_);
    const auto got = Rotate(shape, qkv, false);
    Tensor tensor(*reference, dtype_, shape.tokens(), shape.qkv_width(), qkv);
    Tensor cos_sin(*reference, DType::kF32, shape.sequence_length, shape.head_size,
                   RotationTable(shape));
    reference->Rope({shape, tensor.matrix(), cos_sin.f32(), false});
    ExpectSameBits(got, tensor.Read());
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, RopeTest,
                         ::testing::Combine(::testing::ValuesIn(TestedBackends()),
                                            ::testing::Values(DType::kF32, DType::kBF16)));

}  // namespace
}  // namespace nibble::kernels
