// Defaults, sizes and precision of resolved jobs, as literal tables. Seen to fail with: one default
// changed, the head counted twice where tied, the last blocks taken from the front, the name left
// in the digest.
#include "proto/spec/job_resolution.h"

#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "google/protobuf/util/message_differencer.h"
#include "gtest/gtest.h"
#include "proto/spec/spec_test_util.h"

namespace nibble::spec {
namespace {

using google::protobuf::util::MessageDifferencer;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

TEST(JobResolutionTest, FourFieldsMakeACompleteJob) {
  const ResolvedJob job = ResolveWith({});
  EXPECT_EQ(JobSpecToYaml(job.spec), R"(name: tiny
priority: 0
seed: 0
model:
  family: llama
  preset: llama-tiny
  vocab_size: 256
  width: 64
  blocks: 4
  heads: 4
  kv_heads: 2
  head_size: 16
  mlp_width: 192
  rope_theta: 10000
  norm_epsilon: 1e-05
  tied_embeddings: false
  init_std: 0.02
data:
  path: kjv
  documents: join
training:
  steps: 100
  sequence_length: 256
  batch_size: 16
  micro_batch_size: 16
  validation_interval: 100
  validation_sequences: 128
optimizer:
  name: adamw
  learning_rate: 0.001
  beta1: 0.9
  beta2: 0.95
  epsilon: 1e-08
  weight_decay: 0.1
  gradient_clip: 1
  schedule:
    kind: cosine
    warmup_steps: 5
    decay_fraction: 0.2
    final_fraction: 0.1
    decay_shape: linear
  low_rank:
    rank: 0
    update_interval: 200
    scale: 0.25
    reset_moments: false
precision:
  version: 1
  recipe: nvfp4
  high_precision_blocks:
    first: 0
    last: 1
    format: bf16
  hadamard_size: 16
  stochastic_rounding: true
  weight_block_rows: 16
  strict: false
  hadamard_products:
    - wgrad
  hadamard_signs: fixed
  hadamard_seed: 0
  stochastic_operands:
    - dgrad.gradient
    - wgrad.gradient
  four_over_six: none
  fp8_gradients: e4m3
  power_of_two_scales: true
checkpoint:
  interval: 100
  keep: 2
  snapshot_steps: 10
  snapshot_seconds: 10
resources:
  slots: 1
  threads: 0
  backend: cpu
restart:
  max_failures: 3
loss:
  z_loss: 0
  logit_softcap: 0
  sample_weights:
    strategy: uniform
    temperature: 1
    warmup_steps: 5
health:
  interval: 0
  shadow: false
project: default
scheduling:
  max_run_time: 0
  preemptible: true
  constraints:
    min_slot_memory_bytes: 0
safety:
  non_finite: pause
  loss_spike: notify
  gradient_spike: notify
  window: 128
  threshold: 10
  max_rollbacks: 3
  precision_recovery: none
  precision_recovery_steps: 200
  hang: notify
  hang_seconds: 0
)");
  EXPECT_EQ(job.total_steps, 100);
  EXPECT_EQ(job.tokens_per_step, 16 * 256);
  EXPECT_THAT(job.warnings, IsEmpty());
  EXPECT_EQ(job.precision.linears_size(), 16);
}

// Fields of other families; dimensions that a pattern without attention has not.
bool OfAnotherFamily(const google::protobuf::Message& message, const std::string& field) {
  if (message.GetDescriptor()->name() != "ModelSpec") return false;
  const std::string family = dynamic_cast<const v1::ModelSpec&>(message).family();
  if (field == "activation" || field == "max_positions") return family != "gpt2";
  if (field == "pattern" || field == "mamba") return family != "nemotron_h";
  if (field == "rope_theta") return family != "llama" && family != "nemotron";
  return false;
}

// Every field of the resolved spec is present, so that no later version's default can change it.
void ExpectComplete(const google::protobuf::Message& message, const std::string& path) {
  const auto* type = message.GetDescriptor();
  for (int i = 0; i < type->field_count(); ++i) {
    const auto* field = type->field(i);
    const std::string name = absl::StrCat(path, ".", field->name());
    // Lists, labels and init_from have no default; steps excludes tokens.
    if (field->is_repeated() || field->name() == "init_from" || field->name() == "tokens") continue;
    // None, and any kind, are the defaults.
    if (field->name() == "late_switch" || field->name() == "evaluation" ||
        field->name() == "device_kind") {
      continue;
    }
    if (OfAnotherFamily(message, field->name())) {
      EXPECT_FALSE(message.GetReflection()->HasField(message, field)) << name;
      continue;
    }
    EXPECT_TRUE(message.GetReflection()->HasField(message, field)) << name;
    if (field->cpp_type() == google::protobuf::FieldDescriptor::CPPTYPE_MESSAGE) {
      ExpectComplete(message.GetReflection()->GetMessage(message, field), name);
    }
  }
}

TEST(JobResolutionTest, ResolvingIsCompleteAndIdempotent) {
  for (const char* recipe : {"fp32", "bf16", "fp8", "fp8_blockwise", "mxfp8", "mxfp4", "nvfp4"}) {
    for (const ModelPreset& preset : ModelPresets()) {
      const ResolvedJob job =
          ResolveWith({{"precision.recipe", recipe}, {"model.preset", preset.name}});
      ExpectComplete(job.spec, preset.name);
      const ResolvedJob again = ResolveOrDie(job.spec);
      EXPECT_TRUE(MessageDifferencer::Equals(job.spec, again.spec)) << recipe << preset.name;
      EXPECT_TRUE(MessageDifferencer::Equals(job.precision, again.precision));
      EXPECT_EQ(job.warnings, again.warnings);
    }
  }
}

TEST(JobResolutionTest, ParameterCountsOfPresets) {
  const std::map<std::string, int64_t> expected = {
      // 2 * 256 * 64 + 4 * (128 * 64 + 64 * 64 + 3 * 192 * 64 + 2 * 64) + 64
      {"llama-tiny", 229'952},
      // 2 * 256 * 192 + 4 * (576 * 192 + 192 * 192 + 3 * 512 * 192 + 2 * 192) + 192
      {"llama-2m", 1'869'504},
      // 2 * 256 * 384 + 6 * (640 * 384 + 384 * 384 + 3 * 1024 * 384 + 2 * 384) + 384
      {"llama-10m", 9'638'784},
      // 2 * 256 * 512 + 16 * (1024 * 512 + 512 * 512 + 3 * 1536 * 512 + 2 * 512) + 512
      {"llama-50m", 50'610'688},
      // 50257 * 768 + 12 * (2304 * 768 + 768 * 768 + 3 * 2048 * 768 + 2 * 768) + 768
      {"llama-124m", 123'551'232},
      // Published: TinyLlama, Llama 3.2 1B and 3B, Llama 2 7B, Llama 3 8B.
      {"llama-1.1b", 1'100'048'384},
      {"llama-3.2-1b", 1'235'814'400},
      {"llama-3.2-3b", 3'212'749'824},
      {"llama-7b", 6'738'415'616},
      {"llama-3-8b", 8'030'261'248},
      // 256 * w + 1024 * w + L * (12 w^2 + 13 w) + 2 w
      {"gpt2-tiny", 281'984},
      {"gpt2-10m", 11'139'072},
      // Published: GPT-2.
      {"gpt2-small", 124'439'808},
      {"gpt2-medium", 354'823'168},
      {"gpt2-large", 774'030'080},
      {"gpt2-xl", 1'557'611'200},
      // 2 * 256 * 64 + 4 * (128 * 64 + 64 * 64 + 2 * 256 * 64 + 2 * 64) + 64
      {"nemotron-tiny", 213'568},
      {"nemotron-10m", 9'638'784},
      // 2 * 131072 * 2048 + 20 * (4096 * 2048 + 2048 * 2048 + 2 * 6144 * 2048 + 2 * 2048) + 2048
      {"nemotron-1.2b", 1'291'929'600},
      // M: 64 * 336 + 192 * 5 + 3 * 16 + 128 + 128 * 64; *: 128 * 64 + 64 * 64; -: 2 * 128 * 64;
      // each a norm of 64; 2 * 256 * 64 and 64.
      {"nemotron-h-tiny", 187'216},
      {"nemotron-h-10m", 10'194'576},
      {"nemotron-h-8b", 8'084'075'520},
      // Published for Nemotron Nano 2, whose Mamba-2 heads are of 80: 12.31 B.
      {"nemotron-h-12b", 12'314'591'360},
  };
  ASSERT_EQ(ModelPresets().size(), expected.size());
  for (const ModelPreset& preset : ModelPresets()) {
    EXPECT_FALSE(preset.description.empty());
    EXPECT_EQ(ResolveWith({{"model.preset", preset.name}}).parameters, expected.at(preset.name))
        << preset.name;
  }
  // Untied: one more table.
  EXPECT_EQ(
      ResolveWith({{"model.preset", "llama-124m"}, {"model.tied_embeddings", "false"}}).parameters,
      123'551'232 + 50257 * 768);
  // Head size apart from width / heads, 3 query heads on 1 pair of key and value: qkv 5 * 10 * 8,
  // output 30 * 8, gate, up and down 3 * 7 * 8, norms 16; one block, tied table of 5 * 8, last
  // norm 8.
  auto values = MinimalSpec();
  values.erase("model.preset");
  for (const auto& [path, value] :
       std::map<std::string, std::string>{{"model.width", "8"},
                                          {"model.blocks", "1"},
                                          {"model.heads", "3"},
                                          {"model.kv_heads", "1"},
                                          {"model.head_size", "10"},
                                          {"model.mlp_width", "7"},
                                          {"model.vocab_size", "5"},
                                          {"model.tied_embeddings", "true"}}) {
    values[path] = value;
  }
  EXPECT_EQ(ResolveOrDie(ParseOrDie(Document(values))).parameters, 400 + 240 + 168 + 16 + 40 + 8);
}

TEST(JobResolutionTest, FlopsPerToken) {
  // 6 * (256 * 64 + 4 * (8192 + 4096 + 36864)) + 12 * 4 * 64 * 256
  EXPECT_EQ(ResolveWith({}).flops_per_token, 6.0 * (16384 + 196608) + 786432);
}

// Against the arithmetic of the terms, family by family.
TEST(JobResolutionTest, FlopsOfFamilies) {
  EXPECT_EQ(ResolveWith({{"model.preset", "gpt2-tiny"}}).flops_per_token,
            6.0 * (256 * 64 + 4 * 12 * 64 * 64) + 12.0 * 4 * 64 * 256);
  // Three Mamba-2 layers, one attention, three MLPs.
  const double linears = 3 * (64 * 336 + 128 * 64) + 128 * 64 + 64 * 64 + 3 * 2 * 128 * 64;
  EXPECT_EQ(ResolveWith({{"model.preset", "nemotron-h-tiny"}}).flops_per_token,
            6.0 * (256 * 64 + linears) + 12.0 * 64 * 256 + 3 * (12.0 * 128 * 16 + 6.0 * 192 * 4));
}

TEST(JobResolutionTest, DefaultsOfFamilies) {
  const auto resolve = [](std::map<std::string, std::string> changes) {
    auto values = MinimalSpec();
    values.erase("model.preset");
    values["model.width"] = "64";
    for (const auto& [path, value] : changes) values[path] = value;
    return ResolveOrDie(ParseOrDie(Document(values))).spec.model();
  };
  const v1::ModelSpec gpt2 =
      resolve({{"model.family", "gpt2"}, {"model.blocks", "2"}, {"model.heads", "4"}});
  EXPECT_EQ(gpt2.mlp_width(), 256);
  EXPECT_EQ(gpt2.activation(), "gelu_tanh");
  EXPECT_EQ(gpt2.max_positions(), 1024);
  EXPECT_TRUE(gpt2.tied_embeddings());
  const v1::ModelSpec nemotron =
      resolve({{"model.family", "nemotron"}, {"model.blocks", "2"}, {"model.heads", "4"}});
  EXPECT_EQ(nemotron.mlp_width(), 256);
  EXPECT_FALSE(nemotron.tied_embeddings());
  const v1::ModelSpec hybrid = resolve({{"model.family", "nemotron_h"},
                                        {"model.pattern", "\"M-M\""},
                                        {"model.mamba.head_size", "16"}});
  EXPECT_EQ(hybrid.blocks(), 3);
  // What a preset has for branches that a job's own pattern has not goes.
  const v1::ModelSpec mlps =
      resolve({{"model.preset", "nemotron-h-tiny"}, {"model.pattern", "\"-\""}});
  EXPECT_EQ(mlps.blocks(), 1);
  EXPECT_FALSE(mlps.has_heads());
  EXPECT_FALSE(mlps.has_mamba());
  EXPECT_EQ(hybrid.mamba().groups(), 8);
  EXPECT_EQ(hybrid.mamba().state_size(), 128);
  EXPECT_EQ(hybrid.mamba().conv_width(), 4);
  EXPECT_FALSE(hybrid.has_heads());
}

TEST(JobResolutionTest, FieldsThatAFamilyCannotHave) {
  const auto field_of = [](std::map<std::string, std::string> changes) {
    auto values = MinimalSpec();
    for (const auto& [path, value] : changes) values[path] = value;
    const auto errors = ErrorsOf(Document(values), DocumentFormat::kYaml);
    EXPECT_EQ(errors.size(), 1) << Describe(errors);
    return errors.empty() ? "" : errors[0].field;
  };
  const std::string hybrid = "nemotron-h-tiny";
  EXPECT_EQ(field_of({{"model.pattern", "\"M*\""}}), "model.pattern");
  EXPECT_EQ(field_of({{"model.mamba.groups", "1"}}), "model.mamba");
  EXPECT_EQ(field_of({{"model.activation", "gelu"}}), "model.activation");
  EXPECT_EQ(field_of({{"model.max_positions", "9"}}), "model.max_positions");
  EXPECT_EQ(field_of({{"model.family", "gpt2"}}), "model.family");  // the preset is a llama
  EXPECT_EQ(field_of({{"model.preset", "gpt2-tiny"}, {"model.rope_theta", "100"}}),
            "model.rope_theta");
  EXPECT_EQ(field_of({{"model.preset", "gpt2-tiny"}, {"model.activation", "relu"}}),
            "model.activation");
  // A sequence that the table of positions does not reach.
  EXPECT_EQ(field_of({{"model.preset", "gpt2-tiny"}, {"training.sequence_length", "1025"}}),
            "model.max_positions");
  EXPECT_EQ(field_of({{"model.preset", hybrid}, {"model.pattern", "\"MX\""}}), "model.pattern");
  EXPECT_EQ(field_of({{"model.preset", hybrid}, {"model.blocks", "3"}}), "model.blocks");
  EXPECT_EQ(field_of({{"model.preset", hybrid}, {"model.pattern", "M"}, {"model.heads", "4"}}),
            "model.heads");
  EXPECT_EQ(field_of({{"model.preset", hybrid}, {"model.mamba.head_size", "7"}}),
            "model.mamba.head_size");
  EXPECT_EQ(field_of({{"model.preset", hybrid}, {"model.mamba.groups", "3"}}),
            "model.mamba.groups");
  EXPECT_EQ(field_of({{"model.preset", hybrid}, {"model.mamba.conv_width", "9"}}),
            "model.mamba.conv_width");
  EXPECT_EQ(field_of({{"model.preset", hybrid}, {"model.mamba.chunk_size", "0"}}),
            "model.mamba.chunk_size");
}

TEST(JobResolutionTest, ExplicitFieldsOverrideThePreset) {
  const v1::ModelSpec model =
      ResolveWith({{"model.width", "128"}, {"model.vocab_size", "1000"}}).spec.model();
  EXPECT_EQ(model.width(), 128);
  EXPECT_EQ(model.head_size(), 32);
  EXPECT_EQ(model.vocab_size(), 1000);
  EXPECT_EQ(model.blocks(), 4);
  EXPECT_EQ(model.preset(), "llama-tiny");
}

TEST(JobResolutionTest, WithoutPresetOnlyThreeDimensionsAreNeeded) {
  auto values = MinimalSpec();
  values.erase("model.preset");
  values["model.width"] = "100";
  values["model.blocks"] = "2";
  values["model.heads"] = "5";
  const v1::ModelSpec model = ResolveOrDie(ParseOrDie(Document(values))).spec.model();
  EXPECT_EQ(model.kv_heads(), 5);
  EXPECT_EQ(model.head_size(), 20);
  EXPECT_EQ(model.mlp_width(), 272);  // 8 / 3 of 100, in sixteens
  EXPECT_EQ(model.vocab_size(), 256);
}

TEST(JobResolutionTest, TokensRoundUpToWholeSteps) {
  auto values = MinimalSpec();
  values.erase("training.steps");
  for (const auto& [tokens, steps] :
       std::map<std::string, int64_t>{{"1", 1}, {"4096", 1}, {"4097", 2}, {"1000000", 245}}) {
    values["training.tokens"] = tokens;
    const ResolvedJob job = ResolveOrDie(ParseOrDie(Document(values)));
    EXPECT_EQ(job.total_steps, steps);
    EXPECT_FALSE(job.spec.training().has_steps());
  }
}

TEST(JobResolutionTest, DefaultWarmupFitsTheSchedule) {
  const auto warmup = [](const char* steps, const char* kind, const char* decay) {
    return ResolveWith({{"training.steps", steps},
                        {"optimizer.schedule.kind", kind},
                        {"optimizer.schedule.decay_fraction", decay}})
        .spec.optimizer()
        .schedule()
        .warmup_steps();
  };
  EXPECT_EQ(warmup("1", "cosine", "0.2"), 0);
  EXPECT_EQ(warmup("200", "cosine", "0.2"), 10);
  EXPECT_EQ(warmup("100000", "wsd", "0.2"), 1000);
  EXPECT_EQ(warmup("200", "wsd", "1"), 0);
}

TEST(JobResolutionTest, LimitsAreAccepted) {
  for (const auto& [path, value] :
       std::map<std::string, std::string>{{"priority", "-1000"},
                                          {"seed", "18446744073709551615"},
                                          {"model.vocab_size", "1048576"},
                                          {"model.blocks", "256"},
                                          {"training.steps", "1000000000"},
                                          {"training.init_from", "/srv/checkpoints/step-100"},
                                          {"optimizer.beta1", "0"},
                                          {"optimizer.gradient_clip", "0"},
                                          {"optimizer.schedule.warmup_steps", "100"},
                                          {"checkpoint.interval", "0"},
                                          {"restart.max_failures", "0"},
                                          {"resources.backend", "reference"},
                                          {"data.path", "/data/kjv"},
                                          {"data.path", "a/b..c/.d"},
                                          {"name", "a"},
                                          {"name", std::string(63, 'x')}}) {
    EXPECT_THAT(ResolveJob(ParseOrDie(DocumentWith(path, value)), nullptr), IsOk()) << path;
  }
}

TEST(JobResolutionTest, ConfigDigestIsOfWhatDeterminesTheRun) {
  const std::string digest = ConfigDigest(ResolveWith({}).spec);
  EXPECT_EQ(digest.size(), 64u);
  for (const auto& [path, value] :
       std::map<std::string, std::string>{{"name", "other"},
                                          {"labels", "{a: b}"},
                                          {"priority", "5"},
                                          {"checkpoint.interval", "7"},
                                          {"resources.threads", "2"},
                                          {"restart.max_failures", "9"},
                                          {"safety.hang", "restart"},
                                          {"safety.loss_spike", "pause"},
                                          {"safety.window", "64"},
                                          {"seed", "0"}}) {
    EXPECT_EQ(ConfigDigest(ResolveWith({{path, value}}).spec), digest) << path;
  }
  for (const auto& [path, value] :
       std::map<std::string, std::string>{{"seed", "1"},
                                          {"model.blocks", "5"},
                                          {"data.path", "other"},
                                          {"training.steps", "101"},
                                          {"training.micro_batch_size", "8"},
                                          {"optimizer.learning_rate", "0.002"},
                                          {"precision.recipe", "bf16"},
                                          {"safety.non_finite", "rollback"},
                                          {"precision.hadamard_size", "0"}}) {
    EXPECT_NE(ConfigDigest(ResolveWith({{path, value}}).spec), digest) << path;
  }
  // The preset is only a name for dimensions.
  v1::JobSpec spelled_out = ResolveWith({}).spec;
  spelled_out.mutable_model()->clear_preset();
  EXPECT_EQ(ConfigDigest(ResolveOrDie(spelled_out).spec), digest);
}

v1::JobSpec SpecWithData(const std::string& data) {
  auto values = MinimalSpec();
  values.erase("data.path");
  values["data"] = data;
  return ParseOrDie(Document(values));
}

TEST(DataResolutionTest, SourcesAndPhasesGetTheirDefaults) {
  const ResolvedJob job = ResolveOrDie(SpecWithData(
      "{phases: [{share: 0.25, sources: [{path: a}]}, {share: 0.75, sources: [{path: b, weight: 3},"
      " {path: 'c*.bin', format: raw_u16, separator: 0}]}]}"));
  EXPECT_THAT(JobSpecToYaml(job.spec), HasSubstr(R"(data:
  phases:
    - share: 0.25
      sources:
        - path: a
          format: auto
          weight: 1
    - share: 0.75
      sources:
        - path: b
          format: auto
          weight: 3
        - path: "c*.bin"
          format: raw_u16
          weight: 1
          separator: 0
  documents: join
)"));
  // What is written reads back to the same.
  const v1::JobSpec again = ParseOrDie(JobSpecToYaml(job.spec));
  EXPECT_TRUE(MessageDifferencer::Equals(again, job.spec));
}

TEST(DataResolutionTest, WhatIsWrongIsSaidWithItsPath) {
  const std::string digest(64, 'a');
  const std::pair<std::string, const char*> cases[] = {
      {"{}", "data.path"},
      {"{path: a, sources: [{path: b}]}", "data"},
      {"{sources: [{path: b}], phases: [{share: 1, sources: [{path: b}]}]}", "data"},
      {"{path: a, documents: split}", "data.documents"},
      {"{sources: [{path: ../b}]}", "data.sources[0].path"},
      {"{sources: [{path: a}, {}]}", "data.sources[1].path"},
      {"{sources: [{path: a, validation_path: /proc/x}]}", "data.sources[0].validation_path"},
      {"{sources: [{path: a, format: npy}]}", "data.sources[0].format"},
      {"{sources: [{path: a, weight: 0}]}", "data.sources[0].weight"},
      {"{sources: [{path: a, weight: -1}]}", "data.sources[0].weight"},
      {"{sources: [{path: a, sha256: abc}]}", "data.sources[0].sha256"},
      {"{sources: [{path: a, format: nibble, sha256: " + digest + "}]}", "data.sources[0].sha256"},
      {"{sources: [{path: a, separator: -1}]}", "data.sources[0].separator"},
      {"{sources: [{path: a, format: nibble, separator: 0}]}", "data.sources[0].separator"},
      {"{phases: [{share: 1}]}", "data.phases[0].sources"},
      {"{phases: [{sources: [{path: a}]}]}", "data.phases[0].share"},
      {"{phases: [{share: 0, sources: [{path: a}]}]}", "data.phases[0].share"},
      {"{phases: [{share: 0.5, sources: [{path: a}]}]}", "data.phases"},
  };
  for (const auto& [data, field] : cases) {
    std::vector<FieldError> errors;
    EXPECT_FALSE(ResolveJob(SpecWithData(data), &errors).ok()) << data;
    ASSERT_EQ(errors.size(), 1u) << data << "\n" << Describe(errors);
    EXPECT_EQ(errors[0].field, field) << data;
  }
  std::string many = "{sources: [{path: a}";
  for (int i = 0; i < 64; ++i) many += ", {path: a}";
  std::vector<FieldError> errors;
  EXPECT_FALSE(ResolveJob(SpecWithData(many + "]}"), &errors).ok());
  EXPECT_THAT(Describe(errors), HasSubstr("has 65 sources; allowed: at most 64"));
}

}  // namespace
}  // namespace nibble::spec
