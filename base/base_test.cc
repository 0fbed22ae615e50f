#include <atomic>
#include <cstring>
#include <string>

#include "base/bulk_copy.h"
#include "base/clock.h"
#include "base/crc32c.h"
#include "base/files.h"
#include "base/glob.h"
#include "base/log.h"
#include "base/random.h"
#include "base/sha256.h"
#include "base/status_matchers.h"
#include "base/tls_files.h"
#include "base/xxh3.h"
#include "gtest/gtest.h"

namespace nibble {
namespace {

// RFC 3720, appendix B.4.
TEST(Crc32cTest, KnownAnswers) {
  EXPECT_EQ(Crc32c(std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(Crc32c(std::string(32, '\xff')), 0x62a8ab43u);
  EXPECT_EQ(Crc32c("123456789"), 0xe3069283u);
}

TEST(Crc32cTest, ContinuesOverPieces) {
  EXPECT_EQ(Crc32c("456789", Crc32c("123")), Crc32c("123456789"));
}

// FIPS 180-2, appendix B.1.
TEST(Sha256Test, KnownAnswer) {
  EXPECT_EQ(Sha256Hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

// Of `xxhsum -H3` and `xxhsum -H2` (xxhsum 0.8.1).
TEST(Xxh3Test, KnownAnswers) {
  EXPECT_EQ(Xxh3Of("abc"), 0x78af5f94892f3950u);
  PieceDigest nothing;
  EXPECT_EQ(nothing.HexDigest(), "99aa06d3014798d86001c324468d497f");
  EXPECT_EQ(PieceDigestHex("", 2), "99aa06d3014798d86001c324468d497f");
  EXPECT_EQ(PieceDigestHex("abc", 2), "f758394eebabb2bb51ee911f78f31836");
  std::string pieces(2 * PieceDigest::kPieceBytes + 524295, 0);
  for (uint64_t i = 0; i < pieces.size(); ++i) pieces[i] = static_cast<char>(i * i + (i >> 8));
  EXPECT_EQ(PieceDigestHex(pieces, 0), "f2a5089700cda533a07f39618ae4f643");
}

// However the bytes come, and however many threads there are.
TEST(Xxh3Test, ContinuesOverUpdates) {
  std::string bytes(3 * PieceDigest::kPieceBytes, 0);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i % 251);
  for (size_t size : {bytes.size(), bytes.size() - 1, PieceDigest::kPieceBytes, size_t{17}}) {
    const absl::string_view all = absl::string_view(bytes).substr(0, size);
    const std::string digest = PieceDigestHex(all, /*threads=*/1);
    EXPECT_EQ(PieceDigestHex(all, /*threads=*/5), digest);
    std::string copy(size, '.');
    std::atomic<size_t> copied{0};
    EXPECT_EQ(PieceDigestHex(all, /*threads=*/2,
                             [&](size_t offset, absl::string_view part) {
                               std::memcpy(&copy[offset], part.data(), part.size());
                               copied += part.size();
                             }),
              digest);
    EXPECT_EQ(copy, all);
    EXPECT_EQ(copied, size);
    for (size_t first : {size_t{1}, size_t{10}, size / 2, size}) {
      PieceDigest pieces;
      Xxh3 plain;
      for (absl::string_view part : {all.substr(0, first), all.substr(first)}) {
        pieces.Update(part);
        plain.Update(part);
      }
      EXPECT_EQ(pieces.HexDigest(), digest);
      EXPECT_EQ(plain.Value(), Xxh3Of(all));
    }
  }
}

TEST(BulkCopyTest, CopiesWhatItIsGivenAndNothingElse) {
  std::string from(400, 0);
  for (size_t i = 0; i < from.size(); ++i) from[i] = static_cast<char>(i % 127);
  for (size_t to_offset = 0; to_offset < 65; ++to_offset) {
    for (size_t bytes : {0, 1, 63, 64, 65, 127, 200, 300}) {
      const size_t from_offset = (to_offset * 7) % 33;
      std::string to(400, '.');
      BulkCopy(&to[to_offset], &from[from_offset], bytes);
      const std::string expected = std::string(to_offset, '.') + from.substr(from_offset, bytes) +
                                   std::string(400 - to_offset - bytes, '.');
      ASSERT_EQ(to, expected) << to_offset << " " << bytes;
    }
  }
}

TEST(FilesTest, ReplacesAndReads) {
  ASSERT_OK_AND_ASSIGN(auto dir, TemporaryDirectory::Make());
  const std::string path = JoinPath(dir.path(), "f");
  ASSERT_THAT(ReplaceFileDurably(path, "one"), IsOk());
  ASSERT_THAT(ReplaceFileDurably(path, "two"), IsOk());
  ASSERT_OK_AND_ASSIGN(const std::string contents, ReadFile(path, 3));
  EXPECT_EQ(contents, "two");
  EXPECT_THAT(ReadFile(path, 2), StatusIs(absl::StatusCode::kResourceExhausted));
  ASSERT_OK_AND_ASSIGN(const auto names, ListDirectory(dir.path()));
  EXPECT_THAT(names, testing::ElementsAre("f"));
  ASSERT_OK_AND_ASSIGN(const auto map, MappedFile::Open(path));
  EXPECT_EQ(map.contents(), "two");
}

TEST(FilesTest, ErrorsNameThePath) {
  EXPECT_THAT(ReadFile("/nonexistent/x", 1),
              StatusIs(absl::StatusCode::kNotFound, testing::HasSubstr("/nonexistent/x")));
  EXPECT_THAT(MappedFile::Open("/"), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(FilesTest, JoinPath) {
  EXPECT_EQ(JoinPath("a", "b"), "a/b");
  EXPECT_EQ(JoinPath("a/", "b"), "a/b");
  EXPECT_EQ(JoinPath("a", "/b"), "/b");
}

TEST(LogTest, EscapesWhatATerminalWouldObey) {
  EXPECT_EQ(EscapeControlCharacters("a\x1b[2Jb\n"), "a\\x1b[2Jb\\x0a");
  EXPECT_EQ(EscapeControlCharacters("\xc2\x9b"), "\\xc2\\x9b");
  EXPECT_EQ(EscapeControlCharacters("gr\xc3\xbc\xc3\x9f"), "gr\xc3\xbc\xc3\x9f");
}

// What real certificates do is in tests/integration/tls_test.py.
TEST(TlsFilesTest, FilesThatAreNoneAreNamed) {
  const std::string path = testing::TempDir() + "nibble_tls_files_test.pem";
  const std::string empty_block = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
  for (const std::string& contents : {std::string(), std::string("text"), empty_block}) {
    ASSERT_THAT(ReplaceFileDurably(path, contents), IsOk());
    for (const TlsPaths& paths : {TlsPaths{path, "", ""}, TlsPaths{"", path, path}}) {
      EXPECT_THAT(ReadTlsFiles(paths),
                  StatusIs(absl::StatusCode::kInvalidArgument, testing::HasSubstr(path)));
    }
  }
  EXPECT_THAT(ReadTlsFiles({"/nosuch/ca.pem", "", ""}), StatusIs(absl::StatusCode::kNotFound));
  ASSERT_OK_AND_ASSIGN(const TlsContents none, ReadTlsFiles({}));
  EXPECT_EQ(none.authority + none.certificate + none.key, "");
}

TEST(ClockTest, WallJumpsLeaveTheMonotonicClockAlone) {
  FakeClock clock;
  const int64_t before = clock.MonotonicNanos();
  clock.JumpWallMicros(-1'000'000);
  EXPECT_EQ(clock.MonotonicNanos(), before);
  clock.AdvanceNanos(5000);
  EXPECT_EQ(clock.MonotonicNanos(), before + 5000);
}

TEST(GlobTest, MatchesWholeNames) {
  const struct {
    const char* pattern;
    const char* name;
    bool matches;
  } cases[] = {{"", "", true},           {"", "a", false},         {"*", "", true},
               {"a.b", "a.b", true},     {"a.b", "axb", false},    {"a?b", "axb", true},
               {"a?", "a", false},       {"*b", "aab", true},      {"*ab*", "xaabx", true},
               {"a*b*c", "abxbc", true}, {"a*b*c", "abxb", false}, {"*a", "ab", false},
               {"**", "x", true},        {"a*", "ba", false},      {"*.x.*y", "1.x.2.x.y", true}};
  for (const auto& c : cases) {
    EXPECT_EQ(GlobMatches(c.pattern, c.name), c.matches) << c.pattern << " " << c.name;
  }
  // Not exponential.
  std::string pattern, name(2000, 'a');
  for (int i = 0; i < 100; ++i) pattern += "*a";
  EXPECT_FALSE(GlobMatches(pattern + "b", name));
}

TEST(RandomTest, IdsHaveAFixedForm) {
  const std::string id = MakeId("j-", SystemRandom());
  EXPECT_EQ(id.size(), 18u);
  EXPECT_NE(id, MakeId("j-", SystemRandom()));
}

}  // namespace
}  // namespace nibble
