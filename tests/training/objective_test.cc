// Options of the training objective, of the schedule's decay mask and of the low-rank optimiser, as
// whole runs: independent of the micro-batch, resumed bit by bit, and what they claim to be.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/files.h"
#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/training/training_setup.h"
#include "worker/trainer/run_loop.h"
#include "worker/trainer/sample_weights.h"

namespace nibble::testing {
namespace {

using trainer::TrainingConfig;
using trainer::WeightStrategy;

std::vector<float> GradientsOfOneStep(const TrainingConfig& config, trainer::StepResult* result) {
  const Bench bench(config, "cpu");
  const auto trainer = bench.MakeTrainer();
  const auto step = trainer->Step();
  EXPECT_THAT(step, IsOk());
  *result = *step;
  return ReadDevice(*bench.backend, trainer->weights().gradients(),
                    trainer->parameters().flat_size());
}

void ExpectNear(const std::vector<float>& got, const std::vector<float>& want, double bound) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], want[i], bound) << i;
}

TrainingConfig Weighted(WeightStrategy strategy) {
  TrainingConfig config = MicroscopicConfig();
  config.sample_weights.strategy = strategy;
  config.sample_weights.temperature = 0.25;
  return config;
}

// With the gradients g_i of runs whose batch is one of the sequences, the step's is sum w_i g_i /
// n.
TEST(SampleWeighting, GradientIsTheWeightedMeanOfTheSequencesGradients) {
  for (WeightStrategy strategy :
       {WeightStrategy::kLinearUpper, WeightStrategy::kQuadratic, WeightStrategy::kExtremes}) {
    const TrainingConfig config = Weighted(strategy);
    trainer::StepResult whole;
    const std::vector<float> got = GradientsOfOneStep(config, &whole);
    const Bench bench(config, "cpu");
    std::vector<double> losses;
    std::vector<std::vector<float>> gradients;
    for (int64_t i = 0; i < config.batch_size; ++i) {
      std::vector<int32_t> inputs(config.sequence_length), targets(config.sequence_length);
      ASSERT_THAT(bench.train.ReadShuffled(config.seed, i, inputs.data(), targets.data()), IsOk());
      TrainingConfig single = config;
      single.batch_size = single.micro_batch_size = 1;
      single.sample_weights = {};
      std::vector<int32_t> tokens = inputs;
      tokens.push_back(targets.back());
      const MemoryData data(tokens, config.model.vocab_size, config.sequence_length);
      trainer::TrainerParts parts = bench.parts();
      parts.train = &data;
      auto trainer = trainer::Trainer::Create(single, parts);
      ASSERT_THAT(trainer, IsOk());
      ASSERT_THAT((*trainer)->Initialise(), IsOk());
      ASSERT_OK_AND_ASSIGN(const trainer::StepResult step, (*trainer)->Step());
      losses.push_back(step.loss);
      gradients.push_back(ReadDevice(*bench.backend, (*trainer)->weights().gradients(),
                                     (*trainer)->parameters().flat_size()));
    }
    std::vector<double> weights;
    trainer::SampleWeights(config.sample_weights, losses, &weights);
    const auto [min, max] = std::minmax_element(weights.begin(), weights.end());
    EXPECT_GT(*max / *min, 2) << "the weights differ too little to see anything";
    const double n = static_cast<double>(config.batch_size);
    double loss = 0, objective = 0;
    std::vector<float> want(got.size());
    for (size_t k = 0; k < want.size(); ++k) {
      double sum = 0;
      for (size_t i = 0; i < weights.size(); ++i) sum += weights[i] * gradients[i][k] / n;
      want[k] = static_cast<float>(sum);
    }
    for (size_t i = 0; i < weights.size(); ++i) {
      loss += losses[i] / n;
      objective += weights[i] * losses[i] / n;
    }
    EXPECT_NEAR(whole.loss, loss, 1e-5);
    EXPECT_NEAR(whole.objective, objective, 1e-5);
    // FP32 sums in another order; weights follow losses that agree to 1e-6.
    ExpectNear(got, want, 2e-5);
  }
}

// Seen red: with the weights computed a micro-batch at a time.
TEST(SampleWeighting, DoesNotDependOnTheMicroBatch) {
  TrainingConfig config = Weighted(WeightStrategy::kLinearUpper);
  std::vector<float> first;
  for (const int64_t micro_batch_size : {4, 2, 1}) {
    config.micro_batch_size = micro_batch_size;
    trainer::StepResult result;
    const std::vector<float> gradients = GradientsOfOneStep(config, &result);
    if (first.empty()) first = gradients;
    ExpectNear(gradients, first, 1e-5);
  }
}

TEST(SampleWeighting, WarmsUpUniformly) {
  TrainingConfig plain = MicroscopicConfig();
  TrainingConfig config = Weighted(WeightStrategy::kExtremes);
  config.sample_weights.warmup_steps = 2;
  const Bench bench(config, "cpu"), plain_bench(plain, "cpu");
  const auto trainer = bench.MakeTrainer();
  const auto plain_trainer = plain_bench.MakeTrainer();
  for (int64_t step = 0; step < 4; ++step) {
    ASSERT_OK_AND_ASSIGN(const trainer::StepResult got, trainer->Step());
    ASSERT_OK_AND_ASSIGN(const trainer::StepResult want, plain_trainer->Step());
    EXPECT_EQ(got.grad_norm == want.grad_norm, step < 2) << step;
    EXPECT_EQ(got.objective == got.loss, step < 2) << step;
  }
}

TEST(Objective, ZLossAddsTheSquareOfLogSumExp) {
  TrainingConfig config = MicroscopicConfig();
  trainer::StepResult plain, with;
  GradientsOfOneStep(config, &plain);
  config.loss.z_loss = 0.01;
  GradientsOfOneStep(config, &with);
  EXPECT_EQ(with.loss, plain.loss);
  EXPECT_EQ(plain.objective, plain.loss);
  EXPECT_GT(with.objective, with.loss);
  EXPECT_NE(with.grad_norm, plain.grad_norm);
}

TEST(Objective, ACapOfLogitsShowsInEvaluation) {
  TrainingConfig config = MicroscopicConfig();
  config.model.init_std = 2;
  const Bench bench(config, "cpu");
  ASSERT_OK_AND_ASSIGN(const trainer::Evaluation open, bench.MakeTrainer()->Evaluate());
  config.loss.logit_softcap = 1;
  const Bench capped_bench(config, "cpu");
  ASSERT_OK_AND_ASSIGN(const trainer::Evaluation capped, capped_bench.MakeTrainer()->Evaluate());
  // Logits in (-1, 1): within 2 of ln 11.
  EXPECT_NEAR(capped.loss, std::log(11.0), 2);
  EXPECT_GT(open.loss, capped.loss + 1);
}

// ---- whole runs ----
class Listener : public trainer::TrainingObserver {
 public:
  absl::Status OnStarted(int64_t) override { return absl::OkStatus(); }
  absl::Status OnStep(const trainer::StepReport&) override { return absl::OkStatus(); }
  absl::Status OnCheckpoint(const trainer::CheckpointReport& report, bool) override {
    checkpoints.push_back(report);
    return absl::OkStatus();
  }
  bool PauseRequested() override { return false; }
  std::vector<trainer::CheckpointReport> checkpoints;
};

struct Variant {
  const char* name;
  TrainingConfig (*change)(TrainingConfig);
};

const Variant kVariants[] = {
    {"weights",
     [](TrainingConfig c) {
       c.sample_weights = {WeightStrategy::kQuadratic, 0.5, 2};
       c.loss.z_loss = 1e-3;
       c.loss.logit_softcap = 20;
       return c;
     }},
    {"low_rank",
     [](TrainingConfig c) {
       c.optimizer.low_rank = {5, 2, 0.5, true};
       return c;
     }},
    {"mask",
     [](TrainingConfig c) {
       c.optimizer.weight_decay = 1;
       c.optimizer.decay_include = {"*norm*"};
       c.optimizer.decay_exclude = {"*mlp*"};
       return c;
     }},
};

class ObjectiveRun : public ::testing::TestWithParam<Variant> {};

TEST_P(ObjectiveRun, ResumesBitByBitAndDiffersFromThePlainRun) {
  ASSERT_OK_AND_ASSIGN(const TemporaryDirectory directory, TemporaryDirectory::Make());
  const TrainingConfig plain = SmallConfig(Recipe::kNvfp4);
  const auto run = [&](TrainingConfig config, const std::string& name, int threads,
                       Listener* listener) {
    config.output_directory = JoinPath(directory.path(), name);
    const Bench bench(config, "cpu", threads);
    const auto result = trainer::RunLoop(bench.config, bench.parts(), *listener, RealClock());
    EXPECT_THAT(result, IsOk());
    return *result;
  };
  Listener ignored, listener;
  const std::string plain_digest = run(plain, "plain", 1, &ignored).digest;
  TrainingConfig config = GetParam().change(plain);
  config.checkpoint_interval = 1;
  const std::string digest = run(config, "whole", 1, &listener).digest;
  EXPECT_NE(digest, plain_digest);
  EXPECT_EQ(run(config, "threads", 3, &ignored).digest, digest);
  ASSERT_EQ(listener.checkpoints.size(), config.steps);
  for (const trainer::CheckpointReport& from : listener.checkpoints) {
    TrainingConfig resumed = config;
    resumed.resume_from = from.path;
    resumed.resume_digest = from.manifest_digest;
    EXPECT_EQ(run(resumed, "resumed", 2, &ignored).digest, digest) << "after step " << from.step;
  }
}

INSTANTIATE_TEST_SUITE_P(Variants, ObjectiveRun, ::testing::ValuesIn(kVariants),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(ObjectiveRun, APatternOfNoParameterEndsTheRunBeforeItStarts) {
  TrainingConfig config = SmallConfig(Recipe::kBf16);
  config.optimizer.decay_exclude = {"*.bias"};
  const Bench bench(config, "cpu");
  Listener listener;
  EXPECT_THAT(trainer::RunLoop(bench.config, bench.parts(), listener, RealClock()),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       ::testing::HasSubstr("optimizer.decay_exclude")));
}

}  // namespace
}  // namespace nibble::testing
