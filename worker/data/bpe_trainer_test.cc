// Byte-pair training against the definition and a published result.
#include "worker/data/bpe_trainer.h"

#include <fstream>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/data/pair_merger.h"
#include "worker/data/tokenizer.h"

namespace nibble::data {
namespace {

using testing::HasSubstr;

constexpr char kReference[] = "../shared/data/tokenizers/bpe_train_reference";

class BpeTrainerTest : public testing::Test {
 protected:
  BpeTrainerTest() {
    auto directory = TemporaryDirectory::Make();
    EXPECT_THAT(directory, IsOk());
    directory_ = std::make_unique<TemporaryDirectory>(*std::move(directory));
    options_.output_directory = directory_->path() + "/out";
  }

  std::string Input(const std::string& name, const std::string& text) {
    const std::string path = absl::StrCat(directory_->path(), "/", name);
    std::ofstream(path, std::ios::binary) << text;
    return path;
  }
  std::string Output(const std::string& name) const {
    const auto text = ReadFile(absl::StrCat(options_.output_directory, "/", name), 1 << 26);
    EXPECT_THAT(text, IsOk());
    return text.ok() ? *text : "";
  }

  std::unique_ptr<TemporaryDirectory> directory_;
  TrainTokenizerOptions options_;
};

TEST_F(BpeTrainerTest, FindsTheReferenceMerges) {
  const std::string reference = kReference;
  if (!FileExists(reference)) GTEST_SKIP() << reference << " is not there";
  options_.inputs = {reference + "/corpus.en"};
  options_.vocab_size = 500;
  ASSERT_OK_AND_ASSIGN(const TrainTokenizerResult result, TrainTokenizer(options_, nullptr));
  EXPECT_EQ(result.vocab_size, 500);
  EXPECT_EQ(Output("merges.txt"), *ReadFile(reference + "/merges.txt", 1 << 20));
  EXPECT_EQ(Output("vocab.json"), *ReadFile(reference + "/vocab.json", 1 << 20));
  ASSERT_OK_AND_ASSIGN(const auto tokenizer, LoadTokenizer(options_.output_directory));
  EXPECT_EQ(tokenizer->vocab_size(), 500);
  EXPECT_EQ(tokenizer->separator(), 0);
  std::vector<int32_t> ids;
  tokenizer->EncodeAll("the other work", &ids);
  std::string text;
  ASSERT_THAT(tokenizer->Decode(ids, &text), IsOk());
  EXPECT_EQ(text, "the other work");
}

// Recounts everything before every merge.
std::vector<std::string> MergeNaively(const std::map<std::string, int64_t>& pieces, int merges) {
  std::vector<std::pair<std::vector<std::string>, int64_t>> words;
  for (const auto& [piece, count] : pieces) {
    words.push_back({{}, count});
    for (const char c : piece) words.back().first.emplace_back(1, c);
  }
  std::vector<std::string> made;
  while (static_cast<int>(made.size()) < merges) {
    std::map<std::pair<std::string, std::string>, int64_t> counts;
    for (const auto& [tokens, count] : words) {
      for (size_t i = 0; i + 1 < tokens.size(); ++i) counts[{tokens[i], tokens[i + 1]}] += count;
    }
    if (counts.empty()) break;
    auto best = counts.begin();
    for (auto it = counts.begin(); it != counts.end(); ++it) {
      if (it->second >= best->second)
        best = it;  // the map rises, so the last of equals is greatest
    }
    for (auto& [tokens, count] : words) {
      std::vector<std::string> merged;
      for (size_t i = 0; i < tokens.size(); ++i) {
        if (i + 1 < tokens.size() && tokens[i] == best->first.first &&
            tokens[i + 1] == best->first.second) {
          merged.push_back(tokens[i] + tokens[i + 1]);
          ++i;
        } else {
          merged.push_back(tokens[i]);
        }
      }
      tokens = std::move(merged);
    }
    made.push_back(best->first.first + " " + best->first.second);
  }
  return made;
}

TEST(PairMergerTest, AgreesWithTheDefinition) {
  std::mt19937 random(8);
  for (int round = 0; round < 150; ++round) {
    const uint32_t letters = 1 + random() % 4;
    std::map<std::string, int64_t> pieces;
    for (int i = 0; i < 12; ++i) {
      std::string piece;
      for (uint32_t n = 1 + random() % 9; n > 0; --n) {
        piece.push_back(static_cast<char>((random() % 8 == 0 ? 0xf0 : 'a') + random() % letters));
      }
      pieces[piece] += 1 + random() % 3;
    }
    std::vector<std::string> tokens;
    for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
    PairMerger merger(tokens);
    for (const auto& [piece, count] : pieces) {
      std::vector<int32_t> ids;
      for (const char c : piece) ids.push_back(static_cast<unsigned char>(c));
      merger.AddPiece(ids, count);
    }
    merger.Start();
    std::vector<std::string> made;
    PairMerger::Pair pair;
    while (made.size() < 30 && merger.MergeBest(&pair)) {
      made.push_back(merger.tokens()[pair.left] + " " + merger.tokens()[pair.right]);
    }
    ASSERT_EQ(made, MergeNaively(pieces, 30)) << "round " << round;
  }
}

TEST_F(BpeTrainerTest, EndsWhereNothingIsLeftToMerge) {
  options_.inputs = {Input("a.txt", "abab"), Input("b.jsonl", "{\"text\": \"abab \\u00e9\"}\n")};
  options_.vocab_size = 1000;
  int64_t reports = 0;
  ASSERT_OK_AND_ASSIGN(const TrainTokenizerResult result,
                       TrainTokenizer(options_, [&](const TrainTokenizerProgress&) {
                         ++reports;
                         return absl::OkStatus();
                       }));
  EXPECT_EQ(result.vocab_size, 257 + 4);  // ab, abab, é, " é"
  EXPECT_EQ(result.text_bytes, 4 + 7);
  EXPECT_EQ(result.distinct_pieces, 2);
  EXPECT_GT(reports, 0);
  EXPECT_EQ(Output("merges.txt"), "a b\nab ab\n\xc3\x83 \xc2\xa9\n\xc4\xa0 \xc3\x83\xc2\xa9\n");
}

TEST_F(BpeTrainerTest, WhatIsWrongIsSaid) {
  options_.vocab_size = 300;
  EXPECT_THAT(TrainTokenizer(options_, nullptr), StatusIs(absl::StatusCode::kInvalidArgument));
  options_.inputs = {directory_->path() + "/none.txt"};
  EXPECT_THAT(TrainTokenizer(options_, nullptr),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("none.txt")));
  options_.inputs = {Input("a.txt", "some text some text")};
  for (const int32_t size : {-1, 0, 256, 1 << 21}) {
    options_.vocab_size = size;
    EXPECT_THAT(TrainTokenizer(options_, nullptr),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("allowed: 257 to 1048576")));
  }
  options_.vocab_size = 257;
  EXPECT_THAT(TrainTokenizer(options_, nullptr), IsOk());
  EXPECT_THAT(TrainTokenizer(options_, nullptr), StatusIs(absl::StatusCode::kAlreadyExists));
  options_.overwrite = true;
  EXPECT_THAT(TrainTokenizer(options_, nullptr), IsOk());
  EXPECT_THAT(
      TrainTokenizer(options_,
                     [](const TrainTokenizerProgress&) { return absl::CancelledError("stop"); }),
      StatusIs(absl::StatusCode::kCancelled));
}

}  // namespace
}  // namespace nibble::data
