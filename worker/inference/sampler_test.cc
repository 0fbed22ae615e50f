#include "worker/inference/sampler.h"

#include <cmath>
#include <limits>
#include <map>

#include "gtest/gtest.h"

namespace nibble::inference {
namespace {

SamplingOptions Options(double temperature, int64_t top_k, double top_p) {
  SamplingOptions options;
  options.temperature = temperature;
  options.top_k = top_k;
  options.top_p = top_p;
  options.seed = 9;
  return options;
}

std::map<int32_t, double> Shares(const std::vector<float>& logits, const SamplingOptions& options) {
  constexpr int kDraws = 20000;
  std::map<int32_t, double> shares;
  for (int i = 0; i < kDraws; ++i) shares[SampleToken(logits, options, i)] += 1.0 / kDraws;
  return shares;
}

const std::vector<float> kLogits = {std::log(0.1f), std::log(0.4f), std::log(0.2f), std::log(0.3f)};

TEST(Sampler, ZeroTemperatureTakesTheBestAndOfEqualsTheFirst) {
  EXPECT_EQ(SampleToken({1, 5, 5, 2}, Options(0, 0, 1), 3), 1);
  EXPECT_EQ(SampleToken({std::nanf(""), -3}, Options(0, 0, 1), 3), 1);
}

// Four deviations of a share of 20,000 draws are at most .014.
TEST(Sampler, SharesAreTheProbabilities) {
  auto shares = Shares(kLogits, Options(1, 0, 1));
  for (const auto& [id, share] : std::map<int32_t, double>{{0, .1}, {1, .4}, {2, .2}, {3, .3}}) {
    EXPECT_NEAR(shares[id], share, 0.014) << id;
  }
  // At half the temperature probabilities go with their squares: 1, 16, 4, 9 of 30.
  shares = Shares(kLogits, Options(0.5, 0, 1));
  EXPECT_NEAR(shares[1], 16.0 / 30, 0.015);
  EXPECT_NEAR(shares[0], 1.0 / 30, 0.006);
}

TEST(Sampler, KeepsOnlyTheBest) {
  auto shares = Shares(kLogits, Options(1, 2, 1));
  EXPECT_EQ(shares.size(), 2);
  EXPECT_NEAR(shares[1], 4.0 / 7, 0.015);
  // .4 is less than .45, .4 + .3 is not: two are kept.
  shares = Shares(kLogits, Options(1, 0, 0.45));
  EXPECT_EQ(shares.size(), 2);
  EXPECT_NEAR(shares[3], 3.0 / 7, 0.015);
  EXPECT_EQ(Shares(kLogits, Options(1, 0, 0.1)).size(), 1);
}

TEST(Sampler, IsAFunctionOfSeedAndPosition) {
  const SamplingOptions options = Options(1, 0, 1);
  SamplingOptions other = options;
  other.seed = 10;
  int differences = 0;
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(SampleToken(kLogits, options, i), SampleToken(kLogits, options, i));
    differences += SampleToken(kLogits, options, i) != SampleToken(kLogits, other, i);
  }
  EXPECT_GT(differences, 30);
}

TEST(Sampler, LogitsThatAreNoNumbersAreSurvived) {
  const float inf = std::numeric_limits<float>::infinity();
  EXPECT_EQ(SampleToken({-inf, 2, -inf}, Options(1, 0, 1), 0), 1);
  EXPECT_LT(SampleToken({-inf, -inf}, Options(1, 0, 0.5), 0), 2);
  EXPECT_LT(SampleToken({std::nanf(""), std::nanf("")}, Options(1, 0, 1), 0), 2);
}

}  // namespace
}  // namespace nibble::inference
