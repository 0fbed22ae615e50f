// The scalar definitions of kernels/nvfp4, exhaustively.
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "kernels/nvfp4/bf16.h"
#include "kernels/nvfp4/e2m1.h"
#include "kernels/nvfp4/e4m3.h"
#include "kernels/nvfp4/hadamard.h"
#include "kernels/nvfp4/philox.h"
#include "kernels/nvfp4/rounding.h"
#include "kernels/nvfp4/scales.h"
#include "kernels/nvfp4/swizzle.h"
#include "tests/ops/nvfp4_oracle.h"
#include "tests/ops/operator_harness.h"

namespace nibble::kernels {
namespace {

TEST(FormatsTest, EveryE2m1CodeHasItsValue) {
  for (int code = 0; code < 16; ++code) {
    const float value = nvfp4::E2m1ToF32(static_cast<uint8_t>(code));
    EXPECT_EQ(value, OracleE2m1(code)) << code;
    EXPECT_EQ(std::signbit(value), code >= 8) << code;
    EXPECT_EQ(nvfp4::RoundNearest(value), code);
  }
}

TEST(FormatsTest, EveryE4m3CodeHasItsValueAndRoundsToItself) {
  for (int code = 0; code < 127; ++code) {
    const float value = nvfp4::E4m3ToF32(static_cast<uint8_t>(code));
    EXPECT_EQ(value, OracleE4m3(code)) << code;
    EXPECT_EQ(nvfp4::F32ToE4m3(value), code);
    EXPECT_EQ(nvfp4::F32ToE4m3(-value), code | 0x80);
  }
  EXPECT_TRUE(std::isnan(nvfp4::E4m3ToF32(0x7f)));
  EXPECT_EQ(nvfp4::F32ToE4m3(NAN), 0x7f);
  EXPECT_EQ(nvfp4::F32ToE4m3(INFINITY), 0x7e);
}

// Every point between two neighbours where the rounding turns, and the floats beside it.
TEST(FormatsTest, RoundingTurnsExactlyAtTheMidpoints) {
  const auto around = [](double middle, auto check) {
    const float at = static_cast<float>(middle);
    for (float value : {at, std::nextafter(at, 0.0f), std::nextafter(at, 1e9f)}) check(value);
  };
  for (int code = 0; code < 126; ++code) {
    around((OracleE4m3(code) + OracleE4m3(code + 1)) / 2, [](float value) {
      EXPECT_EQ(nvfp4::F32ToE4m3(value), OracleNearestE4m3(value)) << value;
    });
    around(OracleE4m3(code), [](float value) {
      EXPECT_EQ(nvfp4::F32ToE4m3(std::fabs(value)), OracleNearestE4m3(std::fabs(value))) << value;
    });
  }
  for (int code = 0; code < 7; ++code) {
    around((OracleE2m1(code) + OracleE2m1(code + 1)) / 2, [](float value) {
      EXPECT_EQ(nvfp4::RoundNearest(value), OracleNearestE2m1(value)) << value;
      EXPECT_EQ(nvfp4::RoundNearest(-value), OracleNearestE2m1(value) | 8) << value;
    });
  }
}

TEST(FormatsTest, EveryProductOfScaleAndElementIsExactInBf16) {
  for (int scale = 0; scale < 127; ++scale) {
    for (int code = 0; code < 16; ++code) {
      const double exact = OracleE4m3(scale) * OracleE2m1(code);
      const float value = nvfp4::E4m3ToF32(static_cast<uint8_t>(scale)) *
                          nvfp4::E2m1ToF32(static_cast<uint8_t>(code));
      EXPECT_EQ(value, exact);
      EXPECT_EQ(nvfp4::RoundToBf16(value), value);
    }
  }
}

TEST(FormatsTest, Bf16RoundsToNearestEven) {
  for (uint32_t high = 0; high < 0x10000; ++high) {
    for (uint32_t low : {0u, 1u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
      const float value = nvfp4::FloatOf(high << 16 | low);
      if (std::isnan(value)) {
        EXPECT_TRUE(std::isnan(nvfp4::RoundToBf16(value)));
        continue;
      }
      ASSERT_EQ(nvfp4::F32ToBf16(value), ToBf16Bits(value)) << std::hex << (high << 16 | low);
    }
  }
}

TEST(FormatsTest, PhiloxGivesTheKnownAnswersOfRandom123) {
  const PhiloxResult zeros = Philox4x32(0, 0, 0, 0, 0, 0);
  EXPECT_EQ(zeros.v[0], 0x6627e8d5u);
  EXPECT_EQ(zeros.v[3], 0x9b00dbd8u);
  const PhiloxResult pi =
      Philox4x32(0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0);
  EXPECT_EQ(pi.v[0], 0xd16cfe09u);
  EXPECT_EQ(pi.v[1], 0x94fdccebu);
  EXPECT_EQ(pi.v[2], 0x5001e420u);
  EXPECT_EQ(pi.v[3], 0x24126ea1u);
}

// With all 256 bytes once each: only the neighbours are drawn, the share of the upper one is the
// formula's, and the bias is towards zero by less than 1/256 step.
TEST(StochasticTest, DrawsOnlyNeighboursWithTheFormulasMean) {
  for (int i = 0; i <= 6 * 1024; ++i) {
    const float y = static_cast<float>(i) / 1024 + (i % 3 == 0 ? 0 : 1e-4f);
    const float magnitude = std::min(y, 6.0f);
    const double step = magnitude < 2 ? .5 : magnitude < 4 ? 1 : 2;
    const double below = std::floor(magnitude / step) * step;
    std::set<double> drawn;
    double sum = 0;
    for (int byte = 0; byte < 256; ++byte) {
      const double value = nvfp4::E2m1ToF32(nvfp4::RoundStochastic(y, static_cast<uint8_t>(byte)));
      const double negative =
          nvfp4::E2m1ToF32(nvfp4::RoundStochastic(-y, static_cast<uint8_t>(byte)));
      ASSERT_EQ(negative, -value);
      drawn.insert(value);
      sum += value;
    }
    for (double value : drawn) ASSERT_TRUE(value == below || value == below + step) << y;
    const double bias = magnitude - sum / 256;
    // 1e-6: |y| + u * step is rounded to FP32.
    ASSERT_GE(bias, -1e-6) << y;
    ASSERT_LT(bias, step / 256 + 1e-6) << y;
    if (magnitude == below) {
      ASSERT_EQ(drawn.size(), 1u) << "grid point moved: " << y;
    }
  }
}

TEST(HadamardTest, TimesItsTransposeIsTheIdentity) {
  float rows[16][16] = {};
  for (int i = 0; i < 16; ++i) {
    rows[i][i] = 1;
    nvfp4::Hadamard(rows[i], 16, nvfp4::FixedSigns());
  }
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 16; ++j) {
      double dot = 0;
      for (int k = 0; k < 16; ++k) dot += rows[i][k] * rows[j][k];
      EXPECT_EQ(dot, i == j ? 1.0 : 0.0);
    }
  }
}

TEST(ScalesTest, ExtremeMaximaGiveFiniteScales) {
  for (float amax :
       {std::numeric_limits<float>::denorm_min(), 1e-41f, std::numeric_limits<float>::min(), 1.0f,
        2688.0f, std::numeric_limits<float>::max(), INFINITY, 0.0f}) {
    const nvfp4::TensorScale scale = nvfp4::TensorScaleOf(amax);
    EXPECT_TRUE(std::isfinite(scale.encode) && scale.encode > 0) << amax;
    EXPECT_TRUE(std::isfinite(scale.decode) && scale.decode > 0) << amax;
  }
  EXPECT_EQ(nvfp4::TensorScaleOf(0).decode, 1);
  EXPECT_EQ(nvfp4::TensorScaleOf(INFINITY).decode, 1);
  EXPECT_TRUE(std::isnan(nvfp4::TensorScaleOf(NAN).decode));
}

TEST(SwizzleTest, EveryScaleHasItsOwnPlaceInsideThePaddedSize) {
  for (const auto& [rows, cols] : {std::pair{16, 1}, {128, 4}, {144, 5}, {300, 9}}) {
    std::set<int64_t> seen;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < cols; ++c) {
        const int64_t offset = nvfp4::SwizzledOffset(r, c, cols);
        EXPECT_GE(offset, 0);
        EXPECT_LT(offset, nvfp4::SwizzledBytes(rows, cols));
        EXPECT_TRUE(seen.insert(offset).second);
      }
    }
  }
  // Row 33, column 5 of 8: tile 1, row 1 of the 32, second of the four.
  EXPECT_EQ(nvfp4::SwizzledOffset(33, 5, 8), 512 + 16 + 4 + 1);
}

}  // namespace
}  // namespace nibble::kernels
