// The formats of every operand under every recipe and option of the policy, as literal tables.
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/spec/job_resolution.h"
#include "proto/spec/precision_formats.h"
#include "proto/spec/spec_test_util.h"

namespace nibble::spec {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::string Show(const v1::OperandPrecision& operand) {
  return absl::StrCat(
      v1::NumberFormat_Name(operand.format()),
      operand.block_rows() > 0
          ? absl::StrCat(" ", operand.block_rows(), "x", BlockSize(operand.format()))
          : "",
      operand.hadamard_size() > 0 ? absl::StrCat(" H", operand.hadamard_size()) : "",
      operand.rounding() == v1::STOCHASTIC ? " sr" : "",
      operand.block_target() != v1::BLOCK_TARGET_SIX ? " 4/6" : "");
}

// Name, fprop, dgrad, wgrad, note.
std::string Show(const v1::LinearPrecision& row) {
  const auto product = [](const v1::ProductPrecision& p) {
    return absl::StrCat(Show(p.first()), " * ", Show(p.second()));
  };
  return absl::StrJoin(
      {row.layer(), product(row.fprop()), product(row.dgrad()), product(row.wgrad()), row.note()},
      " | ");
}

// One line a layer.
std::vector<std::string> Rows(const v1::ResolvedPrecision& precision) {
  std::vector<std::string> rows;
  for (const auto& row : precision.linears()) {
    EXPECT_EQ(row.index(), static_cast<int>(rows.size()));
    rows.push_back(Show(row));
  }
  return rows;
}

using Changes = std::map<std::string, std::string>;
std::string FirstRow(const Changes& changes) { return Rows(ResolveWith(changes).precision)[0]; }

constexpr char kNvfp4Products[] =
    " | NVFP4 1x16 * NVFP4 16x16 | NVFP4 1x16 sr * NVFP4 16x16 | NVFP4 1x16 H16 sr * NVFP4 1x16 "
    "H16 | ";
constexpr char kBf16Products[] = " | BF16 * BF16 | BF16 * BF16 | BF16 * BF16 | ";

TEST(PrecisionResolutionTest, Nvfp4QuantisesAllButTheLastBlocks) {
  const ResolvedJob job = ResolveWith({{"model.blocks", "2"}});
  const std::string note = "kept in BF16: one of the last 1";
  EXPECT_THAT(Rows(job.precision),
              ElementsAre(absl::StrCat("blocks.0.attention.qkv", kNvfp4Products),
                          absl::StrCat("blocks.0.attention.output", kNvfp4Products),
                          absl::StrCat("blocks.0.mlp.gate_up", kNvfp4Products),
                          absl::StrCat("blocks.0.mlp.down", kNvfp4Products),
                          absl::StrCat("blocks.1.attention.qkv", kBf16Products, note),
                          absl::StrCat("blocks.1.attention.output", kBf16Products, note),
                          absl::StrCat("blocks.1.mlp.gate_up", kBf16Products, note),
                          absl::StrCat("blocks.1.mlp.down", kBf16Products, note)));
  const auto& qkv = job.precision.linears(0);
  EXPECT_EQ(qkv.in_features(), 64);
  EXPECT_EQ(qkv.out_features(), 128);
  EXPECT_EQ(job.precision.linears(2).out_features(), 2 * 192);
  EXPECT_EQ(job.precision.linears(3).in_features(), 192);
}

TEST(PrecisionResolutionTest, OptionsOfThePolicy) {
  const auto first_row = [](const std::map<std::string, std::string>& changes) {
    return Rows(ResolveWith(changes).precision)[0];
  };
  EXPECT_EQ(first_row({{"precision.hadamard_size", "0"}}),
            "blocks.0.attention.qkv | NVFP4 1x16 * NVFP4 16x16 | NVFP4 1x16 sr * NVFP4 16x16 | "
            "NVFP4 1x16 sr * NVFP4 1x16 | ");
  EXPECT_EQ(first_row({{"precision.stochastic_rounding", "false"}}),
            "blocks.0.attention.qkv | NVFP4 1x16 * NVFP4 16x16 | NVFP4 1x16 * NVFP4 16x16 | "
            "NVFP4 1x16 H16 * NVFP4 1x16 H16 | ");
  EXPECT_EQ(first_row({{"precision.weight_block_rows", "1"}}),
            "blocks.0.attention.qkv | NVFP4 1x16 * NVFP4 1x16 | NVFP4 1x16 sr * NVFP4 1x16 | "
            "NVFP4 1x16 H16 sr * NVFP4 1x16 H16 | ");
  EXPECT_EQ(
      first_row({{"precision.high_precision_blocks.first", "1"}}),
      absl::StrCat("blocks.0.attention.qkv", kBf16Products, "kept in BF16: one of the first 1"));
  EXPECT_EQ(first_row({{"precision.recipe", "bf16"}}),
            absl::StrCat("blocks.0.attention.qkv", kBf16Products));
  EXPECT_EQ(first_row({{"precision.recipe", "fp32"}}),
            "blocks.0.attention.qkv | FP32 * FP32 | FP32 * FP32 | FP32 * FP32 | ");
}

TEST(PrecisionResolutionTest, HighPrecisionBlocksRoundUp) {
  // 15 % of 62 is 9.3, of 20 exactly 3.
  for (const auto& [blocks, last] :
       std::map<int, int>{{1, 1}, {2, 1}, {6, 1}, {7, 2}, {20, 3}, {21, 4}, {62, 10}, {256, 39}}) {
    const ResolvedJob job = ResolveWith({{"model.blocks", absl::StrCat(blocks)}});
    EXPECT_EQ(job.spec.precision().high_precision_blocks().last(), last) << blocks;
    EXPECT_EQ(job.warnings.empty(), last < blocks);
  }
}

TEST(PrecisionResolutionTest, LayersThatDoNotFitFallBackWithANoteAndAWarning) {
  const ResolvedJob job = ResolveWith({{"model.mlp_width", "100"}});
  const auto& gate_up = job.precision.linears(2);
  EXPECT_EQ(Show(gate_up.fprop().first()), "BF16");
  EXPECT_EQ(gate_up.note(), "BF16 instead of NVFP4: out_features 200 is not a multiple of 16");
  EXPECT_EQ(Show(job.precision.linears(1).fprop().first()), "NVFP4 1x16");
  EXPECT_THAT(job.warnings,
              ElementsAre("blocks.*.mlp.gate_up runs in BF16 instead of NVFP4: out_features 200 is "
                          "not a multiple of 16",
                          "blocks.*.mlp.down runs in BF16 instead of NVFP4: in_features 100 is not "
                          "a multiple of 16"));
}

TEST(PrecisionResolutionTest, TokensOfAMicroBatchMustFitTheHadamardSize) {
  const ResolvedJob job = ResolveWith({{"training.sequence_length", "12"},
                                       {"training.batch_size", "4"},
                                       {"training.micro_batch_size", "2"}});
  for (const auto& row : job.precision.linears()) EXPECT_EQ(row.fprop().first().format(), v1::BF16);
  ASSERT_EQ(job.warnings.size(), 2u);
  EXPECT_THAT(job.warnings[0], HasSubstr("a micro-batch has 24 tokens"));
  EXPECT_THAT(job.warnings[1], HasSubstr("quantises nothing"));
}

TEST(PrecisionResolutionTest, OptionsWithoutEffectAreNamed) {
  const ResolvedJob job =
      ResolveWith({{"precision.recipe", "bf16"}, {"precision.hadamard_size", "16"}});
  EXPECT_THAT(job.warnings, ElementsAre(HasSubstr("precision.hadamard_size has no effect")));
  EXPECT_EQ(job.spec.precision().hadamard_size(), 0);
}

TEST(PrecisionResolutionTest, DigestIsOfTheRowsAlone) {
  const auto digest = [](const std::map<std::string, std::string>& changes) {
    return ResolveWith(changes).precision.digest();
  };
  EXPECT_EQ(digest({}), digest({{"name", "other"}, {"seed", "3"}}));
  EXPECT_EQ(digest({}), digest({{"precision.high_precision_blocks.last", "1"}}));
  EXPECT_NE(digest({}), digest({{"precision.high_precision_blocks.last", "2"}}));
  EXPECT_NE(digest({}), digest({{"precision.weight_block_rows", "1"}}));
  // Of this version of the schema, so that a change of the identity is seen.
  EXPECT_EQ(digest({}), "487cea2c37da39750749c1d07c5e60ef5d1b4669f318150e372bb807416e1cac");
}

// ---- other recipes ----

TEST(PrecisionResolutionTest, EachRecipeOfEightBitsQuantisesEverythingAlike) {
  const auto row = [](const std::string& recipe) {
    return FirstRow({{"precision.recipe", recipe}});
  };
  EXPECT_EQ(row("fp8"),
            "blocks.0.attention.qkv | FP8_E4M3 * FP8_E4M3 | FP8_E4M3 * FP8_E4M3 | "
            "FP8_E4M3 * FP8_E4M3 | ");
  EXPECT_EQ(row("fp8_blockwise"),
            "blocks.0.attention.qkv | FP8_BLOCKWISE 1x128 * FP8_BLOCKWISE 128x128 | FP8_BLOCKWISE "
            "1x128 * FP8_BLOCKWISE 128x128 | FP8_BLOCKWISE 1x128 * FP8_BLOCKWISE 1x128 | ");
  EXPECT_EQ(row("mxfp8"),
            "blocks.0.attention.qkv | MXFP8 1x32 * MXFP8 1x32 | MXFP8 1x32 * MXFP8 1x32 | MXFP8 "
            "1x32 * MXFP8 1x32 | ");
  EXPECT_EQ(FirstRow({{"precision.recipe", "fp8"}, {"precision.fp8_gradients", "e5m2"}}),
            "blocks.0.attention.qkv | FP8_E4M3 * FP8_E4M3 | FP8_E5M2 * FP8_E4M3 | FP8_E5M2 * "
            "FP8_E4M3 | ");
  for (const char* recipe : {"fp8", "mxfp8", "fp8_blockwise"}) {
    const ResolvedJob job = ResolveWith({{"precision.recipe", recipe}, {"model.blocks", "11"}});
    EXPECT_EQ(job.spec.precision().high_precision_blocks().last(), 0) << recipe;
    EXPECT_THAT(job.warnings, IsEmpty()) << recipe;
  }
}

TEST(PrecisionResolutionTest, Mxfp4HasTheMethodOfNvfp4) {
  const ResolvedJob job = ResolveWith({{"precision.recipe", "mxfp4"}, {"model.blocks", "2"}});
  EXPECT_THAT(Rows(job.precision)[3],
              "blocks.0.mlp.down | MXFP4 1x32 * MXFP4 1x32 | MXFP4 1x32 sr * MXFP4 1x32 | MXFP4 "
              "1x32 H16 sr * MXFP4 1x32 H16 | ");
  EXPECT_THAT(Rows(job.precision)[4], HasSubstr("kept in BF16: one of the last 1"));
}

TEST(PrecisionResolutionTest, ThePapersBaselineKeepsThreeBlocksOfALargeModel) {
  const ResolvedJob job =
      ResolveWith({{"precision.recipe", "fp8_blockwise"}, {"model.blocks", "12"}});
  EXPECT_EQ(job.spec.precision().high_precision_blocks().first(), 1);
  EXPECT_EQ(job.spec.precision().high_precision_blocks().last(), 2);
}

TEST(PrecisionResolutionTest, MxBlocksNeedMultiplesOf32) {
  const ResolvedJob job = ResolveWith({{"precision.recipe", "mxfp8"}, {"model.mlp_width", "176"}});
  EXPECT_THAT(job.warnings,
              ElementsAre("blocks.*.mlp.down runs in BF16 instead of MXFP8: in_features 176 is not "
                          "a multiple of 32"));
  // A block of 128 may be partial.
  EXPECT_THAT(
      ResolveWith({{"precision.recipe", "fp8_blockwise"}, {"model.mlp_width", "176"}}).warnings,
      IsEmpty());
}

// ---- options ----

TEST(PrecisionResolutionTest, AblationsOfTheMethod) {
  EXPECT_EQ(FirstRow({{"precision.hadamard_size", "64"},
                      {"precision.hadamard_products", "[fprop, dgrad]"}}),
            "blocks.0.attention.qkv | NVFP4 1x16 H64 * NVFP4 16x16 H64 | NVFP4 1x16 H64 sr * NVFP4 "
            "16x16 H64 | NVFP4 1x16 sr * NVFP4 1x16 | ");
  EXPECT_EQ(
      FirstRow({{"precision.stochastic_operands", "[fprop.activation, fprop.weight]"}}),
      "blocks.0.attention.qkv | NVFP4 1x16 sr * NVFP4 16x16 sr | NVFP4 1x16 * NVFP4 16x16 | NVFP4 "
      "1x16 H16 * NVFP4 1x16 H16 | ");
  EXPECT_EQ(FirstRow({{"precision.four_over_six", "squared"}}),
            "blocks.0.attention.qkv | NVFP4 1x16 4/6 * NVFP4 16x16 4/6 | NVFP4 1x16 sr * NVFP4 "
            "16x16 4/6 | NVFP4 1x16 H16 sr * NVFP4 1x16 H16 | ");
  // With 1x16 weights the backward pass has its own, which is no forward operand.
  EXPECT_EQ(
      FirstRow({{"precision.four_over_six", "absolute"}, {"precision.weight_block_rows", "1"}}),
      "blocks.0.attention.qkv | NVFP4 1x16 4/6 * NVFP4 1x16 4/6 | NVFP4 1x16 sr * NVFP4 1x16 | "
      "NVFP4 1x16 H16 sr * NVFP4 1x16 H16 | ");
  EXPECT_EQ(FirstRow({{"precision.high_precision_blocks.first", "1"},
                      {"precision.high_precision_blocks.format", "mxfp8"}}),
            "blocks.0.attention.qkv | MXFP8 1x32 * MXFP8 1x32 | MXFP8 1x32 * MXFP8 1x32 | MXFP8 "
            "1x32 * MXFP8 1x32 | kept in MXFP8: one of the first 1");
}

TEST(PrecisionResolutionTest, SignsTakeTheJobsSeedUnlessGivenOne) {
  const auto operand = [](const Changes& changes) {
    return ResolveWith(changes).precision.linears(0).wgrad().first();
  };
  EXPECT_EQ(operand({{"seed", "5"}}).hadamard_seed(), 0u);
  const auto redrawn = operand({{"seed", "5"}, {"precision.hadamard_signs", "redrawn"}});
  EXPECT_EQ(redrawn.hadamard_signs(), v1::HADAMARD_SIGNS_REDRAWN);
  EXPECT_EQ(redrawn.hadamard_seed(), 5u);
  EXPECT_EQ(
      operand(
          {{"seed", "5"}, {"precision.hadamard_signs", "drawn"}, {"precision.hadamard_seed", "8"}})
          .hadamard_seed(),
      8u);
  EXPECT_EQ(operand({{"precision.hadamard_signs", "none"}}).hadamard_signs(),
            v1::HADAMARD_SIGNS_NONE);
}

// ---- overrides ----

TEST(PrecisionResolutionTest, OverridesByLayerProductAndOperand) {
  const ResolvedJob job = ResolveWith(
      {{"precision.overrides",
        "[{layers: blocks.1.mlp.*, format: mxfp8}, {layers: blocks.*.attention.qkv, products: "
        "[wgrad], format: bf16}, {layers: blocks.3.mlp.down, products: [fprop], operands: "
        "[activation], format: nvfp4, rounding: stochastic}]"}});
  const std::vector<std::string> rows = Rows(job.precision);
  EXPECT_EQ(rows[0],
            "blocks.0.attention.qkv | NVFP4 1x16 * NVFP4 16x16 | NVFP4 1x16 sr * NVFP4 16x16 | "
            "BF16 * BF16 | ");
  EXPECT_EQ(rows[5], absl::StrCat("blocks.1.attention.output", kNvfp4Products));
  for (int i : {6, 7}) {
    EXPECT_THAT(rows[i], HasSubstr("| MXFP8 1x32 * MXFP8 1x32 | MXFP8 1x32 * MXFP8 1x32 | MXFP8 "
                                   "1x32 * MXFP8 1x32 | "));
  }
  // Also in a block that is kept in BF16.
  EXPECT_EQ(rows[15], "blocks.3.mlp.down | NVFP4 1x16 sr * BF16 | BF16 * BF16 | BF16 * BF16 | ");
}

TEST(PrecisionResolutionTest, ATransformIsOfBothOperandsOrOfNone) {
  EXPECT_THAT(FirstRow({{"precision.overrides",
                         "[{layers: \"*\", products: [wgrad], operands: [activation], format: "
                         "bf16}]"}}),
              HasSubstr("| NVFP4 1x16 sr * BF16 |"));
  EXPECT_THAT(FirstRow({{"precision.overrides",
                         "[{layers: \"*\", products: [wgrad], operands: [activation], format: "
                         "mxfp8}]"}}),
              HasSubstr("| NVFP4 1x16 H16 sr * MXFP8 1x32 H16 |"));
  EXPECT_THAT(FirstRow({{"precision.overrides",
                         "[{layers: \"*\", products: [wgrad], operands: [gradient], "
                         "hadamard_size: 32}]"}}),
              HasSubstr("| NVFP4 1x16 H32 sr * NVFP4 1x16 H32 |"));
}

TEST(PrecisionResolutionTest, OverridesCanQuantiseUnderBf16) {
  const ResolvedJob job =
      ResolveWith({{"precision.recipe", "bf16"},
                   {"precision.overrides", "[{layers: blocks.2.*, format: nvfp4}]"}});
  EXPECT_EQ(Rows(job.precision)[8], absl::StrCat("blocks.2.attention.qkv", kNvfp4Products));
  EXPECT_EQ(Rows(job.precision)[0], absl::StrCat("blocks.0.attention.qkv", kBf16Products));
  EXPECT_THAT(job.warnings, IsEmpty());
}

// ---- late switch ----

TEST(PrecisionResolutionTest, ALateSwitchNamesTheLayersThatChange) {
  const ResolvedJob job = ResolveWith({{"precision.late_switch.token_fraction", "0.815"}});
  ASSERT_EQ(job.precision.later_size(), 1);
  const v1::PrecisionPhase& later = job.precision.later(0);
  EXPECT_EQ(later.first_step(), 82);    // of 100
  ASSERT_EQ(later.linears_size(), 12);  // the last of 4 blocks is in BF16 already
  EXPECT_EQ(Show(later.linears(11)),
            "blocks.2.mlp.down | BF16 * BF16 | NVFP4 1x16 sr * NVFP4 16x16 | NVFP4 1x16 H16 sr * "
            "NVFP4 1x16 H16 | ");
  EXPECT_EQ(later.linears(11).index(), 11);
  EXPECT_EQ(job.precision.linears(11).index(), 11);
  const auto late_row = [](const Changes& changes) {
    return Show(ResolveWith(changes).precision.later(0).linears(0));
  };
  EXPECT_EQ(late_row({{"precision.late_switch.step", "7"},
                      {"precision.late_switch.passes", "backward"},
                      {"precision.late_switch.recipe", "mxfp8"}}),
            "blocks.0.attention.qkv | NVFP4 1x16 * NVFP4 16x16 | MXFP8 1x32 * MXFP8 1x32 | MXFP8 "
            "1x32 * MXFP8 1x32 | ");
  EXPECT_EQ(
      late_row({{"precision.late_switch.step", "7"}, {"precision.late_switch.passes", "both"}}),
      absl::StrCat("blocks.0.attention.qkv", kBf16Products));
  // The tiles that the backward pass shared with four over six are then its own.
  EXPECT_EQ(late_row({{"precision.late_switch.step", "7"}, {"precision.four_over_six", "squared"}}),
            "blocks.0.attention.qkv | BF16 * BF16 | NVFP4 1x16 sr * NVFP4 16x16 | NVFP4 1x16 H16 "
            "sr * NVFP4 1x16 H16 | ");
  EXPECT_THAT(ResolveWith({{"precision.late_switch.step", "100"}}).warnings,
              ElementsAre("precision.late_switch changes nothing"));
}

TEST(PrecisionResolutionTest, DigestCoversTheLateSwitch) {
  const auto digest = [](const Changes& changes) {
    return ResolveWith(changes).precision.digest();
  };
  EXPECT_NE(digest({}), digest({{"precision.late_switch.step", "7"}}));
  EXPECT_NE(digest({{"precision.late_switch.step", "8"}}),
            digest({{"precision.late_switch.step", "7"}}));
  EXPECT_EQ(digest({{"precision.late_switch.step", "50"}}),
            digest({{"precision.late_switch.token_fraction", "0.5"}}));
}

TEST(GlobTest, StarsAndQuestionMarks) {
  EXPECT_TRUE(MatchesGlob("blocks.7.mlp.*", "blocks.7.mlp.down"));
  EXPECT_TRUE(MatchesGlob("*", ""));
  EXPECT_TRUE(MatchesGlob("*.m?p.*n", "blocks.17.mlp.down"));
  EXPECT_TRUE(MatchesGlob("a*b*c", "a_b_b_c"));
  EXPECT_FALSE(MatchesGlob("blocks.7.mlp.*", "blocks.17.mlp.down"));
  EXPECT_FALSE(MatchesGlob("blocks.?.mlp.*", "blocks.17.mlp.down"));
  EXPECT_FALSE(MatchesGlob("", "a"));
  EXPECT_FALSE(MatchesGlob("a?", "a"));
  // Not exponential in the number of stars.
  EXPECT_FALSE(MatchesGlob(std::string(60, '*') + "b", std::string(10000, 'a')));
}

}  // namespace
}  // namespace nibble::spec
