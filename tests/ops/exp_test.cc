// The vector exponential against libm's in doubles, on every instruction set of this machine.
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>

#include "gtest/gtest.h"
#include "kernels/cpu/isa.h"

namespace nibble::kernels::cpu {

namespace baseline {
void ExpSixteen(float* values);
}
namespace avx2 {
void ExpSixteen(float* values);
}
namespace avx512 {
void ExpSixteen(float* values);
}

namespace {

struct Probe {
  Isa isa;
  void (*exp)(float*);
};
const Probe kProbes[] = {{Isa::kBaseline, baseline::ExpSixteen},
                         {Isa::kAvx2, avx2::ExpSixteen},
                         {Isa::kAvx512, avx512::ExpSixteen}};

float FromBits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
uint32_t BitsOf(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

void ExpectExponential(float x, float got) {
  const double want = std::exp(static_cast<double>(x));
  if (std::isnan(x)) {
    ASSERT_TRUE(std::isnan(got)) << x;
  } else if (want < FLT_MIN) {
    // Subnormal results are 0; next to the limit either side will do.
    ASSERT_TRUE(got == 0 || (got <= FLT_MIN && want > 0.999 * FLT_MIN)) << x << ": " << got;
  } else if (want > 0.9999 * FLT_MAX) {
    ASSERT_TRUE(std::isinf(got) || got > 0.9998 * FLT_MAX) << x << ": " << got;
  } else {
    const auto rounded = static_cast<float>(want);
    const auto ulps = static_cast<int64_t>(BitsOf(got)) - static_cast<int64_t>(BitsOf(rounded));
    ASSERT_LE(std::abs(ulps), 2) << x << ": " << got << ", wanted " << rounded;
  }
}

// Every `stride`-th bit pattern from `first` to `last`, sixteen at a time, in every probe with the
// same bits. Seen red with a coefficient changed in its fifth digit, and with the limit for
// infinity at 88.73 or
// a NaN left to the shifts: what should be finite is not, and the reverse.
void CheckRange(uint32_t first, uint32_t last, uint32_t stride) {
  for (uint64_t bits = first; bits <= last; bits += 16 * uint64_t{stride}) {
    float inputs[16], expected[16];
    for (uint64_t i = 0; i < 16; ++i)
      inputs[i] = FromBits(static_cast<uint32_t>(bits + i * stride));
    std::memcpy(expected, inputs, sizeof(inputs));
    kProbes[0].exp(expected);
    for (int i = 0; i < 16; ++i) ASSERT_NO_FATAL_FAILURE(ExpectExponential(inputs[i], expected[i]));
    for (const Probe& probe : kProbes) {
      if (probe.isa > DetectIsa()) continue;
      float got[16];
      std::memcpy(got, inputs, sizeof(inputs));
      probe.exp(got);
      for (int i = 0; i < 16; ++i) {
        if (std::isnan(got[i]) && std::isnan(expected[i])) continue;
        ASSERT_EQ(BitsOf(got[i]), BitsOf(expected[i]))
            << inputs[i] << std::string(NameOf(probe.isa));
      }
    }
  }
}

TEST(Exp, IsWithinTwoUlpsOverTheWholeRange) {
  CheckRange(0x00000000, 0x7fffffff - 16 * 997, 997);
  CheckRange(0x80000000, 0xffffffff - 16 * 997, 997);
}

TEST(Exp, IsRightAroundItsLimits) {
  CheckRange(BitsOf(88.5f), BitsOf(89.0f), 1);
  CheckRange(BitsOf(-87.0f), BitsOf(-88.0f), 1);
  CheckRange(BitsOf(1e-8f), BitsOf(1.1e-8f), 101);
}

TEST(Exp, OfTheSpecialValues) {
  float values[16] = {0, -0.0f, INFINITY, -INFINITY, NAN, 1, FLT_MAX, -FLT_MAX};
  for (const Probe& probe : kProbes) {
    if (probe.isa > DetectIsa()) continue;
    float got[16];
    std::memcpy(got, values, sizeof(values));
    probe.exp(got);
    EXPECT_EQ(got[0], 1);
    EXPECT_EQ(got[1], 1);
    EXPECT_EQ(got[2], INFINITY);
    EXPECT_EQ(got[3], 0);
    EXPECT_TRUE(std::isnan(got[4]));
    EXPECT_EQ(got[6], INFINITY);
    EXPECT_EQ(got[7], 0);
  }
}

}  // namespace
}  // namespace nibble::kernels::cpu
