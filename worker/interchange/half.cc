#include "worker/interchange/half.h"

#include <cmath>

namespace nibble::interchange {

float HalfToFloat(uint16_t bits) {
  const int exponent = bits >> 10 & 31;
  const int fraction = bits & 1023;
  float value;
  if (exponent == 31) {
    value = fraction == 0 ? INFINITY : NAN;
  } else {
    // Subnormals have the exponent of the smallest normal number and no leading one.
    value = std::ldexp(static_cast<float>(exponent == 0 ? fraction : fraction + 1024),
                       (exponent == 0 ? 1 : exponent) - 25);
  }
  return bits >> 15 ? -value : value;
}

uint16_t FloatToHalf(float value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  if (std::isnan(value)) return sign | 0x7e00;
  const float magnitude = std::fabs(value);
  if (magnitude >= 65520) return sign | 0x7c00;  // halfway to the first number beyond the largest
  int exponent = 0;
  std::frexp(magnitude, &exponent);
  // Units of the last place: 2^-24 below the normal range.
  const int unit = exponent < -13 ? -24 : exponent - 11;
  // Exact, then rounded to nearest even by the default rounding mode.
  const auto units = static_cast<int>(std::nearbyint(std::ldexp(magnitude, -unit)));
  // A carry out of the fraction runs into the exponent, as it should.
  const int code = unit == -24 ? units : ((unit + 24) << 10) + units;
  return static_cast<uint16_t>(sign | code);
}

}  // namespace nibble::interchange
