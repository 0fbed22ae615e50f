// Mixtures, phases and document boundaries.
#include <cmath>
#include <fstream>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/data/data_source.h"
#include "worker/data/mixture_plan.h"

namespace nibble::data {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(MixturePlanTest, WeightsHoldInEveryRoundAndOverThePrefix) {
  const MixturePlan plan({{1, {{0, 5}, {1, 3}, {2, 2}}}}, 3, 1000);
  for (int64_t round = 0; round < 20; ++round) {
    EXPECT_THAT(plan.Counts(10 * round), ElementsAre(5 * round, 3 * round, 2 * round));
  }
}

TEST(MixturePlanTest, CountsAndLocationsAgree) {
  const std::vector<std::vector<MixturePhase>> plans = {
      {{1, {{0, 1}}}},
      {{1, {{0, 0.7}, {1, 0.3}}}},
      {{1, {{0, 1}, {1, 1e-4}}}},
      {{1, {{0, M_PI}, {1, M_E}, {2, 1e-7}}}},
      {{0.7, {{0, 1}}}, {0.2, {{0, 1}, {1, 2}}}, {0.1, {{2, 1}, {1, 5}, {0, 3}}}},
      {{1e-6, {{0, 1}}}, {1e-6, {{1, 1}}}, {1 - 2e-6, {{2, 1}, {0, 1}}}},
  };
  for (const auto& phases : plans) {
    const MixturePlan plan(phases, 3, 5000);
    std::vector<int64_t> counts(3, 0);
    // Beyond the end, the last phase goes on.
    for (int64_t position = 0; position < 6000; ++position) {
      ASSERT_EQ(plan.Counts(position), counts) << position;
      const MixturePlan::Sample sample = plan.Locate(position);
      ASSERT_EQ(sample.index, counts[sample.source]++) << position;
    }
  }
}

TEST(MixturePlanTest, PhasesHaveTheirShares) {
  const MixturePlan plan({{0.7, {{0, 1}}}, {0.2, {{0, 1}, {1, 1}}}, {0.1, {{1, 1}}}}, 2, 1000);
  EXPECT_THAT(plan.Counts(700), ElementsAre(700, 0));
  EXPECT_THAT(plan.Counts(900), ElementsAre(800, 100));
  EXPECT_THAT(plan.Counts(1000), ElementsAre(800, 200));
}

TEST(MixturePlanTest, SmallWeightsAreNotLost) {
  const MixturePlan plan({{1, {{0, 1}, {1, 1e-9}}}}, 2, 1);
  EXPECT_THAT(plan.Counts(65536), ElementsAre(65535, 1));
}

class MixtureTest : public testing::Test {
 protected:
  MixtureTest() {
    auto directory = TemporaryDirectory::Make();
    EXPECT_THAT(directory, IsOk());
    directory_ = std::make_unique<TemporaryDirectory>(*std::move(directory));
  }

  // Raw tokens; also the held-out ones where `held_out` is not empty.
  SourceConfig Write(const std::string& name, const std::vector<uint16_t>& tokens,
                     const std::vector<uint16_t>& held_out = {}) {
    const auto write = [&](const std::string& path, const std::vector<uint16_t>& values) {
      std::ofstream(path, std::ios::binary)
          .write(reinterpret_cast<const char*>(values.data()),
                 static_cast<std::streamsize>(values.size() * 2));
    };
    SourceConfig source;
    source.path = absl::StrCat(directory_->path(), "/", name, ".bin");
    source.format = TokenFormat::kRawU16;
    write(source.path, tokens);
    if (held_out.empty()) return source;
    source.validation_path = source.path + ".val";
    write(source.validation_path, held_out);
    return source;
  }

  static std::vector<uint16_t> Filled(size_t count, uint16_t token) {
    return std::vector<uint16_t>(count, token);
  }

  static absl::StatusOr<std::unique_ptr<DataSource>> Open(const DataConfig& config,
                                                          int64_t sequence_length,
                                                          Split split = Split::kTrain) {
    return DataSource::Open(
        config, split, {.sequence_length = sequence_length, .vocab_size = 1000, .samples = 100});
  }

  std::unique_ptr<TemporaryDirectory> directory_;
};

TEST_F(MixtureTest, PhasesShareASourceAndGoOnInItsEpoch) {
  SourceConfig a = Write("a", Filled(41, 1));  // 10 sequences of 4
  SourceConfig b = Write("b", Filled(21, 2));  // 5
  DataConfig config;
  config.phases = {{0.5, {a}}, {0.5, {a, b}}};
  config.phases[1].sources[0].weight = 3;
  config.phases[1].sources[1].weight = 1;
  ASSERT_OK_AND_ASSIGN(const auto data, Open(config, 4));
  std::map<int32_t, int> seen;
  for (int64_t position = 0; position < 100; ++position) {
    int32_t inputs[4];
    int32_t targets[4];
    ASSERT_THAT(data->ReadShuffled(5, position, inputs, targets), IsOk());
    EXPECT_EQ(inputs[0], targets[3]);
    if (position < 50) {
      EXPECT_EQ(inputs[0], 1);
    }
    ++seen[inputs[0]];
  }
  EXPECT_NEAR(seen[2], 12.5, 1);  // a quarter of half of the run, in rounds of four
  const std::vector<SourceProgress> progress = data->Progress(100);
  ASSERT_EQ(progress.size(), 2u);
  EXPECT_EQ(progress[0].tokens, 4 * seen[1]);
  EXPECT_EQ(progress[0].epochs, seen[1] / 10.0);
  EXPECT_EQ(progress[1].path, b.path);
  EXPECT_EQ(progress[1].epochs, seen[2] / 5.0);
}

TEST_F(MixtureTest, EveryEpochOfASourceHasAllItsSequences) {
  std::vector<uint16_t> counting(41);
  for (size_t i = 0; i < counting.size(); ++i) counting[i] = static_cast<uint16_t>(i);
  DataConfig config;
  config.phases = {{1, {Write("a", counting), Write("b", Filled(21, 999))}}};
  ASSERT_OK_AND_ASSIGN(const auto data, Open(config, 4));
  std::vector<int32_t> firsts;
  for (int64_t position = 0; position < 60; ++position) {
    int32_t inputs[4];
    int32_t targets[4];
    ASSERT_THAT(data->ReadShuffled(1, position, inputs, targets), IsOk());
    if (inputs[0] < 999) firsts.push_back(inputs[0]);
  }
  ASSERT_EQ(firsts.size(), 30u);
  for (int epoch = 0; epoch < 3; ++epoch) {
    const std::set<int32_t> of_epoch(firsts.begin() + 10 * epoch, firsts.begin() + 10 * epoch + 10);
    EXPECT_EQ(of_epoch.size(), 10u);
  }
  EXPECT_FALSE(std::equal(firsts.begin(), firsts.begin() + 10, firsts.begin() + 10));
}

TEST_F(MixtureTest, ValidationMixesWhatIsHeldOut) {
  DataConfig config;
  config.phases = {{0.5, {Write("c", Filled(100, 7), Filled(100, 7))}},
                   {0.5,
                    {Write("a", Filled(41, 1), Filled(41, 1)),
                     Write("b", Filled(21, 2), Filled(81, 2)), Write("none", Filled(9, 3))}}};
  ASSERT_OK_AND_ASSIGN(const auto data, Open(config, 4, Split::kValidation));
  EXPECT_EQ(data->sequences(), 20);  // ten of each: a has no more
  std::map<int32_t, int> seen;
  for (int64_t i = 0; i < data->sequences(); ++i) {
    int32_t inputs[4];
    int32_t targets[4];
    ASSERT_THAT(data->ReadInOrder(i, inputs, targets), IsOk());
    ++seen[inputs[0]];
  }
  EXPECT_EQ(seen, (std::map<int32_t, int>{{1, 10}, {2, 10}}));
  config.phases = {{1, {Write("none", Filled(9, 3))}}};
  EXPECT_THAT(Open(config, 4, Split::kValidation), StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(MixtureTest, DocumentsJoinedMaskedAndSeparate) {
  // Documents of 3, 1 and 6 tokens with their separator 9, and a last one without.
  SourceConfig source = Write("a", {1, 2, 9, 9, 3, 4, 5, 6, 7, 9, 8, 8});
  DataConfig config;
  config.phases = {{1, {source}}};
  config.documents = DocumentMode::kMask;
  EXPECT_THAT(Open(config, 4), StatusIs(absl::StatusCode::kInvalidArgument,
                                        HasSubstr("does not say where documents end")));
  config.phases[0].sources[0].separator = 9;
  const auto read = [](const DataSource& data, int64_t index) {
    std::vector<std::vector<int32_t>> both(2, std::vector<int32_t>(4));
    EXPECT_THAT(data.ReadInOrder(index, both[0].data(), both[1].data()), IsOk());
    return both;
  };
  using Both = std::vector<std::vector<int32_t>>;
  {
    ASSERT_OK_AND_ASSIGN(const auto data, Open(config, 4));
    ASSERT_EQ(data->sequences(), 2);
    EXPECT_EQ(read(*data, 0), (Both{{1, 2, 9, 9}, {2, 9, -1, -1}}));
    EXPECT_EQ(read(*data, 1), (Both{{3, 4, 5, 6}, {4, 5, 6, 7}}));
  }
  config.documents = DocumentMode::kSeparate;
  {
    ASSERT_OK_AND_ASSIGN(const auto data, Open(config, 4));
    ASSERT_EQ(data->sequences(), 4);
    EXPECT_EQ(read(*data, 0), (Both{{1, 2, 0, 0}, {2, 9, -1, -1}}));
    EXPECT_EQ(read(*data, 1), (Both{{3, 4, 5, 6}, {4, 5, 6, 7}}));
    EXPECT_EQ(read(*data, 2), (Both{{7, 0, 0, 0}, {9, -1, -1, -1}}));
    EXPECT_EQ(read(*data, 3), (Both{{8, 0, 0, 0}, {8, -1, -1, -1}}));
  }
  config.documents = DocumentMode::kJoin;
  ASSERT_OK_AND_ASSIGN(const auto data, Open(config, 4));
  EXPECT_EQ(read(*data, 0), (Both{{1, 2, 9, 9}, {2, 9, 9, 3}}));
}

// Megatron's list of documents masks the same targets as separators do.
TEST_F(MixtureTest, AListOfDocumentsIsAsGoodAsSeparators) {
  const std::vector<uint16_t> tokens = {1, 2, 3, 4, 5, 6, 7, 8, 9};
  SourceConfig source = Write("m", tokens);
  const std::vector<int32_t> lengths = {3, 2, 4};
  const std::vector<int64_t> rest = {0, 6, 10, 0, 1, 2, 3};  // offsets, documents
  std::string index("MMIDIDX\0\0\1\0\0\0\0\0\0\0\10\3\0\0\0\0\0\0\0\4\0\0\0\0\0\0\0", 34);
  index.append(reinterpret_cast<const char*>(lengths.data()), 12);
  index.append(reinterpret_cast<const char*>(rest.data()), 56);
  std::ofstream(directory_->path() + "/m.idx", std::ios::binary) << index;
  source.format = TokenFormat::kAuto;
  DataConfig config;
  config.phases = {{1, {source}}};
  config.documents = DocumentMode::kMask;
  int32_t inputs[4];
  int32_t targets[4];
  ASSERT_OK_AND_ASSIGN(const auto masked, Open(config, 4));
  ASSERT_THAT(masked->ReadInOrder(0, inputs, targets), IsOk());
  EXPECT_THAT(targets, ElementsAre(2, 3, -1, 5));
  ASSERT_THAT(masked->ReadInOrder(1, inputs, targets), IsOk());
  EXPECT_THAT(targets, ElementsAre(-1, 7, 8, 9));
  config.documents = DocumentMode::kSeparate;
  ASSERT_OK_AND_ASSIGN(const auto separate, Open(config, 4));
  EXPECT_EQ(separate->sequences(), 3);
  ASSERT_THAT(separate->ReadInOrder(1, inputs, targets), IsOk());
  EXPECT_THAT(inputs, ElementsAre(4, 0, 0, 0));
  EXPECT_THAT(targets, ElementsAre(5, -1, -1, -1));
}

}  // namespace
}  // namespace nibble::data
