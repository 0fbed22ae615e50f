// A power cut at any instant of a save: the reader finds the checkpoint before or the new one,
// whole, and always the one that was acknowledged last. kill -9 cannot show this, because the page
// cache outlives a process.
//
// Seen red by each of the weaknesses below, which are taken from the recording: a call that is not
// there is a call that was not made.
//
// NIBBLE_CRASH_IMAGES asks for another number of images.
#include "worker/checkpoint/testing/crash_images.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/files.h"
#include "base/status_matchers.h"
#include "gtest/gtest.h"
#include "worker/checkpoint/checkpoint_store.h"
#include "worker/checkpoint/testing/recorded_calls.h"

namespace nibble::checkpoint {
namespace {

using Kind = FileCall::Kind;

class Values : public TensorSource {
 public:
  explicit Values(float first) : values_(64, first) {}
  std::vector<TensorInfo> Tensors() const override {
    TensorInfo tensor;
    tensor.name = "w";
    tensor.shape = {64};
    return {tensor};
  }
  absl::Status WriteTo(SafetensorsWriter& writer) override {
    return writer.Append(values_.data(), 64);
  }

 private:
  const std::vector<float> values_;
};

int Images() {
  const char* wanted = std::getenv("NIBBLE_CRASH_IMAGES");
  return wanted != nullptr ? std::atoi(wanted) : 10'000;
}

// A run of saves, recorded, and what readers may find of it.
class CrashImagesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    // In memory where there is such a file system: nothing here depends on the disk's own syncs.
    if (FileExists("/dev/shm")) setenv("TMPDIR", "/dev/shm", /*overwrite=*/0);
    recorded_ = std::make_unique<TemporaryDirectory>(*TemporaryDirectory::Make());
    images_ = std::make_unique<TemporaryDirectory>(*TemporaryDirectory::Make());
    StartRecording(recorded_->path());
  }

  void Save(int64_t step, float values) {
    Values model(values), optimizer(values + 1);
    CheckpointContents contents;
    contents.state.step = step;
    contents.state.config_digest = "abc";
    contents.model = &model;
    contents.optimizer = &optimizer;
    contents.texts = {{kModelDescriptionFile, "model:\n  width: 3\n"}};
    ASSERT_OK_AND_ASSIGN(const SavedCheckpoint saved, SaveCheckpoint(Root(), contents));
    whole_.insert(saved.manifest_digest);
    saved_ = absl::StrCat(step, " ", saved.manifest_digest);
  }
  // What a worker does once the daemon has committed it.
  void SaveAndAcknowledge(int64_t step, float values) {
    Save(step, values);
    RecordAcknowledgement(saved_);
  }

  // Three checkpoints of a new attempt, the last over one that a killed attempt left
  // unacknowledged.
  void Train() {
    SaveAndAcknowledge(10, 1);
    Save(20, 2);
    SaveAndAcknowledge(20, 3);
    SaveAndAcknowledge(30, 4);
  }

  // Whether a reader is misled by none of so many images of the calls.
  bool AllGood(std::vector<FileCall> calls, int images) {
    std::mt19937_64 random(7);
    const CrashImages all(recorded_->path(), {}, std::move(calls));
    const auto good = [&](size_t cut, CrashImages::Unsynced unsynced) {
      const Image image = all.Make(cut, unsynced, random);
      const std::string acknowledged = all.Acknowledged(cut);
      // Many are alike.
      const auto [known, fresh] = seen_.try_emplace({image, acknowledged}, false);
      if (fresh) known->second = IsGood(image, acknowledged);
      return known->second;
    };
    int made = 0;
    for (size_t cut = 0; cut <= all.size(); ++cut, made += 2) {
      if (!good(cut, CrashImages::Unsynced::kLost)) return false;
      if (!good(cut, CrashImages::Unsynced::kKept)) return false;
    }
    for (; made < images; ++made) {
      if (!good(random() % (all.size() + 1), CrashImages::Unsynced::kAnyPart)) return false;
    }
    return true;
  }
  size_t different_images() const { return seen_.size(); }

  static std::vector<FileCall> Without(std::vector<FileCall> calls,
                                       const std::function<bool(const FileCall&)>& weakness) {
    calls.erase(std::remove_if(calls.begin(), calls.end(), weakness), calls.end());
    return calls;
  }

 private:
  std::string Root() const { return recorded_->path() + "/jobs/j-1/attempt-1"; }

  bool IsGood(const Image& image, const std::string& acknowledged) {
    const std::string place = absl::StrCat(images_->path(), "/", next_image_++);
    for (const auto& [path, contents] : image) {
      const std::string copy = place + path.substr(recorded_->path().size());
      std::filesystem::create_directories(copy.substr(0, copy.rfind('/')));
      std::ofstream(copy, std::ios::binary) << contents;
    }
    const std::string root = place + Root().substr(recorded_->path().size());
    bool good = true;
    // Every directory of that name is one that was saved, whole.
    for (const int64_t step : ListCheckpoints(root)) {
      const auto opened = OpenAndVerify(CheckpointPath(root, step), "");
      good = good && opened.ok() && whole_.count(opened->manifest_digest) != 0 &&
             opened->manifest.state.step == step;
    }
    if (!acknowledged.empty()) {
      const std::pair<std::string, std::string> last = absl::StrSplit(acknowledged, ' ');
      good = good &&
             OpenAndVerify(CheckpointPath(root, std::atoll(last.first.c_str())), last.second).ok();
    }
    EXPECT_THAT(RemoveTree(place), IsOk());
    return good;
  }

  std::unique_ptr<TemporaryDirectory> recorded_;
  std::unique_ptr<TemporaryDirectory> images_;
  std::set<std::string> whole_;                         // manifest digests
  std::map<std::pair<Image, std::string>, bool> seen_;  // by image and what was acknowledged
  std::string saved_;
  int64_t next_image_ = 0;
};

TEST_F(CrashImagesTest, TheReaderFindsTheOldOrTheNewCheckpointWhole) {
  Train();
  const std::vector<FileCall> calls = StopRecording();
  ASSERT_GT(calls.size(), 50u) << "the recorder heard nothing";
  EXPECT_TRUE(AllGood(calls, Images()));
  GTEST_LOG_(INFO) << Images() << " images of " << calls.size() << " calls, " << different_images()
                   << " of them different";
}

TEST_F(CrashImagesTest, FilesThatAreNotSyncedAreNoticed) {
  Train();
  const auto calls = Without(StopRecording(), [](const FileCall& call) {
    return call.kind == Kind::kSync &&
           (absl::EndsWith(call.path, ".safetensors") || absl::EndsWith(call.path, ".json") ||
            absl::EndsWith(call.path, ".yaml"));
  });
  EXPECT_FALSE(AllGood(calls, 10'000));
}

TEST_F(CrashImagesTest, ASingleFileThatIsNotSyncedIsNoticed) {
  Train();
  const std::vector<FileCall> calls = StopRecording();
  for (const char* name : {kModelFile, kOptimizerFile, kManifestFile, kModelDescriptionFile}) {
    const auto weak = Without(calls, [name](const FileCall& call) {
      return call.kind == Kind::kSync && absl::EndsWith(call.path, name);
    });
    ASSERT_LT(weak.size(), calls.size()) << name;
    EXPECT_FALSE(AllGood(weak, 10'000)) << name;
  }
}

TEST_F(CrashImagesTest, DirectoriesThatAreNotSyncedAreNoticed) {
  Train();
  const std::vector<FileCall> calls = StopRecording();
  // The checkpoint's own names before the rename, its new name after, and those above it.
  for (const char* name : {".tmp", "/attempt-1", "/j-1", "/jobs"}) {
    const auto weak = Without(calls, [name](const FileCall& call) {
      return call.kind == Kind::kSync && absl::EndsWith(call.path, name);
    });
    ASSERT_LT(weak.size(), calls.size()) << name;
    EXPECT_FALSE(AllGood(weak, 10'000)) << name;
  }
}

TEST_F(CrashImagesTest, AnAcknowledgementBeforeTheRenameIsNoticed) {
  Train();
  std::vector<FileCall> calls = StopRecording();
  for (size_t i = 1; i < calls.size(); ++i) {
    if (calls[i].kind != Kind::kAcknowledge) continue;
    size_t at = i;
    while (at > 0 && calls[at].kind != Kind::kRename && calls[at].kind != Kind::kExchange) --at;
    std::rotate(calls.begin() + static_cast<int64_t>(at), calls.begin() + static_cast<int64_t>(i),
                calls.begin() + static_cast<int64_t>(i) + 1);
  }
  EXPECT_FALSE(AllGood(calls, 10'000));
}

}  // namespace
}  // namespace nibble::checkpoint
