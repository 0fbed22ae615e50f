#include "worker/optimizer/schedule.h"

#include <cmath>
#include <vector>

#include "gtest/gtest.h"

namespace nibble::optimizer {
namespace {

std::vector<double> Factors(const ScheduleConfig& config, int64_t total_steps) {
  std::vector<double> factors;
  for (int64_t step = 1; step <= total_steps; ++step) {
    factors.push_back(LearningRateFactor(config, step, total_steps));
  }
  return factors;
}

void ExpectFactors(const ScheduleConfig& config, const std::vector<double>& expected) {
  const std::vector<double> factors = Factors(config, static_cast<int64_t>(expected.size()));
  for (size_t i = 0; i < expected.size(); ++i) {
    // The tables are written with at most 9 digits.
    EXPECT_NEAR(factors[i], expected[i], 1e-9) << "step " << i + 1;
  }
}

TEST(Schedule, ConstantRisesAndStays) {
  ExpectFactors({ScheduleKind::kConstant, /*warmup_steps=*/4, 0.2, 0.1},
                {0.25, 0.5, 0.75, 1, 1, 1});
  ExpectFactors({ScheduleKind::kConstant, /*warmup_steps=*/0, 0.2, 0.1}, {1, 1, 1});
}

TEST(Schedule, CosineEndsAtTheFinalFraction) {
  // After two warm-up steps four remain: cos of pi/4, pi/2, 3 pi/4, pi.
  ExpectFactors({ScheduleKind::kCosine, /*warmup_steps=*/2, 0.2, /*final_fraction=*/0.1},
                {0.5, 1, 0.868198052, 0.55, 0.231801948, 0.1});
  ExpectFactors({ScheduleKind::kCosine, /*warmup_steps=*/0, 0.2, /*final_fraction=*/0},
                {0.75, 0.25, 0});
}

TEST(Schedule, WsdIsFlatAndThenFallsLinearly) {
  ExpectFactors(
      {ScheduleKind::kWsd, /*warmup_steps=*/2, /*decay_fraction=*/0.4, /*final_fraction=*/0.2},
      {0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2});
  // No decay at all.
  ExpectFactors({ScheduleKind::kWsd, 1, /*decay_fraction=*/0, /*final_fraction=*/0.2}, {1, 1, 1});
  // A decay longer than what warm-up leaves starts where warm-up ends.
  ExpectFactors({ScheduleKind::kWsd, 2, /*decay_fraction=*/1, /*final_fraction=*/0},
                {0.5, 1, 0.5, 0});
}

TEST(Schedule, LinearEndsAtTheFinalFraction) {
  ExpectFactors({ScheduleKind::kLinear, /*warmup_steps=*/2, 0.2, /*final_fraction=*/0.2},
                {0.5, 1, 0.8, 0.6, 0.4, 0.2});
  ExpectFactors({ScheduleKind::kLinear, /*warmup_steps=*/0, 0.2, /*final_fraction=*/0},
                {0.75, 0.5, 0.25, 0});
}

// Four steps of decay: 1 - sqrt of 1/4, 1/2, 3/4, 1, from 1 to the final fraction.
TEST(Schedule, WsdMayFallAsOneMinusTheSquareRoot) {
  ExpectFactors({ScheduleKind::kWsd, /*warmup_steps=*/1, /*decay_fraction=*/0.5,
                 /*final_fraction=*/0, DecayShape::kOneMinusSqrt},
                {1, 1, 1, 1, 0.5, 0.292893219, 0.133974596, 0});
  ExpectFactors({ScheduleKind::kWsd, /*warmup_steps=*/2, /*decay_fraction=*/0.4,
                 /*final_fraction=*/0.2, DecayShape::kOneMinusSqrt},
                {0.5, 1, 1, 1, 1, 1, 0.6, 0.434314575, 0.307179677, 0.2});
}

TEST(Schedule, WarmupMayReachTheEnd) {
  for (ScheduleKind kind : {ScheduleKind::kConstant, ScheduleKind::kLinear, ScheduleKind::kCosine,
                            ScheduleKind::kWsd}) {
    ExpectFactors({kind, /*warmup_steps=*/4, 0.5, 0.1}, {0.25, 0.5, 0.75, 1});
  }
  // Cut short: warm-up longer than the run.
  EXPECT_EQ(LearningRateFactor({ScheduleKind::kCosine, 10, 0.2, 0.1}, 3, 3), 0.3);
}

}  // namespace
}  // namespace nibble::optimizer
