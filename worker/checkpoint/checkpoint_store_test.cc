#include "worker/checkpoint/checkpoint_store.h"

#include <sys/stat.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/files.h"
#include "base/sha256.h"
#include "base/status_matchers.h"
#include "base/xxh3.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace nibble::checkpoint {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

// One tensor "w" of three values from `first`; may fail half-way.
class ThreeValues : public TensorSource {
 public:
  explicit ThreeValues(float first, absl::Status status = absl::OkStatus())
      : values_{first, first + 1, first + 2}, status_(std::move(status)) {}
  std::vector<TensorInfo> Tensors() const override {
    TensorInfo tensor;
    tensor.name = "w";
    tensor.shape = {3};
    return {tensor};
  }
  absl::Status WriteTo(SafetensorsWriter& writer) override {
    if (!status_.ok()) return status_;
    return writer.Append(values_, 3);
  }

 private:
  const float values_[3];
  const absl::Status status_;
};

// Not durable: this test writes hundreds of times.
void Overwrite(const std::string& path, const std::string& contents) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << contents;
}

TrainingState StateOfStep(int64_t step) {
  TrainingState state;
  state.step = step;
  state.tokens = step * 64;
  state.data_position = step * 4;
  state.seed = 0xfedcba9876543210;
  state.config_digest = "abc";
  state.loss_sum = 1.0 / 3.0;  // needs 17 digits
  state.loss_count = 1;
  return state;
}

constexpr char kDescription[] = "model:\n  width: 3\n";

CheckpointContents Contents(int64_t step, TensorSource& model, TensorSource& optimizer) {
  CheckpointContents contents;
  contents.state = StateOfStep(step);
  contents.model = &model;
  contents.optimizer = &optimizer;
  contents.texts = {{kModelDescriptionFile, kDescription}};
  return contents;
}

class CheckpointStoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_OK_AND_ASSIGN(TemporaryDirectory directory, TemporaryDirectory::Make());
    directory_ = std::make_unique<TemporaryDirectory>(std::move(directory));
    root_ = JoinPath(directory_->path(), "checkpoints");
  }
  SavedCheckpoint Save(int64_t step, float first = 10) {
    ThreeValues model(first), optimizer(first + 100);
    absl::StatusOr<SavedCheckpoint> saved = SaveCheckpoint(root_, Contents(step, model, optimizer));
    EXPECT_THAT(saved, IsOk());
    return *saved;
  }
  std::unique_ptr<TemporaryDirectory> directory_;
  std::string root_;
};

TEST_F(CheckpointStoreTest, GivesBackWhatItSaved) {
  const SavedCheckpoint saved = Save(7);
  EXPECT_EQ(saved.path, JoinPath(root_, "step-7"));
  ASSERT_OK_AND_ASSIGN(const OpenCheckpoint opened,
                       OpenAndVerify(saved.path, saved.manifest_digest));
  EXPECT_EQ(opened.manifest.state, StateOfStep(7));
  ASSERT_OK_AND_ASSIGN(const absl::string_view values, opened.optimizer->Values("w", {3}));
  float first = 0;
  std::memcpy(&first, values.data(), 4);
  EXPECT_EQ(first, 110);
  EXPECT_THAT(opened.model.Values("v", {3}), StatusIs(absl::StatusCode::kDataLoss));
  EXPECT_THAT(opened.model.Values("w", {1, 3}), StatusIs(absl::StatusCode::kDataLoss));
  EXPECT_EQ(*ReadCheckpointText(saved.path, opened.manifest, kModelDescriptionFile, 100),
            kDescription);
  EXPECT_THAT(ReadCheckpointText(saved.path, opened.manifest, kModelDescriptionFile, 5),
              StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_THAT(ReadCheckpointText(saved.path, opened.manifest, "vocab.json", 5),
              StatusIs(absl::StatusCode::kNotFound));
  int64_t size = 0;
  for (const char* name : {kManifestFile, kModelFile, kOptimizerFile, kModelDescriptionFile}) {
    struct stat info;
    ASSERT_EQ(stat(JoinPath(saved.path, name).c_str(), &info), 0);
    size += info.st_size;
  }
  EXPECT_EQ(saved.size_bytes, size);
}

// What an import writes: there is nothing to resume from, and the name is the user's.
TEST_F(CheckpointStoreTest, HoldsWeightsOnlyWhereThereIsNoOptimiser) {
  ThreeValues model(1);
  CheckpointContents contents = Contents(0, model, model);
  contents.optimizer = nullptr;
  const std::string path = JoinPath(directory_->path(), "imported");
  ASSERT_OK_AND_ASSIGN(const SavedCheckpoint saved, SaveCheckpointAt(path, contents));
  EXPECT_EQ(saved.path, path);
  ASSERT_OK_AND_ASSIGN(const OpenCheckpoint opened, OpenAndVerify(path, saved.manifest_digest));
  EXPECT_FALSE(opened.optimizer.has_value());
  EXPECT_THAT(opened.model.Values("w", {3}), IsOk());
}

// Who only reads weights need not digest the optimiser's twice as large file.
TEST_F(CheckpointStoreTest, WeightsOpenWhateverTheOptimisersFileIs) {
  const SavedCheckpoint saved = Save(7);
  Overwrite(JoinPath(saved.path, kOptimizerFile), "damaged");
  EXPECT_THAT(OpenWeights(saved.path), IsOk());
  EXPECT_THAT(OpenAndVerify(saved.path, ""), StatusIs(absl::StatusCode::kDataLoss));
  Overwrite(JoinPath(saved.path, kModelDescriptionFile), "damaged");
  EXPECT_THAT(OpenWeights(saved.path), StatusIs(absl::StatusCode::kDataLoss));
}

// The manifest names no time: a killed attempt that is repeated commits the same digest.
TEST_F(CheckpointStoreTest, TheSameStateHasTheSameDigest) {
  const SavedCheckpoint first = Save(7);
  EXPECT_EQ(Save(7).manifest_digest, first.manifest_digest);
  EXPECT_NE(Save(7, /*first=*/11).manifest_digest, first.manifest_digest);
}

TEST_F(CheckpointStoreTest, ReplacesWhatAKilledAttemptLeft) {
  Save(7, /*first=*/1);
  ASSERT_THAT(MakeDirectories(JoinPath(root_, "step-7.tmp/deeper")), IsOk());
  const SavedCheckpoint saved = Save(7, /*first=*/2);
  EXPECT_THAT(OpenAndVerify(saved.path, saved.manifest_digest), IsOk());
  ASSERT_OK_AND_ASSIGN(const std::vector<std::string> names, ListDirectory(root_));
  EXPECT_THAT(names, ElementsAre("step-7"));
}

TEST_F(CheckpointStoreTest, AFailedSaveLeavesNothingAndKeepsTheOldOne) {
  const SavedCheckpoint old = Save(7);
  ThreeValues model(1), full(2, absl::ResourceExhaustedError("disk full"));
  EXPECT_THAT(SaveCheckpoint(root_, Contents(7, model, full)),
              StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_THAT(OpenAndVerify(old.path, old.manifest_digest), IsOk());
  ASSERT_OK_AND_ASSIGN(const std::vector<std::string> names, ListDirectory(root_));
  EXPECT_THAT(names, ElementsAre("step-7"));
}

TEST_F(CheckpointStoreTest, ListsCompleteCheckpointsOnly) {
  EXPECT_THAT(ListCheckpoints(root_), ElementsAre());
  Save(9);
  Save(10);
  Save(0);
  for (const char* name : {"step-11.tmp", "step-", "step-012", "step--1", "other"}) {
    ASSERT_THAT(MakeDirectories(JoinPath(root_, name)), IsOk());
  }
  EXPECT_THAT(ListCheckpoints(root_), ElementsAre(10, 9, 0));
  ASSERT_THAT(RemoveTemporaries(root_), IsOk());
  EXPECT_FALSE(FileExists(JoinPath(root_, "step-11.tmp")));
  EXPECT_TRUE(FileExists(JoinPath(root_, "other")));
}

// Whatever byte of whatever file changes, and wherever a file is cut, the checkpoint is refused.
// Seen red with the comparison of the file's digest taken out.
TEST_F(CheckpointStoreTest, RefusesAnyChangedByteAndAnyCut) {
  const SavedCheckpoint saved = Save(7);
  for (const char* name : {kManifestFile, kModelFile, kOptimizerFile, kModelDescriptionFile}) {
    const std::string path = JoinPath(saved.path, name);
    ASSERT_OK_AND_ASSIGN(const std::string good, ReadFile(path, 1 << 20));
    for (size_t i = 0; i < good.size(); i += 3) {
      std::string bad = good;
      bad[i] ^= 4;
      Overwrite(path, bad);
      EXPECT_THAT(OpenAndVerify(saved.path, saved.manifest_digest),
                  StatusIs(absl::StatusCode::kDataLoss))
          << name << " byte " << i;
    }
    for (size_t size : {size_t{0}, size_t{1}, good.size() / 2, good.size() - 1}) {
      Overwrite(path, good.substr(0, size));
      EXPECT_THAT(OpenAndVerify(saved.path, saved.manifest_digest),
                  StatusIs(absl::StatusCode::kDataLoss))
          << name << " cut to " << size;
    }
    Overwrite(path, good + "x");
    EXPECT_THAT(OpenAndVerify(saved.path, ""), StatusIs(absl::StatusCode::kDataLoss)) << name;
    ASSERT_THAT(RemoveTree(path), IsOk());
    EXPECT_THAT(OpenAndVerify(saved.path, ""), StatusIs(absl::StatusCode::kNotFound)) << name;
    Overwrite(path, good);
    EXPECT_THAT(OpenAndVerify(saved.path, saved.manifest_digest), IsOk());
  }
  EXPECT_THAT(OpenAndVerify(JoinPath(root_, "step-8"), ""), StatusIs(absl::StatusCode::kNotFound));
}

// As many values as make three of the pieces that are digested by themselves, and a bit.
class ThreePieces : public TensorSource {
 public:
  static constexpr int64_t kValues = 3 * (int64_t{1} << 18) + 5;
  std::vector<TensorInfo> Tensors() const override {
    TensorInfo tensor;
    tensor.name = "w";
    tensor.shape = {kValues};
    return {tensor};
  }
  absl::Status WriteTo(SafetensorsWriter& writer) override {
    std::vector<float> values(kValues);
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
    return writer.Append(values.data(), kValues);
  }
};

// Into three places, in any order and by any number of threads; a change in any byte of the file,
// header or not, is found with the copy.
TEST_F(CheckpointStoreTest, CopiesAndVerifiesInOnePass) {
  ThreeValues model(1);
  ThreePieces optimizer;
  ASSERT_OK_AND_ASSIGN(const SavedCheckpoint saved,
                       SaveCheckpoint(root_, Contents(7, model, optimizer)));
  std::vector<float> values(ThreePieces::kValues);
  const std::vector<TensorTarget> targets = {{"w", {ThreePieces::kValues}, values.data()}};
  for (int threads : {0, 1, 3}) {
    std::fill(values.begin(), values.end(), -1.0f);
    ASSERT_OK_AND_ASSIGN(const OpenCheckpoint opened,
                         OpenToCopy(saved.path, saved.manifest_digest));
    EXPECT_FALSE(opened.model.verified());
    ASSERT_THAT(opened.optimizer->CopyAndVerify(targets, threads), IsOk());
    for (int64_t i = 0; i < ThreePieces::kValues; ++i) ASSERT_EQ(values[i], i);
    EXPECT_THAT(opened.optimizer->CopyAndVerify({{"v", {3}, values.data()}}, threads),
                StatusIs(absl::StatusCode::kDataLoss, HasSubstr("no tensor")));
    EXPECT_THAT(opened.optimizer->CopyAndVerify({{"w", {3}, values.data()}}, threads),
                StatusIs(absl::StatusCode::kDataLoss, HasSubstr("shape")));
  }
  const std::string path = JoinPath(saved.path, kOptimizerFile);
  ASSERT_OK_AND_ASSIGN(const std::string good, ReadFile(path, 1 << 24));
  for (size_t at : {size_t{0}, size_t{9}, size_t{90}, PieceDigest::kPieceBytes, good.size() / 2,
                    good.size() - 1}) {
    std::string bad = good;
    bad[at] ^= 1;
    Overwrite(path, bad);
    const absl::StatusOr<OpenCheckpoint> opened = OpenToCopy(saved.path, saved.manifest_digest);
    EXPECT_THAT(
        opened.ok() ? opened->optimizer->CopyAndVerify(targets, /*threads=*/2) : opened.status(),
        StatusIs(absl::StatusCode::kDataLoss, HasSubstr(kOptimizerFile)))
        << at;
  }
}

// A digest that forgets a piece, or their order, is none.
TEST_F(CheckpointStoreTest, RefusesAChangeInAnyPieceOfALargeFile) {
  ThreeValues model(1);
  ThreePieces optimizer;
  ASSERT_OK_AND_ASSIGN(const SavedCheckpoint saved,
                       SaveCheckpoint(root_, Contents(7, model, optimizer)));
  const std::string path = JoinPath(saved.path, kOptimizerFile);
  ASSERT_OK_AND_ASSIGN(const std::string good, ReadFile(path, 1 << 24));
  constexpr size_t kPiece = PieceDigest::kPieceBytes;
  ASSERT_GT(good.size(), 3 * kPiece);
  const auto refused = [&](const std::string& contents) {
    Overwrite(path, contents);
    for (int threads : {1, 3}) {
      EXPECT_THAT(OpenAndVerify(saved.path, saved.manifest_digest, threads),
                  StatusIs(absl::StatusCode::kDataLoss));
    }
  };
  for (size_t at :
       {size_t{0}, kPiece - 1, kPiece, 2 * kPiece + 12345, 3 * kPiece, good.size() - 1}) {
    SCOPED_TRACE(at);
    std::string bad = good;
    bad[at] ^= 1;
    refused(bad);
  }
  refused(absl::StrCat(good.substr(0, kPiece), good.substr(2 * kPiece, kPiece),
                       good.substr(kPiece, kPiece), good.substr(3 * kPiece)));
  refused(good.substr(0, 3 * kPiece));
  Overwrite(path, good);
  for (int threads : {1, 3}) {
    EXPECT_THAT(OpenAndVerify(saved.path, saved.manifest_digest, threads), IsOk());
  }
}

// Nothing that loads looks at the SHA-256, so a test does.
TEST_F(CheckpointStoreTest, TheManifestHasBothDigestsOfEveryFile) {
  const SavedCheckpoint saved = Save(7);
  ASSERT_OK_AND_ASSIGN(const OpenCheckpoint opened, OpenAndVerify(saved.path, ""));
  ASSERT_EQ(opened.manifest.files.size(), 3);
  for (const ManifestFile& file : opened.manifest.files) {
    ASSERT_OK_AND_ASSIGN(const std::string contents,
                         ReadFile(JoinPath(saved.path, file.name), 1 << 20));
    EXPECT_EQ(file.sha256, Sha256Hex(contents));
    EXPECT_EQ(file.xxh3, PieceDigestHex(contents, /*threads=*/1));
  }
}

TEST_F(CheckpointStoreTest, RefusesAFileThatIsNotOfTheManifestsDigest) {
  const SavedCheckpoint saved = Save(7);
  ASSERT_OK_AND_ASSIGN(const OpenCheckpoint opened, OpenAndVerify(saved.path, ""));
  for (size_t i = 0; i < opened.manifest.files.size(); ++i) {
    Manifest wrong = opened.manifest;
    char& digit = wrong.files[i].xxh3.back();
    digit = digit == '0' ? '1' : '0';
    Overwrite(JoinPath(saved.path, kManifestFile), ManifestToJson(wrong));
    EXPECT_THAT(OpenAndVerify(saved.path, ""), StatusIs(absl::StatusCode::kDataLoss)) << i;
  }
}

// What version 1 wrote has its SHA-256 only, which then is what counts.
TEST_F(CheckpointStoreTest, OpensWhatVersionOneWrote) {
  const SavedCheckpoint saved = Save(7);
  ASSERT_OK_AND_ASSIGN(const OpenCheckpoint opened, OpenAndVerify(saved.path, ""));
  Manifest old = opened.manifest;
  old.format_version = 1;
  const std::string text = ManifestToJson(old);
  EXPECT_THAT(text, Not(HasSubstr("xxh3")));
  Overwrite(JoinPath(saved.path, kManifestFile), text);
  ASSERT_OK_AND_ASSIGN(const OpenCheckpoint again, OpenAndVerify(saved.path, Sha256Hex(text)));
  EXPECT_EQ(again.manifest.state, opened.manifest.state);
  const std::string path = JoinPath(saved.path, kOptimizerFile);
  ASSERT_OK_AND_ASSIGN(std::string contents, ReadFile(path, 1 << 20));
  contents.back() ^= 1;
  Overwrite(path, contents);
  EXPECT_THAT(OpenAndVerify(saved.path, ""), StatusIs(absl::StatusCode::kDataLoss));
}

TEST_F(CheckpointStoreTest, RefusesAnotherManifestThanTheCommittedOne) {
  const SavedCheckpoint old = Save(7, /*first=*/1);
  const SavedCheckpoint saved = Save(7, /*first=*/2);
  EXPECT_THAT(OpenAndVerify(saved.path, old.manifest_digest),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("the committed one")));
}

TEST(Manifest, RefusesWhatIsNotAManifest) {
  Manifest manifest;
  manifest.state = StateOfStep(3);
  manifest.files = {{kModelFile, 5, std::string(64, 'a'), std::string(32, 'c')},
                    {kOptimizerFile, 6, std::string(64, 'b'), std::string(32, 'd')}};
  const std::string good = ManifestToJson(manifest);
  ASSERT_OK_AND_ASSIGN(const Manifest parsed, ManifestFromJson(good));
  EXPECT_EQ(parsed.state, manifest.state);
  EXPECT_EQ(parsed.files[1].size_bytes, 6);

  const std::vector<std::pair<std::string, std::string>> changes = {
      {"\"format_version\": 2", "\"format_version\": 3"},
      {"\"format_version\": 2", "\"format_version\": 1"},
      {"\"format_version\": 2", "\"format_version\": 0"},
      {"\"format_version\": 2,", ""},
      {"\"step\": 3", "\"step\": -3"},
      {"\"step\": 3", "\"step\": 3.5"},
      {"\"step\": 3", "\"step\": \"3\""},
      {"\"step\": 3", "\"step\": 9223372036854775808"},
      {"\"step\": 3", "\"step\": 3, \"step\": 3"},
      {"\"step\": 3", "\"steps\": 3"},
      {"\"step\": 3", "\"step\": 3, \"more\": 0"},
      {"\"seed\": 18364758544493064720", "\"seed\": 18446744073709551616"},
      {"\"seed\": 18364758544493064720", "\"seed\": null"},
      {"\"loss_sum\": 0.3333333333333333", "\"loss_sum\": 1e999"},
      {"\"config_digest\": \"abc\"", "\"config_digest\": 1"},
      {"model.safetensors", "../model.safetensors"},
      {"model.safetensors", "optimizer.safetensors"},
      {"\"size_bytes\": 5", "\"size_bytes\": []"},
      {std::string(64, 'a'), std::string(64, 'A')},
      {std::string(64, 'a'), std::string(63, 'a')},
      {std::string(32, 'c'), std::string(32, 'C')},
      {std::string(32, 'c'), std::string(31, 'c')},
      {std::string(32, 'c'), ""},
      {"\"xxh3\": ", "\"xxh4\": "},
      {"\"files\": [", "\"files\": [1,"},
      {"{", "[["},
      {"\"files\"", "\"loss\": [[[[[[]]]]]], \"files\""},
  };
  for (const auto& [from, to] : changes) {
    ASSERT_THAT(good, HasSubstr(from));
    std::string bad = good;
    bad.replace(bad.find(from), from.size(), to);
    EXPECT_THAT(ManifestFromJson(bad), StatusIs(absl::StatusCode::kDataLoss)) << to;
  }
  EXPECT_THAT(ManifestFromJson(std::string(kMaxManifestBytes + 1, ' ')),
              StatusIs(absl::StatusCode::kDataLoss));
}

}  // namespace
}  // namespace nibble::checkpoint
