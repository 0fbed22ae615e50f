// The quantisers of all backends and instruction sets against the golden vectors and against an
// independent one, bit for bit.
//
// Seen red: a division by 6 in TensorScaleOf (golden), ties moved upward in NearestE2m1, a lower
// clamp of the block scale (tiny blocks), rows and columns of a transposed key exchanged, a wrong
// byte order of the random words.
#include <gtest/gtest.h>

#include <cfloat>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "kernels/nvfp4/swizzle.h"
#include "tests/ops/nvfp4_oracle.h"
#include "tests/ops/operator_harness.h"
#include "tests/ops/quantizer_variants.h"

namespace nibble::kernels {
namespace {

class QuantizerTest : public testing::TestWithParam<Variant> {
 protected:
  QuantizerTest() : parts_(GetParam()), engine_(*parts_.engine), backend_(*parts_.backend) {}

  // The operand of a training step: the same values as the codes say, inside its storage.
  std::vector<float> PreparedValues(const OperandRequest& request) {
    constexpr int64_t kGuard = 256;
    const int64_t bytes = backend_.OperandBytes(request.format, request.source.dtype,
                                                request.source.rows, request.source.cols);
    auto storage = backend_.Allocate(bytes + kGuard).value();
    char* end = static_cast<char*>(storage->data()) + bytes;
    std::memset(end, 0x5a, kGuard);
    const Operand operand = backend_.PrepareOperand(request, storage->data());
    EXPECT_TRUE(backend_.Synchronize().ok());
    for (int64_t i = 0; i < kGuard; ++i) EXPECT_EQ(end[i], 0x5a) << "written past its storage";
    return DequantizedValues(operand);
  }

  void ExpectEqualsOracle(const OperandRequest& request,
                          const std::vector<float>& quantised_input) {
    const PackedNvfp4 got = engine_.Quantize(request);
    const OracleResult want =
        OracleQuantize(quantised_input, got.rows, got.cols, request.format.block_rows,
                       request.format.rounding == Rounding::kStochastic, request.key);
    ASSERT_EQ(got.amax, want.amax);
    ASSERT_EQ(got.decode, want.decode);
    ASSERT_EQ(got.scales, want.scales);
    const std::vector<float> values = PreparedValues(request);
    for (int64_t i = 0; i < got.rows * got.cols; ++i) {
      const int code = (got.codes[i / 2] >> (4 * (i % 2))) & 15;
      ASSERT_EQ(code, want.codes[i]) << "element " << i << ", x " << quantised_input[i];
      const float value =
          static_cast<float>(OracleE2m1(code) * OracleE4m3(want.scales[i / 16])) * want.decode;
      ASSERT_EQ(values[i], value) << "element " << i;
    }
  }

  VariantParts parts_;
  OpEngine& engine_;
  Backend& backend_;
};

INSTANTIATE_TEST_SUITE_P(Backends, QuantizerTest, testing::ValuesIn(Variants()), VariantName);

// ---- golden vectors ----

// Golden codes have 0x0 for an input of -0.0.
void ExpectSameCodes(const std::vector<uint8_t>& got, const std::vector<uint8_t>& want,
                     const std::vector<float>& x) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < x.size(); ++i) {
    const int g = (got[i / 2] >> (4 * (i % 2))) & 15;
    const int w = (want[i / 2] >> (4 * (i % 2))) & 15;
    if (x[i] == 0 && (g & 7) == 0 && (w & 7) == 0) continue;
    ASSERT_EQ(g, w) << "element " << i;
  }
}

class GoldenTest : public QuantizerTest {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(kGoldenPath))
      GTEST_SKIP() << "no golden vectors at " << kGoldenPath;
    std::ifstream file(kGoldenPath);
    golden_ = nlohmann::json::parse(file);
  }
  static OperandRequest RequestOf(std::vector<float>& x, int64_t rows, int64_t cols, int tile) {
    OperandRequest request;
    request.source = {x.data(), DType::kF32, rows, cols};
    request.format = {Format::kNvfp4, tile, 0, Rounding::kNearest};
    request.key.total_cols = cols;
    return request;
  }
  nlohmann::json golden_;
};

INSTANTIATE_TEST_SUITE_P(Backends, GoldenTest, testing::ValuesIn(Variants()), VariantName);

TEST_P(GoldenTest, CodesScalesAndSwizzledScales) {
  int swizzled = 0;
  for (const auto& c : golden_["cases"]) {
    SCOPED_TRACE(c["name"].get<std::string>());
    std::vector<float> x = FloatsFromHex(c["x"]);
    const PackedNvfp4 got = engine_.Quantize(RequestOf(x, c["M"], c["N"], c["tile"]));
    ExpectSameCodes(got.codes, FromHex(c["codes"]), x);
    EXPECT_EQ(got.scales, FromHex(c["scales"]));
    EXPECT_EQ(got.amax, c["amax"].get<float>());
    if (!c.contains("swizzled_scales")) continue;
    ++swizzled;
    const int64_t across = got.cols / 16;
    std::vector<uint8_t> layout(nvfp4::SwizzledBytes(got.rows, across), 0);
    for (int64_t i = 0; i < got.rows * across; ++i) {
      layout[nvfp4::SwizzledOffset(i / across, i % across, across)] = got.scales[i];
    }
    EXPECT_EQ(layout, FromHex(c["swizzled_scales"]));
  }
  EXPECT_GT(swizzled, 0);
}

TEST_P(GoldenTest, HadamardTransformThenQuantiser) {
  const auto& c = golden_["rht"];
  std::vector<float> x = FloatsFromHex(c["x"]);
  OperandRequest request = RequestOf(x, c["M"], c["N"], 1);
  request.format.hadamard_size = 16;
  const std::vector<float> transformed = engine_.Hadamard(request);
  EXPECT_EQ(transformed, FloatsFromHex(c["rht_bf16_as_f32"]));
  const PackedNvfp4 got = engine_.Quantize(request);
  ExpectSameCodes(got.codes, FromHex(c["codes"]), transformed);
  EXPECT_EQ(got.scales, FromHex(c["scales"]));
  // Training gets there from the transposed matrix.
  std::vector<float> source = OracleTranspose(x, request.source.rows, request.source.cols);
  OperandRequest transposed = request;
  transposed.source = {source.data(), DType::kF32, request.source.cols, request.source.rows};
  transposed.transpose = true;
  const PackedNvfp4 column = engine_.Quantize(transposed);
  EXPECT_EQ(column.codes, got.codes);
  EXPECT_EQ(column.scales, got.scales);
}

TEST_P(GoldenTest, StochasticRounding) {
  for (const auto& c : golden_["cases"]) {
    if (c["name"] != "lcg-12345-1") continue;
    std::vector<float> x = FloatsFromHex(c["x"]);
    OperandRequest request = RequestOf(x, c["M"], c["N"], 1);
    request.format.rounding = Rounding::kStochastic;
    request.key.seed = 0x0123456789abcdef;
    request.key.tensor_id = 13;
    request.key.step = 7;
    const PackedNvfp4 got = engine_.Quantize(request);
    ExpectSameCodes(got.codes, FromHex(golden_["stochastic"]["codes"]), x);
    EXPECT_EQ(got.scales, FromHex(golden_["stochastic"]["scales"]));
    return;
  }
  FAIL() << "the golden file has lost its case";
}

TEST_P(GoldenTest, RoundTrip) {
  const auto& c = golden_["roundtrip"];
  std::vector<float> x = FloatsFromHex(c["x"]);
  EXPECT_EQ(PreparedValues(RequestOf(x, c["M"], c["N"], 1)),
            FloatsFromHex(c["nvfp4"]["activation"]));
  EXPECT_EQ(PreparedValues(RequestOf(x, c["M"], c["N"], 16)), FloatsFromHex(c["nvfp4"]["weight"]));
}

// ---- an independent quantiser ----

struct Input {
  std::string name;
  std::vector<float> x;  // [48, 80]: blocks end where no group of 16 blocks does
};
constexpr int64_t kRows = 48;
constexpr int64_t kCols = 80;

std::vector<Input> AdversarialInputs() {
  std::vector<Input> result;
  Inputs random(7);
  const std::vector<float> normal = random.Normal(DType::kF32, kRows * kCols);
  result.push_back({"normal", normal});
  std::vector<float> spread = normal;
  for (size_t i = 0; i < spread.size(); ++i) spread[i] = std::ldexp(normal[i], (i / 16) % 41 - 30);
  result.push_back({"blocks over 41 binades", spread});
  for (float amax : {FLT_TRUE_MIN, 5 * FLT_TRUE_MIN, 1e-41f, FLT_MIN, 7.9e-36f, 1e-20f, 2688.0f,
                     1e20f, FLT_MAX / 6, FLT_MAX}) {
    std::vector<float> x = normal;
    for (float& value : x) value = value / 4 * amax;
    x[123] = -amax;
    for (float& value : x) value = std::fmax(-amax, std::fmin(amax, value));
    result.push_back({"amax " + std::to_string(amax), x});
  }
  std::vector<float> infinite = normal;
  infinite[200] = INFINITY;
  infinite[1000] = -INFINITY;
  result.push_back({"infinities", infinite});
  result.push_back({"zeros", std::vector<float>(kRows * kCols, 0.0f)});
  std::vector<float> signs(kRows * kCols);
  for (size_t i = 0; i < signs.size(); ++i) signs[i] = i % 3 == 0 ? -0.0f : 0.0f;
  result.push_back({"signed zeros", signs});
  std::vector<float> huge = normal;
  huge[77] = 3e30f;
  result.push_back({"one huge element", huge});
  // Every block reaches 6, so that its elements are ties and their neighbours as they stand.
  std::vector<float> ties(kRows * kCols);
  const float middles[8] = {.25f, .75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.f, 6.f};
  for (size_t i = 0; i < ties.size(); ++i) {
    float value = middles[i % 8];
    if (i / 80 % 3 == 1 && value < 6) value = std::nextafter(value, 0.0f);
    if (i / 80 % 3 == 2 && value < 6) value = std::nextafter(value, 9.0f);
    ties[i] = (i / 8) % 2 == 0 ? value : -value;
  }
  ties[0] = 2688;
  result.push_back({"ties", ties});
  // Block maxima on the midpoints of the E4M3 grid.
  std::vector<float> scales = normal;
  for (size_t block = 0; block < scales.size() / 16; ++block) {
    for (int j = 0; j < 16; ++j) scales[block * 16 + j] = 0.01f * static_cast<float>(j);
    const int code = static_cast<int>(block % 126);
    scales[block * 16 + block % 16] =
        static_cast<float>((OracleE4m3(code) + OracleE4m3(code + 1)) / 2 * 6);
  }
  scales[5] = 2688;
  result.push_back({"scale ties", scales});
  return result;
}

OperandRequest RequestFor(std::vector<float>& x, OperandFormat format) {
  OperandRequest request;
  request.source = {x.data(), DType::kF32, kRows, kCols};
  request.format = format;
  // A piece of a larger matrix, far enough in for the index to need both halves.
  request.key = {0xfedcba9876543210u, 9, 3, int64_t{1} << 33, 32, 160};
  return request;
}

TEST_P(QuantizerTest, RowsAndTilesEqualTheIndependentQuantiser) {
  for (Input& input : AdversarialInputs()) {
    for (int block_rows : {1, 16}) {
      for (Rounding rounding : {Rounding::kNearest, Rounding::kStochastic}) {
        SCOPED_TRACE(input.name + (block_rows == 1 ? ", rows" : ", tiles"));
        ExpectEqualsOracle(RequestFor(input.x, {Format::kNvfp4, block_rows, 0, rounding}), input.x);
      }
    }
  }
}

TEST_P(QuantizerTest, TransposedOperandsEqualTheIndependentQuantiser) {
  for (Input& input : AdversarialInputs()) {
    std::vector<float> source = OracleTranspose(input.x, kRows, kCols);
    for (int block_rows : {1, 16}) {
      for (Rounding rounding : {Rounding::kNearest, Rounding::kStochastic}) {
        SCOPED_TRACE(input.name + (block_rows == 1 ? ", rows" : ", tiles"));
        OperandRequest request = RequestFor(source, {Format::kNvfp4, block_rows, 0, rounding});
        request.source.rows = kCols;
        request.source.cols = kRows;
        request.transpose = true;
        ExpectEqualsOracle(request, input.x);
      }
    }
  }
}

TEST_P(QuantizerTest, HadamardTransformedOperandsEqualTheIndependentQuantiser) {
  // Small integers: every sum is exact, so that the order of additions does not matter.
  std::vector<float> x(kRows * kCols);
  const std::vector<int32_t> integers = Inputs(3).Integers(kRows * kCols, -120, 121);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(integers[i]);
  const std::vector<float> transformed = OracleHadamard(x);
  for (Rounding rounding : {Rounding::kNearest, Rounding::kStochastic}) {
    for (int block_rows : {1, 16}) {
      const OperandFormat format = {Format::kNvfp4, block_rows, 16, rounding};
      ExpectEqualsOracle(RequestFor(x, format), transformed);
      std::vector<float> source = OracleTranspose(x, kRows, kCols);
      OperandRequest request = RequestFor(source, format);
      request.source.rows = kCols;
      request.source.cols = kRows;
      request.transpose = true;
      ExpectEqualsOracle(request, transformed);
    }
  }
}

TEST_P(QuantizerTest, Bf16SourcesGiveWhatTheirFp32ValuesGive) {
  std::vector<float> x = Inputs(5).Normal(DType::kBF16, kRows * kCols);
  std::vector<uint16_t> narrow(x.size());
  for (size_t i = 0; i < x.size(); ++i) narrow[i] = ToBf16Bits(x[i]);
  for (bool transpose : {false, true}) {
    for (int hadamard : {0, 16}) {
      for (Rounding rounding : {Rounding::kNearest, Rounding::kStochastic}) {
        OperandRequest request = RequestFor(x, {Format::kNvfp4, 1, hadamard, rounding});
        request.transpose = transpose;
        const PackedNvfp4 wide = engine_.Quantize(request);
        request.source.data = narrow.data();
        request.source.dtype = DType::kBF16;
        const PackedNvfp4 got = engine_.Quantize(request);
        EXPECT_EQ(got.codes, wide.codes);
        EXPECT_EQ(got.scales, wide.scales);
      }
    }
  }
}

TEST_P(QuantizerTest, NanInTheSourceMakesTheTensorScaleNan) {
  std::vector<float> x = Inputs(5).Normal(DType::kF32, kRows * kCols);
  x[1234] = NAN;
  EXPECT_TRUE(std::isnan(
      engine_.Quantize(RequestFor(x, {Format::kNvfp4, 1, 0, Rounding::kNearest})).decode));
  EXPECT_TRUE(std::isnan(
      engine_.Quantize(RequestFor(x, {Format::kNvfp4, 1, 16, Rounding::kStochastic})).decode));
}

// Two micro-batches of a step draw what the whole batch draws, as rows (dY) and as columns (dY^T).
TEST_P(QuantizerTest, StochasticBitsDoNotDependOnMicroBatches) {
  constexpr int64_t kTokens = 64, kFeatures = 48, kHalf = kTokens / 2;
  std::vector<float> x = Inputs(11).Normal(DType::kF32, kTokens * kFeatures);
  x[5] = x[kHalf * kFeatures + 7] = 20;  // both halves have the whole's amax
  OperandRequest whole;
  whole.source = {x.data(), DType::kF32, kTokens, kFeatures};
  whole.format = {Format::kNvfp4, 1, 0, Rounding::kStochastic};
  for (bool transpose : {false, true}) {
    whole.transpose = transpose;
    whole.key = {42, 4, 1, 0, 0, transpose ? kTokens : kFeatures};
    const PackedNvfp4 want = engine_.Quantize(whole);
    for (int64_t first : {int64_t{0}, kHalf}) {
      OperandRequest half = whole;
      half.source.rows = kHalf;
      half.source.data = x.data() + first * kFeatures;
      (transpose ? half.key.first_col : half.key.first_row) = first;
      const PackedNvfp4 got = engine_.Quantize(half);
      for (int64_t r = 0; r < got.rows; ++r) {
        for (int64_t byte = 0; byte < got.cols / 2; ++byte) {
          const int64_t at =
              transpose ? r * kTokens / 2 + first / 2 + byte : (first + r) * kFeatures / 2 + byte;
          ASSERT_EQ(got.codes[r * got.cols / 2 + byte], want.codes[at]);
        }
      }
    }
  }
}

}  // namespace
}  // namespace nibble::kernels
