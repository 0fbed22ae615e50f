// Token files of every format, whole and damaged.
#include "worker/data/token_stream.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/sha256.h"
#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace nibble::data {
namespace {

using testing::ElementsAre;
using testing::ElementsAreArray;
using testing::HasSubstr;

template <typename T>
std::string Raw(const std::vector<T>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

std::string Llmc(int32_t magic, int32_t version, int32_t count, absl::string_view tokens) {
  std::vector<int32_t> header(256);
  header[0] = magic;
  header[1] = version;
  header[2] = count;
  return absl::StrCat(Raw(header), tokens);
}

struct Megatron {
  uint64_t version = 1;
  uint8_t type = 8;
  std::vector<int32_t> lengths;
  std::vector<int64_t> offsets;
  std::vector<int64_t> documents;
  std::string modes = {};

  std::string ToFile() const {
    return absl::StrCat(absl::string_view("MMIDIDX\0\0", 9), Raw(std::vector{version}),
                        std::string(1, static_cast<char>(type)),
                        Raw(std::vector<uint64_t>{lengths.size(), documents.size()}), Raw(lengths),
                        Raw(offsets), Raw(documents), modes);
  }
};

class TokenStreamTest : public testing::Test {
 protected:
  TokenStreamTest() {
    auto directory = TemporaryDirectory::Make();
    EXPECT_THAT(directory, IsOk());
    directory_ = std::make_unique<TemporaryDirectory>(*std::move(directory));
  }

  std::string Path(absl::string_view name) const {
    return absl::StrCat(directory_->path(), "/", name);
  }
  void Write(absl::string_view name, absl::string_view contents) const {
    std::ofstream(Path(name), std::ios::binary) << contents;
  }
  SourceConfig Source(absl::string_view name, TokenFormat format = TokenFormat::kAuto) const {
    SourceConfig source;
    source.path = Path(name);
    source.format = format;
    return source;
  }
  static absl::StatusOr<TokenStream> Open(const SourceConfig& source, Split split = Split::kTrain) {
    return TokenStream::Open(source, split, /*vocab_limit=*/60'000);
  }
  static std::vector<int32_t> All(const TokenStream& stream) {
    std::vector<int32_t> tokens(static_cast<size_t>(stream.tokens()));
    EXPECT_THAT(stream.Read(0, stream.tokens(), tokens.data()), IsOk());
    return tokens;
  }

  std::unique_ptr<TemporaryDirectory> directory_;
};

TEST_F(TokenStreamTest, LlmcOfBothVersions) {
  Write("a.bin", Llmc(20240520, 1, 3, Raw<uint16_t>({1, 2, 59'999})));
  ASSERT_OK_AND_ASSIGN(const TokenStream narrow, Open(Source("a.bin")));
  EXPECT_EQ(narrow.format(), "llmc");
  EXPECT_THAT(All(narrow), ElementsAre(1, 2, 59'999));
  Write("b.bin", Llmc(20240801, 7, 2, Raw<uint32_t>({7, 59'998})));
  ASSERT_OK_AND_ASSIGN(const TokenStream wide, Open(Source("b.bin")));
  EXPECT_THAT(All(wide), ElementsAre(7, 59'998));
  // Different widths make no stream together.
  EXPECT_THAT(Open(Source("*.bin")),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("another type of token")));
}

TEST_F(TokenStreamTest, DirectoriesAndPatternsJoinFilesByName) {
  Write("x_train_000002.bin", Llmc(20240520, 1, 2, Raw<uint16_t>({3, 4})));
  Write("x_train_000001.bin", Llmc(20240520, 1, 2, Raw<uint16_t>({1, 2})));
  Write("x_val_000000.bin", Llmc(20240520, 1, 1, Raw<uint16_t>({9})));
  Write("notes.txt", "not tokens");
  ASSERT_OK_AND_ASSIGN(const TokenStream train, Open(Source("")));
  EXPECT_THAT(All(train), ElementsAre(1, 2, 3, 4));
  ASSERT_OK_AND_ASSIGN(const TokenStream held_out, Open(Source(""), Split::kValidation));
  EXPECT_THAT(All(held_out), ElementsAre(9));
  ASSERT_OK_AND_ASSIGN(const TokenStream pattern, Open(Source("x_train_*2.bin")));
  EXPECT_THAT(All(pattern), ElementsAre(3, 4));
  EXPECT_THAT(Open(Source("y*.bin")),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("holds no file y*.bin")));
  // A file has no held-out part of its own, but another may be named.
  SourceConfig source = Source("x_train_000001.bin");
  EXPECT_THAT(Open(source, Split::kValidation), StatusIs(absl::StatusCode::kNotFound));
  source.validation_path = Path("x_val_000000.bin");
  ASSERT_OK_AND_ASSIGN(const TokenStream named, Open(source, Split::kValidation));
  EXPECT_THAT(All(named), ElementsAre(9));
}

TEST_F(TokenStreamTest, RawTokensNeedToBeNamed) {
  Write("train.bin", Raw<uint16_t>({5, 6, 7, 0}));
  EXPECT_THAT(Open(Source("train.bin")), StatusIs(absl::StatusCode::kInvalidArgument,
                                                  HasSubstr("need format raw_u16 or raw_u32")));
  ASSERT_OK_AND_ASSIGN(const TokenStream narrow, Open(Source("train.bin", TokenFormat::kRawU16)));
  EXPECT_THAT(All(narrow), ElementsAre(5, 6, 7, 0));
  EXPECT_THAT(Open(Source("train.bin", TokenFormat::kRawU32)),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("not below vocab_size")));
  Write("odd.bin", "abc");
  EXPECT_THAT(Open(Source("odd.bin", TokenFormat::kRawU16)),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("no multiple of 2")));
  Write("empty.bin", "");
  EXPECT_THAT(Open(Source("empty.bin", TokenFormat::kRawU16)),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("holds no token")));
}

TEST_F(TokenStreamTest, DamagedLlmcFilesAreRefused) {
  const std::string good = Llmc(20240520, 1, 40, Raw(std::vector<uint16_t>(40, 3)));
  Write("good.bin", good);
  ASSERT_THAT(Open(Source("good.bin", TokenFormat::kLlmc)), IsOk());
  for (size_t size = 0; size < good.size(); size += size < 16 || size > 1016 ? 1 : 200) {
    Write("cut.bin", good.substr(0, size));
    EXPECT_FALSE(Open(Source("cut.bin", TokenFormat::kLlmc)).ok()) << size;
  }
  for (const auto& [magic, version, count] :
       std::vector<std::tuple<int, int, int>>{{20240520, 7, 40},
                                              {20240801, 1, 40},
                                              {20240801, 7, 40},
                                              {0, 1, 40},
                                              {20240520, 1, -1},
                                              {20240520, 1, 39},
                                              {20240520, 1, 0x7fffffff}}) {
    Write("bad.bin", Llmc(magic, version, count, Raw(std::vector<uint16_t>(40, 3))));
    EXPECT_FALSE(Open(Source("bad.bin", TokenFormat::kLlmc)).ok()) << magic << " " << version;
  }
}

TEST_F(TokenStreamTest, MegatronOfEveryIntegerType) {
  const Megatron index = {.lengths = {2, 1, 3}, .offsets = {}, .documents = {0, 2, 3}};
  const auto check = [&](uint8_t code, const std::string& tokens, int64_t width,
                         const std::vector<int32_t>& expected) {
    Megatron file = index;
    file.type = code;
    file.offsets = {0, 2 * width, 3 * width};
    Write("m.idx", file.ToFile());
    Write("m.bin", tokens);
    for (const char* name : {"m", "m.idx", "m.bin"}) {
      ASSERT_OK_AND_ASSIGN(const TokenStream stream, Open(Source(name)));
      EXPECT_EQ(stream.format(), "megatron");
      EXPECT_THAT(All(stream), ElementsAreArray(expected)) << int{code};
      EXPECT_THAT(stream.document_starts(), ElementsAre(0, 3, 6));
    }
  };
  check(1, Raw<uint8_t>({1, 2, 3, 4, 5, 255}), 1, {1, 2, 3, 4, 5, 255});
  check(2, Raw<int8_t>({1, 2, 3, 4, 5, 127}), 1, {1, 2, 3, 4, 5, 127});
  check(3, Raw<int16_t>({1, 2, 3, 4, 5, 32767}), 2, {1, 2, 3, 4, 5, 32767});
  check(4, Raw<int32_t>({1, 2, 3, 4, 5, 59'999}), 4, {1, 2, 3, 4, 5, 59'999});
  check(5, Raw<int64_t>({1, 2, 3, 4, 5, 6}), 8, {1, 2, 3, 4, 5, 6});
  check(8, Raw<uint16_t>({1, 2, 3, 4, 5, 59'999}), 2, {1, 2, 3, 4, 5, 59'999});
  for (const uint8_t code : {0, 6, 7, 9, 255}) {
    Megatron file = index;
    file.type = code;
    file.offsets = {0, 2, 3};
    Write("m.idx", file.ToFile());
    EXPECT_THAT(Open(Source("m")),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("type code")));
  }
  // Negative tokens, and such as do not fit 32 bits.
  for (const int64_t token : {int64_t{-1}, int64_t{1} << 32, int64_t{1} << 62, int64_t{60'000}}) {
    Megatron file = index;
    file.type = 5;
    file.offsets = {0, 16, 24};
    Write("m.idx", file.ToFile());
    Write("m.bin", Raw<int64_t>({1, 2, 3, 4, token, 6}));
    EXPECT_THAT(Open(Source("m")),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("not below vocab_size")));
  }
}

TEST_F(TokenStreamTest, MegatronSequencesMayLieAnywhere) {
  Write("m.bin", Raw<uint16_t>({10, 11, 12, 13, 14, 15}));
  const Megatron file = {
      .lengths = {2, 0, 3, 1}, .offsets = {8, 0, 0, 4}, .documents = {0, 0, 2, 4}, .modes = "abcd"};
  Write("m.idx", file.ToFile());
  ASSERT_OK_AND_ASSIGN(const TokenStream stream, Open(Source("m")));
  EXPECT_THAT(All(stream), ElementsAre(14, 15, 10, 11, 12, 12));
  EXPECT_THAT(stream.document_starts(), ElementsAre(0, 2, 6));
  int32_t middle[3];
  ASSERT_THAT(stream.Read(1, 3, middle), IsOk());
  EXPECT_THAT(middle, ElementsAre(15, 10, 11));
}

TEST_F(TokenStreamTest, DamagedMegatronFilesAreRefused) {
  Write("m.bin", Raw<uint16_t>({1, 2, 3, 4, 5, 6}));
  const Megatron good = {.lengths = {2, 1, 3}, .offsets = {0, 4, 6}, .documents = {0, 2, 3}};
  const auto refused = [&](const std::string& index) {
    Write("m.idx", index);
    const auto opened = Open(Source("m", TokenFormat::kMegatron));
    EXPECT_FALSE(opened.ok());
    return opened.status().ToString();
  };
  const std::string file = good.ToFile();
  for (size_t size = 0; size < file.size(); ++size) refused(file.substr(0, size));
  refused(file + "x");
  refused(file + "xx");
  Write("m.idx", file + "xxx");  // modes
  EXPECT_THAT(Open(Source("m")), IsOk());
  const auto with = [&](size_t offset, auto value) {
    std::string bad = file;
    std::memcpy(bad.data() + offset, &value, sizeof(value));
    return refused(bad);
  };
  EXPECT_THAT(with(0, 'X'), HasSubstr("does not begin"));
  EXPECT_THAT(with(9, uint64_t{2}), HasSubstr("version"));
  for (const uint64_t count :
       {uint64_t{4}, uint64_t{1} << 32, uint64_t{1} << 61, ~uint64_t{0}, ~uint64_t{0} / 12 + 1}) {
    with(18, count);  // sequences
    with(26, count);  // document entries
  }
  for (const int32_t length : {-1, 4, 0x7fffffff})
    EXPECT_THAT(with(42, length), HasSubstr("bytes"));
  for (const int64_t offset : {int64_t{-1}, int64_t{8}, int64_t{1} << 62, INT64_MIN, INT64_MAX}) {
    EXPECT_THAT(with(62, offset), HasSubstr("bytes"));
  }
  for (const int64_t document : {int64_t{-1}, int64_t{4}, INT64_MAX}) {
    EXPECT_THAT(with(78, document), HasSubstr("document entry"));
  }
  std::mt19937 random(6);
  for (int i = 0; i < 2000; ++i) {  // must not crash, whatever it says
    std::string mutated = file;
    for (int edits = 0; edits < 3; ++edits) {
      mutated[9 + random() % (mutated.size() - 9)] = static_cast<char>(random());
    }
    Write("m.idx", mutated);
    Open(Source("m", TokenFormat::kMegatron)).status().IgnoreError();
  }
}

TEST_F(TokenStreamTest, DigestsAreThoseOfTheJoinedFiles) {
  const std::string a = Llmc(20240520, 1, 2, Raw<uint16_t>({1, 2}));
  const std::string b = Llmc(20240520, 1, 2, Raw<uint16_t>({3, 4}));
  Write("a_train.bin", a);
  Write("b_train.bin", b);
  SourceConfig source = Source("*_train.bin");
  source.sha256 = Sha256Hex(a + b);
  EXPECT_THAT(Open(source), IsOk());
  source.sha256 = Sha256Hex(b + a);
  EXPECT_THAT(Open(source), StatusIs(absl::StatusCode::kDataLoss, HasSubstr(Sha256Hex(a + b))));
}

// Offsets beyond 2 and 4 GiB, in a file that takes no room on disk.
TEST_F(TokenStreamTest, LargeFiles) {
  constexpr int64_t kBytes = int64_t{5} << 30;
  std::ofstream bin(Path("m.bin"), std::ios::binary);
  bin.seekp(kBytes - 6);
  bin << Raw<uint16_t>({7, 123, 456});
  bin.close();
  const Megatron file = {.lengths = {2, 3, 1},
                         .offsets = {(int64_t{1} << 31) + 2, kBytes - 6, 0},
                         .documents = {0, 3}};
  Write("m.idx", file.ToFile());
  ASSERT_OK_AND_ASSIGN(const TokenStream stream, Open(Source("m")));
  EXPECT_THAT(All(stream), ElementsAre(0, 0, 7, 123, 456, 0));
  const Megatron beyond = {.lengths = {4}, .offsets = {kBytes - 6}, .documents = {0, 1}};
  Write("m.idx", beyond.ToFile());
  EXPECT_THAT(Open(Source("m")), StatusIs(absl::StatusCode::kDataLoss));
}

TEST_F(TokenStreamTest, WhatIsNoFileIsSaid) {
  EXPECT_THAT(Open(Source("nothing")), StatusIs(absl::StatusCode::kNotFound));
  ASSERT_EQ(mkfifo(Path("fifo.bin").c_str(), 0600), 0);
  EXPECT_THAT(Open(Source("fifo.bin")), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(Open(Source("*.idx")), StatusIs(absl::StatusCode::kNotFound));
}

// A mapping would end the process with SIGBUS.
TEST_F(TokenStreamTest, AFileThatIsCutWhileItIsReadIsAnError) {
  // More files than hold their descriptors.
  for (int i = 0; i < 6; ++i) {
    Write(absl::StrCat("x_train_", i, ".bin"),
          Llmc(20240520, 1, 5000, Raw(std::vector<uint16_t>(5000, i))));
  }
  ASSERT_OK_AND_ASSIGN(const TokenStream stream, Open(Source("")));
  ASSERT_EQ(stream.tokens(), 30'000);
  ASSERT_EQ(truncate(Path("x_train_1.bin").c_str(), 1024 + 2 * 4000), 0);
  ASSERT_EQ(truncate(Path("x_train_4.bin").c_str(), 100), 0);
  Write("new", Llmc(20240520, 1, 5000, Raw(std::vector<uint16_t>(5000, 9))));
  ASSERT_EQ(rename(Path("new").c_str(), Path("x_train_5.bin").c_str()), 0);
  std::vector<int32_t> tokens(2000);
  EXPECT_THAT(stream.Read(7000, 2000, tokens.data()), IsOk());
  EXPECT_EQ(tokens, std::vector<int32_t>(2000, 1));
  EXPECT_THAT(stream.Read(8999, 2, tokens.data()),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("x_train_1.bin: had 11024 bytes")));
  EXPECT_THAT(stream.Read(20'000, 1, tokens.data()),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("it was cut while it was in use")));
  EXPECT_THAT(stream.Read(25'000, 1, tokens.data()),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("x_train_5.bin: was replaced")));
}

}  // namespace
}  // namespace nibble::data
