// SentencePiece and tiktoken files. Known ids come from spm_encode 0.1.97; over 40,000 lines of
// play text and 3,000 of random characters and broken UTF-8, BPE and unigram models, with and
// without NFKC and user-defined symbols, gave that program's ids.
#include <algorithm>
#include <cmath>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/data/tokenizer.h"

namespace nibble::data {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr char kTokenizers[] = "../shared/data/tokenizers";

std::vector<int32_t> Encode(Tokenizer& tokenizer, absl::string_view text) {
  std::vector<int32_t> ids;
  tokenizer.EncodeAll(text, &ids);
  return ids;
}

std::string Decode(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  std::string text;
  EXPECT_THAT(tokenizer.Decode(ids, &text), IsOk());
  return text;
}

// A field of a protobuf message: bytes, or a number below 128.
std::string Field(int number, const std::string& bytes) {
  std::string field;
  for (uint32_t value :
       {static_cast<uint32_t>(number << 3 | 2), static_cast<uint32_t>(bytes.size())}) {
    for (; value >= 0x80; value >>= 7) field.push_back(static_cast<char>(value | 0x80));
    field.push_back(static_cast<char>(value));
  }
  return field + bytes;
}
std::string Field(int number, int value) {
  std::string field(1, static_cast<char>(number << 3 & 0x7f));
  if (number >= 16) field = {static_cast<char>(number << 3 | 0x80), static_cast<char>(number >> 4)};
  return field + static_cast<char>(value);
}

struct Piece {
  std::string text;
  float score;
  int type;  // 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte
};

std::string Model(const std::vector<Piece>& pieces, int model_type,
                  const std::string& normalizer = "") {
  std::string model;
  for (const Piece& piece : pieces) {
    const std::string score(reinterpret_cast<const char*>(&piece.score), 4);
    model += Field(1, Field(1, piece.text) + "\x15" + score + Field(3, piece.type));
  }
  return model + Field(2, Field(3, model_type)) + Field(3, normalizer);
}

class SentencePieceTest : public testing::Test {
 protected:
  SentencePieceTest() {
    auto directory = TemporaryDirectory::Make();
    EXPECT_THAT(directory, IsOk());
    directory_ = std::make_unique<TemporaryDirectory>(*std::move(directory));
  }
  absl::StatusOr<std::unique_ptr<Tokenizer>> Load(absl::string_view file,
                                                  const std::string& name = "a.model") {
    const std::string path = absl::StrCat(directory_->path(), "/", name);
    std::ofstream(path, std::ios::binary) << file;
    return LoadTokenizer(path);
  }
  std::unique_ptr<TemporaryDirectory> directory_;
};

TEST_F(SentencePieceTest, Mistral) {
  const std::string directory = absl::StrCat(kTokenizers, "/mistral_v1");
  if (!FileExists(directory)) GTEST_SKIP() << directory << " is not there";
  ASSERT_OK_AND_ASSIGN(const auto tokenizer, LoadTokenizer(directory));
  EXPECT_EQ(tokenizer->kind(), "sentencepiece");
  EXPECT_EQ(tokenizer->vocab_size(), 32000);
  EXPECT_EQ(tokenizer->bos_id(), 1);
  EXPECT_EQ(tokenizer->eos_id(), 2);
  const std::vector<std::pair<std::string, std::vector<int32_t>>> cases = {
      {"Hello world", {22557, 1526}},
      {"Once upon a time, there was a little girl named Lily.",
       {5713, 3714, 264, 727, 28725, 736, 403, 264, 1628, 2746, 5160, 25492, 28723}},
      {"  two  spaces   three\t\ttabs", {259, 989, 28705, 10599, 259, 1712, 12, 12, 24856}},
      {"\xef\xac\x81ne \xe2\x91\xa0 \xef\xbd\x86\xef\xbd\x95\xef\xbd\x8c\xef\xbd\x8c \xc2\xb2",
       {28705, 30160, 485, 28705, 229, 148, 163, 28705, 242, 192,   137,
        242,   192,   152, 242,   192, 143, 242, 192,   143, 28705, 28941}},
      {"<s> </s> <unk> <0x0A>",
       {523, 28713, 28767, 1867, 28713, 28767, 523, 2060, 28767, 523, 28734, 28744, 28734, 28741,
        28767}},
      {"supercalifragilisticexpialidocious",
       {2195, 1391, 335, 14806, 309, 392, 535, 28315, 505, 313, 402, 925}},
  };
  for (const auto& [text, ids] : cases) {
    EXPECT_EQ(Encode(*tokenizer, text), ids) << text;
    EXPECT_EQ(Decode(*tokenizer, ids), text);
  }
  // Texts that are encoded in parts come out as one.
  std::string text;
  for (int i = 0; i < 200'000; ++i)
    absl::StrAppend(&text, i % 7 == 0 ? "  " : " ", "word", i % 100);
  EXPECT_EQ(Decode(*tokenizer, Encode(*tokenizer, text)), text);
}

// The best segmentation by trying all of them.
double BestScore(const std::vector<Piece>& pieces, const std::string& text, size_t begin) {
  if (begin == text.size()) return 0;
  double best = -1e9;
  for (const Piece& piece : pieces) {
    if (piece.type != 1 || text.compare(begin, piece.text.size(), piece.text) != 0) continue;
    best = std::max(best, piece.score + BestScore(pieces, text, begin + piece.text.size()));
  }
  return best;
}

TEST_F(SentencePieceTest, UnigramFindsTheBestSegmentation) {
  std::mt19937 random(2);
  for (int round = 0; round < 40; ++round) {
    std::vector<Piece> pieces = {{"<unk>", 0, 2},         {"<s>", 0, 3},   {"</s>", 0, 3},
                                 {"\xe2\x96\x81", -9, 1}, {"a", -7.25, 1}, {"b", -6.5, 1}};
    for (int i = 0; i < 12; ++i) {
      std::string text;
      for (uint32_t n = 2 + random() % 3; n > 0; --n) text.push_back("ab"[random() % 2]);
      bool is_new = true;
      for (const Piece& piece : pieces) is_new = is_new && piece.text != text;
      // Multiples of 1/8: sums in float are exact.
      if (is_new) pieces.push_back({text, -static_cast<float>(random() % 128) / 8, 1});
    }
    ASSERT_OK_AND_ASSIGN(const auto tokenizer, Load(Model(pieces, 1)));
    for (int length = 1; length < 12; ++length) {
      std::string text;
      for (int i = 0; i < length; ++i) text.push_back("ab"[random() % 2]);
      const std::vector<int32_t> ids = Encode(*tokenizer, text);
      double score = 0;
      for (const int32_t id : ids) score += pieces[static_cast<size_t>(id)].score;
      EXPECT_EQ(score, BestScore(pieces, "\xe2\x96\x81" + text, 0)) << text;
      EXPECT_EQ(Decode(*tokenizer, ids), text);
    }
  }
}

TEST_F(SentencePieceTest, UnknownCharactersAndWhiteSpace) {
  const std::vector<Piece> pieces = {
      {"<unk>", 0, 2}, {"<s>", 0, 3},   {"</s>", 0, 3}, {"\xe2\x96\x81", -2, 1},
      {"ab", -1, 1},   {"<sep>", 0, 4}, {"a", -3, 1},   {"b", -3.5f, 1}};
  for (const int type : {1, 2}) {
    ASSERT_OK_AND_ASSIGN(const auto tokenizer, Load(Model(pieces, type)));
    // A run of unknown characters is one unknown piece; spaces at the ends and repeated ones go.
    EXPECT_THAT(Encode(*tokenizer, "  abxy  a<sep>b "), ElementsAre(3, 4, 0, 3, 6, 5, 7));
    EXPECT_THAT(Decode(*tokenizer, {3, 4, 0, 3, 6, 5, 7}), "ab \xe2\x81\x87  a<sep>b");
    EXPECT_TRUE(Encode(*tokenizer, "   ").empty());
    // Kept where the model says so.
    ASSERT_OK_AND_ASSIGN(const auto keeping, Load(Model(pieces, type, Field(4, 0))));
    EXPECT_THAT(Encode(*keeping, " a "), ElementsAre(3, 3, 6, 3));
    EXPECT_EQ(Decode(*keeping, {3, 3, 6, 3}), " a ");
  }
}

TEST_F(SentencePieceTest, DamagedModelsAreRefused) {
  const std::vector<Piece> pieces = {{"<unk>", 0, 2}, {"<s>", 0, 3}, {"</s>", 0, 3}, {"a", -3, 1}};
  // Of one unit and one replacement, as far as its sizes go.
  const std::string charsmap = Field(2, std::string("\4\0\0\0\0\0\0\0a\0", 10));
  const std::string good = Model(pieces, 1, charsmap);
  ASSERT_THAT(Load(good), IsOk());
  for (size_t size = 0; size < good.size(); ++size) {
    auto loaded = Load(good.substr(0, size));
    if (loaded.ok()) Encode(**loaded, "a b");  // cut between fields
  }
  std::mt19937 random(9);
  for (int i = 0; i < 3000; ++i) {
    std::string mutated = good;
    for (int edits = 0; edits < 3; ++edits) {
      mutated[random() % mutated.size()] = static_cast<char>(random());
    }
    auto loaded = Load(mutated);
    if (loaded.ok()) Encode(**loaded, "a b \xff <s>");
  }
  // Character maps of random units are followed, but not out of bounds.
  for (int i = 0; i < 300; ++i) {
    std::string map("\x40\0\0\0", 4);
    for (int n = 0; n < 64; ++n) map.push_back(static_cast<char>(random()));
    auto loaded = Load(Model(pieces, 1, Field(2, map + std::string("ab\0", 3))));
    ASSERT_THAT(loaded, IsOk());
    Encode(**loaded, "a \x01\x02 \xe2\x82\xac zz");
  }
  const auto refused = [&](const std::string& file, const char* message) {
    EXPECT_THAT(Load(file), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(message)));
  };
  refused(Model(pieces, 3), "model type 3");
  refused(Model({{"a", 0, 1}}, 1), "no unknown piece");
  refused(Model({{"<unk>", 0, 2}, {"a", 0, 1}}, 1), "neither an end nor a start piece");
  refused(Model({{"<unk>", 0, 2}, {"<s>", 0, 3}, {"</s>", 0, 3}, {"<s>", 0, 1}}, 1), "the same");
  refused(Model({{"<unk>", 0, 2}, {"", 0, 1}}, 1), "has 0 bytes");
  refused(Model({{"<unk>", NAN, 2}}, 1), "not finite");
  refused(Model({{"<unk>", 0, 2}, {"<s>", 0, 3}, {"</s>", 0, 3}, {"b", 0, 6}}, 1), "is a byte but");
  refused(Model({{"<unk>", 0, 2}, {"<s>", 0, 3}, {"</s>", 0, 3}, {"b", 0, 5}}, 2), "unused");
  refused(Model(pieces, 1, Field(2, std::string("\4\0\0\0", 4))), "wrong size");
  refused(Model(pieces, 1, Field(2, std::string("\xff\xff\xff\xff\0\0\0\0", 8))), "wrong size");
  refused(Model(pieces, 1) + Field(5, Field(2, "x")), "denormaliser");
  refused("", "no unknown piece");
}

TEST_F(SentencePieceTest, Gpt2sTiktokenFileGivesGpt2sIds) {
  const std::string directory = absl::StrCat(kTokenizers, "/gpt2");
  if (!FileExists(directory)) GTEST_SKIP() << directory << " is not there";
  ASSERT_OK_AND_ASSIGN(const auto tiktoken, LoadTokenizer(directory + "/gpt2.tiktoken"));
  ASSERT_OK_AND_ASSIGN(const auto gpt2, LoadTokenizer(directory));
  EXPECT_EQ(tiktoken->vocab_size(), gpt2->vocab_size());
  EXPECT_EQ(tiktoken->separator(), gpt2->separator());
  std::mt19937 random(3);
  std::string text = "It's 1234 na\xc3\xafve \xe6\x97\xa5\xe6\x9c\xac \xf0\x9f\x98\x80\n\n  end ";
  for (int i = 0; i < 20'000; ++i) text.push_back(static_cast<char>(' ' + random() % 95));
  const std::vector<int32_t> ids = Encode(*tiktoken, text);
  EXPECT_EQ(ids, Encode(*gpt2, text));
  EXPECT_EQ(Decode(*tiktoken, ids), text);
}

TEST_F(SentencePieceTest, DamagedTiktokenFilesAreRefused) {
  std::string good;
  for (int byte = 0; byte < 256; ++byte) {
    absl::StrAppend(&good, absl::Base64Escape(std::string(1, static_cast<char>(byte))), " ", byte,
                    "\n");
  }
  absl::StrAppend(&good, absl::Base64Escape("ab"), " 256\n");
  ASSERT_OK_AND_ASSIGN(const auto tokenizer, Load(good, "a.tiktoken"));
  EXPECT_THAT(Encode(*tokenizer, "abc"), ElementsAre(256, 'c'));
  EXPECT_EQ(tokenizer->separator(), 257);
  const auto refused = [&](const std::string& file, const char* message) {
    EXPECT_THAT(Load(file, "a.tiktoken"),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(message)));
  };
  refused("", "required: every rank once");
  refused("IQ== 0\n", "no token for the single byte 0");
  refused(good + "IQ== 258\n", "required: every rank once");
  refused(good + "YWJj 256\n", "has rank 256 again");
  refused(good + "YWI= 257\n", "a token comes twice");
  refused(good + "YWJj -1\n", "allowed: 0 to");
  refused(good + "YWJj 1048576\n", "allowed: 0 to");
  refused(good + "YWJj\n", "line 258");
  refused(good + "!!! 257\n", "line 258");
  refused(good + "YWJj 99999999999\n", "line 258");
}

}  // namespace
}  // namespace nibble::data
