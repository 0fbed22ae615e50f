// The trainer's arithmetic against an independent FP64 implementation of the same model.
#include <cmath>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/training/plain_model.h"
#include "tests/training/training_setup.h"
#include "worker/optimizer/schedule.h"

namespace nibble::testing {
namespace {

using model::Parameter;

// The flat buffer as named values.
PlainWeights Named(const model::ParameterTable& table, const std::vector<float>& flat) {
  PlainWeights named;
  for (const Parameter& parameter : table.parameters()) {
    named[parameter.name].assign(flat.begin() + parameter.offset,
                                 flat.begin() + parameter.offset + parameter.size);
  }
  return named;
}

double LargestMagnitude(const std::vector<double>& values) {
  double largest = 0;
  for (double value : values) largest = std::max(largest, std::abs(value));
  return largest;
}

// Every value within `tolerance` of the largest value of its tensor, or within `noise`.
void ExpectClose(const PlainWeights& actual, const PlainWeights& expected, double tolerance,
                 const std::string& what, double noise = 0) {
  ASSERT_EQ(actual.size(), expected.size());
  for (const auto& [name, values] : expected) {
    const double allowed = tolerance * LargestMagnitude(values) + noise;
    ASSERT_EQ(actual.at(name).size(), values.size()) << name;
    for (size_t i = 0; i < values.size(); ++i) {
      ASSERT_NEAR(actual.at(name)[i], values[i], allowed)
          << what << " of " << name << "[" << i << "]";
    }
  }
}

struct Batches {
  std::vector<std::vector<int32_t>> inputs, targets;
};

Batches BatchOfStep(const Bench& bench, int64_t step) {
  const trainer::TrainingConfig& config = bench.config;
  Batches batches;
  for (int64_t i = 0; i < config.batch_size; ++i) {
    batches.inputs.emplace_back(config.sequence_length);
    batches.targets.emplace_back(config.sequence_length);
    EXPECT_THAT(
        bench.train.ReadShuffled(config.seed, step * config.batch_size + i,
                                 batches.inputs.back().data(), batches.targets.back().data()),
        IsOk());
  }
  return batches;
}

struct MathCase {
  const char* name;
  model::Family family = model::Family::kLlama;
  bool tied_embeddings = false;
  int64_t kv_heads = 2;                                               // of 4
  model::MlpActivation activation = model::MlpActivation::kGeluTanh;  // of gpt2
};

using model::Family;
const MathCase kCases[] = {
    {"llama"},
    {"llama_tied", Family::kLlama, true},
    {"llama_multi_query", Family::kLlama, false, 1},
    {"llama_multi_head", Family::kLlama, false, 4},
    {"gpt2", Family::kGpt2, true},
    {"gpt2_exact_gelu", Family::kGpt2, false, 4, model::MlpActivation::kGelu},
    {"nemotron", Family::kNemotron},
    {"nemotron_h", Family::kNemotronH},
};

// Every step takes a gradient by differences, so only a few: family_test has them all.
const MathCase kStepsCases[] = {
    {"llama"}, {"llama_tied", Family::kLlama, true}, {"gpt2", Family::kGpt2, true}};

class MathTest : public ::testing::TestWithParam<std::tuple<const char*, MathCase>> {
 protected:
  const char* backend() const { return std::get<0>(GetParam()); }
  trainer::TrainingConfig Config() const {
    const MathCase& c = std::get<1>(GetParam());
    trainer::TrainingConfig config = MicroscopicConfig(c.family);
    config.model.tied_embeddings = c.tied_embeddings;
    config.model.kv_heads = c.kv_heads;
    if (c.family == Family::kGpt2) config.model.activation = c.activation;
    return config;
  }
};

class StepsTest : public MathTest {};

// FP32 rounding through about ten operators leaves some 1e-6 of the largest value; a wrong factor,
// sign or missing term is far above 1e-4. Seen red: without the inverse rotation of d_qkv; with
// the head's gradient left out of a tied table; with loss_scale of one micro-batch.
TEST_P(MathTest, GradientsOfTheWholeModel) {
  const Bench bench(Config(), backend());
  const auto trainer = bench.MakeTrainer();
  const model::ParameterTable& table = trainer->parameters();
  const PlainWeights weights =
      Named(table, ReadDevice(*bench.backend, trainer->weights().master(), table.flat_size()));
  const Batches batch = BatchOfStep(bench, 0);
  ASSERT_OK_AND_ASSIGN(const trainer::StepResult step, trainer->Step());
  EXPECT_NEAR(step.loss, PlainLoss(bench.config.model, weights, batch.inputs, batch.targets), 1e-6);
  const PlainWeights gradient =
      PlainGradient(bench.config.model, weights, batch.inputs, batch.targets);
  ExpectClose(
      Named(table, ReadDevice(*bench.backend, trainer->weights().gradients(), table.flat_size())),
      gradient, 1e-5, "gradient");
}

// Five updates with warm-up, clipping and decay. An update divides by a root of second moments, so
// relative errors of gradients (1e-6) come through undamped: 2e-5 of the largest weight. Seen red:
// with decay on the norms, with clipping left out, with the step of the schedule off by one.
TEST_P(StepsTest, SeveralStepsOfTraining) {
  const Bench bench(Config(), backend());
  const auto trainer = bench.MakeTrainer();
  const model::ParameterTable& table = trainer->parameters();
  const optimizer::AdamWConfig& options = bench.config.optimizer;
  PlainWeights weights =
      Named(table, ReadDevice(*bench.backend, trainer->weights().master(), table.flat_size()));
  PlainAdamW adamw{options.beta1,
                   options.beta2,
                   options.epsilon,
                   options.weight_decay,
                   options.gradient_clip,
                   {},
                   {}};
  // The keys' biases of gpt2 have no gradient but rounding (softmax does not see them), some 1e-8:
  // over epsilon and times the learning rate it moves them by 1e-6 a step.
  constexpr double kNoise = 5e-6;
  // Warm-up 2 of 5 steps, then a cosine to a tenth.
  const double factors[] = {0.5, 1.0, 0.775, 0.325, 0.1};
  for (int64_t step = 0; step < bench.config.steps; ++step) {
    const Batches batch = BatchOfStep(bench, step);
    const double loss = PlainLoss(bench.config.model, weights, batch.inputs, batch.targets);
    const PlainWeights gradient =
        PlainGradient(bench.config.model, weights, batch.inputs, batch.targets);
    const double norm = adamw.Update(options.learning_rate * factors[step], gradient, &weights);
    ASSERT_OK_AND_ASSIGN(const trainer::StepResult result, trainer->Step());
    EXPECT_NEAR(result.loss, loss, 1e-5);
    EXPECT_NEAR(result.grad_norm, norm, 1e-5 * norm);
    EXPECT_DOUBLE_EQ(result.learning_rate, options.learning_rate * factors[step]);
    EXPECT_GT(norm, options.gradient_clip) << "nothing was clipped";
    ExpectClose(
        Named(table, ReadDevice(*bench.backend, trainer->weights().master(), table.flat_size())),
        weights, 2e-5, "weight after step " + std::to_string(step + 1), kNoise);
  }
  PlainWeights second_moments;
  for (const optimizer::StateTensor& tensor : trainer->optimizer().State()) {
    const size_t name_size = tensor.name.rfind(".exp_avg_sq");
    if (name_size == std::string::npos) continue;
    const std::vector<float> values = ReadDevice(*bench.backend, tensor.values, tensor.size);
    second_moments[tensor.name.substr(0, name_size)].assign(values.begin(), values.end());
  }
  ExpectClose(second_moments, adamw.v, 1e-4, "second moment");
}

std::string NameOf(const ::testing::TestParamInfo<MathTest::ParamType>& info) {
  return absl::StrCat(std::get<0>(info.param), "_", std::get<1>(info.param).name);
}
const auto kBackends = ::testing::Values("reference", "cpu");
INSTANTIATE_TEST_SUITE_P(Cases, MathTest,
                         ::testing::Combine(kBackends, ::testing::ValuesIn(kCases)), NameOf);
INSTANTIATE_TEST_SUITE_P(Cases, StepsTest,
                         ::testing::Combine(kBackends, ::testing::ValuesIn(kStepsCases)), NameOf);

TEST(Initialisation, IsNormalAndAFunctionOfItsIndexes) {
  constexpr int64_t kCount = 40'000;
  std::vector<float> values(kCount);
  model::FillInitialValues(7, 3, {model::InitialDistribution::kNormal, 0.5}, 0, kCount,
                           values.data());
  double sum = 0, squares = 0, fourths = 0;
  for (int64_t i = 0; i < kCount; ++i) {
    sum += values[i];
    squares += std::pow(values[i] / 0.5, 2);
    fourths += std::pow(values[i] / 0.5, 4);
  }
  // Five standard errors of the mean, the variance and the fourth moment (0, 1, 3) of 40,000
  // values.
  EXPECT_NEAR(sum / kCount, 0, 0.5 * 5 / 200);
  EXPECT_NEAR(squares / kCount, 1, 5 * std::sqrt(2.0) / 200);
  EXPECT_NEAR(fourths / kCount, 3, 5 * std::sqrt(96.0) / 200);
  for (int64_t i : {0, 1, 2, 3, 4, 4097, 39'999}) {
    EXPECT_EQ(model::InitialValue(7, 3, i, 0.5), values[i]);
    EXPECT_NE(model::InitialValue(8, 3, i, 0.5), values[i]);
    EXPECT_NE(model::InitialValue(7, 4, i, 0.5), values[i]);
  }
  float piece[4];
  model::FillInitialValues(7, 3, {model::InitialDistribution::kNormal, 0.5}, /*first=*/4096, 4,
                           piece);
  EXPECT_EQ(piece[1], values[4097]);
}

TEST(Initialisation, OutputProjectionsAreScaledAndNormsAreOne) {
  trainer::TrainingConfig config = MicroscopicConfig();
  const Bench bench(config, "reference");
  const auto trainer = bench.MakeTrainer();
  const model::ParameterTable& table = trainer->parameters();
  const std::vector<float> flat =
      ReadDevice(*bench.backend, trainer->weights().master(), table.flat_size());
  int64_t values = 0;
  for (size_t index = 0; index < table.parameters().size(); ++index) {
    const Parameter& parameter = table[static_cast<int>(index)];
    const bool output = parameter.name.find("o_proj") != std::string::npos ||
                        parameter.name.find("down_proj") != std::string::npos;
    const double std = output ? 0.4 / std::sqrt(2.0 * 2) : 0.4;
    for (int64_t i = 0; i < parameter.size; ++i) {
      const float expected =
          parameter.kind == model::ParameterKind::kNorm
              ? 1.0f
              : model::InitialValue(config.seed, static_cast<int>(index), i, std);
      ASSERT_EQ(flat[parameter.offset + i], expected) << parameter.name << "[" << i << "]";
    }
    values += parameter.size;
  }
  EXPECT_EQ(values, table.parameter_count());
  // Embedding and head 2 * 110; a block 32 * 10 + 10 * 16 + 28 * 10 + 10 * 14 + 20; final norm 10.
  EXPECT_EQ(values, 2 * 110 + 2 * 920 + 10);
}

// A tiny batch that comes again and again must be learnt by heart in any recipe.
class OverfitTest : public ::testing::TestWithParam<Recipe> {};

TEST_P(OverfitTest, LearnsFourSequencesByHeart) {
  trainer::TrainingConfig config = SmallConfig(GetParam());
  config.steps = 120;
  config.optimizer.learning_rate = 0.02;
  config.schedule.kind = trainer::ScheduleKind::kConstant;
  const Bench bench(config, "cpu", /*threads=*/1, /*train_sequences=*/4);
  const auto trainer = bench.MakeTrainer();
  double first = 0, last = 0;
  for (int64_t step = 0; step < config.steps; ++step) {
    ASSERT_OK_AND_ASSIGN(const trainer::StepResult result, trainer->Step());
    if (step == 0) first = result.loss;
    last = result.loss;
  }
  EXPECT_GT(first, 3);  // ln 48 = 3.87 where nothing is known
  EXPECT_LT(last, 0.1);
}

INSTANTIATE_TEST_SUITE_P(Recipes, OverfitTest,
                         ::testing::Values(Recipe::kFp32, Recipe::kBf16, Recipe::kNvfp4));

}  // namespace
}  // namespace nibble::testing
