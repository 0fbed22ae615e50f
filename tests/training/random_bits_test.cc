// Which random bits a step draws: a function of what is rounded, not of the split into
// micro-batches (docs/numerics.md, section 4).
#include <algorithm>
#include <cstdint>
#include <memory>
#include <set>
#include <tuple>
#include <vector>

#include "base/status_matchers.h"
#include "gtest/gtest.h"
#include "tests/training/training_setup.h"

namespace nibble::testing {
namespace {

using namespace kernels;  // NOLINT: every line below names its types

// One block of 16 as Philox counts it: step, tensor id, block index.
using Draw = std::tuple<uint32_t, uint32_t, int64_t>;

// Passes everything on and notes what is rounded stochastically.
class RecordingBackend : public Backend {
 public:
  explicit RecordingBackend(Backend& to) : to_(to) {}

  std::multiset<Draw> draws;

  Operand PrepareOperand(const OperandRequest& request, void* storage) override {
    if (request.format.rounding == Rounding::kStochastic) Note(request);
    return to_.PrepareOperand(request, storage);
  }

  absl::string_view name() const override { return to_.name(); }
  absl::string_view description() const override { return to_.description(); }
  Support Supports(const OperandFormat& format) const override { return to_.Supports(format); }
  absl::StatusOr<std::unique_ptr<DeviceBuffer>> Allocate(int64_t bytes) override {
    return to_.Allocate(bytes);
  }
  void CopyToDevice(void* device, const void* host, int64_t bytes) override {
    to_.CopyToDevice(device, host, bytes);
  }
  void CopyToHost(void* host, const void* device, int64_t bytes) override {
    to_.CopyToHost(host, device, bytes);
  }
  void CopyOnDevice(void* to, const void* from, int64_t bytes) override {
    to_.CopyOnDevice(to, from, bytes);
  }
  void Zero(void* device, int64_t bytes) override { to_.Zero(device, bytes); }
  Fence Record() override { return to_.Record(); }
  absl::Status Wait(Fence fence) override { return to_.Wait(fence); }
  absl::Status Synchronize() override { return to_.Synchronize(); }
  int64_t OperandBytes(const OperandFormat& format, DType source, int64_t rows,
                       int64_t cols) const override {
    return to_.OperandBytes(format, source, rows, cols);
  }
  bool CanTranspose(const Operand& operand) const override { return to_.CanTranspose(operand); }
  Operand Transposed(const Operand& operand) const override { return to_.Transposed(operand); }
  void Multiply(const Operand& a, const Operand& b, Matrix c, bool accumulate) override {
    to_.Multiply(a, b, c, accumulate);
  }
  void EmbeddingForward(const int32_t* tokens, Matrix table, Matrix out) override {
    to_.EmbeddingForward(tokens, table, out);
  }
  void EmbeddingBackward(const int32_t* tokens, Matrix d_out, Matrix d_table) override {
    to_.EmbeddingBackward(tokens, d_out, d_table);
  }
  void RmsNormForward(const RmsNormArgs& args) override { to_.RmsNormForward(args); }
  void RmsNormBackward(const RmsNormBackwardArgs& args) override { to_.RmsNormBackward(args); }
  void Rope(const RopeArgs& args) override { to_.Rope(args); }
  void AttentionForward(const AttentionArgs& args) override { to_.AttentionForward(args); }
  void AttentionBackward(const AttentionBackwardArgs& args) override {
    to_.AttentionBackward(args);
  }
  void SwiGluForward(Matrix gate_up, Matrix out) override { to_.SwiGluForward(gate_up, out); }
  void SwiGluBackward(Matrix d_out, Matrix gate_up, Matrix d_gate_up) override {
    to_.SwiGluBackward(d_out, gate_up, d_gate_up);
  }
  void LayerNormForward(const LayerNormArgs& args) override { to_.LayerNormForward(args); }
  void LayerNormBackward(const LayerNormBackwardArgs& args) override {
    to_.LayerNormBackward(args);
  }
  void AddRows(Matrix out, const float* table, int64_t period) override {
    to_.AddRows(out, table, period);
  }
  void AddRowsBackward(Matrix d_out, float* d_table, int64_t period) override {
    to_.AddRowsBackward(d_out, d_table, period);
  }
  void ActivationForward(Activation activation, Matrix in, Matrix out) override {
    to_.ActivationForward(activation, in, out);
  }
  void ActivationBackward(Activation activation, Matrix d_out, Matrix in, Matrix d_in) override {
    to_.ActivationBackward(activation, d_out, in, d_in);
  }
  void CausalConvForward(const CausalConvArgs& args) override { to_.CausalConvForward(args); }
  void CausalConvBackward(const CausalConvBackwardArgs& args) override {
    to_.CausalConvBackward(args);
  }
  void ScanForward(const ScanArgs& args) override { to_.ScanForward(args); }
  void ScanBackward(const ScanBackwardArgs& args) override { to_.ScanBackward(args); }
  void GatedNormForward(const GatedNormArgs& args) override { to_.GatedNormForward(args); }
  void GatedNormBackward(const GatedNormBackwardArgs& args) override {
    to_.GatedNormBackward(args);
  }
  void LmHead(const LmHeadArgs& args) override { to_.LmHead(args); }
  void AddInPlace(Matrix out, Matrix in) override { to_.AddInPlace(out, in); }
  void Cast(Matrix from, Matrix to) override { to_.Cast(from, to); }
  void Norm(const float* values, int64_t size, float* norm) override {
    to_.Norm(values, size, norm);
  }
  void AdamW(const AdamWArgs& args) override { to_.AdamW(args); }

 private:
  void Note(const OperandRequest& request) {
    const int64_t rows = request.transpose ? request.source.cols : request.source.rows;
    const int64_t cols = request.transpose ? request.source.rows : request.source.cols;
    const StochasticKey& key = request.key;
    EXPECT_EQ(key.seed, 42);
    EXPECT_EQ(key.first_col % 16, 0);
    EXPECT_LE(key.first_col + cols, key.total_cols);
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t col = 0; col < cols; col += 16) {
        draws.insert({key.step, key.tensor_id,
                      (key.first_row + row) * (key.total_cols / 16) + (key.first_col + col) / 16});
      }
    }
  }
  Backend& to_;
};

std::multiset<Draw> DrawsOfTwoSteps(int64_t micro_batch_size) {
  trainer::TrainingConfig config = SmallConfig(Recipe::kNvfp4);
  config.micro_batch_size = micro_batch_size;
  Bench bench(config, "cpu");
  RecordingBackend recording(*bench.backend);
  trainer::TrainerParts parts = bench.parts();
  parts.backend = &recording;
  const auto trainer = trainer::Trainer::Create(config, parts);
  EXPECT_THAT(trainer, IsOk());
  EXPECT_THAT((*trainer)->Initialise(), IsOk());
  for (int i = 0; i < 2; ++i) EXPECT_THAT((*trainer)->Step(), IsOk());
  EXPECT_THAT((*trainer)->Evaluate(), IsOk());
  return recording.draws;
}

// Every block of dY and dY^T of every quantised layer, once a step. Seen red: with first_row left
// at 0, with total_cols of one micro-batch, with the step counted from 1.
TEST(RandomBits, AreThoseOfTheContract) {
  std::multiset<Draw> expected;
  constexpr int64_t kTokens = 4 * 16;
  const int64_t out_features[] = {(2 + 2) * 16, 32, 2 * 48, 32};  // qkv, output, gate_up, down
  for (uint32_t step : {0, 1}) {
    for (uint32_t layer = 0; layer < 8; ++layer) {  // the third block is kept in BF16
      const int64_t features = out_features[layer % 4];
      for (int64_t i = 0; i < kTokens * features / 16; ++i) {
        expected.insert({step, 4 * layer, i});
        expected.insert({step, 4 * layer + 1, i});
      }
    }
  }
  for (int64_t micro_batch_size : {1, 2, 4}) {
    EXPECT_TRUE(DrawsOfTwoSteps(micro_batch_size) == expected)
        << "micro-batches of " << micro_batch_size << " sequences";
  }
}

// In FP32 the split changes nothing but the order of summation of the weights' gradients.
TEST(MicroBatches, AddUpToTheSameGradient) {
  std::vector<std::vector<float>> gradients;
  for (int64_t micro_batch_size : {1, 2, 4}) {
    trainer::TrainingConfig config = SmallConfig(Recipe::kFp32);
    config.micro_batch_size = micro_batch_size;
    const Bench bench(config, "cpu");
    const auto trainer = bench.MakeTrainer();
    ASSERT_THAT(trainer->Step(), IsOk());
    gradients.push_back(ReadDevice(*bench.backend, trainer->weights().gradients(),
                                   trainer->parameters().flat_size()));
  }
  float largest = 0;
  for (float value : gradients[0]) largest = std::max(largest, std::abs(value));
  for (size_t i = 0; i < gradients[0].size(); ++i) {
    ASSERT_NEAR(gradients[1][i], gradients[0][i], 1e-6 * largest) << i;
    ASSERT_NEAR(gradients[2][i], gradients[0][i], 1e-6 * largest) << i;
  }
}

}  // namespace
}  // namespace nibble::testing
