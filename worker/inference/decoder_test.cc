// Decoding with kept keys and values, against the training model's whole pass.
#include "worker/inference/decoder.h"

#include <algorithm>
#include <cmath>

#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/model/model.h"

namespace nibble::inference {
namespace {

using ::testing::HasSubstr;

model::ModelConfig Config(model::Family family = model::Family::kLlama) {
  model::ModelConfig config;
  config.family = family;
  config.vocab_size = 50;
  config.width = 32;
  config.blocks = 2;
  config.heads = 4;
  config.kv_heads = 2;
  config.head_size = 8;
  config.mlp_width = 48;
  config.init_std = 0.3;  // logits that differ
  if (family == model::Family::kGpt2) {
    config.activation = model::MlpActivation::kGeluTanh;
    config.max_positions = 100;
    config.kv_heads = config.heads;
  } else if (family == model::Family::kNemotron) {
    config.activation = model::MlpActivation::kSquaredRelu;
  } else if (family == model::Family::kNemotronH) {
    config.activation = model::MlpActivation::kSquaredRelu;
    config.pattern = "MM-M*";
    config.blocks = 5;
    config.mamba = {/*heads=*/4,      /*head_size=*/16, /*groups=*/2,
                    /*state_size=*/8, /*conv_width=*/4,
                    /*chunk_size=*/16};
  }
  return config;
}

std::vector<int32_t> Tokens(int64_t count) {
  std::vector<int32_t> tokens(count);
  for (int64_t i = 0; i < count; ++i) tokens[i] = static_cast<int32_t>((i * i + 3 * i) % 50);
  return tokens;
}

using Case = std::tuple<const char*, model::Family>;

class DecoderTest : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    ASSERT_OK_AND_ASSIGN(backend_, kernels::CreateBackend(std::get<0>(GetParam()), {}));
    ASSERT_OK_AND_ASSIGN(weights_, model::Weights::Create(table_, /*bf16_copy=*/true, *backend_));
    ASSERT_THAT(weights_->Initialise(5), IsOk());
  }

  std::unique_ptr<Decoder> Make(int64_t capacity, int64_t chunk,
                                Precision precision = Precision::kF32) {
    DecoderOptions options;
    options.capacity = capacity;
    options.chunk = chunk;
    options.precision = precision;
    return *Decoder::Create(config_, *weights_, options, *backend_);
  }

  // Of every position, by the model that training uses.
  std::vector<float> WholeLogits(const std::vector<int32_t>& tokens, bool fp32) {
    const int64_t size = static_cast<int64_t>(tokens.size());
    model::ModelOptions options;
    options.config = config_;
    options.fp32_activations = fp32;
    options.precision = model::PrecisionPolicy(
        std::vector<kernels::LinearFormat>(model::LinearsOf(config_).size()));
    options.sequence_length = size;
    options.micro_batch_size = options.batch_size = 1;
    auto model = *model::Model::Create(options, *weights_, *backend_);
    auto ids = *backend_->Allocate(size * 4);
    auto logits = *backend_->Allocate(size * config_.vocab_size * 4);
    backend_->CopyToDevice(ids->data(), tokens.data(), size * 4);
    model->PrepareWeights(model::PassKind::kEvaluation, 0);
    model->Logits(static_cast<const int32_t*>(ids->data()),
                  {logits->data(), kernels::DType::kF32, size, config_.vocab_size});
    std::vector<float> values(size * config_.vocab_size);
    backend_->CopyToHost(values.data(), logits->data(), static_cast<int64_t>(values.size()) * 4);
    EXPECT_THAT(backend_->Synchronize(), IsOk());
    return values;
  }

  void ExpectNear(const std::vector<float>& got, const float* want, double bound) {
    for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], want[i], bound) << i;
  }

  const model::ModelConfig config_ = Config(std::get<1>(GetParam()));
  const model::ParameterTable table_{config_};
  std::unique_ptr<kernels::Backend> backend_;
  std::unique_ptr<model::Weights> weights_;
};

TEST_P(DecoderTest, HoweverTheTokensComeLogitsAreThoseOfAWholePass) {
  constexpr int64_t kSize = 90;
  const std::vector<int32_t> tokens = Tokens(kSize);
  const std::vector<float> want = WholeLogits(tokens, /*fp32=*/true);
  for (const int64_t step : {1, 7, 64, 90}) {
    for (const int64_t chunk : {5, 128}) {
      const auto decoder = Make(kSize, chunk);
      std::vector<float> got;
      for (int64_t at = 0; at < kSize; at += step) {
        const int64_t count = std::min(step, kSize - at);
        std::vector<float> logits(count * config_.vocab_size);
        ASSERT_THAT(decoder->Append(tokens.data() + at, count, count, logits.data()), IsOk());
        got.insert(got.end(), logits.begin(), logits.end());
      }
      // Logits up to about 10, from FP32 products whose order differs.
      ExpectNear(got, want.data(), 2e-4);
    }
  }
}

TEST_P(DecoderTest, OnlyTheWantedRowsAreGiven) {
  const std::vector<int32_t> tokens = Tokens(20);
  const std::vector<float> want = WholeLogits(tokens, /*fp32=*/true);
  const auto decoder = Make(20, /*chunk=*/6);
  std::vector<float> got(9 * config_.vocab_size, 1e9f);
  ASSERT_THAT(decoder->Append(tokens.data(), 20, 9, got.data()), IsOk());
  ExpectNear(got, want.data() + 11 * config_.vocab_size, 2e-4);
}

TEST_P(DecoderTest, AfterTruncationItGoesOnFromWhatIsKept) {
  const std::vector<int32_t> tokens = Tokens(30);
  const std::vector<float> want = WholeLogits(tokens, /*fp32=*/true);
  const auto decoder = Make(40, 16);
  const std::vector<int32_t> others(20, 49);
  ASSERT_THAT(decoder->Append(tokens.data(), 12, 0, nullptr), IsOk());
  ASSERT_THAT(decoder->Append(others.data(), 20, 0, nullptr), IsOk());
  decoder->Truncate(12);
  std::vector<float> got(18 * config_.vocab_size);
  ASSERT_THAT(decoder->Append(tokens.data() + 12, 18, 18, got.data()), IsOk());
  EXPECT_EQ(decoder->length(), 30);
  ExpectNear(got, want.data() + 12 * config_.vocab_size, 2e-4);
}

// Once to where the last tokens came from, once further back, and to the start.
TEST_P(DecoderTest, TruncatedAnywhereItIsAsIfNothingElseHadCome) {
  const std::vector<int32_t> tokens = Tokens(40);
  const std::vector<float> want = WholeLogits(tokens, /*fp32=*/true);
  const auto decoder = Make(64, 16);
  const std::vector<int32_t> others(20, 49);
  std::vector<float> got(10 * config_.vocab_size);
  ASSERT_THAT(decoder->Append(tokens.data(), 21, 0, nullptr), IsOk());
  ASSERT_THAT(decoder->Append(tokens.data() + 21, 9, 0, nullptr), IsOk());
  for (const int64_t keep : {30, 21, 30, 17, 5, 2, 0, 30}) {
    decoder->Truncate(std::min<int64_t>(keep, decoder->length()));
    const int64_t at = decoder->length();
    ASSERT_THAT(decoder->Append(tokens.data() + at, 30 - at, 0, nullptr), IsOk());
    ASSERT_THAT(decoder->Append(tokens.data() + 30, 10, 10, got.data()), IsOk());
    ExpectNear(got, want.data() + 30 * config_.vocab_size, 2e-4);
    decoder->Truncate(30);
    ASSERT_THAT(decoder->Append(others.data(), 20, 0, nullptr), IsOk());
    decoder->Truncate(30);
  }
}

TEST_P(DecoderTest, LogitsAreCappedAsInTraining) {
  const std::vector<int32_t> tokens = Tokens(12);
  std::vector<float> want = WholeLogits(tokens, /*fp32=*/true);
  for (float& logit : want) logit = 1.5f * std::tanh(logit / 1.5f);
  DecoderOptions options;
  options.capacity = 12;
  options.chunk = 5;
  options.logit_softcap = 1.5;
  const auto decoder = *Decoder::Create(config_, *weights_, options, *backend_);
  std::vector<float> got(7 * config_.vocab_size);
  ASSERT_THAT(decoder->Append(tokens.data(), 12, 7, got.data()), IsOk());
  ExpectNear(got, want.data() + 5 * config_.vocab_size, 2e-4);
}

TEST_P(DecoderTest, Bf16IsTheTrainingModelsBf16) {
  const std::vector<int32_t> tokens = Tokens(40);
  const std::vector<float> want = WholeLogits(tokens, /*fp32=*/false);
  const auto decoder = Make(40, 8, Precision::kBF16);
  std::vector<float> got(40 * config_.vocab_size);
  ASSERT_THAT(decoder->Append(tokens.data(), 40, 40, got.data()), IsOk());
  // Logits up to about 10; a rounding of an activation that falls the other way moves them by some
  // units of BF16's last place, 2^-8 of 10 each.
  ExpectNear(got, want.data(), 0.2);
}

TEST_P(DecoderTest, WhatDoesNotFitIsRefusedAndLeavesNothing) {
  const auto decoder = Make(8, 4);
  const std::vector<int32_t> tokens = {1, 2, 50, -1};
  EXPECT_THAT(decoder->Append(tokens.data(), 3, 0, nullptr),
              StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("token 50")));
  EXPECT_THAT(decoder->Append(tokens.data() + 3, 1, 0, nullptr),
              StatusIs(absl::StatusCode::kOutOfRange));
  EXPECT_THAT(decoder->Append(Tokens(9).data(), 9, 0, nullptr),
              StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("at most 8")));
  EXPECT_EQ(decoder->length(), 0);
}

INSTANTIATE_TEST_SUITE_P(
    Backends, DecoderTest,
    ::testing::Combine(::testing::Values("reference", "cpu"),
                       ::testing::Values(model::Family::kLlama, model::Family::kGpt2,
                                         model::Family::kNemotron, model::Family::kNemotronH)));

}  // namespace
}  // namespace nibble::inference
