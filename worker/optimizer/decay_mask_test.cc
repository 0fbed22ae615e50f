#include "worker/optimizer/decay_mask.h"

#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace nibble::optimizer {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// One block: embedding 10 x 4, qkv 12 x 4, output 4 x 4, gate_up 16 x 4, down 4 x 8, head 10 x 4,
// each in 128 elements, then three norms of 4.
model::ParameterTable Table() {
  model::ModelConfig config;
  config.vocab_size = 10;
  config.width = 4;
  config.blocks = 1;
  config.heads = config.kv_heads = 1;
  config.head_size = 4;
  config.mlp_width = 8;
  return model::ParameterTable(config);
}

AdamWConfig Config(std::vector<std::string> include, std::vector<std::string> exclude) {
  AdamWConfig config;
  config.decay_include = std::move(include);
  config.decay_exclude = std::move(exclude);
  return config;
}

TEST(DecayMask, MatricesByDefault) {
  ASSERT_OK_AND_ASSIGN(const std::vector<DecayRange> ranges, DecayRanges(Config({}, {}), Table()));
  EXPECT_THAT(ranges, ElementsAre(DecayRange{0, 6 * 128, true}, DecayRange{768, 3 * 128, false}));
}

// Seen red with exclusion applied before inclusion.
TEST(DecayMask, PatternsAddAndTakeAwayAndExclusionWins) {
  ASSERT_OK_AND_ASSIGN(
      const std::vector<DecayRange> ranges,
      DecayRanges(Config({"*norm*", "lm_head.*"}, {"*embed*", "lm_head.weight", "model.norm.*"}),
                  Table()));
  EXPECT_THAT(ranges, ElementsAre(DecayRange{0, 128, false}, DecayRange{128, 4 * 128, true},
                                  DecayRange{640, 128, false}, DecayRange{768, 2 * 128, true},
                                  DecayRange{1024, 128, false}));
}

TEST(DecayMask, EverythingAndNothing) {
  ASSERT_OK_AND_ASSIGN(std::vector<DecayRange> ranges, DecayRanges(Config({"*"}, {}), Table()));
  EXPECT_THAT(ranges, ElementsAre(DecayRange{0, 9 * 128, true}));
  ASSERT_OK_AND_ASSIGN(ranges, DecayRanges(Config({}, {"*"}), Table()));
  EXPECT_THAT(ranges, ElementsAre(DecayRange{0, 9 * 128, false}));
}

TEST(DecayMask, APatternThatMatchesNothingIsAnError) {
  EXPECT_THAT(DecayRanges(Config({}, {"*.bias"}), Table()),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("optimizer.decay_exclude: no parameter's name matches '*.bias'")));
  EXPECT_THAT(DecayRanges(Config({"norm"}, {}), Table()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("optimizer.decay_include")));
}

}  // namespace
}  // namespace nibble::optimizer
