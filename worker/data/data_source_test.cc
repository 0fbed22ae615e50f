// Reading of datasets. Seen to fail with: the SHA-256 not compared, the epoch left out of the
// permutation's key, targets not moved on by one at a shard's end.
#include "worker/data/data_source.h"

#include <algorithm>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/files.h"
#include "base/sha256.h"
#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/data/prepare.h"
#include "worker/data/shuffle.h"
#include "worker/data/token_shards.h"

namespace nibble::data {
namespace {

using testing::HasSubstr;

class DataSourceTest : public testing::Test {
 protected:
  DataSourceTest() {
    auto directory = TemporaryDirectory::Make();
    EXPECT_THAT(directory, IsOk());
    directory_ = std::make_unique<TemporaryDirectory>(*std::move(directory));
  }

  // A dataset of one split with these tokens, `shard_tokens` a file.
  void Write(const std::vector<int32_t>& tokens, int32_t vocab_size, int64_t shard_tokens) {
    ShardWriter writer({.directory = directory_->path(),
                        .split = "train",
                        .vocab_size = vocab_size,
                        .shard_tokens = shard_tokens});
    ASSERT_THAT(writer.Append(tokens.data(), static_cast<int64_t>(tokens.size())), IsOk());
    ASSERT_OK_AND_ASSIGN(manifest_.train.files, writer.Finish());
    manifest_.vocab_size = vocab_size;
    manifest_.token_bytes = TokenBytes(vocab_size);
    manifest_.tokenizer_kind = "bytes";
    manifest_.train.tokens = static_cast<int64_t>(tokens.size());
    manifest_.train.bytes = 2 * manifest_.train.tokens;
    manifest_.train.documents = 1;
    WriteManifest(ManifestToJson(manifest_));
  }

  void WriteManifest(const std::string& json) {
    ASSERT_THAT(ReplaceFileDurably(directory_->path() + "/dataset.json", json), IsOk());
  }

  absl::StatusOr<std::unique_ptr<DataSource>> Open(int64_t sequence_length) const {
    return DataSource::Open(directory_->path(), Split::kTrain, sequence_length);
  }

  std::string ShardPath(int i) const {
    return absl::StrCat(directory_->path(), "/train-0000", i, ".bin");
  }

  std::unique_ptr<TemporaryDirectory> directory_;
  DatasetManifest manifest_;
};

std::vector<int32_t> Counting(int count) {
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) tokens[static_cast<size_t>(i)] = i;
  return tokens;
}

TEST_F(DataSourceTest, SequencesOverlapByOneTokenAndCrossShards) {
  for (const int32_t vocab_size : {200, 70000}) {  // 16 and 32 bits a token
    for (const int64_t shard_tokens : {1, 7, 1000}) {
      RemoveTree(directory_->path()).IgnoreError();
      ASSERT_THAT(MakeDirectories(directory_->path()), IsOk());
      Write(Counting(100), vocab_size, shard_tokens);
      ASSERT_OK_AND_ASSIGN(const auto source, Open(10));
      EXPECT_EQ(source->vocab_size(), vocab_size);
      EXPECT_EQ(source->sequences(), 9);  // the tenth has no target for its last input
      EXPECT_EQ(source->bytes_per_token(), 2);
      for (int64_t index = 0; index < 9; ++index) {
        int32_t inputs[10];
        int32_t targets[10];
        ASSERT_THAT(source->ReadInOrder(index, inputs, targets), IsOk());
        for (int i = 0; i < 10; ++i) {
          ASSERT_EQ(inputs[i], index * 10 + i);
          ASSERT_EQ(targets[i], index * 10 + i + 1);
        }
      }
    }
  }
}

TEST_F(DataSourceTest, EveryEpochIsAnotherOrderOfAllSequences) {
  Write(Counting(1001), 1001, 300);
  ASSERT_OK_AND_ASSIGN(const auto source, Open(10));
  ASSERT_EQ(source->sequences(), 100);
  std::set<std::vector<int32_t>> orders;
  for (const uint64_t seed : {0ull, 1ull, 1ull << 32}) {
    for (int epoch = 0; epoch < 3; ++epoch) {
      std::vector<int32_t> order;
      for (int64_t i = 0; i < 100; ++i) {
        int32_t inputs[10];
        int32_t targets[10];
        ASSERT_THAT(source->ReadShuffled(seed, epoch * 100 + i, inputs, targets), IsOk());
        EXPECT_EQ(targets[9], inputs[0] + 10);
        order.push_back(inputs[0] / 10);
      }
      orders.insert(order);
      std::sort(order.begin(), order.end());
      EXPECT_EQ(order, Counting(100));
    }
  }
  EXPECT_EQ(orders.size(), 9u);
}

TEST_F(DataSourceTest, PositionAndSeedAloneMakeTheSample) {
  Write(Counting(501), 501, 1000);
  ASSERT_OK_AND_ASSIGN(const auto one, Open(4));
  ASSERT_OK_AND_ASSIGN(const auto two, Open(4));
  int32_t a[4];
  int32_t b[4];
  int32_t unused[4];
  for (int64_t position = 999; position >= 0; --position) {
    ASSERT_THAT(one->ReadShuffled(42, position, a, unused), IsOk());
    ASSERT_THAT(two->ReadShuffled(42, position, b, unused), IsOk());
    ASSERT_EQ(a[0], b[0]);
  }
}

TEST(ShuffleTest, IsABijectionForEverySmallCount) {
  for (int64_t count = 1; count <= 300; ++count) {
    std::vector<bool> seen(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) {
      const int64_t j = PermutedIndex(i, count, {.seed = 7, .epoch = 3});
      ASSERT_GE(j, 0);
      ASSERT_LT(j, count);
      ASSERT_FALSE(seen[static_cast<size_t>(j)]);
      seen[static_cast<size_t>(j)] = true;
    }
  }
}

TEST(ShuffleTest, KnownAnswers) {
  // A checkpoint's data position means what it meant: these may never change.
  std::vector<int64_t> order;
  for (int64_t i = 0; i < 10; ++i) order.push_back(PermutedIndex(i, 10, {.seed = 1, .epoch = 0}));
  EXPECT_THAT(order, testing::ElementsAre(0, 4, 2, 9, 1, 6, 7, 5, 3, 8));
  EXPECT_EQ(PermutedIndex(123456789, 1'000'000'000'000, {.seed = 1, .epoch = 2}), 318980033732);
}

TEST(ShuffleTest, LooksUniform) {
  // Where position 0 lands among 16, over 16,000 seeds: 1,000 each, within five deviations of 31.
  std::vector<int> counts(16);
  for (uint64_t seed = 0; seed < 16000; ++seed) {
    ++counts[static_cast<size_t>(PermutedIndex(0, 16, {.seed = seed}))];
  }
  for (const int count : counts) EXPECT_NEAR(count, 1000, 155);
}

TEST_F(DataSourceTest, AFlippedBitAnywhereIsDataLoss) {
  Write(Counting(100), 200, 40);
  ASSERT_THAT(Open(10), IsOk());
  for (int shard = 0; shard < 3; ++shard) {
    ASSERT_OK_AND_ASSIGN(const std::string good, ReadFile(ShardPath(shard), 1 << 20));
    for (size_t byte = 0; byte < good.size(); byte += 3) {
      std::string bad = good;
      bad[byte] = static_cast<char>(bad[byte] ^ 4);
      ASSERT_THAT(ReplaceFileDurably(ShardPath(shard), bad), IsOk());
      EXPECT_THAT(Open(10), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("train-0000")));
    }
    ASSERT_THAT(ReplaceFileDurably(ShardPath(shard), good.substr(1)), IsOk());
    EXPECT_THAT(Open(10), StatusIs(absl::StatusCode::kDataLoss));
    ASSERT_THAT(ReplaceFileDurably(ShardPath(shard), good + "x"), IsOk());
    EXPECT_THAT(Open(10), StatusIs(absl::StatusCode::kDataLoss));
    ASSERT_THAT(ReplaceFileDurably(ShardPath(shard), ""), IsOk());
    EXPECT_THAT(Open(10), StatusIs(absl::StatusCode::kDataLoss));
    ASSERT_THAT(ReplaceFileDurably(ShardPath(shard), good), IsOk());
  }
  ASSERT_THAT(RemoveTree(ShardPath(1)), IsOk());
  EXPECT_THAT(Open(10), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("missing")));
}

TEST_F(DataSourceTest, TokensBeyondTheVocabularyAreFound) {
  Write({1, 2, 3, 199, 5, 6}, 200, 100);
  ASSERT_OK_AND_ASSIGN(std::string shard, ReadFile(ShardPath(0), 1 << 20));
  shard[sizeof(ShardHeader) + 6] = static_cast<char>(200);
  ASSERT_THAT(ReplaceFileDurably(ShardPath(0), shard), IsOk());
  manifest_.train.files[0].sha256 = Sha256Hex(shard);
  WriteManifest(ManifestToJson(manifest_));
  ASSERT_OK_AND_ASSIGN(const auto source, Open(2));
  int32_t inputs[2];
  int32_t targets[2];
  EXPECT_THAT(source->ReadInOrder(0, inputs, targets), IsOk());
  EXPECT_THAT(source->ReadInOrder(1, inputs, targets), StatusIs(absl::StatusCode::kOutOfRange));
}

TEST_F(DataSourceTest, WhatIsNotThereIsSaid) {
  EXPECT_THAT(Open(10), StatusIs(absl::StatusCode::kNotFound, HasSubstr("dataset.json")));
  Write(Counting(10), 200, 100);
  EXPECT_THAT(Open(9), IsOk());
  EXPECT_THAT(Open(10), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("needs 11")));
  EXPECT_THAT(Open(int64_t{1} << 62), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(DataSource::Open(directory_->path(), Split::kValidation, 1),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("validation")));
}

TEST_F(DataSourceTest, HostileManifestsAreRefused) {
  Write(Counting(100), 200, 50);
  const std::string good = ManifestToJson(manifest_);
  ASSERT_THAT(ParseManifest(good), IsOk());
  const std::pair<const char*, const char*> replacements[] = {
      {"nibble-token-shards", "other"},
      {"\"version\": 1", "\"version\": 2"},
      {"\"version\": 1", "\"version\": \"1\""},
      {"\"vocab_size\": 200", "\"vocab_size\": -1"},
      {"\"vocab_size\": 200", "\"vocab_size\": 1e3"},
      {"\"vocab_size\": 200", "\"vocab_size\": 18446744073709551615"},
      {"\"vocab_size\": 200", "\"vocab_size\": 99999999999999999999999"},
      {"\"vocab_size\": 200", "\"vocab_size\": 100000"},
      {"\"token_bytes\": 2", "\"token_bytes\": 4"},
      {"\"token_bytes\": 2", "\"token_bytes\": 3"},
      {"\"token_bytes\": 2", "\"token_bytes\": 0"},
      {"\"separator\": 0", "\"separator\": 200"},
      {"\"train\": {", "\"test\": {"},
      {"\"tokens\": 100", "\"tokens\": 99"},
      {"\"tokens\": 100", "\"tokens\": 9223372036854775807"},
      {"\"tokens\": 50", "\"tokens\": 0"},
      {"\"tokens\": 50", "\"tokens\": 9223372036854775807"},
      {"\"documents\": 1", "\"documents\": 0"},
      {"train-00000.bin", "../train-00000.bin"},
      {"train-00000.bin", "/etc/passwd"},
      {"train-00000.bin", "train-.bin"},
      {"train-00000.bin", "train-00000.bin\\u0000"},
      {"train-00000.bin", "validation-00000.bin"},
      {"\"sha256\": \"", "\"sha256\": \"Z"},
      {"\"files\": [", "\"files\": [7, "},
      {"\"files\": [", "\"files\": [[], "},
      {"\"files\"", "\"flies\""},
      {"\"splits\": {", "\"splits\": 3, \"x\": {"},
      {"\"tokenizer\": {", "\"tokenizer\": 3, \"x\": {"},
  };
  for (const auto& [from, to] : replacements) {
    SCOPED_TRACE(absl::StrCat(from, " -> ", to));
    const std::string bad = absl::StrReplaceAll(good, {{from, to}});
    ASSERT_NE(bad, good);
    EXPECT_THAT(ParseManifest(bad), StatusIs(absl::StatusCode::kInvalidArgument));
  }
  for (const std::string& bad :
       {std::string(), std::string("{}"), std::string("[]"), std::string("null"),
        std::string("{\"splits\":"), std::string(1 << 20, '['), std::string(1 << 20, '{')}) {
    EXPECT_THAT(ParseManifest(bad), StatusIs(absl::StatusCode::kInvalidArgument));
  }
  WriteManifest(std::string((1 << 20) + 1, ' '));
  EXPECT_THAT(Open(10), StatusIs(absl::StatusCode::kResourceExhausted));
  std::mt19937 random(4);
  for (int i = 0; i < 3000; ++i) {
    std::string mutated = good;
    for (int edits = 0; edits < 3; ++edits) {
      mutated[random() % mutated.size()] = "{}[]\",:0129ae-\\"[random() % 15];
    }
    ParseManifest(mutated).IgnoreError();
  }
}

}  // namespace
}  // namespace nibble::data
