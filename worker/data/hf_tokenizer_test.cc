// tokenizer.json: ids that Hugging Face's tokenizers 0.23.3 gives for the same file, and hostile
// documents.
#include <sys/resource.h>

#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "base/files.h"
#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "worker/data/byte_alphabet.h"
#include "worker/data/tokenizer.h"

namespace nibble::data {
namespace {

using Json = nlohmann::ordered_json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kLlama3[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// The 256 bytes, `more`, and <|endoftext|>; one merge, of a and b.
Json SmallTokenizer(const std::vector<std::string>& more) {
  const ByteAlphabet alphabet;
  Json vocabulary = Json::object();
  for (int byte = 0; byte < 256; ++byte) {
    vocabulary[alphabet.ToText(std::string(1, static_cast<char>(byte)))] = byte;
  }
  for (const std::string& token : more) vocabulary[token] = vocabulary.size();
  const size_t end = vocabulary.size();
  return {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"added_tokens", {{{"id", end}, {"content", "<|endoftext|>"}, {"special", true}}}},
      {"normalizer", nullptr},
      {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
      {"post_processor", nullptr},
      {"decoder", {{"type", "ByteLevel"}}},
      {"model",
       {{"type", "BPE"},
        {"dropout", nullptr},
        {"unk_token", nullptr},
        {"continuing_subword_prefix", ""},
        {"byte_fallback", false},
        {"vocab", std::move(vocabulary)},
        {"merges", Json::array({"a b"})}}}};
}

Json Llama3Pretokenizer() {
  return {{"type", "Sequence"},
          {"pretokenizers",
           {{{"type", "Split"},
             {"pattern", {{"Regex", kLlama3}}},
             {"behavior", "Isolated"},
             {"invert", false}},
            {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}};
}

class HuggingFaceTokenizerTest : public ::testing::Test {
 protected:
  HuggingFaceTokenizerTest() : directory_(*TemporaryDirectory::Make()) {}

  std::string Write(const std::string& text) {
    const std::string path = directory_.path() + "/tokenizer.json";
    std::ofstream(path, std::ios::binary) << text;
    return path;
  }
  absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const Json& json) {
    return LoadTokenizer(Write(json.dump()));
  }
  static std::vector<int32_t> Ids(Tokenizer& tokenizer, const std::string& text) {
    std::vector<int32_t> ids;
    tokenizer.EncodeAll(text, &ids);
    std::string back;
    EXPECT_THAT(tokenizer.Decode(ids, &back), IsOk());
    EXPECT_EQ(back, text);
    return ids;
  }
  void ExpectRefused(const Json& json, const std::string& what) {
    EXPECT_THAT(Load(json), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(what))) << what;
  }

  TemporaryDirectory directory_;
};

TEST_F(HuggingFaceTokenizerTest, MergesOnlyWhatMergesMake) {
  Json json = SmallTokenizer({"ab", "abc"});
  ASSERT_OK_AND_ASSIGN(auto tokenizer, Load(json));
  EXPECT_EQ(tokenizer->kind(), "huggingface");
  EXPECT_EQ(tokenizer->vocab_size(), 259);
  EXPECT_EQ(tokenizer->separator(), 258);
  EXPECT_EQ(tokenizer->bos_id(), -1);
  EXPECT_THAT(Ids(*tokenizer, "abc"), ElementsAre(256, 'c'));
  const std::string digest = tokenizer->digest();
  // Llama 3's files say that a piece which is a token is that token.
  json["model"]["ignore_merges"] = true;
  ASSERT_OK_AND_ASSIGN(tokenizer, Load(json));
  EXPECT_THAT(Ids(*tokenizer, "abc"), ElementsAre(257));
  EXPECT_THAT(Ids(*tokenizer, "abcd"), ElementsAre(256, 'c', 'd'));
  EXPECT_NE(tokenizer->digest(), digest);
  // A merge may be a list of two.
  json["model"]["merges"] = Json::array();
  json["model"]["merges"].push_back(Json::array({"a", "b"}));
  ASSERT_OK_AND_ASSIGN(const auto listed, Load(json));
  EXPECT_EQ(listed->digest(), tokenizer->digest());
}

TEST_F(HuggingFaceTokenizerTest, SpecialTokensBeginAndEndTextsAndAreTextWithinThem) {
  Json json = SmallTokenizer({"ab"});
  json["added_tokens"].push_back({{"id", 258}, {"content", "<|begin|>"}, {"special", true}});
  json["post_processor"] = {
      {"type", "TemplateProcessing"},
      {"single",
       {{{"SpecialToken", {{"id", "<|begin|>"}, {"type_id", 0}}}}, {{"Sequence", {{"id", "A"}}}}}}};
  ASSERT_OK_AND_ASSIGN(const auto tokenizer, Load(json));
  EXPECT_EQ(tokenizer->bos_id(), 258);
  EXPECT_EQ(tokenizer->eos_id(), 257);
  EXPECT_EQ(Ids(*tokenizer, "<|endoftext|>").size(), 13u);
}

// Of the reference vocabulary, by tokenizers 0.23.3.
TEST_F(HuggingFaceTokenizerTest, IdsOfTheLibraryForBothPretokenizers) {
  const std::string base = "../shared/data/tokenizers/bpe_train_reference/";
  if (!FileExists(base + "vocab.json")) GTEST_SKIP() << "no " << base;
  Json json = SmallTokenizer({});
  json["model"]["vocab"] = Json::parse(*ReadFile(base + "vocab.json", 1 << 20));
  json["model"]["merges"] = Json::array();
  for (const std::string& line :
       std::vector<std::string>(absl::StrSplit(*ReadFile(base + "merges.txt", 1 << 20), '\n'))) {
    if (!line.empty() && line.rfind("#version", 0) != 0) json["model"]["merges"].push_back(line);
  }
  json["added_tokens"][0]["id"] = 0;
  const std::string text = "Hello world, it'S 12345 o'clock!\n\n  The end.\t\tX  ";
  const std::string foreign =
      "\u00fcber na\u00efve \u4f60\u597d  \u0663\u0664\u0665\u0666 caf\u00e9's\r\n\r\nA";
  const std::vector<int32_t> foreign_ids = {
      128, 121, 66, 265, 304, 65,  128, 108, 327, 221, 161, 122, 255, 162, 99,  122, 221, 221, 150,
      97,  150, 98, 150, 99,  150, 100, 273, 65,  70,  128, 103, 7,   83,  202, 199, 202, 199, 33};
  ASSERT_OK_AND_ASSIGN(auto tokenizer, Load(json));
  EXPECT_THAT(
      Ids(*tokenizer, text),
      ElementsAre(40, 316, 491, 431, 382, 12, 344, 7, 51, 408, 18, 19, 20, 21, 263, 7, 67, 76, 410,
                  75, 1, 199, 199, 221, 457, 259, 300, 269, 14, 198, 198, 56, 221, 221));
  EXPECT_EQ(Ids(*tokenizer, foreign), foreign_ids);
  // The two files of GPT-2 say the same.
  ASSERT_OK_AND_ASSIGN(const auto pair, LoadTokenizer(base));
  EXPECT_EQ(Ids(*pair, text), Ids(*tokenizer, text));
  json["pre_tokenizer"] = Llama3Pretokenizer();
  ASSERT_OK_AND_ASSIGN(tokenizer, Load(json));
  EXPECT_THAT(
      Ids(*tokenizer, text),
      ElementsAre(40, 316, 491, 431, 382, 12, 344, 7, 51, 221, 17, 18, 19, 20, 21, 263, 7, 67, 76,
                  410, 75, 1, 199, 199, 221, 457, 259, 300, 269, 14, 198, 198, 56, 221, 221));
  EXPECT_EQ(Ids(*tokenizer, foreign), foreign_ids);
}

TEST_F(HuggingFaceTokenizerTest, WhatItCannotDoIsNamed) {
  const Json good = SmallTokenizer({"ab"});
  const auto with = [&](const char* pointer, const Json& value) {
    Json json = good;
    json[Json::json_pointer(pointer)] = value;
    return json;
  };
  ExpectRefused(with("/model/type", "Unigram"), "model.type is \"Unigram\"");
  ExpectRefused(with("/model/byte_fallback", true), "model.byte_fallback");
  ExpectRefused(with("/model/dropout", 0.1), "model.dropout");
  ExpectRefused(with("/model/end_of_word_suffix", "</w>"), "model.end_of_word_suffix");
  ExpectRefused(with("/normalizer", {{"type", "NFC"}}), "normalizer.type is \"NFC\"");
  ExpectRefused(with("/pre_tokenizer/add_prefix_space", true), "add_prefix_space");
  ExpectRefused(with("/pre_tokenizer/type", "Whitespace"), "pre_tokenizer.type");
  Json split = with("/pre_tokenizer", Llama3Pretokenizer());
  split["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(a+)+$";
  ExpectRefused(split, "pattern.Regex is \"(a+)+$\"");
  ExpectRefused(with("/added_tokens/0/special", false), "added_tokens.0.special");
  ExpectRefused(with("/added_tokens/0/content", "<pad>"), "no special token that ends a text");
  ExpectRefused(with("/added_tokens/0/id", 300), "has no token of id 257");
  ExpectRefused(with("/added_tokens/0/id", 5), "the id 5 comes twice");
  ExpectRefused(with("/model/merges", Json::array({"a b c"})), "not two tokens");
  ExpectRefused(with("/model/merges", Json::array({"b a"})), "names a token");
  ExpectRefused(with("/model/merges", Json::array({"a b", "a b"})), "comes twice");
  ExpectRefused(with("/model/merges/0", Json::array({"a"})), "fewer than two");
  Json missing = good;
  missing["model"]["vocab"].erase("a");
  ExpectRefused(missing, "no token for the single byte 97");
}

TEST_F(HuggingFaceTokenizerTest, HostileDocumentsAreRefusedInLittleMemory) {
  const size_t size = 24 << 20;
  std::string lists = "{\"a\":[";
  while (lists.size() < size) lists += "[],[],[],[],[],[],[],[],";
  std::string members = "{";
  for (int i = 0; members.size() < size / 4; ++i) absl::StrAppend(&members, "\"k", i, "\":1,");
  const std::vector<std::string> texts = {
      std::string(size, '['),
      lists,
      members,
      "{\"a\":\"" + std::string(size, 'x') + "\"}",
      std::string("{\"a\":1"),
      std::string("[]"),
      std::string("1"),
      std::string(""),
      std::string("{\"model\":{\"vocab\":{\"a\":-1}}}"),
      std::string("{\"model\":{\"vocab\":{\"a\":4294967296}}}"),
      std::string("{\"model\":{\"vocab\":{\"a\":[1]}}}"),
      std::string("{\"model\":{\"vocab\":{\"a\":1,\"a\":2}}}"),
      std::string("{\"model\":{\"merges\":[[\"a\",\"b\",\"c\"]]}}"),
      std::string("{\"model\":{\"merges\":[[[]]]}}")};
  struct rusage before;
  getrusage(RUSAGE_SELF, &before);
  for (const std::string& text : texts) {
    const auto loaded = LoadTokenizer(Write(text));
    EXPECT_FALSE(loaded.ok()) << text.substr(0, 40);
    EXPECT_TRUE(absl::IsInvalidArgument(loaded.status()) ||
                absl::IsResourceExhausted(loaded.status()))
        << loaded.status();
  }
  struct rusage after;
  getrusage(RUSAGE_SELF, &after);
  // The file's copy and the parser's of its longest string; lists kept as values would be 500 MiB.
  EXPECT_LT(after.ru_maxrss - before.ru_maxrss, 160 << 10) << "KiB";
}

}  // namespace
}  // namespace nibble::data
