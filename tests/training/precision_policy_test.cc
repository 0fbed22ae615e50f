// Formats by layer, product and step: a late switch takes effect at its step and nowhere before,
// and a run resumed on either side of it ends with the same bits; every option trains.
#include "worker/model/precision_policy.h"

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/files.h"
#include "base/status_matchers.h"
#include "gtest/gtest.h"
#include "tests/training/training_setup.h"
#include "worker/trainer/run_loop.h"

namespace nibble::testing {
namespace {

using kernels::LinearFormat;
using trainer::RunResult;
using trainer::TrainingConfig;

class Recorder : public trainer::TrainingObserver {
 public:
  absl::Status OnStarted(int64_t) override { return absl::OkStatus(); }
  absl::Status OnStep(const trainer::StepReport& report) override {
    losses.push_back(report.loss);
    return absl::OkStatus();
  }
  absl::Status OnCheckpoint(const trainer::CheckpointReport& report, bool) override {
    checkpoints[report.step] = report;
    return absl::OkStatus();
  }
  bool PauseRequested() override { return false; }

  std::vector<double> losses;
  std::map<int64_t, trainer::CheckpointReport> checkpoints;
};

class PrecisionPolicyTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_OK_AND_ASSIGN(TemporaryDirectory directory, TemporaryDirectory::Make());
    directory_ = std::make_unique<TemporaryDirectory>(std::move(directory));
  }
  // nvfp4 that changes to `late` from `first_step` on.
  TrainingConfig Switching(int64_t first_step, const LinearFormat& late) {
    TrainingConfig config = SmallConfig(Recipe::kNvfp4);
    config.later_precision.push_back(
        {first_step, std::vector<LinearFormat>(config.linears.size(), late)});
    return config;
  }
  RunResult Run(TrainingConfig config, Recorder& recorder) {
    config.output_directory = JoinPath(directory_->path(), std::to_string(runs_++));
    const Bench bench(config, "cpu");
    auto result = trainer::RunLoop(bench.config, bench.parts(), recorder, RealClock());
    EXPECT_TRUE(result.ok()) << result.status();
    return result.ok() ? *result : RunResult();
  }
  std::unique_ptr<TemporaryDirectory> directory_;
  int runs_ = 0;
};

TEST(PrecisionPhasesTest, EachStepHasTheNewestPhaseThatHasBegun) {
  const LinearFormat first = FormatOf(Recipe::kNvfp4), second = FormatOf(Recipe::kBf16),
                     third = FormatOf(Recipe::kMxfp8);
  const model::PrecisionPolicy policy(std::vector<model::PrecisionPhase>{
      {0, {first, first}}, {3, {second, first}}, {5, {third, second}}});
  EXPECT_EQ(policy.layers(), 2);
  const LinearFormat* want[2][7] = {{&first, &first, &first, &second, &second, &third, &third},
                                    {&first, &first, &first, &first, &first, &second, &second}};
  for (int layer : {0, 1}) {
    for (int step = 0; step < 7; ++step) {
      EXPECT_EQ(policy.FormatsOf(layer, step), *want[layer][step]) << layer << " at " << step;
    }
  }
}

TEST_F(PrecisionPolicyTest, ALateSwitchTakesEffectAtItsStepAndResumesOnBothSides) {
  for (Recipe late : {Recipe::kBf16, Recipe::kMxfp8}) {
    Recorder unchanged, whole;
    const RunResult without = Run(SmallConfig(Recipe::kNvfp4), unchanged);
    TrainingConfig config = Switching(3, FormatOf(late));
    config.checkpoint_interval = 1;
    const RunResult with = Run(config, whole);
    EXPECT_NE(with.digest, without.digest);
    for (int step = 0; step < 3; ++step) EXPECT_EQ(whole.losses[step], unchanged.losses[step]);
    EXPECT_NE(whole.losses[3], unchanged.losses[3]);  // forward formats of step 3, counted from 0
    for (int64_t step = 1; step < config.steps; ++step) {
      TrainingConfig resumed = config;
      resumed.resume_from = whole.checkpoints.at(step).path;
      resumed.resume_digest = whole.checkpoints.at(step).manifest_digest;
      Recorder recorder;
      EXPECT_EQ(Run(resumed, recorder).digest, with.digest) << "resumed after step " << step;
    }
  }
}

// The whole run in the second phase's formats is what the second phase alone gives.
TEST_F(PrecisionPolicyTest, AForwardSwitchLeavesTheBackwardFormats) {
  LinearFormat forward = FormatOf(Recipe::kNvfp4);
  forward.fprop = FormatOf(Recipe::kBf16).fprop;
  Recorder recorder, both;
  const RunResult only_forward = Run(Switching(3, forward), recorder);
  const RunResult everything = Run(Switching(3, FormatOf(Recipe::kBf16)), both);
  // The first step of the phase has the same losses and other gradients.
  EXPECT_EQ(recorder.losses[3], both.losses[3]);
  EXPECT_NE(recorder.losses[4], both.losses[4]);
  EXPECT_NE(only_forward.digest, everything.digest);
}

TEST_F(PrecisionPolicyTest, EveryOptionTrainsReproduciblyAndChangesTheResult) {
  using kernels::BlockTarget;
  using kernels::Format;
  using kernels::HadamardSigns;
  using kernels::Rounding;
  const std::map<std::string, std::function<void(LinearFormat*)>> options = {
      {"hadamard size 4",
       [](LinearFormat* f) { f->wgrad.first.hadamard_size = f->wgrad.second.hadamard_size = 4; }},
      {"hadamard size 32",
       [](LinearFormat* f) { f->wgrad.first.hadamard_size = f->wgrad.second.hadamard_size = 32; }},
      {"signs redrawn",
       [](LinearFormat* f) {
         for (auto* operand : {&f->wgrad.first, &f->wgrad.second}) {
           operand->hadamard_signs = HadamardSigns::kRedrawn;
           operand->hadamard_seed = 9;
         }
       }},
      {"hadamard on fprop and dgrad",
       [](LinearFormat* f) {
         for (auto* product : {&f->fprop, &f->dgrad}) {
           product->first.hadamard_size = product->second.hadamard_size = 16;
         }
       }},
      {"stochastic activations",
       [](LinearFormat* f) { f->fprop.first.rounding = Rounding::kStochastic; }},
      {"stochastic weights",
       [](LinearFormat* f) { f->fprop.second.rounding = Rounding::kStochastic; }},
      {"weights 1x16",
       [](LinearFormat* f) { f->fprop.second.block_rows = f->dgrad.second.block_rows = 1; }},
      {"four over six",
       [](LinearFormat* f) {
         for (auto* operand : {&f->fprop.first, &f->fprop.second, &f->dgrad.second}) {
           operand->block_target = BlockTarget::kFourOrSixBySquaredError;
         }
       }},
      {"wgrad in MXFP8", [](LinearFormat* f) { f->wgrad = FormatOf(Recipe::kMxfp8).wgrad; }},
      {"E5M2 gradients",
       [](LinearFormat* f) {
         *f = FormatOf(Recipe::kFp8);
         f->dgrad.first.format = f->wgrad.first.format = Format::kFp8E5m2;
       }},
  };
  Recorder base_recorder;
  std::map<std::string, std::string> digests = {
      {Run(SmallConfig(Recipe::kNvfp4), base_recorder).digest, "the recipe"}};
  for (const auto& [name, change] : options) {
    SCOPED_TRACE(name);
    TrainingConfig config = SmallConfig(Recipe::kNvfp4);
    for (size_t i = 0; i < 8; ++i) change(&config.linears[i].format);  // the quantised blocks
    config.checkpoint_interval = 2;
    Recorder whole;
    const RunResult result = Run(config, whole);
    const auto [same, is_new] = digests.try_emplace(result.digest, name);
    EXPECT_TRUE(is_new) << "the same result as " << same->second;
    config.resume_from = whole.checkpoints.at(2).path;
    config.resume_digest = whole.checkpoints.at(2).manifest_digest;
    Recorder recorder;
    EXPECT_EQ(Run(config, recorder).digest, result.digest);
  }
}

}  // namespace
}  // namespace nibble::testing
