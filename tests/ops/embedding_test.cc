// Embedding lookup and its gradient: definitions that leave no freedom, so bit for bit.
#include <tuple>

#include "gtest/gtest.h"
#include "tests/ops/operator_harness.h"

namespace nibble::kernels {
namespace {

struct Shape {
  int64_t tokens, vocabulary, width;
};

class EmbeddingTest : public ::testing::TestWithParam<std::tuple<const char*, DType>> {
 protected:
  std::unique_ptr<Backend> backend_ = MakeBackend(std::get<0>(GetParam()));
  DType dtype_ = std::get<1>(GetParam());
};

constexpr Shape kShapes[] = {{1, 1, 1}, {5, 3, 7}, {33, 17, 48}, {70, 300, 100}, {257, 11, 260}};

TEST_P(EmbeddingTest, ForwardCopiesRows) {
  for (const Shape& shape : kShapes) {
    Inputs inputs(1);
    const auto table = inputs.Normal(dtype_, shape.vocabulary * shape.width);
    const auto tokens =
        inputs.Integers(shape.tokens, 0, static_cast<int32_t>(shape.vocabulary) - 1);
    Tensor table_tensor(*backend_, dtype_, shape.vocabulary, shape.width, table);
    Tensor token_tensor(*backend_, tokens);
    Tensor out(*backend_, dtype_, shape.tokens, shape.width);
    backend_->EmbeddingForward(token_tensor.i32(), table_tensor.matrix(), out.matrix());
    std::vector<float> want;
    for (const int32_t token : tokens) {
      want.insert(want.end(), table.begin() + token * shape.width,
                  table.begin() + (token + 1) * shape.width);
    }
    ExpectSameBits(out.Read(), want);
    table_tensor.ExpectUnchanged();
    token_tensor.ExpectUnchanged();
  }
}

// Seen red with tokens in descending order: the FP32 sums then differ in their last bits.
TEST_P(EmbeddingTest, BackwardAddsInAscendingTokenOrder) {
  for (const Shape& shape : kShapes) {
    Inputs inputs(2);
    const auto tokens =
        inputs.Integers(shape.tokens, 0, static_cast<int32_t>(shape.vocabulary) - 1);
    const auto d_out = inputs.Normal(dtype_, shape.tokens * shape.width);
    auto want = inputs.Normal(DType::kF32, shape.vocabulary * shape.width);
    Tensor token_tensor(*backend_, tokens);
    Tensor d_out_tensor(*backend_, dtype_, shape.tokens, shape.width, d_out);
    Tensor d_table(*backend_, DType::kF32, shape.vocabulary, shape.width, want);
    backend_->EmbeddingBackward(token_tensor.i32(), d_out_tensor.matrix(), d_table.matrix());
    for (int64_t n = 0; n < shape.tokens; ++n) {
      for (int64_t c = 0; c < shape.width; ++c) {
        want[tokens[n] * shape.width + c] += d_out[n * shape.width + c];
      }
    }
    ExpectSameBits(d_table.Read(), want);
    d_out_tensor.ExpectUnchanged();
    token_tensor.ExpectUnchanged();
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, EmbeddingTest,
                         ::testing::Combine(::testing::ValuesIn(TestedBackends()),
                                            ::testing::Values(DType::kF32, DType::kBF16)));

TEST(EmbeddingThreads, BitsDoNotDependOnThem) {
  ExpectThreadInvariant([](Backend& backend) {
    Inputs inputs(3);
    Tensor tokens(backend, inputs.Integers(500, 0, 19));
    Tensor d_out(backend, DType::kBF16, 500, 333, inputs.Normal(DType::kBF16, 500 * 333));
    Tensor d_table(backend, DType::kF32, 20, 333, inputs.Normal(DType::kF32, 20 * 333));
    backend.EmbeddingBackward(tokens.i32(), d_out.matrix(), d_table.matrix());
    return Outputs{d_table.Read()};
  });
}

}  // namespace
}  // namespace nibble::kernels
