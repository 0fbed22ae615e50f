#include "worker/trainer/sample_weights.h"

#include <cmath>
#include <vector>

#include "gtest/gtest.h"

namespace nibble::trainer {
namespace {

std::vector<double> Weights(WeightStrategy strategy, double temperature,
                            const std::vector<double>& losses) {
  std::vector<double> weights;
  SampleWeights({strategy, temperature, 0}, losses, &weights);
  return weights;
}

void ExpectNear(const std::vector<double>& got, const std::vector<double>& want) {
  ASSERT_EQ(got.size(), want.size());
  // The tables are written with nine digits.
  for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-8) << i;
}

// Losses 1, 2, 3, 5 have h = -1, -1/2, 0, 1. Tables of Python's math.exp. Seen red with h from 0 to
// 1, with the temperature multiplied, and with weights that sum to 1.
TEST(SampleWeights, TablesOfEveryStrategy) {
  const std::vector<double> losses = {1, 2, 3, 5};
  // f = 0, 1/2, 1, 1
  ExpectNear(Weights(WeightStrategy::kLinearUpper, 1, losses),
             {0.494725917, 0.815665143, 1.344804470, 1.344804470});
  // f = 0, 3/4, 1, 0
  ExpectNear(Weights(WeightStrategy::kQuadratic, 0.5, losses),
             {0.288376720, 1.292414795, 2.130831764, 0.288376720});
  // f = 1, 1/2, 0, 1
  ExpectNear(Weights(WeightStrategy::kExtremes, 1, losses),
             {1.344804470, 0.815665143, 0.494725917, 1.344804470});
  ExpectNear(Weights(WeightStrategy::kUniform, 1, losses), {1, 1, 1, 1});
}

TEST(SampleWeights, EqualLossesHaveEqualWeights) {
  for (WeightStrategy strategy :
       {WeightStrategy::kLinearUpper, WeightStrategy::kQuadratic, WeightStrategy::kExtremes}) {
    ExpectNear(Weights(strategy, 0.01, {2.5, 2.5, 2.5}), {1, 1, 1});
    ExpectNear(Weights(strategy, 0.01, {7}), {1});
    EXPECT_TRUE(Weights(strategy, 1, {}).empty());
  }
}

TEST(SampleWeights, NothingOverflowsAndNoNumberIsLeftToTheStep) {
  const std::vector<double> weights =
      Weights(WeightStrategy::kLinearUpper, 0.01, {0, 1e300, -1e300, 5e299});
  double sum = 0;
  for (const double weight : weights) {
    EXPECT_TRUE(std::isfinite(weight));
    sum += weight;
  }
  EXPECT_NEAR(sum, 4, 1e-12);
  ExpectNear(Weights(WeightStrategy::kExtremes, 1, {1, NAN, 3}), {1, 1, 1});
  ExpectNear(Weights(WeightStrategy::kExtremes, 1, {1, INFINITY, 3}), {1, 1, 1});
}

}  // namespace
}  // namespace nibble::trainer
