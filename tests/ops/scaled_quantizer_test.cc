// FP8 and the MX formats of all backends and instruction sets against the golden vectors and an
// independent quantiser, bit for bit, on shapes whose blocks do not divide; Hadamard transforms of
// every size and sign pattern; four over six.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cfloat>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "kernels/nvfp4/e5m2.h"
#include "kernels/nvfp4/philox.h"
#include "tests/ops/nvfp4_oracle.h"
#include "tests/ops/operator_harness.h"
#include "tests/ops/quantizer_variants.h"

namespace nibble::kernels {
namespace {

class ScaledQuantizerTest : public testing::TestWithParam<Variant> {
 protected:
  ScaledQuantizerTest() : parts_(GetParam()), engine_(*parts_.engine), backend_(*parts_.backend) {}
  VariantParts parts_;
  OpEngine& engine_;
  Backend& backend_;
};
INSTANTIATE_TEST_SUITE_P(Backends, ScaledQuantizerTest, testing::ValuesIn(Variants()), VariantName);

struct Case {
  std::string recipe;  // the golden file's name of it; empty: it has none
  OperandFormat activation;
  OperandFormat weight;
};
const Case kCases[] = {{"fp32", {Format::kF32}, {Format::kF32}},
                       {"bf16", {Format::kBF16}, {Format::kBF16}},
                       {"fp8", {Format::kFp8}, {Format::kFp8}},
                       {"", {Format::kFp8E5m2}, {Format::kFp8E5m2}},
                       {"fp8_blockwise", {Format::kFp8Block}, {Format::kFp8Block, 128}},
                       {"mxfp8", {Format::kMxfp8}, {Format::kMxfp8}},
                       {"mxfp4", {Format::kMxfp4}, {Format::kMxfp4}}};

TEST_P(ScaledQuantizerTest, RoundTripsEqualTheGoldenOnes) {
  if (!std::filesystem::exists(kGoldenPath)) GTEST_SKIP() << "no golden vectors at " << kGoldenPath;
  std::ifstream file(kGoldenPath);
  const nlohmann::json golden = nlohmann::json::parse(file)["roundtrip"];
  std::vector<float> x = FloatsFromHex(golden["x"]);
  int compared = 0;
  for (const Case& c : kCases) {
    if (!golden.contains(c.recipe)) continue;
    SCOPED_TRACE(c.recipe);
    OperandRequest request;
    request.source = {x.data(), DType::kF32, golden["M"], golden["N"]};
    request.format = c.activation;
    ExpectSameBits(engine_.RoundTrip(request), FloatsFromHex(golden[c.recipe]["activation"]));
    request.format = c.weight;
    ExpectSameBits(engine_.RoundTrip(request), FloatsFromHex(golden[c.recipe]["weight"]));
    ++compared;
  }
  EXPECT_GE(compared, 4);
}

// ---- an independent quantiser: tables searched in FP64 ----

double SignedValue(double magnitude, float sign_of) {
  return std::signbit(sign_of) ? -magnitude : magnitude;
}

float LargestOf(const std::vector<float>& x, int64_t cols, int64_t row, int64_t col, int64_t down,
                int64_t across) {
  const int64_t rows = static_cast<int64_t>(x.size()) / cols;
  float amax = 0;
  for (int64_t r = row; r < std::min(rows, row + down); ++r) {
    for (int64_t c = col; c < std::min(cols, col + across); ++c) {
      amax = std::max(amax, std::fabs(x[r * cols + c]));
    }
  }
  return amax;
}

// What elements are multiplied by, and what turns results into values.
struct OracleScale {
  double encode, decode;
};

OracleScale PowerOfTwo(int exponent) { return {std::ldexp(1, exponent), std::ldexp(1, -exponent)}; }

OracleScale OracleE8m0(float amax, float reciprocal) {
  const float least = amax * reciprocal;
  int exponent = -127;
  while (exponent < 127 && std::ldexp(1.0, exponent) < least) ++exponent;
  return PowerOfTwo(-exponent);
}

OracleScale OraclePowerOfTwo(float amax) {
  if (amax == 0 || std::isinf(amax)) return {1, 1};
  int exponent = 127;  // floor(log2(448 / amax)), but at most this
  while (std::ldexp(1.0, exponent) > 448.0 / amax) --exponent;
  return PowerOfTwo(exponent);
}

OracleScale OracleTensorWise(float amax, float largest) {
  float encode = std::min(largest / amax, FLT_MAX);
  if (amax == 0 || encode == 0) encode = 1;
  return {encode, 1.0f / encode};
}

OracleScale OracleScaleOf(const OperandFormat& format, float amax) {
  switch (format.format) {
    case Format::kMxfp4:
      return OracleE8m0(amax, std::bit_cast<float>(0x3e2aaaabu));  // FP32's nearest to 1/6
    case Format::kMxfp8:
      return OracleE8m0(amax, std::bit_cast<float>(0x3b124925u));  // to 1/448
    case Format::kFp8Block:
      return OraclePowerOfTwo(amax);
    default:
      return OracleTensorWise(amax, format.format == Format::kFp8 ? 448 : 57344);
  }
}

int RandomByte(const StochasticKey& key, int64_t row, int64_t col) {
  const uint64_t block = (key.first_row + row) * (key.total_cols / 16) + (key.first_col + col) / 16;
  const PhiloxResult random =
      Philox4x32(static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32), key.tensor_id,
                 key.step, static_cast<uint32_t>(key.seed), static_cast<uint32_t>(key.seed >> 32));
  return (random.v[col % 16 / 4] >> (8 * (col % 4))) & 255;
}

double OracleElement(const OperandRequest& request, double y, int64_t row, int64_t col) {
  const double magnitude = std::fabs(y);
  switch (request.format.format) {
    case Format::kMxfp4:
      return request.format.rounding == Rounding::kStochastic
                 ? OracleE2m1(OracleStochasticE2m1(static_cast<float>(magnitude),
                                                   RandomByte(request.key, row, col)))
                 : OracleE2m1(OracleNearestE2m1(magnitude));
    case Format::kFp8E5m2:
      return OracleE5m2(OracleNearestE5m2(magnitude));
    default:
      return OracleE4m3(OracleNearestE4m3(magnitude));
  }
}

// `x` [rows, cols] as quantised.
std::vector<float> OracleRoundTrip(const OperandRequest& request, const std::vector<float>& x,
                                   int64_t cols) {
  const OperandFormat& format = request.format;
  const int64_t rows = static_cast<int64_t>(x.size()) / cols;
  const bool whole = BlockSizeOf(format.format) == 0;
  const int64_t down = whole ? rows : format.block_rows;
  const int64_t across = whole ? cols : BlockSizeOf(format.format);
  std::vector<float> out(x.size());
  for (int64_t row = 0; row < rows; row += down) {
    for (int64_t col = 0; col < cols; col += across) {
      const OracleScale scale = OracleScaleOf(format, LargestOf(x, cols, row, col, down, across));
      for (int64_t r = row; r < std::min(rows, row + down); ++r) {
        for (int64_t c = col; c < std::min(cols, col + across); ++c) {
          const float value = x[r * cols + c];
          const double y = whole ? value * static_cast<float>(scale.encode) : value * scale.encode;
          const double element = SignedValue(OracleElement(request, y, r, c), value);
          out[r * cols + c] = whole ? static_cast<float>(element) * static_cast<float>(scale.decode)
                                    : static_cast<float>(element * scale.decode);
        }
      }
    }
  }
  return out;
}

struct Shape {
  int64_t rows, cols;
};

std::vector<std::vector<float>> Contents(Shape shape) {
  const int64_t size = shape.rows * shape.cols;
  std::vector<std::vector<float>> result;
  const std::vector<float> normal = Inputs(7).Normal(DType::kF32, size);
  result.push_back(normal);
  std::vector<float> x = normal;
  for (int64_t i = 0; i < size; ++i)
    x[i] = std::ldexp(normal[i], static_cast<int>(i / 32 % 249) - 148);
  result.push_back(x);  // every exponent, subnormals
  for (float amax : {FLT_TRUE_MIN, 1e-40f, FLT_MIN, 448.0f, FLT_MAX, INFINITY}) {
    x = normal;
    for (float& value : x)
      value = std::fmax(-1, std::fmin(1, value / 3)) * std::fmin(amax, FLT_MAX);
    x[size / 2] = -amax;
    result.push_back(x);
  }
  for (int64_t i = 0; i < size; ++i) x[i] = i % 3 == 0 ? -0.0f : 0.0f;
  result.push_back(x);
  // Midpoints and grid points of E2M1 and E4M3 under scales of 1, and their neighbours.
  for (int64_t i = 0; i < size; ++i) {
    const int code = static_cast<int>(i % 125);
    float value = static_cast<float>(i % 2 == 0 ? OracleE4m3(code)
                                                : (OracleE4m3(code) + OracleE4m3(code + 1)) / 2);
    if (i % 32 == 0) value = 448;
    if (i % 5 == 1) value = std::nextafter(value, 0.0f);
    if (i % 5 == 2) value = std::nextafter(value, 1000.0f);
    x[i] = i % 7 < 3 ? -value : value;
  }
  result.push_back(x);
  for (float& value : x) value *= 6.0f / 448;
  result.push_back(x);
  return result;
}

// Searching tables takes its time: once for all variants.
const std::vector<float>& CachedRoundTrip(const std::string& key, const OperandRequest& request,
                                          const std::vector<float>& x, int64_t cols) {
  static auto* const cache = new std::map<std::string, std::vector<float>>;
  const auto [entry, is_new] = cache->try_emplace(key);
  if (is_new) entry->second = OracleRoundTrip(request, x, cols);
  return entry->second;
}

TEST_P(ScaledQuantizerTest, EveryFormatEqualsTheIndependentQuantiser) {
  for (const Shape shape : {Shape{48, 80}, {37, 53}, {130, 147}, {1, 1}, {16, 160}}) {
    std::vector<std::vector<float>> contents = Contents(shape);
    if (shape.rows * shape.cols > 10000) contents.resize(2);
    for (size_t i = 0; i < contents.size(); ++i) {
      std::vector<float>& x = contents[i];
      std::vector<float> transposed = OracleTranspose(x, shape.rows, shape.cols);
      for (const Case& c : kCases) {
        if (!IsQuantised(c.activation.format)) continue;
        for (const OperandFormat& format : {c.activation, c.weight}) {
          const std::string key =
              absl::StrCat("format ", static_cast<int>(format.format), " rows ", format.block_rows,
                           " [", shape.rows, ", ", shape.cols, "] content ", i);
          SCOPED_TRACE(key);
          OperandRequest request;
          request.source = {x.data(), DType::kF32, shape.rows, shape.cols};
          request.format = format;
          ExpectSameBits(engine_.RoundTrip(request), CachedRoundTrip(key, request, x, shape.cols));
          request.transpose = true;
          ExpectSameBits(engine_.RoundTrip(request),
                         CachedRoundTrip(key + "^T", request, transposed, shape.rows));
          if (HasFailure()) return;
        }
      }
    }
  }
}

TEST_P(ScaledQuantizerTest, StochasticMxfp4EqualsTheIndependentQuantiser) {
  for (const Shape shape : {Shape{48, 80}, {32, 288}}) {
    std::vector<float> x = Inputs(5).Normal(DType::kF32, shape.rows * shape.cols);
    OperandRequest request;
    request.source = {x.data(), DType::kF32, shape.rows, shape.cols};
    request.format = {Format::kMxfp4, 1, 0, Rounding::kStochastic};
    request.key = {0xfedcba9876543210u, 9, 3, int64_t{1} << 33, 32, 320};
    ExpectSameBits(engine_.RoundTrip(request), OracleRoundTrip(request, x, shape.cols));
    request.transpose = true;
    ExpectSameBits(
        engine_.RoundTrip(request),
        OracleRoundTrip(request, OracleTranspose(x, shape.rows, shape.cols), shape.rows));
  }
}

TEST_P(ScaledQuantizerTest, Bf16SourcesAndTrainingStorageGiveTheSameValues) {
  constexpr int64_t kRows = 144, kCols = 272;
  std::vector<float> x = Inputs(5).Normal(DType::kBF16, kRows * kCols);
  std::vector<uint16_t> narrow(x.size());
  for (size_t i = 0; i < x.size(); ++i) narrow[i] = ToBf16Bits(x[i]);
  for (const Case& c : kCases) {
    for (const OperandFormat& format : {c.activation, c.weight}) {
      for (bool transpose : {false, true}) {
        OperandRequest request = {{x.data(), DType::kF32, kRows, kCols}, transpose, format, {}};
        const std::vector<float> want = engine_.RoundTrip(request);
        request.source = {narrow.data(), DType::kBF16, kRows, kCols};
        ExpectSameBits(engine_.RoundTrip(request), want);
        auto storage =
            backend_.Allocate(backend_.OperandBytes(format, DType::kBF16, kRows, kCols)).value();
        ExpectSameBits(DequantizedValues(backend_.PrepareOperand(request, storage->data())), want);
      }
    }
  }
}

TEST_P(ScaledQuantizerTest, NanReachesEveryProductOfItsBlock) {
  constexpr int64_t kRows = 48, kCols = 80;
  std::vector<float> x = Inputs(5).Normal(DType::kF32, kRows * kCols);
  x[1234] = NAN;
  for (const Case& c : kCases) {
    for (bool transpose : {false, true}) {
      for (int hadamard : {0, 16}) {
        OperandRequest request = {{x.data(), DType::kF32, kRows, kCols}, transpose, c.weight, {}};
        if (hadamard != 0 && !IsQuantised(c.weight.format)) continue;
        request.format.hadamard_size = hadamard;
        const std::vector<float> values = engine_.RoundTrip(request);
        EXPECT_TRUE(std::any_of(values.begin(), values.end(), [](float v) {
          return std::isnan(v);
        })) << static_cast<int>(c.weight.format);
      }
    }
  }
}

// ---- Hadamard transforms ----

int SignOf(HadamardSigns signs, uint64_t seed, uint32_t step, int i) {
  constexpr int kSigns[16] = {1, 1, 1, -1, 1, -1, -1, -1, -1, -1, -1, 1, -1, 1, -1, -1};
  if (signs == HadamardSigns::kNone) return 1;
  if (signs == HadamardSigns::kFixed) return kSigns[i % 16];
  const PhiloxResult random =
      Philox4x32(0, 0, 0xfffffffe, signs == HadamardSigns::kDrawn ? 0xffffffff : step,
                 static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
  return (random.v[i / 32] >> (i % 32)) & 1 ? -1 : 1;
}

TEST_P(ScaledQuantizerTest, HadamardTransformsOfEverySizeAndSignAreTheMatrixProduct) {
  constexpr int64_t kRows = 128, kCols = 256;
  std::vector<float> x(kRows * kCols);  // integers: every sum is exact in FP32
  const std::vector<int32_t> integers = Inputs(3).Integers(kRows * kCols, -120, 121);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(integers[i]);
  std::vector<float> transposed = OracleTranspose(x, kRows, kCols);
  for (int size : {4, 16, 32, 64, 128}) {
    const float scale = static_cast<float>(1 / std::sqrt(static_cast<double>(size)));
    for (HadamardSigns signs : {HadamardSigns::kFixed, HadamardSigns::kNone, HadamardSigns::kDrawn,
                                HadamardSigns::kRedrawn}) {
      SCOPED_TRACE(absl::StrCat("size ", size, ", signs ", static_cast<int>(signs)));
      std::vector<float> want(x.size());
      for (size_t i = 0; i < x.size(); ++i) {
        const int to = static_cast<int>(i % size);
        double sum = 0;
        for (int from = 0; from < size; ++from) {
          const int hadamard = std::popcount(static_cast<unsigned>(from & to)) % 2 == 0 ? 1 : -1;
          sum += SignOf(signs, 77, 5, from) * hadamard * static_cast<double>(x[i - to + from]);
        }
        want[i] = RoundTo(DType::kBF16, static_cast<float>(sum) * scale);
      }
      OperandRequest request;
      request.source = {x.data(), DType::kF32, kRows, kCols};
      request.format = {Format::kNvfp4, 1, size, Rounding::kNearest, signs, 77};
      request.key.step = 5;
      ExpectSameBits(engine_.Hadamard(request), want);
      const PackedNvfp4 rows = engine_.Quantize(request);
      request.source = {transposed.data(), DType::kF32, kCols, kRows};
      request.transpose = true;
      ExpectSameBits(engine_.Hadamard(request), want);
      const PackedNvfp4 columns = engine_.Quantize(request);
      EXPECT_EQ(rows.codes, columns.codes);
      const OracleResult oracle = OracleQuantize(want, kRows, kCols, 1, false, {});
      EXPECT_EQ(rows.scales, oracle.scales);
      EXPECT_EQ(rows.decode, oracle.decode);
      request.format.format = Format::kMxfp4;
      ExpectSameBits(engine_.RoundTrip(request), OracleRoundTrip(request, want, kCols));
    }
  }
}

// ---- four over six ----

// The smaller error of the two candidates, per block or tile, in FP64.
TEST_P(ScaledQuantizerTest, FourOverSixTakesTheScaleWithTheSmallerError) {
  constexpr int64_t kRows = 48, kCols = 320;
  std::vector<float> x = Inputs(9).Normal(DType::kF32, kRows * kCols);
  for (int64_t i = 0; i < kRows * kCols; ++i) {  // every third tile is exact with 4, not with 6
    if (i % kCols / 16 % 3 == 0) x[i] = static_cast<float>(i % 4 + 1) * (i % 5 == 0 ? -1 : 1);
  }
  const float amax = LargestOf(x, kCols, 0, 0, kRows, kCols);
  const float encode = 1536.0f / amax, decode = 1.0f / encode;
  for (BlockTarget target :
       {BlockTarget::kFourOrSixByAbsoluteError, BlockTarget::kFourOrSixBySquaredError}) {
    for (int block_rows : {1, 16}) {
      OperandRequest request;
      request.source = {x.data(), DType::kF32, kRows, kCols};
      request.format = {Format::kNvfp4, block_rows};
      request.format.block_target = target;
      const PackedNvfp4 got = engine_.Quantize(request);
      ASSERT_EQ(got.decode, decode);
      int fours = 0, blocks = 0;
      for (int64_t row = 0; row < kRows; row += block_rows) {
        for (int64_t col = 0; col < kCols; col += 16) {
          const float largest = LargestOf(x, kCols, row, col, block_rows, 16);
          const int codes[2] = {
              OracleNearestE4m3(largest * (encode * std::bit_cast<float>(0x3e2aaaabu))),
              OracleNearestE4m3(largest * (encode * 0.25f))};
          double error[2] = {0, 0};
          for (int which : {0, 1}) {
            const double scale = OracleE4m3(codes[which]);
            const float inverse = 1.0f / (static_cast<float>(scale) * decode);
            for (int64_t i = 0; i < block_rows * 16; ++i) {
              const float value = x[(row + i / 16) * kCols + col + i % 16];
              const double rounded =
                  SignedValue(OracleE2m1(OracleNearestE2m1(std::fabs(value * inverse))), value);
              const double e = std::fabs(rounded * scale - double{value} * encode);
              error[which] += target == BlockTarget::kFourOrSixByAbsoluteError ? e : e * e;
            }
          }
          ++blocks;
          fours += error[1] < error[0] ? 1 : 0;
          // Sums of FP32 differ from FP64's by 256 roundings at most.
          if (std::fabs(error[1] - error[0]) < 1e-4 * (error[0] + error[1])) continue;
          ASSERT_EQ(got.scales[row * (kCols / 16) + col / 16], codes[error[1] < error[0] ? 1 : 0]);
        }
      }
      // Both kinds of block are there.
      EXPECT_GT(fours, blocks / 10);
      EXPECT_LT(fours, blocks * 9 / 10);
    }
  }
}

TEST(E5m2Test, EveryCodeAndMidpointRoundsToTheEvenNeighbour) {
  for (int code = 0; code < 124; ++code) {
    const float value = static_cast<float>(OracleE5m2(code));
    ASSERT_EQ(nvfp4::E5m2ToF32(static_cast<uint8_t>(code)), value);
    ASSERT_EQ(nvfp4::F32ToE5m2(value), code);
    ASSERT_EQ(nvfp4::F32ToE5m2(-value), code | 0x80);
    if (code == 123) continue;
    const float middle = static_cast<float>((OracleE5m2(code) + OracleE5m2(code + 1)) / 2);
    ASSERT_EQ(nvfp4::F32ToE5m2(middle), code + code % 2);
    ASSERT_EQ(nvfp4::F32ToE5m2(std::nextafter(middle, 0.0f)), code);
    ASSERT_EQ(nvfp4::F32ToE5m2(std::nextafter(middle, 1e6f)), code + 1);
  }
  EXPECT_EQ(nvfp4::F32ToE5m2(INFINITY), 123);
  EXPECT_TRUE(std::isnan(nvfp4::E5m2ToF32(nvfp4::F32ToE5m2(NAN))));
}

}  // namespace
}  // namespace nibble::kernels
