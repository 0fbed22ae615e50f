// What quantisation health measures, on operands whose numbers can be worked out by hand.
#include "kernels/quantisation_stats.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "kernels/nvfp4/scales.h"
#include "tests/ops/operator_harness.h"

namespace nibble::kernels {
namespace {

OperandRequest RequestOf(std::vector<float>& x, int64_t rows, int64_t cols, Format format) {
  OperandRequest request;
  request.source = {x.data(), DType::kF32, rows, cols};
  request.format.format = format;
  request.key.total_cols = cols;
  return request;
}

TEST(QuantisationStatsTest, SharesAndErrorOfAnMxfp4Block) {
  // amax 6 gives a scale of 1; one element of 32 rounds to 0, one is off by .5.
  std::vector<float> x(32, 1.0f);
  x[0] = 6;
  x[1] = 0.125f;
  x[2] = 4.5f;
  x[3] = 0;
  const QuantisationStats stats = MeasureQuantisation(RequestOf(x, 1, 32, Format::kMxfp4), 1);
  EXPECT_EQ(stats.elements, 32);
  EXPECT_EQ(stats.UnderflowShare(), 1.0 / 32);
  EXPECT_EQ(stats.SaturationShare(), 0);
  EXPECT_EQ(stats.ScaleSpread(), 0);
  const double errors = 0.125 * 0.125 + 0.5 * 0.5;
  const double values = 36 + 0.125 * 0.125 + 4.5 * 4.5 + 28;
  EXPECT_DOUBLE_EQ(stats.RelativeError(), std::sqrt(errors / values));
}

TEST(QuantisationStatsTest, SpreadIsInBinadesOverAllPieces) {
  std::vector<float> small(32, 0.75f), large(32, 24.0f);
  QuantisationStats stats = MeasureQuantisation(RequestOf(small, 1, 32, Format::kMxfp4), 1);
  stats.Add(MeasureQuantisation(RequestOf(large, 1, 32, Format::kMxfp4), 1));
  EXPECT_EQ(stats.elements, 64);
  EXPECT_EQ(stats.ScaleSpread(), 5);
  EXPECT_EQ(stats.RelativeError(), 0);
}

TEST(QuantisationStatsTest, NvfpBlocksThatRoundTheirScaleDownSaturate) {
  std::vector<float> x(32, 0.0f);
  x[0] = 2688;
  x[16] = 6 * 1.06f;  // a scale between 1 and 1.125 becomes 1: its maximum is clipped to 6
  const QuantisationStats stats = MeasureQuantisation(RequestOf(x, 1, 32, Format::kNvfp4), 1);
  EXPECT_EQ(stats.SaturationShare(), 1.0 / 32);
  EXPECT_EQ(stats.UnderflowShare(), 0);
}

TEST(QuantisationStatsTest, APieceIsMeasuredWithTheTensorsScale) {
  std::vector<float> x = Inputs(1).Normal(DType::kF32, 64 * 64);
  x[5] = 100;
  const float decode = nvfp4::TensorScaleOf(100).decode;
  const QuantisationStats whole = MeasureQuantisation(RequestOf(x, 64, 64, Format::kNvfp4), decode);
  std::vector<float> lower(x.begin() + 32 * 64, x.end());
  QuantisationStats pieces = MeasureQuantisation(RequestOf(x, 32, 64, Format::kNvfp4), decode);
  pieces.Add(MeasureQuantisation(RequestOf(lower, 32, 64, Format::kNvfp4), decode));
  EXPECT_EQ(pieces.underflowed, whole.underflowed);
  EXPECT_EQ(pieces.saturated, whole.saturated);
  EXPECT_NEAR(pieces.RelativeError(), whole.RelativeError(), 1e-12);
  EXPECT_GT(whole.RelativeError(), 0.02);
  EXPECT_LT(whole.RelativeError(), 0.2);
}

}  // namespace
}  // namespace nibble::kernels
