// Snapshots and guards of a whole run: what a crash, a NaN and a spike leave of it.
#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/files.h"
#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/training/training_setup.h"
#include "worker/checkpoint/checkpoint_store.h"
#include "worker/trainer/run_loop.h"

namespace nibble::testing {
namespace {

using ::testing::HasSubstr;
using trainer::GuardAction;
using trainer::NoteKind;
using trainer::RunResult;

constexpr int64_t kSteps = 24;

class Recorder : public trainer::TrainingObserver {
 public:
  absl::Status OnStarted(int64_t step) override {
    started = step;
    return absl::OkStatus();
  }
  absl::Status OnStep(const trainer::StepReport& report) override {
    // What a killed process does not get to say.
    if (report.step == die_after) return absl::AbortedError("killed");
    steps.push_back(report);
    return absl::OkStatus();
  }
  absl::Status OnCheckpoint(const trainer::CheckpointReport& report, bool) override {
    EXPECT_EQ(checkpoints.count(report.step), 0u) << "one checkpoint a step";
    checkpoints[report.step] = report;
    return absl::OkStatus();
  }
  absl::Status OnNote(const trainer::RunNote& note) override {
    notes.push_back(note);
    return absl::OkStatus();
  }
  bool PauseRequested() override { return false; }

  int64_t die_after = -1;
  int64_t started = -1;
  std::vector<trainer::StepReport> steps;
  std::vector<trainer::RunNote> notes;
  std::map<int64_t, trainer::CheckpointReport> checkpoints;
};

class TrainingSafetyTest : public ::testing::Test {
 protected:
  trainer::TrainingConfig Config(const std::string& name, const std::string& faults = "") const {
    trainer::TrainingConfig config = SmallConfig(Recipe::kNvfp4);
    config.steps = kSteps;
    config.output_directory = JoinPath(directory_.path(), name);
    EXPECT_TRUE(MakeDirectories(config.output_directory).ok());
    config.faults = *trainer::FaultPlan::Parse(faults);
    config.safety.non_finite = GuardAction::kPause;
    config.safety.window = 8;
    config.safety.threshold = 100;
    return config;
  }
  static absl::StatusOr<RunResult> Run(const trainer::TrainingConfig& config, Recorder& recorder,
                                       snapshot::TrainerMemory* memory = nullptr) {
    const Bench bench(config, "cpu", 1);
    trainer::TrainerParts parts = bench.parts();
    parts.memory = memory;
    return trainer::RunLoop(bench.config, parts, recorder, RealClock());
  }
  RunResult Undisturbed() {
    Recorder recorder;
    return *Run(Config("undisturbed"), recorder);
  }
  static trainer::TrainingConfig From(trainer::TrainingConfig config,
                                      const trainer::CheckpointReport& checkpoint) {
    config.resume_from = checkpoint.path;
    config.resume_digest = checkpoint.manifest_digest;
    config.resume_step = checkpoint.step;
    return config;
  }
  // SHA-256 of the file.
  static std::string WeightsOf(const trainer::CheckpointReport& checkpoint) {
    const auto opened = checkpoint::OpenAndVerify(checkpoint.path, checkpoint.manifest_digest);
    return opened.ok() ? opened->manifest.Find(checkpoint::kModelFile)->sha256 : checkpoint.path;
  }
  TemporaryDirectory directory_ = *TemporaryDirectory::Make();
};

// Seen red with the moments left out of the snapshot.
TEST_F(TrainingSafetyTest, AKilledRunGoesOnFromItsSnapshotBitByBit) {
  const RunResult undisturbed = Undisturbed();
  for (const int64_t die_after : {1, 5, 13, 24}) {
    trainer::TrainingConfig config = Config("killed");
    config.snapshot_steps = 3;
    const auto memory = *snapshot::TrainerMemory::Create();
    Recorder killed;
    killed.die_after = die_after;
    EXPECT_FALSE(Run(config, killed, memory.get()).ok());
    const int64_t held = memory->snapshot_step();
    EXPECT_EQ(held, (die_after - 1) / 3 * 3);
    Recorder recorder;
    ASSERT_OK_AND_ASSIGN(const RunResult result, Run(config, recorder, memory.get()));
    EXPECT_EQ(recorder.started, held);
    EXPECT_TRUE(recorder.notes.empty());
    EXPECT_EQ(result.digest, undisturbed.digest);
    EXPECT_EQ(result.train_loss, undisturbed.train_loss);
  }
}

TEST_F(TrainingSafetyTest, ADamagedSnapshotIsLeftForTheCheckpoint) {
  trainer::TrainingConfig config = Config("damaged");
  config.snapshot_steps = 3;
  config.checkpoint_interval = 4;
  const auto memory = *snapshot::TrainerMemory::Create();
  Recorder killed;
  killed.die_after = 11;
  EXPECT_FALSE(Run(config, killed, memory.get()).ok());
  for (int half = 0; half < 2; ++half) {
    ASSERT_OK_AND_ASSIGN(const snapshot::Snapshot newest, memory->Newest());
    const_cast<char*>(newest.data.data())[newest.data.size() / 2] ^= 4;
  }
  config = From(config, killed.checkpoints.at(4));
  Recorder recorder;
  ASSERT_OK_AND_ASSIGN(const RunResult result, Run(config, recorder, memory.get()));
  EXPECT_EQ(recorder.started, 4);
  ASSERT_EQ(recorder.notes.size(), 1u);
  EXPECT_EQ(recorder.notes[0].kind, NoteKind::kSnapshotRefused);
  EXPECT_THAT(recorder.notes[0].message, HasSubstr("checksum"));
  EXPECT_EQ(result.digest, Undisturbed().digest);
}

TEST_F(TrainingSafetyTest, ADamagedCheckpointIsLeftForTheOneBefore) {
  trainer::TrainingConfig config = Config("run");
  config.checkpoint_interval = 6;
  Recorder first;
  ASSERT_OK_AND_ASSIGN(const RunResult whole, Run(config, first));
  const auto damage = [&](int64_t step) {
    const std::string file = JoinPath(first.checkpoints.at(step).path, "optimizer.safetensors");
    std::string contents = *ReadFile(file, 1 << 30);
    contents[contents.size() / 2] ^= 1;
    ASSERT_TRUE(WriteFileDurably(file, contents).ok());
  };
  damage(18);
  config = From(Config("other"), first.checkpoints.at(18));
  for (const int64_t step : {12, 6}) {
    const trainer::CheckpointReport& older = first.checkpoints.at(step);
    config.fallbacks.push_back({older.path, older.manifest_digest, step});
  }
  Recorder recorder;
  ASSERT_OK_AND_ASSIGN(const RunResult result, Run(config, recorder));
  EXPECT_EQ(recorder.started, 12);
  EXPECT_EQ(result.digest, whole.digest);
  ASSERT_EQ(recorder.notes.size(), 1u);
  EXPECT_EQ(recorder.notes[0].kind, NoteKind::kCheckpointDamaged);
  EXPECT_EQ(recorder.notes[0].path, first.checkpoints.at(18).path);
  damage(12);
  damage(6);
  Recorder none;
  EXPECT_TRUE(absl::IsDataLoss(Run(config, none).status())) << "never from step 0";
  EXPECT_TRUE(none.notes.empty()) << "none is given up where none is better";
}

// Seen red with the guards asked after the update.
TEST_F(TrainingSafetyTest, ABatchOfNaNPausesTheRunBeforeIt) {
  trainer::TrainingConfig config = Config("paused", "nan_loss:9");
  config.checkpoint_interval = 3;
  Recorder recorder;
  ASSERT_OK_AND_ASSIGN(const RunResult paused, Run(config, recorder));
  EXPECT_TRUE(paused.paused);
  EXPECT_EQ(paused.pause_cause, "guard:non_finite");
  EXPECT_THAT(paused.pause_message, HasSubstr("step 10: the loss is not finite; computed again it "
                                              "is the same: data or model"));
  EXPECT_EQ(paused.steps, 9);
  ASSERT_EQ(recorder.notes.size(), 1u);
  EXPECT_EQ(recorder.notes[0].kind, NoteKind::kGuardTripped);
  // Step 9 has one checkpoint, which knows of the batch, and whose weights are those of any run.
  ASSERT_EQ(recorder.checkpoints.count(9), 1u);
  Recorder whole;
  trainer::TrainingConfig plain = Config("plain");
  plain.checkpoint_interval = 3;
  ASSERT_OK_AND_ASSIGN(const RunResult undisturbed, Run(plain, whole));
  EXPECT_EQ(WeightsOf(recorder.checkpoints.at(9)), WeightsOf(whole.checkpoints.at(9)));
  Recorder resumed;
  ASSERT_OK_AND_ASSIGN(const RunResult result,
                       Run(From(config, recorder.checkpoints.at(9)), resumed));
  EXPECT_FALSE(result.paused);
  EXPECT_TRUE(resumed.notes.empty()) << "the batch does not come back";
  EXPECT_EQ(resumed.steps.back().skipped_batches, 1);
  EXPECT_EQ(result.steps, kSteps);
  EXPECT_NE(result.digest, undisturbed.digest);
}

TEST_F(TrainingSafetyTest, APauseInTheFirstStepsLeavesStepZero) {
  Recorder recorder;
  ASSERT_OK_AND_ASSIGN(const RunResult paused, Run(Config("first", "nan_gradient:0"), recorder));
  EXPECT_TRUE(paused.paused);
  EXPECT_EQ(paused.steps, 0);
  EXPECT_EQ(recorder.checkpoints.count(0), 1u);
}

// Seen red without the recomputation.
TEST_F(TrainingSafetyTest, WhatComesOutOtherwiseTheSecondTimeIsTheHardware) {
  Recorder recorder;
  const auto result = Run(Config("flaky", "flaky:9"), recorder);
  EXPECT_TRUE(result.status().GetPayload(trainer::kHardwareFault).has_value());
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("step 10"));
  EXPECT_EQ(recorder.steps.size(), 9u);
}

TEST_F(TrainingSafetyTest, WithoutAnActionTheAttemptFails) {
  for (const GuardAction action : {GuardAction::kNone, GuardAction::kNotify}) {
    trainer::TrainingConfig config = Config("fails", "nan_loss:4");
    config.safety.non_finite = action;
    Recorder recorder;
    EXPECT_TRUE(absl::IsOutOfRange(Run(config, recorder).status()));
  }
}

TEST_F(TrainingSafetyTest, ANotedSpikeChangesNothing) {
  trainer::TrainingConfig config = Config("noted", "loss_spike:15,gradient_spike:17");
  config.safety.loss_spike = config.safety.gradient_spike = GuardAction::kNotify;
  Recorder recorder;
  ASSERT_OK_AND_ASSIGN(const RunResult result, Run(config, recorder));
  ASSERT_EQ(recorder.notes.size(), 2u);
  EXPECT_EQ(recorder.notes[0].cause, "guard:loss_spike");
  EXPECT_EQ(recorder.notes[1].cause, "guard:gradient_spike");
  EXPECT_EQ(result.digest, Undisturbed().digest);
}

// Seen red with the guard's window left out of the checkpoint, and with the skipped batch left out.
TEST_F(TrainingSafetyTest, ARollBackReplaysAndResumesTheSame) {
  const auto make = [this](const std::string& name) {
    trainer::TrainingConfig config = Config(name, "loss_spike:11,gradient_spike:18");
    config.safety.loss_spike = config.safety.gradient_spike = GuardAction::kRollback;
    config.checkpoint_interval = 1;
    return config;
  };
  Recorder first;
  ASSERT_OK_AND_ASSIGN(const RunResult whole, Run(make("whole"), first));
  EXPECT_EQ(first.notes.size(), 2u);
  EXPECT_EQ(first.steps.back().skipped_batches, 2);
  ASSERT_EQ(first.steps.size(), static_cast<size_t>(kSteps));
  EXPECT_NE(whole.digest, Undisturbed().digest);
  Recorder again;
  ASSERT_OK_AND_ASSIGN(const RunResult replayed, Run(make("again"), again));
  EXPECT_EQ(replayed.digest, whole.digest);
  for (const int64_t step : {3, 10, 11, 12, 16, 17, 18, 23}) {
    Recorder recorder;
    ASSERT_OK_AND_ASSIGN(const RunResult resumed,
                         Run(From(make("resumed"), first.checkpoints.at(step)), recorder));
    EXPECT_EQ(resumed.digest, whole.digest) << "resumed after step " << step;
  }
}

TEST_F(TrainingSafetyTest, ASnapshotRemembersARollBack) {
  trainer::TrainingConfig config = Config("whole", "loss_spike:11");
  config.safety.loss_spike = GuardAction::kRollback;
  Recorder first;
  ASSERT_OK_AND_ASSIGN(const RunResult whole, Run(config, first));
  config.snapshot_steps = 100;
  const auto memory = *snapshot::TrainerMemory::Create();
  Recorder killed;
  killed.die_after = 14;
  EXPECT_FALSE(Run(config, killed, memory.get()).ok());
  EXPECT_EQ(memory->snapshot_step(), 11) << "taken with the roll-back";
  Recorder recorder;
  ASSERT_OK_AND_ASSIGN(const RunResult result, Run(config, recorder, memory.get()));
  EXPECT_TRUE(recorder.notes.empty());
  EXPECT_EQ(result.digest, whole.digest);
}

// Seen red with the raised layers left out of the checkpoint, and with them raised for good.
TEST_F(TrainingSafetyTest, ARollBackRaisesTheWorstLayerForSomeSteps) {
  const auto make = [this](const std::string& name, int64_t recovery_steps) {
    trainer::TrainingConfig config = Config(name, "loss_spike:11");
    config.safety.loss_spike = GuardAction::kRollback;
    config.safety.recovery_steps = recovery_steps;
    config.checkpoint_interval = 1;
    return config;
  };
  Recorder plain;
  ASSERT_OK_AND_ASSIGN(const RunResult without, Run(make("without", 0), plain));
  Recorder first;
  ASSERT_OK_AND_ASSIGN(const RunResult whole, Run(make("whole", 5), first));
  ASSERT_EQ(first.notes.size(), 1u);
  EXPECT_THAT(first.notes[0].message, HasSubstr("up to step 16 in bf16: blocks."));
  EXPECT_NE(whole.digest, without.digest);
  for (const int64_t step : {11, 12, 15, 16, 20}) {
    Recorder recorder;
    ASSERT_OK_AND_ASSIGN(const RunResult resumed,
                         Run(From(make("resumed", 5), first.checkpoints.at(step)), recorder));
    EXPECT_EQ(resumed.digest, whole.digest) << "resumed after step " << step;
  }
  Recorder longer;
  ASSERT_OK_AND_ASSIGN(const RunResult other, Run(make("longer", 100), longer));
  EXPECT_NE(other.digest, whole.digest) << "it steps down again";
  EXPECT_EQ(longer.steps[15].loss, first.steps[15].loss);
}

TEST_F(TrainingSafetyTest, TooManyRollBacksPause) {
  trainer::TrainingConfig config = Config("many", "nan_loss:4,nan_loss:5,nan_loss:6");
  config.safety.non_finite = GuardAction::kRollback;
  config.safety.max_rollbacks = 2;
  Recorder recorder;
  ASSERT_OK_AND_ASSIGN(const RunResult paused, Run(config, recorder));
  EXPECT_TRUE(paused.paused);
  EXPECT_EQ(paused.steps, 4);
  EXPECT_THAT(paused.pause_message, HasSubstr("after 2 roll-backs"));
  Recorder resumed;
  ASSERT_OK_AND_ASSIGN(const RunResult result,
                       Run(From(config, recorder.checkpoints.at(4)), resumed));
  EXPECT_EQ(result.steps, kSteps);
}

}  // namespace
}  // namespace nibble::testing
