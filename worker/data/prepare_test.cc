// Preparation of datasets. Seen to fail with: the search for separators not backing up over a
// chunk's end, copies counted where they stand, the end of a gzip member taken for the end of the
// file, a truncated frame taken for a whole one.
#include "worker/data/prepare.h"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/files.h"
#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/data/data_source.h"
#include "worker/data/split_plan.h"
#include "worker/data/token_shards.h"

namespace nibble::data {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::string Gzip(const std::string& text) {
  z_stream stream = {};
  EXPECT_EQ(deflateInit2(&stream, 6, Z_DEFLATED, MAX_WBITS + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(deflateBound(&stream, text.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

std::string Zstd(const std::string& text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 3));
  return out;
}

class PrepareTest : public testing::Test {
 protected:
  PrepareTest() {
    auto directory = TemporaryDirectory::Make();
    EXPECT_THAT(directory, IsOk());
    directory_ = std::make_unique<TemporaryDirectory>(*std::move(directory));
    options_.output_directory = Path("dataset");
  }

  std::string Path(const std::string& name) const { return directory_->path() + "/" + name; }

  // Adds an input file.
  void Input(const std::string& name, const std::string& contents) {
    ASSERT_THAT(WriteFileDurably(Path(name), contents), IsOk());
    options_.inputs.push_back(Path(name));
  }

  absl::StatusOr<PrepareResult> Prepare() { return PrepareDataset(options_, nullptr); }

  // The documents of a split of bytes, in order.
  std::vector<std::string> Documents(const std::string& split) const {
    std::string text;
    const auto manifest = ReadManifest(options_.output_directory);
    EXPECT_THAT(manifest, IsOk());
    const SplitManifest& side = split == "train" ? manifest->train : manifest->validation;
    for (const ShardFile& file : side.files) {
      const auto contents = ReadFile(options_.output_directory + "/" + file.name, 1 << 28);
      EXPECT_THAT(contents, IsOk());
      for (size_t i = sizeof(ShardHeader); i < contents->size(); i += 2) text += (*contents)[i];
    }
    std::vector<std::string> documents = absl::StrSplit(text, '\0');
    EXPECT_EQ(documents.back(), "");
    documents.pop_back();
    return documents;
  }

  // Nothing but `names` is left in the test's directory.
  void ExpectOnly(const std::set<std::string>& names) const {
    const auto listed = ListDirectory(directory_->path());
    EXPECT_EQ(std::set<std::string>(listed->begin(), listed->end()), names);
  }

  std::unique_ptr<TemporaryDirectory> directory_;
  PrepareOptions options_;
};

TEST_F(PrepareTest, FilesAreDocumentsAndTheLastAreHeldOut) {
  for (int i = 0; i < 10; ++i) {
    Input(absl::StrCat("f", i), std::string(100, static_cast<char>('a' + i)));
  }
  options_.validation_fraction = 0.15;
  ASSERT_OK_AND_ASSIGN(const PrepareResult result, Prepare());
  EXPECT_EQ(result.train.documents, 8);
  EXPECT_EQ(result.train.bytes, 800);
  EXPECT_EQ(result.train.tokens, 808);
  EXPECT_EQ(result.validation.documents, 2);
  EXPECT_THAT(Documents("validation"), ElementsAre(std::string(100, 'i'), std::string(100, 'j')));
  EXPECT_EQ(Documents("train")[7], std::string(100, 'h'));
}

TEST_F(PrepareTest, CompressedInputsAreToldByTheirFirstBytes) {
  Input("a", "one");
  Input("b", Gzip("two") + Gzip(" more"));
  Input("c.jsonl.zst",
        Zstd("{\"id\": 1, \"text\": \"three\"}\n\n") + Zstd("{\"text\": \"f\\u00fcr\"}"));
  Input("d.jsonl.gz", Gzip("{\"text\": \"five\", \"meta\": {\"text\": [\"no\"]}}\r\n"));
  Input("e", "\xef\xbb\xbfsix");
  Input("f", "");
  options_.validation_fraction = 0;
  ASSERT_OK_AND_ASSIGN(const PrepareResult result, Prepare());
  EXPECT_THAT(Documents("train"),
              ElementsAre("one", "two more", "three", "f\xc3\xbcr", "five", "six"));
  EXPECT_EQ(result.validation.documents, 0);
  EXPECT_THAT(DataSource::Open(options_.output_directory, Split::kValidation, 1),
              StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(PrepareTest, SeparatorsAcrossChunksOfInput) {
  std::mt19937 random(1);
  std::string text;
  std::vector<std::string> expected;
  for (int i = 0; i < 60; ++i) {
    expected.push_back(std::string(1 + random() % 40000, static_cast<char>('a' + i % 26)));
    text += (i > 0 ? "<|end|>" : "") + expected.back();
  }
  Input("plain", text);
  options_.document_separator = "<|end|>";
  options_.validation_fraction = 0;
  ASSERT_THAT(Prepare(), IsOk());
  EXPECT_EQ(Documents("train"), expected);
  options_.inputs.clear();
  Input("zst", Zstd(text));
  options_.overwrite = true;
  options_.shard_tokens = 1000;
  ASSERT_OK_AND_ASSIGN(const PrepareResult result, Prepare());
  EXPECT_EQ(result.train.files, (result.train.tokens + 999) / 1000);
  EXPECT_EQ(Documents("train"), expected);
}

TEST_F(PrepareTest, SeparatorsCutAnywhereByTheEndOfAChunk) {
  options_.document_separator = "<|end|>";
  options_.validation_fraction = 0;
  options_.overwrite = true;
  for (size_t before = 0; before <= 8; ++before) {
    const std::string first(256 * 1024 - before, 'a');  // files are read in 256 KiB
    options_.inputs.clear();
    Input(absl::StrCat("f", before), first + "<|end|>b");
    ASSERT_THAT(Prepare(), IsOk());
    EXPECT_THAT(Documents("train"), ElementsAre(first, "b")) << before;
  }
}

TEST_F(PrepareTest, CopiesOfADocumentStayOnOneSide) {
  for (const SplitMethod split : {SplitMethod::kLast, SplitMethod::kHash}) {
    std::mt19937 random(9);
    std::string text;
    for (int i = 0; i < 500; ++i) absl::StrAppend(&text, "document ", random() % 200, "\n");
    options_.inputs.clear();
    Input(absl::StrCat("text", static_cast<int>(split)), text);
    options_.document_separator = "\n";
    options_.validation_fraction = 0.2;
    options_.split = split;
    options_.overwrite = true;
    ASSERT_OK_AND_ASSIGN(const PrepareResult result, Prepare());
    const auto train = Documents("train");
    const std::set<std::string> seen(train.begin(), train.end());
    for (const std::string& document : Documents("validation")) EXPECT_EQ(seen.count(document), 0u);
    EXPECT_EQ(result.train.documents + result.validation.documents, 500);
    const double share = static_cast<double>(result.validation.bytes) /
                         static_cast<double>(result.validation.bytes + result.train.bytes);
    EXPECT_GT(share, split == SplitMethod::kLast ? 0.2 : 0.1);
    EXPECT_LT(share, 0.3);
  }
}

TEST_F(PrepareTest, HashSplitDependsOnTextAndSeedOnly) {
  int held_out = 0;
  int moved = 0;
  for (int i = 0; i < 20000; ++i) {
    const uint64_t hash = DocumentHash(absl::StrCat("document ", i));
    held_out += IsHeldOutByHash(hash, 1, 0.1) ? 1 : 0;
    moved += IsHeldOutByHash(hash, 1, 0.1) != IsHeldOutByHash(hash, 2, 0.1) ? 1 : 0;
  }
  // Five standard deviations of a binomial distribution: 212 of 2,000, and 285 of 3,600.
  EXPECT_NEAR(held_out, 2000, 212);
  EXPECT_NEAR(moved, 3600, 285);
}

TEST_F(PrepareTest, ProgressReachesTheTotalAndCanStopTheWork) {
  for (int i = 0; i < 4; ++i)
    Input(absl::StrCat("f", i), std::string(700000, 'x') + std::to_string(i));
  std::vector<PrepareProgress> reports;
  ASSERT_THAT(PrepareDataset(options_,
                             [&](const PrepareProgress& progress) {
                               reports.push_back(progress);
                               return absl::OkStatus();
                             }),
              IsOk());
  ASSERT_GE(reports.size(), 5u);
  for (size_t i = 1; i < reports.size(); ++i) {
    EXPECT_GE(reports[i].bytes_done, reports[i - 1].bytes_done);
  }
  EXPECT_EQ(reports.back().bytes_done, 2 * 4 * 700001);
  EXPECT_EQ(reports.back().bytes_total, reports.back().bytes_done);
  EXPECT_EQ(reports.back().tokens, 4 * 700002);
  options_.output_directory = Path("other");
  EXPECT_THAT(PrepareDataset(options_,
                             [](const PrepareProgress& progress) {
                               return progress.tokens > 0 ? absl::CancelledError("stop")
                                                          : absl::OkStatus();
                             }),
              StatusIs(absl::StatusCode::kCancelled));
  ExpectOnly({"f0", "f1", "f2", "f3", "dataset"});
}

TEST_F(PrepareTest, OnlyDatasetsAreReplacedAndOnlyOnRequest) {
  Input("a", "text");
  options_.validation_fraction = 0;
  ASSERT_THAT(Prepare(), IsOk());
  EXPECT_THAT(Prepare(), StatusIs(absl::StatusCode::kAlreadyExists));
  options_.overwrite = true;
  Input("b", "more");
  ASSERT_THAT(Prepare(), IsOk());
  EXPECT_THAT(Documents("train"), ElementsAre("text", "more"));
  ASSERT_THAT(MakeDirectories(Path("home")), IsOk());
  options_.output_directory = Path("home");
  EXPECT_THAT(Prepare(), StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("holds no dataset")));
  ExpectOnly({"a", "b", "dataset", "home"});
}

TEST_F(PrepareTest, WrongOptionsAreNamed) {
  const auto refused = [&](auto change, absl::StatusCode code, const char* message) {
    PrepareOptions options = options_;
    options.inputs = {Path("a")};
    change(&options);
    EXPECT_THAT(PrepareDataset(options, nullptr), StatusIs(code, HasSubstr(message)));
  };
  Input("a", "text");
  const auto kInvalid = absl::StatusCode::kInvalidArgument;
  refused([](PrepareOptions* o) { o->inputs.clear(); }, kInvalid, "inputs");
  refused([](PrepareOptions* o) { o->inputs = {"/nowhere"}; }, absl::StatusCode::kNotFound,
          "/nowhere");
  refused([&](PrepareOptions* o) { o->inputs = {directory_->path()}; }, kInvalid, "regular file");
  refused([](PrepareOptions* o) { o->tokenizer = "words"; }, kInvalid, "tokenizer");
  refused([](PrepareOptions* o) { o->tokenizer = "gpt2"; }, kInvalid, "vocab_file");
  refused([](PrepareOptions* o) { o->validation_fraction = 1; }, kInvalid, "validation_fraction");
  refused([](PrepareOptions* o) { o->validation_fraction = -0.1; }, kInvalid,
          "validation_fraction");
  refused([](PrepareOptions* o) { o->validation_fraction = 0.0 / 0.0; }, kInvalid,
          "validation_fraction");
  refused([](PrepareOptions* o) { o->output_directory.clear(); }, kInvalid, "output_directory");
  refused([](PrepareOptions* o) { o->shard_tokens = 0; }, kInvalid, "shard_tokens");
  refused([](PrepareOptions* o) { o->json_field.clear(); }, kInvalid, "json_field");
  // One document cannot be on both sides.
  refused([](PrepareOptions*) {}, kInvalid, "document separator");
  ExpectOnly({"a"});
}

TEST_F(PrepareTest, MalformedLinesAreNamed) {
  const char* lines[] = {"{",
                         "[]",
                         "7",
                         "{\"text\": 7}",
                         "{\"other\": \"a\"}",
                         "{\"text\": [\"a\"]}",
                         "{\"text\": null}",
                         "{\"text\": \"a\", \"text\": \"b\"}",
                         "{\"text\": \"\\ud800\"}",
                         "\"text\"",
                         "{\"text\": \"\xff\"}",
                         "{\"a\": {\"text\": \"b\"}}"};
  int i = 0;
  for (const char* line : lines) {
    SCOPED_TRACE(line);
    options_.inputs.clear();
    Input(absl::StrCat("f", i++, ".jsonl"), absl::StrCat("{\"text\": \"fine\"}\n", line, "\n"));
    EXPECT_THAT(Prepare(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(".jsonl:2: ")));
  }
}

TEST_F(PrepareTest, DamagedCompressionIsDataLoss) {
  std::mt19937 random(2);
  std::string text;
  for (int i = 0; i < 20000; ++i) text += static_cast<char>('a' + random() % 26);
  int i = 0;
  for (const std::string& whole : {Gzip(text), Zstd(text)}) {
    std::string flipped = whole;
    // In the middle of the data; Zstandard's own frames have no checksum unless asked for, so only
    // gzip is sure to see it.
    flipped[flipped.size() / 2] ^= 1;
    for (const std::string& damaged : {whole.substr(0, whole.size() / 2),
                                       whole.substr(0, whole.size() - 1), whole + "garbage"}) {
      options_.inputs.clear();
      Input(absl::StrCat("f", i++), damaged);
      EXPECT_THAT(Prepare(), StatusIs(absl::StatusCode::kDataLoss)) << i;
    }
    if (i > 3) continue;
    options_.inputs.clear();
    Input(absl::StrCat("f", i++), flipped);
    EXPECT_THAT(Prepare(), StatusIs(absl::StatusCode::kDataLoss));
  }
}

// A hundred megabytes of zeros and more in a few kilobytes: refused at the limit of a document, or
// streamed where there are separators, in bounded memory either way.
TEST_F(PrepareTest, BombsAreBounded) {
  std::string megabyte(1 << 20, 'z');
  std::string frames;
  std::string lines;
  const std::string frame = Zstd(megabyte);
  const std::string line = Zstd(std::string(1023, 'q') + "\n");
  for (int i = 0; i < 1000; ++i) frames += frame;  // 1 GiB
  for (int i = 0; i < 20000; ++i) lines += line;
  Input("bomb", frames);
  EXPECT_LT(frames.size(), 200'000u);
  EXPECT_THAT(Prepare(), StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("separator")));
  options_.inputs.clear();
  Input("bomb.jsonl", frames);
  EXPECT_THAT(Prepare(), StatusIs(absl::StatusCode::kResourceExhausted));
  options_.inputs.clear();
  Input("lines", lines);
  options_.document_separator = "\n";
  options_.validation_fraction = 0;
  ASSERT_OK_AND_ASSIGN(const PrepareResult result, Prepare());
  EXPECT_EQ(result.train.documents, 20000);
  // A window larger than 128 MiB is refused before it is allocated: magic, a descriptor without
  // single segment, and a window exponent of 31 + 10 bits.
  options_.inputs.clear();
  options_.overwrite = true;
  Input("window", std::string("\x28\xb5\x2f\xfd\x00\xa8\x01\x00\x00", 9));
  EXPECT_THAT(Prepare(), StatusIs(absl::StatusCode::kDataLoss));
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  // The limit of a line, 256 MiB, in a buffer that doubles, and some room.
  EXPECT_LT(usage.ru_maxrss, 900 * 1024);
#endif
}

TEST_F(PrepareTest, AChangedInputIsNoticed) {
  Input("a", std::string(600000, 'a'));
  Input("b", std::string(600000, 'b'));
  bool changed = false;
  const auto change = [&](const PrepareProgress& progress) {
    if (!changed && progress.bytes_done > 600000) {
      changed = true;
      EXPECT_THAT(ReplaceFileDurably(Path("a"), std::string(600000, 'c')), IsOk());
    }
    return absl::OkStatus();
  };
  EXPECT_THAT(PrepareDataset(options_, change), StatusIs(absl::StatusCode::kAborted));
}

// Documents of many lengths, among them empty ones and copies, whose order shows.
std::string ManyDocuments(int count) {
  std::string text;
  for (int i = 0; i < count; ++i) {
    absl::StrAppend(&text, std::string((i * 37) % 900, static_cast<char>('a' + i % 26)),
                    i % 11 == 0 ? "" : absl::StrCat(" document ", i % 500, " "), "\n\n");
  }
  return text;
}

class ResumeTest : public PrepareTest {
 protected:
  ResumeTest() {
    options_.document_separator = "\n\n";
    options_.validation_fraction = 0.1;
    options_.shard_tokens = 40'000;
    options_.save_bytes = 300'000;
  }
  // Every file of the dataset, by name.
  std::map<std::string, std::string> Files() const {
    std::map<std::string, std::string> files;
    const auto listed = ListDirectory(options_.output_directory);
    EXPECT_THAT(listed, IsOk());
    for (const std::string& name : *listed) {
      files[name] = *ReadFile(JoinPath(options_.output_directory, name), 1 << 28);
    }
    return files;
  }
  // A process that dies, without a word, once it has tokenised `documents`.
  void PrepareAndDie(int64_t documents) const {
    const pid_t child = fork();
    if (child == 0) {
      const auto die = [&](const PrepareProgress& progress) {
        if (progress.documents >= documents) _exit(42);
        return absl::OkStatus();
      };
      PrepareDataset(options_, die).IgnoreError();
      _exit(1);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_EQ(WEXITSTATUS(status), 42) << "it ended before it could die";
  }
};

TEST_F(ResumeTest, TheDatasetDoesNotDependOnThreads) {
  Input("a.txt", ManyDocuments(5000));
  Input("b.txt", ManyDocuments(1000));
  for (const SplitMethod split : {SplitMethod::kLast, SplitMethod::kHash}) {
    options_.split = split;
    std::map<std::string, std::string> one;
    for (const int threads : {1, 2, 5}) {
      options_.threads = threads;
      options_.overwrite = true;
      ASSERT_THAT(Prepare(), IsOk());
      if (threads == 1) one = Files();
      EXPECT_EQ(Files(), one) << threads;
    }
    EXPECT_GT(one.size(), 20u) << "so few shards show little";
  }
}

TEST_F(ResumeTest, WhatWasKilledGoesOnToTheSameBytes) {
  Input("a.txt", ManyDocuments(8000));
  for (const SplitMethod split : {SplitMethod::kLast, SplitMethod::kHash}) {
    options_.split = split;
    ASSERT_THAT(Prepare(), IsOk());
    const auto want = Files();
    ASSERT_THAT(RemoveTree(options_.output_directory), IsOk());
    PrepareAndDie(1500);
    PrepareAndDie(4000);
    EXPECT_FALSE(FileExists(options_.output_directory));
    options_.threads = 3;
    ASSERT_OK_AND_ASSIGN(const PrepareResult result, Prepare());
    EXPECT_GT(result.resumed_documents, 1500);
    EXPECT_LT(result.resumed_documents, 8000);
    EXPECT_EQ(Files(), want);
    EXPECT_FALSE(FileExists(options_.output_directory + ".partial"));
    ASSERT_THAT(RemoveTree(options_.output_directory), IsOk());
  }
}

TEST_F(ResumeTest, OtherInputsOrOptionsDoNotGoOn) {
  Input("a.txt", ManyDocuments(6000));
  PrepareAndDie(2500);
  const std::string partial = options_.output_directory + ".partial";
  options_.json_field = "other";
  EXPECT_THAT(Prepare(), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("options")));
  options_.json_field = "text";
  ASSERT_THAT(ReplaceFileDurably(Path("a.txt"), ManyDocuments(6001)), IsOk());
  EXPECT_THAT(Prepare(), StatusIs(absl::StatusCode::kFailedPrecondition,
                                  HasSubstr("a.txt has changed since: ")));
  EXPECT_TRUE(FileExists(partial)) << "a refusal destroys nothing";
  options_.restart = true;
  ASSERT_OK_AND_ASSIGN(const PrepareResult result, Prepare());
  EXPECT_EQ(result.resumed_documents, 0);
  EXPECT_FALSE(FileExists(partial));
}

TEST_F(ResumeTest, OneProcessAtATime) {
  Input("a.txt", ManyDocuments(3000));
  bool tried = false;
  const auto second = [&](const PrepareProgress& progress) {
    if (!tried && progress.bytes_done > 0) {
      tried = true;
      EXPECT_THAT(Prepare(), StatusIs(absl::StatusCode::kFailedPrecondition,
                                      HasSubstr("prepared by another process")));
    }
    return absl::OkStatus();
  };
  EXPECT_THAT(PrepareDataset(options_, second), IsOk());
  EXPECT_TRUE(tried);
}

}  // namespace
}  // namespace nibble::data
