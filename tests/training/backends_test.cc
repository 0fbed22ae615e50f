// The CPU backend trains as the scalar reference does.
#include <cmath>
#include <string>
#include <vector>

#include "base/status_matchers.h"
#include "gtest/gtest.h"
#include "tests/training/training_setup.h"

namespace nibble::testing {
namespace {

struct Agreement {
  Recipe recipe;
  double first_tolerance;  // nats, of the first step
  double loss_tolerance;   // nats, over all steps
};

class BackendsTest : public ::testing::TestWithParam<Agreement> {};

// Losses of forty steps. FP32 differs in the order of summation only. In BF16 a sum that falls on
// the other side of a rounding boundary moves an activation by 2^-9 of itself. In NVFP4 such a
// value may fall into the next of sixteen grid points, in FP8 into the next of 256, and training
// carries it on: the bound over all steps is wide, that of the first step, before any update, is
// not.
TEST_P(BackendsTest, LossesAgreeWithTheReference) {
  trainer::TrainingConfig config = SmallConfig(GetParam().recipe);
  config.steps = 40;
  const Bench cpu(config, "cpu", /*threads=*/2), reference(config, "reference");
  const auto cpu_trainer = cpu.MakeTrainer(), reference_trainer = reference.MakeTrainer();
  double worst = 0, last = 0;
  for (int64_t step = 0; step < config.steps; ++step) {
    ASSERT_OK_AND_ASSIGN(const trainer::StepResult a, cpu_trainer->Step());
    ASSERT_OK_AND_ASSIGN(const trainer::StepResult b, reference_trainer->Step());
    if (step == 0) {
      EXPECT_NEAR(a.loss, b.loss, GetParam().first_tolerance);
    }
    worst = std::max(worst, std::abs(a.loss - b.loss));
    last = b.loss;
  }
  EXPECT_LT(worst, GetParam().loss_tolerance);
  EXPECT_LT(last, 3.0) << "nothing was learnt, so nothing was compared";
}

INSTANTIATE_TEST_SUITE_P(
    Recipes, BackendsTest,
    ::testing::Values(Agreement{Recipe::kFp32, 1e-6, 1e-5}, Agreement{Recipe::kBf16, 1e-3, 0.02},
                      Agreement{Recipe::kNvfp4, 3e-3, 0.2}, Agreement{Recipe::kMxfp4, 3e-3, 0.2},
                      Agreement{Recipe::kMxfp8, 2e-3, 0.05}, Agreement{Recipe::kFp8, 2e-3, 0.05},
                      Agreement{Recipe::kFp8Block, 2e-3, 0.05}));

}  // namespace
}  // namespace nibble::testing
