#include "worker/trainer_config.h"

#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "google/protobuf/text_format.h"
#include "gtest/gtest.h"
#include "proto/spec/job_resolution.h"
#include "worker/evaluation/task.h"
#include "worker/model/model.h"

namespace nibble::worker {
namespace {

using ::testing::HasSubstr;

constexpr char kSpec[] = R"(
  name: "job" seed: 18446744073709551615 priority: 5
  labels { key: "team" value: "a" }
  model { vocab_size: 300 width: 96 blocks: 4 heads: 3 kv_heads: 1 head_size: 48 mlp_width: 160
          rope_theta: 5000 norm_epsilon: 1e-6 tied_embeddings: true init_std: 0.03 }
  data { path: "corpus/one" }
  training { tokens: 10000 sequence_length: 32 batch_size: 6 micro_batch_size: 3
             validation_interval: 7 validation_sequences: 8 init_from: "/some/where" }
  optimizer { learning_rate: 0.002 beta1: 0.8 beta2: 0.97 epsilon: 1e-7 weight_decay: 0.05
              gradient_clip: 0.5
              decay_include: "*norm*" decay_exclude: "lm_head.*" decay_exclude: "*embed*"
              low_rank { rank: 16 update_interval: 7 scale: 0.5 reset_moments: true }
              schedule { kind: "wsd" warmup_steps: 3 decay_fraction: 0.25 final_fraction: 0.05
                         decay_shape: "one_minus_sqrt" } }
  loss { z_loss: 1e-4 logit_softcap: 30
         sample_weights { strategy: "extremes" temperature: 0.5 warmup_steps: 4 } }
  precision { recipe: "nvfp4" high_precision_blocks { first: 1 last: 1 } }
  evaluation { tasks { task: "text" path: "held/out.txt" limit: 3 }
               tasks { task: "piqa" path: "/e/piqa.jsonl" name: "p" }
               interval: 11 tokenizer: "bpe" context: 24 }
  checkpoint { interval: 9 keep: 2 }
  resources { threads: 2 backend: "reference" }
)";

spec::ResolvedJob Resolved() {
  v1::JobSpec parsed;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(kSpec, &parsed));
  auto job = spec::ResolveJob(parsed, nullptr);
  EXPECT_THAT(job, IsOk());
  return *job;
}

trainer::TrainingConfig Config(const v1::JobSpec& job, const v1::ResolvedPrecision& precision) {
  auto config = MakeTrainingConfig(job, precision, {"/data", "/out"});
  EXPECT_THAT(config, IsOk());
  return *config;
}

TEST(TrainerConfig, TakesEveryFieldOver) {
  const spec::ResolvedJob job = Resolved();
  const trainer::TrainingConfig c = Config(job.spec, job.precision);
  EXPECT_EQ(c.seed, 18446744073709551615u);
  EXPECT_EQ(c.model.vocab_size, 300);
  EXPECT_EQ(c.model.width, 96);
  EXPECT_EQ(c.model.blocks, 4);
  EXPECT_EQ(c.model.heads, 3);
  EXPECT_EQ(c.model.kv_heads, 1);
  EXPECT_EQ(c.model.head_size, 48);
  EXPECT_EQ(c.model.mlp_width, 160);
  EXPECT_EQ(c.model.rope_theta, 5000);
  EXPECT_EQ(c.model.norm_epsilon, 1e-6);
  EXPECT_TRUE(c.model.tied_embeddings);
  EXPECT_EQ(c.model.init_std, 0.03);
  EXPECT_FALSE(c.fp32_activations);
  ASSERT_EQ(c.data.phases.size(), 1u);
  ASSERT_EQ(c.data.phases[0].sources.size(), 1u);
  EXPECT_EQ(c.data.phases[0].sources[0].path, "/data/corpus/one");
  EXPECT_EQ(c.data.documents, data::DocumentMode::kJoin);
  EXPECT_EQ(c.steps, 53);  // 10,000 tokens in steps of 192
  EXPECT_EQ(c.steps, job.total_steps);
  EXPECT_EQ(c.sequence_length, 32);
  EXPECT_EQ(c.batch_size, 6);
  EXPECT_EQ(c.micro_batch_size, 3);
  EXPECT_EQ(c.validation_interval, 7);
  EXPECT_EQ(c.validation_sequences, 8);
  EXPECT_EQ(c.init_from, "/some/where");
  EXPECT_EQ(c.optimizer.learning_rate, 0.002);
  EXPECT_EQ(c.optimizer.beta1, 0.8);
  EXPECT_EQ(c.optimizer.beta2, 0.97);
  EXPECT_EQ(c.optimizer.epsilon, 1e-7);
  EXPECT_EQ(c.optimizer.weight_decay, 0.05);
  EXPECT_EQ(c.optimizer.gradient_clip, 0.5);
  EXPECT_EQ(c.schedule.kind, trainer::ScheduleKind::kWsd);
  EXPECT_EQ(c.schedule.warmup_steps, 3);
  EXPECT_EQ(c.schedule.decay_fraction, 0.25);
  EXPECT_EQ(c.schedule.final_fraction, 0.05);
  EXPECT_EQ(c.schedule.decay_shape, optimizer::DecayShape::kOneMinusSqrt);
  EXPECT_EQ(c.optimizer.decay_include, std::vector<std::string>({"*norm*"}));
  EXPECT_EQ(c.optimizer.decay_exclude, std::vector<std::string>({"lm_head.*", "*embed*"}));
  EXPECT_EQ(c.optimizer.low_rank.rank, 16);
  EXPECT_EQ(c.optimizer.low_rank.update_interval, 7);
  EXPECT_EQ(c.optimizer.low_rank.scale, 0.5);
  EXPECT_TRUE(c.optimizer.low_rank.reset_moments);
  EXPECT_EQ(c.loss.z_loss, 1e-4);
  EXPECT_EQ(c.loss.logit_softcap, 30);
  EXPECT_EQ(c.sample_weights.strategy, trainer::WeightStrategy::kExtremes);
  EXPECT_EQ(c.sample_weights.temperature, 0.5);
  EXPECT_EQ(c.sample_weights.warmup_steps, 4);
  EXPECT_EQ(c.flops_per_token, job.flops_per_token);
  ASSERT_EQ(c.evaluation.tasks.size(), 2u);
  EXPECT_EQ(c.evaluation.tasks[0].task, "text");
  EXPECT_EQ(c.evaluation.tasks[0].path, "/data/held/out.txt");
  EXPECT_EQ(c.evaluation.tasks[0].name, "text");
  EXPECT_EQ(c.evaluation.tasks[0].limit, 3);
  EXPECT_EQ(c.evaluation.tasks[1].path, "/e/piqa.jsonl");
  EXPECT_EQ(c.evaluation.tasks[1].name, "p");
  EXPECT_EQ(c.evaluation.interval, 11);
  EXPECT_EQ(c.evaluation.tokenizer, "/data/bpe");
  EXPECT_EQ(c.evaluation.context, 24);
  // Two operations a weight of a product, and of attention half the square.
  EXPECT_EQ(c.evaluation.forward_flops_per_token,
            2.0 * (4 * (96 * 240 + 144 * 96 + 3 * 96 * 160) + 300 * 96) + 4.0 * 4 * 144 * 23 / 2);
  EXPECT_EQ(c.checkpoint_interval, 9);
  EXPECT_EQ(c.output_directory, "/out");
  EXPECT_EQ(c.backend, "reference");
  EXPECT_EQ(c.threads, 2);
}

TEST(TrainerConfig, EveryTaskOfASpecIsKnownToTheScorer) {
  std::vector<std::string> known;
  for (const evaluation::Task& task : evaluation::AllTasks()) known.emplace_back(task.name);
  EXPECT_EQ(spec::EvaluationTaskNames(), known);
}

TEST(TrainerConfig, TakesFormatsOver) {
  const spec::ResolvedJob job = Resolved();
  const trainer::TrainingConfig c = Config(job.spec, job.precision);
  ASSERT_EQ(c.linears.size(), 16);
  using kernels::Format;
  using kernels::Rounding;
  EXPECT_EQ(c.linears[3].layer, "blocks.0.mlp.down");
  EXPECT_EQ(c.linears[3].format.fprop.first.format, Format::kBF16);
  EXPECT_EQ(c.linears[12].format.fprop.first.format, Format::kBF16);
  const kernels::LinearFormat& nvfp4 = c.linears[4].format;
  EXPECT_EQ(nvfp4.fprop.first, (kernels::OperandFormat{Format::kNvfp4, 1, 0, Rounding::kNearest}));
  EXPECT_EQ(nvfp4.fprop.second,
            (kernels::OperandFormat{Format::kNvfp4, 16, 0, Rounding::kNearest}));
  EXPECT_EQ(nvfp4.dgrad.first,
            (kernels::OperandFormat{Format::kNvfp4, 1, 0, Rounding::kStochastic}));
  EXPECT_EQ(nvfp4.dgrad.second, nvfp4.fprop.second);
  EXPECT_EQ(nvfp4.wgrad.first,
            (kernels::OperandFormat{Format::kNvfp4, 1, 16, Rounding::kStochastic}));
  EXPECT_EQ(nvfp4.wgrad.second,
            (kernels::OperandFormat{Format::kNvfp4, 1, 16, Rounding::kNearest}));
}

spec::ResolvedJob ResolvedPreset(const std::string& preset, const std::string& recipe) {
  v1::JobSpec job;
  job.set_name("job");
  job.mutable_model()->set_preset(preset);
  job.mutable_data()->set_path("corpus");
  job.mutable_training()->set_steps(10);
  job.mutable_training()->set_sequence_length(64);
  job.mutable_training()->set_batch_size(8);
  job.mutable_precision()->set_recipe(recipe);
  auto resolved = spec::ResolveJob(job, nullptr);
  EXPECT_THAT(resolved, IsOk());
  return *resolved;
}

TEST(TrainerConfig, TakesSafetyOver) {
  spec::ResolvedJob job = ResolvedPreset("gpt2-tiny", "bf16");
  trainer::TrainingConfig config = Config(job.spec, job.precision);
  EXPECT_EQ(config.snapshot_steps, 10);
  EXPECT_EQ(config.safety.non_finite, trainer::GuardAction::kPause);
  EXPECT_EQ(config.safety.loss_spike, trainer::GuardAction::kNotify);
  EXPECT_EQ(config.safety.window, 128);
  EXPECT_EQ(config.safety.recovery_steps, 0);
  const std::string digest = config.config_digest;
  v1::SafetySpec* const safety = job.spec.mutable_safety();
  safety->set_hang("restart");
  job.spec.mutable_checkpoint()->set_snapshot_steps(0);
  EXPECT_EQ(Config(job.spec, job.precision).config_digest, digest);
  safety->set_gradient_spike("rollback");
  safety->set_precision_recovery("bf16");
  config = Config(job.spec, job.precision);
  EXPECT_EQ(config.safety.gradient_spike, trainer::GuardAction::kRollback);
  EXPECT_EQ(config.safety.recovery_steps, 200);
  EXPECT_NE(config.config_digest, digest);
  // As a job of an earlier version has it, which must go on from its checkpoints.
  job.spec.clear_safety();
  job.spec.mutable_checkpoint()->clear_snapshot_steps();
  job.spec.mutable_checkpoint()->clear_snapshot_seconds();
  config = Config(job.spec, job.precision);
  EXPECT_EQ(config.config_digest, digest);
  EXPECT_EQ(config.safety.non_finite, trainer::GuardAction::kNone);
}

TEST(TrainerConfig, TakesFamiliesOver) {
  const spec::ResolvedJob gpt2 = ResolvedPreset("gpt2-tiny", "bf16");
  const model::ModelConfig a = Config(gpt2.spec, gpt2.precision).model;
  EXPECT_EQ(a.family, model::Family::kGpt2);
  EXPECT_EQ(a.activation, model::MlpActivation::kGeluTanh);
  EXPECT_EQ(a.max_positions, 1024);
  EXPECT_TRUE(a.tied_embeddings);
  const spec::ResolvedJob hybrid = ResolvedPreset("nemotron-h-tiny", "bf16");
  const model::ModelConfig b = Config(hybrid.spec, hybrid.precision).model;
  EXPECT_EQ(b.family, model::Family::kNemotronH);
  EXPECT_EQ(b.activation, model::MlpActivation::kSquaredRelu);
  EXPECT_EQ(b.pattern, "M-M*-M-");
  EXPECT_EQ(b.mamba.heads, 16);
  EXPECT_EQ(b.mamba.head_size, 8);
  EXPECT_EQ(b.mamba.groups, 2);
  EXPECT_EQ(b.mamba.state_size, 16);
  EXPECT_EQ(b.mamba.conv_width, 4);
  EXPECT_EQ(b.mamba.chunk_size, 64);
  const spec::ResolvedJob nemotron = ResolvedPreset("nemotron-tiny", "bf16");
  EXPECT_EQ(Config(nemotron.spec, nemotron.precision).model.family, model::Family::kNemotron);
}

// What `nibble validate` says of a model is what the trainer makes of it.
TEST(TrainerConfig, SizesAreTheModels) {
  for (const char* preset : {"llama-tiny", "gpt2-tiny", "nemotron-tiny", "nemotron-h-tiny"}) {
    for (const char* recipe : {"fp32", "bf16", "nvfp4"}) {
      SCOPED_TRACE(testing::Message() << preset << " " << recipe);
      const spec::ResolvedJob job = ResolvedPreset(preset, recipe);
      const trainer::TrainingConfig config = Config(job.spec, job.precision);
      const model::ParameterTable table(config.model);
      EXPECT_EQ(table.parameter_count(), job.parameters);
      const auto backend = *kernels::CreateBackend("cpu", {1});
      const auto weights = *model::Weights::Create(table, /*bf16_copy=*/true, *backend);
      model::ModelOptions options;
      options.config = config.model;
      options.precision = trainer::PrecisionOf(config);
      options.fp32_activations = config.fp32_activations;
      options.sequence_length = config.sequence_length;
      options.micro_batch_size = options.batch_size = config.micro_batch_size;
      const auto model = *model::Model::Create(options, *weights, *backend);
      // The estimate leaves out the norms' statistics, rounding up, and operands: FP32 has none.
      const double ratio =
          static_cast<double>(job.memory.activations) / static_cast<double>(model->arena_bytes());
      EXPECT_LT(ratio, 1);
      if (config.fp32_activations) {
        EXPECT_GT(ratio, 0.9);
      }
    }
  }
}

TEST(TrainerConfig, TakesLaterPhasesAndHealthOver) {
  spec::ResolvedJob job = Resolved();
  v1::PrecisionPhase* later = job.precision.add_later();
  later->set_first_step(7);
  v1::LinearPrecision* row = later->add_linears();
  *row = job.precision.linears(4);
  row->mutable_fprop()->mutable_first()->set_format(v1::MXFP8);
  row->mutable_fprop()->mutable_first()->set_block_rows(1);
  job.spec.mutable_health()->set_interval(3);
  job.spec.mutable_health()->set_shadow(true);
  const trainer::TrainingConfig c = Config(job.spec, job.precision);
  EXPECT_EQ(c.health.interval, 3);
  EXPECT_TRUE(c.health.shadow);
  const model::PrecisionPolicy policy = trainer::PrecisionOf(c);
  EXPECT_EQ(policy.FormatsOf(4, 6), c.linears[4].format);
  EXPECT_EQ(policy.FormatsOf(4, 7).fprop.first.format, kernels::Format::kMxfp8);
  EXPECT_EQ(policy.FormatsOf(4, 7).dgrad, c.linears[4].format.dgrad);
  EXPECT_EQ(policy.FormatsOf(5, 7), c.linears[5].format);  // not named: as before
}

TEST(TrainerConfig, DigestIsOfWhatChangesTheResult) {
  const spec::ResolvedJob job = Resolved();
  const std::string digest = Config(job.spec, job.precision).config_digest;
  v1::JobSpec same = job.spec;
  same.set_name("other");
  same.set_priority(1);
  same.clear_labels();
  same.mutable_resources()->set_threads(1);
  same.mutable_restart()->set_max_failures(9);
  same.mutable_health()->set_interval(5);
  EXPECT_EQ(Config(same, job.precision).config_digest, digest);
  v1::JobSpec other = job.spec;
  other.mutable_optimizer()->set_learning_rate(0.003);
  EXPECT_NE(Config(other, job.precision).config_digest, digest);
}

TEST(TrainerConfig, RefusesWhatDoesNotBelongTogether) {
  const spec::ResolvedJob job = Resolved();
  v1::ResolvedPrecision precision = job.precision;
  precision.mutable_linears()->RemoveLast();
  EXPECT_THAT(MakeTrainingConfig(job.spec, precision, {"/data", "/out"}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("15 linear layers")));
  precision = job.precision;
  precision.mutable_linears(2)->set_layer("blocks.0.mlp.up");
  EXPECT_THAT(MakeTrainingConfig(job.spec, precision, {"/data", "/out"}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("blocks.0.mlp.gate_up")));
  v1::JobSpec unknown = job.spec;
  unknown.mutable_model()->set_family("rwkv");
  EXPECT_THAT(MakeTrainingConfig(unknown, job.precision, {"/data", "/out"}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("model.family")));
  precision = job.precision;
  precision.mutable_linears(4)->mutable_wgrad()->mutable_first()->set_format(
      static_cast<v1::NumberFormat>(77));
  EXPECT_THAT(MakeTrainingConfig(job.spec, precision, {"/data", "/out"}),
              StatusIs(absl::StatusCode::kInvalidArgument));
  precision = job.precision;
  precision.mutable_linears(4)->mutable_wgrad()->mutable_first()->set_hadamard_size(8);
  EXPECT_THAT(MakeTrainingConfig(job.spec, precision, {"/data", "/out"}),
              StatusIs(absl::StatusCode::kInvalidArgument));
  precision = job.precision;
  precision.add_later()->set_first_step(0);
  EXPECT_THAT(MakeTrainingConfig(job.spec, precision, {"/data", "/out"}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("in order")));
  precision.mutable_later(0)->set_first_step(1);
  precision.mutable_later(0)->add_linears()->set_index(16);
  EXPECT_THAT(MakeTrainingConfig(job.spec, precision, {"/data", "/out"}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("layer 16")));
  v1::JobSpec unresolved = job.spec;
  unresolved.mutable_training()->set_micro_batch_size(4);
  EXPECT_THAT(MakeTrainingConfig(unresolved, job.precision, {"/data", "/out"}),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

}  // namespace
}  // namespace nibble::worker
