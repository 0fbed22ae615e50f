// The CUDA backend's kernels as the host runs them: what the shared operator suites do not ask.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>
#include <vector>

#include "kernels/cuda/block_of_16.cuh"
#include "kernels/cuda/emulation/emulated_device.h"
#include "kernels/cuda/emulation/simt.h"
#include "kernels/nvfp4/swizzle.h"
#include "tests/ops/operator_harness.h"

namespace nibble::kernels {
namespace {

using cuda::ThreadOrder;

// ---- which thread takes what ----

TEST(CudaLayout, EveryGroupIsTakenOnce) {
  using cuda::emulated::GroupPlace;
  using cuda::emulated::PlaceOf;
  using cuda::emulated::Walk;
  for (const Walk walk : {Walk::kRows, Walk::kColumns, Walk::kTiles}) {
    for (const int64_t across : {1, 3, 8}) {
      constexpr int64_t kRows = 48;
      std::set<std::pair<int64_t, int64_t>> taken;
      for (int64_t i = 0; i < kRows * across; ++i) {
        const GroupPlace at = PlaceOf(walk, i, kRows, across);
        EXPECT_TRUE(at.row >= 0 && at.row < kRows && at.group >= 0 && at.group < across);
        EXPECT_TRUE(taken.insert({at.row, at.group}).second) << "taken twice";
      }
      EXPECT_EQ(static_cast<int64_t>(taken.size()), kRows * across);
    }
  }
}

// Sixteen threads that start at a multiple of sixteen hold the rows of one 16x16 tile: they
// exchange its largest magnitude among themselves.
TEST(CudaLayout, TilesAreSixteenNeighbouringThreads) {
  using cuda::emulated::PlaceOf;
  using cuda::emulated::Walk;
  for (const Walk walk : {Walk::kColumns, Walk::kTiles}) {
    for (int64_t i = 0; i < 32 * 5; ++i) {
      const auto first = PlaceOf(walk, i / 16 * 16, 32, 5), at = PlaceOf(walk, i, 32, 5);
      EXPECT_EQ(at.group, first.group);
      EXPECT_EQ(at.row, first.row + i % 16);
      EXPECT_EQ(first.row % 16, 0);
    }
  }
}

TEST(CudaLayout, SwizzledScalesDoNotOverlapAndStayInside) {
  for (const auto& [rows, across] : {std::pair<int64_t, int64_t>{1, 1}, {130, 5}, {256, 8}}) {
    std::set<int64_t> offsets;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < across; ++c) {
        const int64_t offset = nvfp4::SwizzledOffset(r, c, across);
        EXPECT_TRUE(offset >= 0 && offset < nvfp4::SwizzledBytes(rows, across));
        EXPECT_TRUE(offsets.insert(offset).second);
      }
    }
  }
}

// ---- native products ----

struct NativeCase {
  const char* backend;
  OperandFormat first, second;
  bool transpose;  // both operands are transposes of their sources
};

// Packed codes, swizzled scales and FP8 bytes multiply to the bits of the dequantised operands: the
// emulated library reads the layout by a formula of its own.
TEST(CudaProducts, NativeOnesEqualEmulatedOnes) {
  const OperandFormat nvfp4 = {Format::kNvfp4}, tiles = {Format::kNvfp4, 16};
  const OperandFormat gradient = {Format::kNvfp4, 1, 16, Rounding::kStochastic};
  const OperandFormat wide = {Format::kNvfp4, 1, 128};
  const OperandFormat fp8 = {Format::kFp8}, e5m2 = {Format::kFp8E5m2}, bf16 = {Format::kBF16};
  const NativeCase cases[] = {
      {kEmulatedBlackwell, nvfp4, tiles, false}, {kEmulatedBlackwell, gradient, tiles, true},
      {kEmulatedBlackwell, wide, wide, true},    {kEmulatedBlackwell, nvfp4, bf16, false},
      {kEmulatedBlackwell, nvfp4, fp8, false},   {kEmulatedHopper, fp8, fp8, false},
      {kEmulatedHopper, e5m2, fp8, true},        {kEmulatedHopper, e5m2, e5m2, false},
      {kEmulatedHopper, nvfp4, tiles, false}};
  constexpr int64_t kM = 160, kN = 96, kK = 128;
  for (const NativeCase& c : cases) {
    for (const bool accumulate : {false, true}) {
      std::vector<std::vector<float>> results;
      for (const char* name : {c.backend, kEmulatedCuda}) {
        auto backend = MakeBackend(name);
        const auto prepare = [&](const OperandFormat& format, int64_t rows, const Tensor& source,
                                 std::unique_ptr<DeviceBuffer>* storage) {
          OperandRequest request = {source.matrix(), c.transpose, format, {7, 1, 2, 0, 0, kK}};
          *storage =
              backend->Allocate(backend->OperandBytes(format, DType::kBF16, rows, kK)).value();
          return backend->PrepareOperand(request, (*storage)->data());
        };
        const auto source = [&](uint32_t seed, int64_t rows) {
          return Tensor(*backend, DType::kBF16, c.transpose ? kK : rows, c.transpose ? rows : kK,
                        Inputs(seed).Normal(DType::kBF16, rows * kK));
        };
        const Tensor x = source(1, kM), w = source(2, kN);
        std::unique_ptr<DeviceBuffer> x_storage, w_storage;
        const Operand a = prepare(c.first, kM, x, &x_storage);
        const Operand b = prepare(c.second, kN, w, &w_storage);
        const Tensor out(*backend, DType::kF32, kM, kN, Inputs(3).Normal(DType::kF32, kM * kN));
        backend->Multiply(a, b, out.matrix(), accumulate);
        EXPECT_TRUE(backend->Synchronize().ok());
        results.push_back(out.Read());
      }
      ExpectSameBits(results[0], results[1]);
    }
  }
}

TEST(CudaProducts, SupportSaysWhatIsNative) {
  const OperandFormat nvfp4 = {Format::kNvfp4}, fp8 = {Format::kFp8}, mxfp8 = {Format::kMxfp8};
  EXPECT_EQ(MakeBackend(kEmulatedCuda)->Supports(fp8), Support::kEmulated);
  EXPECT_EQ(MakeBackend(kEmulatedHopper)->Supports(fp8), Support::kNative);
  EXPECT_EQ(MakeBackend(kEmulatedHopper)->Supports(nvfp4), Support::kEmulated);
  EXPECT_EQ(MakeBackend(kEmulatedBlackwell)->Supports(nvfp4), Support::kNative);
  EXPECT_EQ(MakeBackend(kEmulatedBlackwell)->Supports(mxfp8), Support::kEmulated);
}

// Both tensors so small that the product of their scales is no normal number: a factor of 2^-140
// would have nine bits.
TEST(CudaProducts, TinyTensorsKeepTheirDigits) {
  auto backend = MakeBackend(kEmulatedCuda);
  std::vector<float> values = Inputs(1).Normal(DType::kF32, 32 * 32, 1e-19f);
  const Tensor x(*backend, DType::kF32, 32, 32, values);
  OperandRequest request = {x.matrix(), false, {Format::kNvfp4}, {}};
  auto storage =
      backend->Allocate(backend->OperandBytes(request.format, DType::kF32, 32, 32)).value();
  const Operand operand = backend->PrepareOperand(request, storage->data());
  const std::vector<float> stored = DequantizedValues(operand);
  for (const bool accumulate : {false, true}) {
    const Tensor c(*backend, DType::kF32, 32, 32, std::vector<float>(32 * 32, 1e-38f));
    backend->Multiply(operand, operand, c.matrix(), accumulate);
    const std::vector<float> got = c.Read();
    for (int i = 0; i < 32; ++i) {
      double want = accumulate ? double{1e-38f} : 0;
      for (int k = 0; k < 32; ++k) want += double{stored[i * 32 + k]} * stored[i * 32 + k];
      ASSERT_NEAR(got[i * 32 + i], want, 1e-5 * want);
    }
  }
}

// ---- attention in BF16 ----

// Probabilities and score gradients are rounded to BF16 on their way into the tensor cores: some
// 2^-9 of each, less in sums. The reference rounds nothing between its FP64 sums.
TEST(CudaAttention, Bf16GradientIsCloseToTheReference) {
  for (const AttentionShape& shape :
       {AttentionShape{2, 70, 4, 2, 24}, AttentionShape{1, 130, 2, 2, 64},
        AttentionShape{1, 65, 2, 1, 80}, AttentionShape{1, 33, 1, 1, 160}}) {
    std::vector<std::vector<float>> results;
    for (const char* name : {kEmulatedCuda, "reference"}) {
      auto backend = MakeBackend(name);
      const int64_t rows = shape.tokens(), width = shape.heads * shape.head_size;
      const DType bf16 = DType::kBF16;
      const Tensor qkv(*backend, bf16, rows, shape.qkv_width(),
                       Inputs(1).Normal(bf16, rows * shape.qkv_width()));
      const Tensor d_out(*backend, bf16, rows, width, Inputs(2).Normal(bf16, rows * width));
      Tensor out(*backend, bf16, rows, width), d_qkv(*backend, bf16, rows, shape.qkv_width());
      Tensor lse(*backend, DType::kF32, shape.sequences * shape.heads, shape.sequence_length);
      backend->AttentionForward({shape, qkv.matrix(), out.matrix(), lse.f32(), 0});
      backend->AttentionBackward(
          {shape, d_out.matrix(), qkv.matrix(), out.matrix(), lse.f32(), d_qkv.matrix()});
      results.push_back(d_qkv.Read());
    }
    double error = 0, norm = 0;
    for (size_t i = 0; i < results[0].size(); ++i) {
      error += std::pow(double{results[0][i]} - results[1][i], 2);
      norm += std::pow(double{results[1][i]}, 2);
    }
    EXPECT_LT(std::sqrt(error / norm), 5e-3);
  }
}

// ---- barriers ----

// One step of everything with barriers or exchanges, under three orders of threads. Results that
// differ would be read before they are written, or overwritten before they are read.
//
// Seen red without the barrier before attention's next keys, and without the one after the weights
// of the scan's chunk states.
Outputs RunAll(ThreadOrder order, DType dtype) {
  cuda::SetThreadOrder(order);
  auto backend = MakeBackend(kEmulatedCuda);
  Inputs inputs(5);
  Outputs outputs;
  const AttentionShape shape = {1, 70, 2, 1, 24};
  const int64_t out_width = shape.heads * shape.head_size;
  const Tensor qkv(*backend, dtype, 70, shape.qkv_width(),
                   inputs.Normal(dtype, 70 * shape.qkv_width()));
  const Tensor d_out(*backend, dtype, 70, out_width, inputs.Normal(dtype, 70 * out_width));
  Tensor out(*backend, dtype, 70, out_width), lse(*backend, DType::kF32, 2, 70);
  Tensor d_qkv(*backend, dtype, 70, shape.qkv_width());
  backend->AttentionForward({shape, qkv.matrix(), out.matrix(), lse.f32(), 0});
  backend->AttentionBackward(
      {shape, d_out.matrix(), qkv.matrix(), out.matrix(), lse.f32(), d_qkv.matrix()});
  for (const Tensor* t : {&out, &lse, &d_qkv}) outputs.push_back(t->Read());

  const MambaShape mamba = {1, 75, 2, 5, 1, 6, 4, 32};
  const Tensor projected(*backend, dtype, 75, mamba.projected_width(),
                         inputs.Normal(dtype, 75 * mamba.projected_width()));
  const Tensor xbc(*backend, dtype, 75, mamba.channels(),
                   inputs.Normal(dtype, 75 * mamba.channels()));
  const Tensor d_y(*backend, dtype, 75, mamba.inner(), inputs.Normal(dtype, 75 * mamba.inner()));
  const Tensor parameters(*backend, DType::kF32, 3, 2, {.1f, .2f, .3f, .4f, .5f, .6f});
  const Tensor sums(*backend, DType::kF32, 3, 2, std::vector<float>(6, 0));
  Tensor y(*backend, dtype, 75, mamba.inner()), d_xbc(*backend, dtype, 75, mamba.channels());
  const Tensor d_projected(*backend, dtype, 75, mamba.projected_width(),
                           std::vector<float>(75 * mamba.projected_width(), 0));
  const float* p = parameters.f32();
  backend->ScanForward({mamba, xbc.matrix(), projected.matrix(), p, p + 2, p + 4, y.matrix()});
  backend->ScanBackward({mamba, d_y.matrix(), xbc.matrix(), projected.matrix(), p, p + 2, p + 4,
                         d_xbc.matrix(), d_projected.matrix(), sums.f32(), sums.f32() + 2,
                         sums.f32() + 4});
  for (const Tensor* t : std::initializer_list<const Tensor*>{&y, &d_xbc, &d_projected, &sums}) {
    outputs.push_back(t->Read());
  }

  constexpr int64_t kRows = 40, kCols = 300;
  const Tensor x(*backend, dtype, kRows, kCols, inputs.Normal(dtype, kRows * kCols));
  const Tensor weight(*backend, DType::kF32, 1, kCols, inputs.Normal(DType::kF32, kCols));
  const Tensor d_weight(*backend, DType::kF32, 1, kCols, std::vector<float>(kCols, 0));
  Tensor normed(*backend, dtype, kRows, kCols), rms(*backend, DType::kF32, 1, kRows);
  backend->RmsNormForward({x.matrix(), {}, {}, weight.f32(), normed.matrix(), rms.f32(), 1e-5f});
  const Tensor d_x(*backend, dtype, kRows, kCols, inputs.Normal(dtype, kRows * kCols));
  backend->RmsNormBackward(
      {normed.matrix(), x.matrix(), weight.f32(), rms.f32(), d_x.matrix(), d_weight.f32()});
  const Tensor targets(*backend, inputs.Integers(kRows, 0, 700));
  const Tensor table(*backend, dtype, 701, kCols, inputs.Normal(dtype, 701 * kCols));
  Tensor losses(*backend, DType::kF32, 1, kRows), d_head(*backend, dtype, kRows, kCols);
  const Tensor d_table(*backend, DType::kF32, 701, kCols, std::vector<float>(701 * kCols, 0));
  LmHeadArgs head;
  head.x = x.matrix();
  head.weight = table.operand();
  head.targets = targets.i32();
  head.losses = losses.f32();
  head.d_x = d_head.matrix();
  head.d_weight = d_table.f32();
  backend->LmHead(head);
  backend->EmbeddingBackward(targets.i32(), d_head.matrix(), d_table.matrix());
  Tensor norm(*backend, DType::kF32, 1, 1);
  backend->Norm(d_table.f32(), 701 * kCols, norm.f32());
  for (const Tensor* t : std::initializer_list<const Tensor*>{&normed, &d_x, &d_weight, &losses,
                                                              &d_head, &d_table, &norm}) {
    outputs.push_back(t->Read());
  }
  EXPECT_TRUE(backend->Synchronize().ok());
  cuda::SetThreadOrder(ThreadOrder::kForward);
  return outputs;
}

TEST(CudaBarriers, ResultsDoNotDependOnTheOrderOfThreads) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const Outputs forward = RunAll(ThreadOrder::kForward, dtype);
    for (const std::vector<float>& output : forward) {
      // What nobody wrote is NaN, in any order.
      for (const float value : output) ASSERT_TRUE(std::isfinite(value));
    }
    for (const ThreadOrder order : {ThreadOrder::kReverse, ThreadOrder::kShuffled}) {
      const Outputs other = RunAll(order, dtype);
      ASSERT_EQ(other.size(), forward.size());
      for (size_t i = 0; i < forward.size(); ++i) {
        SCOPED_TRACE(i);
        ExpectSameBits(other[i], forward[i]);
      }
    }
  }
}

// ---- errors ----

TEST(CudaErrors, WhatAKernelCannotDoIsSaidAndSticks) {
  auto backend = MakeBackend(kEmulatedCuda);
  const AttentionShape shape = {1, 4, 1, 1, 512};
  const Tensor qkv(*backend, DType::kBF16, 4, shape.qkv_width(),
                   Inputs(1).Normal(DType::kBF16, 4 * shape.qkv_width()));
  Tensor out(*backend, DType::kBF16, 4, 512), lse(*backend, DType::kF32, 1, 4);
  backend->AttentionForward({shape, qkv.matrix(), out.matrix(), lse.f32(), 0});
  const absl::Status status = backend->Synchronize();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_NE(status.message().find("head_size is 512"), absl::string_view::npos) << status;
  EXPECT_EQ(backend->Wait(backend->Record()), status);
}

// Without a GPU the backend says what is missing; with one it is there.
TEST(CudaErrors, AMissingDeviceIsNamed) {
  const auto backend = CreateBackend("cuda", {});
  if (backend.ok()) GTEST_SKIP() << "this machine has " << (*backend)->description();
  EXPECT_EQ(backend.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(backend.status().message().find("'cuda'"), absl::string_view::npos);
  EXPECT_EQ(CreateOpEngine("cuda", {}).status().code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace nibble::kernels
