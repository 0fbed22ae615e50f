// Quantisation health of a run: measuring changes nothing, and what it says is true.
#include <cmath>
#include <set>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "base/status_matchers.h"
#include "gtest/gtest.h"
#include "tests/training/training_setup.h"

namespace nibble::testing {
namespace {

class HealthTest : public ::testing::TestWithParam<const char*> {};

// Seen in all formats that are measured differently: with a tensor scale, with blocks, with tiles.
TEST_P(HealthTest, MeasuringChangesNoBitOfTheTraining) {
  for (Recipe recipe : {Recipe::kNvfp4, Recipe::kFp8, Recipe::kFp8Block, Recipe::kMxfp4}) {
    trainer::TrainingConfig config = SmallConfig(recipe);
    const Bench plain(config, GetParam());
    config.health = {2, /*shadow=*/true};
    const Bench measured(config, GetParam());
    const auto without = plain.MakeTrainer(), with = measured.MakeTrainer();
    for (int64_t step = 1; step <= config.steps; ++step) {
      ASSERT_OK_AND_ASSIGN(const trainer::StepResult a, without->Step());
      ASSERT_OK_AND_ASSIGN(const trainer::StepResult b, with->Step());
      EXPECT_EQ(a.loss, b.loss) << step;
      EXPECT_EQ(a.grad_norm, b.grad_norm) << step;
      EXPECT_TRUE(a.health.empty());
      EXPECT_EQ(b.health.empty(), step % 2 != 0);
    }
    ASSERT_OK_AND_ASSIGN(const std::string digest, without->Digest());
    EXPECT_EQ(digest, *with->Digest());
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, HealthTest, ::testing::Values("cpu", "reference"));

TEST(HealthValuesTest, EveryQuantisedOperandOfEveryLayerAndClass) {
  trainer::TrainingConfig config = SmallConfig(Recipe::kNvfp4);
  config.health = {1, /*shadow=*/true};
  const Bench bench(config, "cpu");
  const auto trainer = bench.MakeTrainer();
  ASSERT_OK_AND_ASSIGN(const trainer::StepResult step, trainer->Step());
  // 8 of 12 layers are quantised, in 4 classes; 6 operands of 4 measures, and gain and error.
  EXPECT_EQ(step.health.size(), (8 + 4) * (6 * 4 + 2) + 1);
  for (const auto& [name, value] : step.health) {
    EXPECT_TRUE(std::isfinite(value)) << name;
    EXPECT_LE(name.size(), 64u) << name;
    EXPECT_FALSE(absl::StartsWith(name, "health/blocks.2.")) << name << " is in BF16";
    if (absl::EndsWith(name, "/gain")) {
      EXPECT_NEAR(value, 1.0, 0.05) << name;
    } else if (absl::EndsWith(name, "/error")) {
      EXPECT_GT(value, 0.01) << name;
      EXPECT_LT(value, 0.6) << name;
    } else if (absl::EndsWith(name, "/saturation") || absl::EndsWith(name, "/underflow")) {
      EXPECT_GE(value, 0) << name;
      EXPECT_LT(value, 0.5) << name;
    }
  }
  EXPECT_TRUE(step.health.contains("health/blocks.1.mlp.down/dgrad/weight/spread"));
  EXPECT_TRUE(step.health.contains("health/attention.qkv/wgrad/gain"));
  // The same batch at the same weights: near the loss, and not it.
  EXPECT_NEAR(step.health.at("health/shadow_loss"), step.loss, 0.05);
  EXPECT_NE(step.health.at("health/shadow_loss"), step.loss);
}

TEST(HealthValuesTest, NothingIsMeasuredWhereNothingIsQuantised) {
  trainer::TrainingConfig config = SmallConfig(Recipe::kBf16);
  config.health = {1, /*shadow=*/true};
  const Bench bench(config, "cpu");
  const auto trainer = bench.MakeTrainer();
  ASSERT_OK_AND_ASSIGN(const trainer::StepResult step, trainer->Step());
  ASSERT_EQ(step.health.size(), 1u);
  EXPECT_EQ(step.health.at("health/shadow_loss"), step.loss);
}

TEST(HealthValuesTest, OfAModelWithManyLayersASampleIsMeasured) {
  trainer::TrainingConfig config = SmallConfig(Recipe::kMxfp8);
  config.model.blocks = 12;
  const std::vector<trainer::LinearPrecision> linears = config.linears;
  config.linears.clear();
  for (const model::NamedLinear& linear : model::LinearsOf(config.model)) {
    config.linears.push_back({linear.name, linears[0].format});
  }
  config.health = {1, false};
  const Bench bench(config, "cpu");
  const auto trainer = bench.MakeTrainer();
  ASSERT_OK_AND_ASSIGN(const trainer::StepResult step, trainer->Step());
  std::set<std::string> layers;
  for (const auto& [name, value] : step.health) {
    if (absl::StartsWith(name, "health/blocks.")) {
      layers.insert(std::vector<std::string>(absl::StrSplit(name, '/'))[1]);
    }
  }
  EXPECT_EQ(layers.size(), 32u);
  EXPECT_TRUE(layers.contains("blocks.0.attention.qkv"));
  EXPECT_TRUE(layers.contains("blocks.11.mlp.down"));
}

}  // namespace
}  // namespace nibble::testing
