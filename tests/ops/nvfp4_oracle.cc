#include "tests/ops/nvfp4_oracle.h"

#include <algorithm>
#include <bit>
#include <cfloat>
#include <cmath>

#include "kernels/nvfp4/philox.h"
#include "tests/ops/operator_harness.h"

namespace nibble::kernels {
namespace {

constexpr double kE2m1[8] = {0, .5, 1, 1.5, 2, 3, 4, 6};

template <class Decode>
int Search(double magnitude, int codes, Decode decode) {
  int best = 0;
  for (int code = 1; code < codes; ++code) {
    const double now = std::fabs(decode(code) - magnitude);
    const double before = std::fabs(decode(best) - magnitude);
    if (now < before || (now == before && code % 2 == 0)) best = code;
  }
  return best;
}

int SignOf(float y) { return std::signbit(y) ? 8 : 0; }

}  // namespace

int OracleStochasticE2m1(float y, int byte) {
  const float magnitude = std::min(std::fabs(y), 6.0f);
  const float step = magnitude < 2 ? .5f : magnitude < 4 ? 1.f : 2.f;
  const float t = magnitude + byte / 256.0f * step;
  int code = 7;
  while (kE2m1[code] > t) --code;
  return code;
}

double OracleE2m1(int code) { return code < 8 ? kE2m1[code] : -kE2m1[code - 8]; }

double OracleE4m3(int code) {
  const int exponent = code / 8;
  const int mantissa = code % 8;
  return exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
}

int OracleNearestE2m1(double y) {
  return Search(std::min(std::fabs(y), 6.0), 8, [](int code) { return kE2m1[code]; });
}
int OracleNearestE4m3(double value) { return Search(std::min(value, 448.0), 127, OracleE4m3); }

double OracleE5m2(int code) {
  const int exponent = code / 4;
  const int mantissa = code % 4;
  return exponent == 0 ? std::ldexp(mantissa, -16) : std::ldexp(4 + mantissa, exponent - 17);
}
int OracleNearestE5m2(double value) { return Search(std::min(value, 57344.0), 124, OracleE5m2); }

OracleResult OracleQuantize(const std::vector<float>& x, int64_t rows, int64_t cols, int block_rows,
                            bool stochastic, const StochasticKey& key) {
  OracleResult out;
  for (float value : x) out.amax = std::max(out.amax, std::fabs(value));
  float encode = std::min(2688.0f / out.amax, FLT_MAX);
  if (out.amax == 0 || encode == 0) encode = 1;
  out.decode = 1.0f / encode;
  const float multiplier = encode * std::bit_cast<float>(0x3e2aaaabu);  // FP32's nearest to 1/6
  out.codes.resize(rows * cols);
  out.scales.resize(rows * cols / 16);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t col = 0; col < cols; col += 16) {
      const int64_t top = row / block_rows * block_rows;
      float amax = 0;
      for (int64_t i = 0; i < block_rows * 16; ++i) {
        amax = std::max(amax, std::fabs(x[(top + i / 16) * cols + col + i % 16]));
      }
      const int scale = OracleNearestE4m3(std::min(amax * multiplier, FLT_MAX));
      out.scales[row * (cols / 16) + col / 16] = static_cast<uint8_t>(scale);
      const float inverse =
          std::min(1.0f / (static_cast<float>(OracleE4m3(scale)) * out.decode), FLT_MAX);
      const uint64_t block =
          (key.first_row + row) * (key.total_cols / 16) + (key.first_col + col) / 16;
      const PhiloxResult random = Philox4x32(
          static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32), key.tensor_id, key.step,
          static_cast<uint32_t>(key.seed), static_cast<uint32_t>(key.seed >> 32));
      for (int j = 0; j < 16; ++j) {
        const float y = x[row * cols + col + j] * inverse;
        const int byte = (random.v[j / 4] >> (8 * (j % 4))) & 255;
        out.codes[row * cols + col + j] = static_cast<uint8_t>(
            SignOf(y) | (stochastic ? OracleStochasticE2m1(y, byte) : OracleNearestE2m1(y)));
      }
    }
  }
  return out;
}

std::vector<float> OracleHadamard(const std::vector<float>& x) {
  constexpr int kSigns[16] = {1, 1, 1, -1, 1, -1, -1, -1, -1, -1, -1, 1, -1, 1, -1, -1};
  std::vector<float> out(x.size());
  for (size_t group = 0; group < x.size(); group += 16) {
    for (int to = 0; to < 16; ++to) {
      double sum = 0;
      for (int from = 0; from < 16; ++from) {
        const int hadamard = std::popcount(static_cast<unsigned>(from & to)) % 2 == 0 ? 1 : -1;
        sum += kSigns[from] * hadamard * static_cast<double>(x[group + from]);
      }
      out[group + to] = RoundTo(DType::kBF16, static_cast<float>(sum / 4));
    }
  }
  return out;
}

std::vector<float> OracleTranspose(const std::vector<float>& x, int64_t rows, int64_t cols) {
  std::vector<float> out(x.size());
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) out[c * rows + r] = x[r * cols + c];
  }
  return out;
}

}  // namespace nibble::kernels
