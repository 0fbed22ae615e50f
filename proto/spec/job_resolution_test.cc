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

ResolvedJob ResolveWith(const std::map<std::string, std::string>& changes) {
  auto values = MinimalSpec();
  for (const auto& [path, value] : changes) values[path] = value;
  return ResolveOrDie(ParseOrDie(Document(values)));
}

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
precision:
  version: 1
  recipe: nvfp4
  high_precision_blocks:
    first: 0
    last: 1
  hadamard_size: 16
  stochastic_rounding: true
  weight_block_rows: 16
  strict: false
checkpoint:
  interval: 100
  keep: 2
resources:
  slots: 1
  threads: 0
  backend: cpu
restart:
  max_failures: 3
)");
  EXPECT_EQ(job.total_steps, 100);
  EXPECT_EQ(job.tokens_per_step, 16 * 256);
  EXPECT_THAT(job.warnings, IsEmpty());
  EXPECT_EQ(job.precision.linears_size(), 16);
}

// Every field of the resolved spec is present, so that no later version's default can change it.
void ExpectComplete(const google::protobuf::Message& message, const std::string& path) {
  const auto* type = message.GetDescriptor();
  for (int i = 0; i < type->field_count(); ++i) {
    const auto* field = type->field(i);
    const std::string name = absl::StrCat(path, ".", field->name());
    // Labels and init_from have no default; steps excludes tokens.
    if (field->is_map() || field->name() == "init_from" || field->name() == "tokens") continue;
    EXPECT_TRUE(message.GetReflection()->HasField(message, field)) << name;
    if (field->cpp_type() == google::protobuf::FieldDescriptor::CPPTYPE_MESSAGE) {
      ExpectComplete(message.GetReflection()->GetMessage(message, field), name);
    }
  }
}

TEST(JobResolutionTest, ResolvingIsCompleteAndIdempotent) {
  for (const char* recipe : {"fp32", "bf16", "nvfp4"}) {
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
  for (const auto& [path, value] : std::map<std::string, std::string>{{"name", "other"},
                                                                      {"labels", "{a: b}"},
                                                                      {"priority", "5"},
                                                                      {"checkpoint.interval", "7"},
                                                                      {"resources.threads", "2"},
                                                                      {"restart.max_failures", "9"},
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
                                          {"precision.hadamard_size", "0"}}) {
    EXPECT_NE(ConfigDigest(ResolveWith({{path, value}}).spec), digest) << path;
  }
  // The preset is only a name for dimensions.
  v1::JobSpec spelled_out = ResolveWith({}).spec;
  spelled_out.mutable_model()->clear_preset();
  EXPECT_EQ(ConfigDigest(ResolveOrDie(spelled_out).spec), digest);
}

std::string Show(const v1::OperandPrecision& operand) {
  return absl::StrCat(
      v1::NumberFormat_Name(operand.format()),
      operand.block_rows() > 0 ? absl::StrCat(" ", operand.block_rows(), "x16") : "",
      operand.hadamard_size() > 0 ? absl::StrCat(" H", operand.hadamard_size()) : "",
      operand.rounding() == v1::STOCHASTIC ? " sr" : "");
}

// One line a layer: name, fprop, dgrad, wgrad, note.
std::vector<std::string> Rows(const v1::ResolvedPrecision& precision) {
  std::vector<std::string> rows;
  for (const auto& row : precision.linears()) {
    const auto product = [](const v1::ProductPrecision& p) {
      return absl::StrCat(Show(p.first()), " * ", Show(p.second()));
    };
    EXPECT_EQ(row.index(), static_cast<int>(rows.size()));
    rows.push_back(absl::StrJoin(
        {row.layer(), product(row.fprop()), product(row.dgrad()), product(row.wgrad()), row.note()},
        " | "));
  }
  return rows;
}

constexpr char kNvfp4Products[] =
    " | NVFP4 1x16 * NVFP4 16x16 | NVFP4 1x16 sr * NVFP4 16x16 | NVFP4 1x16 H16 sr * NVFP4 1x16 "
    "H16 | ";
constexpr char kBf16Products[] = " | BF16 * BF16 | BF16 * BF16 | BF16 * BF16 | ";

TEST(PrecisionResolutionTest, Nvfp4QuantisesAllButTheLastBlocks) {
  const ResolvedJob job = ResolveWith({{"model.blocks", "2"}});
  const std::string note = "kept in BF16: one of the last 1";
  EXPECT_THAT(Rows(job.precision),
              ElementsAre(absl::StrCat("blocks.0.attention.qkv", kNvfp4Products),
                          absl::StrCat("blocks.0.attention.output", kNvfp4Products),
                          absl::StrCat("blocks.0.mlp.gate_up", kNvfp4Products),
                          absl::StrCat("blocks.0.mlp.down", kNvfp4Products),
                          absl::StrCat("blocks.1.attention.qkv", kBf16Products, note),
                          absl::StrCat("blocks.1.attention.output", kBf16Products, note),
                          absl::StrCat("blocks.1.mlp.gate_up", kBf16Products, note),
                          absl::StrCat("blocks.1.mlp.down", kBf16Products, note)));
  const auto& qkv = job.precision.linears(0);
  EXPECT_EQ(qkv.in_features(), 64);
  EXPECT_EQ(qkv.out_features(), 128);
  EXPECT_EQ(job.precision.linears(2).out_features(), 2 * 192);
  EXPECT_EQ(job.precision.linears(3).in_features(), 192);
}

TEST(PrecisionResolutionTest, OptionsOfThePolicy) {
  const auto first_row = [](const std::map<std::string, std::string>& changes) {
    return Rows(ResolveWith(changes).precision)[0];
  };
  EXPECT_EQ(first_row({{"precision.hadamard_size", "0"}}),
            "blocks.0.attention.qkv | NVFP4 1x16 * NVFP4 16x16 | NVFP4 1x16 sr * NVFP4 16x16 | "
            "NVFP4 1x16 sr * NVFP4 1x16 | ");
  EXPECT_EQ(first_row({{"precision.stochastic_rounding", "false"}}),
            "blocks.0.attention.qkv | NVFP4 1x16 * NVFP4 16x16 | NVFP4 1x16 * NVFP4 16x16 | "
            "NVFP4 1x16 H16 * NVFP4 1x16 H16 | ");
  EXPECT_EQ(first_row({{"precision.weight_block_rows", "1"}}),
            "blocks.0.attention.qkv | NVFP4 1x16 * NVFP4 1x16 | NVFP4 1x16 sr * NVFP4 1x16 | "
            "NVFP4 1x16 H16 sr * NVFP4 1x16 H16 | ");
  EXPECT_EQ(
      first_row({{"precision.high_precision_blocks.first", "1"}}),
      absl::StrCat("blocks.0.attention.qkv", kBf16Products, "kept in BF16: one of the first 1"));
  EXPECT_EQ(first_row({{"precision.recipe", "bf16"}}),
            absl::StrCat("blocks.0.attention.qkv", kBf16Products));
  EXPECT_EQ(first_row({{"precision.recipe", "fp32"}}),
            "blocks.0.attention.qkv | FP32 * FP32 | FP32 * FP32 | FP32 * FP32 | ");
}

TEST(PrecisionResolutionTest, HighPrecisionBlocksRoundUp) {
  // 15 % of 62 is 9.3, of 20 exactly 3.
  for (const auto& [blocks, last] :
       std::map<int, int>{{1, 1}, {2, 1}, {6, 1}, {7, 2}, {20, 3}, {21, 4}, {62, 10}, {256, 39}}) {
    const ResolvedJob job = ResolveWith({{"model.blocks", absl::StrCat(blocks)}});
    EXPECT_EQ(job.spec.precision().high_precision_blocks().last(), last) << blocks;
    EXPECT_EQ(job.warnings.empty(), last < blocks);
  }
}

TEST(PrecisionResolutionTest, LayersThatDoNotFitFallBackWithANoteAndAWarning) {
  const ResolvedJob job = ResolveWith({{"model.mlp_width", "100"}});
  const auto& gate_up = job.precision.linears(2);
  EXPECT_EQ(Show(gate_up.fprop().first()), "BF16");
  EXPECT_EQ(gate_up.note(), "BF16 instead of NVFP4: out_features 200 is not a multiple of 16");
  EXPECT_EQ(Show(job.precision.linears(1).fprop().first()), "NVFP4 1x16");
  EXPECT_THAT(job.warnings,
              ElementsAre("blocks.*.mlp.gate_up runs in BF16 instead of NVFP4: out_features 200 is "
                          "not a multiple of 16",
                          "blocks.*.mlp.down runs in BF16 instead of NVFP4: in_features 100 is not "
                          "a multiple of 16"));
}

TEST(PrecisionResolutionTest, TokensOfAMicroBatchMustFitTheHadamardSize) {
  const ResolvedJob job = ResolveWith({{"training.sequence_length", "12"},
                                       {"training.batch_size", "4"},
                                       {"training.micro_batch_size", "2"}});
  for (const auto& row : job.precision.linears()) EXPECT_EQ(row.fprop().first().format(), v1::BF16);
  ASSERT_EQ(job.warnings.size(), 2u);
  EXPECT_THAT(job.warnings[0], HasSubstr("a micro-batch has 24 tokens"));
  EXPECT_THAT(job.warnings[1], HasSubstr("quantises nothing"));
}

TEST(PrecisionResolutionTest, OptionsWithoutEffectAreNamed) {
  const ResolvedJob job =
      ResolveWith({{"precision.recipe", "bf16"}, {"precision.hadamard_size", "16"}});
  EXPECT_THAT(job.warnings, ElementsAre(HasSubstr("precision.hadamard_size has no effect")));
  EXPECT_EQ(job.spec.precision().hadamard_size(), 0);
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

TEST(PrecisionResolutionTest, DigestIsOfTheRowsAlone) {
  const auto digest = [](const std::map<std::string, std::string>& changes) {
    return ResolveWith(changes).precision.digest();
  };
  EXPECT_EQ(digest({}), digest({{"name", "other"}, {"seed", "3"}}));
  EXPECT_EQ(digest({}), digest({{"precision.high_precision_blocks.last", "1"}}));
  EXPECT_NE(digest({}), digest({{"precision.high_precision_blocks.last", "2"}}));
  EXPECT_NE(digest({}), digest({{"precision.weight_block_rows", "1"}}));
  // Of this version of the schema, so that a change of the identity is seen.
  EXPECT_EQ(digest({}), "487cea2c37da39750749c1d07c5e60ef5d1b4669f318150e372bb807416e1cac");
}

}  // namespace
}  // namespace nibble::spec
