#include "worker/trainer/guard.h"

#include <cmath>
#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/trainer/fault_plan.h"

namespace nibble::trainer {
namespace {

using ::testing::HasSubstr;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

SafetyConfig Config() {
  SafetyConfig config;
  config.non_finite = GuardAction::kPause;
  config.loss_spike = GuardAction::kNotify;
  config.gradient_spike = GuardAction::kRollback;
  config.window = 16;
  return config;
}

// Losses 2.0, 2.1, ... 2.4 in turn: median 2.2, median absolute deviation 0.1.
Guard Settled(const SafetyConfig& config, int steps = 20) {
  Guard guard(config);
  for (int i = 0; i < steps; ++i) guard.Accept(2.0 + 0.1 * (i % 5), 1.0);
  return guard;
}

TEST(Guard, WhatIsNotFiniteTripsAtOnce) {
  const Guard guard(Config());
  const Verdict loss = guard.Judge(kNan, 1);
  EXPECT_TRUE(loss.tripped);
  EXPECT_EQ(loss.kind, GuardKind::kNonFinite);
  EXPECT_EQ(loss.action, GuardAction::kPause);
  EXPECT_THAT(loss.message, HasSubstr("the loss is not finite"));
  EXPECT_THAT(guard.Judge(1, INFINITY).message, HasSubstr("the gradient norm is not finite"));
  EXPECT_FALSE(guard.Judge(1e30, 1e30).tripped) << "nothing to compare with yet";
}

// The limit by hand: of the last 16 of the losses 2.0 2.1 2.2 2.3 2.4 2.0 ... (i = 4 to 19) the
// median is 2.2 and the median distance from it 0.1; 2.2 + 10 * 1.4826 * 0.1 = 3.6826. Seen red
// with the mean absolute deviation, and with a factor of 1 for 1.4826.
TEST(Guard, ASpikeLiesAboveTheMedianByDeviations) {
  const Guard guard = Settled(Config());
  EXPECT_FALSE(guard.Judge(3.68, 1).tripped);
  const Verdict verdict = guard.Judge(3.69, 1);
  EXPECT_TRUE(verdict.tripped);
  EXPECT_EQ(verdict.kind, GuardKind::kLossSpike);
  EXPECT_EQ(verdict.action, GuardAction::kNotify);
  EXPECT_THAT(verdict.message,
              HasSubstr("the loss is 3.69; the median of the last 16 steps is 2.2"));
  EXPECT_FALSE(guard.Judge(-5, 1).tripped) << "below is no spike";
}

TEST(Guard, ARunThatHardlyVariesHasRoom) {
  const Guard guard = Settled(Config());
  EXPECT_FALSE(guard.Judge(2.2, 1.09).tripped) << "ten times 1 % of the median";
  const Verdict verdict = guard.Judge(2.2, 1.11);
  EXPECT_EQ(verdict.kind, GuardKind::kGradientSpike);
  EXPECT_TRUE(verdict.tripped);
}

TEST(Guard, OnlyTheWindowCounts) {
  Guard guard = Settled(Config());
  for (int i = 0; i < 16; ++i) guard.Accept(40, 1);
  EXPECT_FALSE(guard.Judge(43, 1).tripped);
  EXPECT_TRUE(guard.Judge(45, 1).tripped);
}

TEST(Guard, TurnedOffItSaysNothingButOfNumbers) {
  SafetyConfig config = Config();
  config.loss_spike = config.gradient_spike = GuardAction::kNone;
  EXPECT_FALSE(Settled(config).Judge(1e9, 1e9).tripped);
  EXPECT_TRUE(Settled(config).Judge(kNan, 1).tripped);
}

TEST(Guard, RemembersOverAResumeWhatCanChangeTheRun) {
  const Guard guard = Settled(Config());
  checkpoint::SafetyState state;
  guard.Save(&state);
  EXPECT_TRUE(state.losses.empty()) << "they only notify";
  EXPECT_EQ(state.gradient_norms.size(), 16u);
  Guard resumed(Config());
  resumed.Restore(state);
  EXPECT_TRUE(resumed.Judge(2.2, 1.11).tripped);
}

TEST(FaultPlan, IsWhatTheTextSays) {
  const auto plan = FaultPlan::Parse("nan_loss:3,flaky:4,gradient_spike:5");
  ASSERT_TRUE(plan.ok());
  double loss = 1, norm = 1;
  plan->AfterGradients(2, 1, &loss, &norm);
  EXPECT_EQ(loss, 1);
  plan->AfterGradients(3, 2, &loss, &norm);
  EXPECT_TRUE(std::isnan(loss));
  loss = 1;
  plan->AfterGradients(4, 2, &loss, &norm);
  EXPECT_EQ(loss, 1) << "the second time it is right";
  plan->AfterGradients(5, 1, &loss, &norm);
  EXPECT_EQ(norm, 1000);
  for (const char* wrong : {"nan", "nan_loss", "nan_loss:x", "rain:3"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(FaultPlan::Parse(wrong).status())) << wrong;
  }
  EXPECT_TRUE(FaultPlan::Parse("")->empty());
}

}  // namespace
}  // namespace nibble::trainer
