// Job specs as documents, and what is done with one that parses.
#include <google/protobuf/util/message_differencer.h>

#include "proto/spec/job_resolution.h"
#include "proto/spec/spec_document.h"
#include "tests/fuzz/fuzz_target.h"

namespace nibble::fuzz {
namespace {

bool RunSpec(absl::string_view input, spec::DocumentFormat format) {
  std::vector<spec::FieldError> errors;
  const auto parsed = spec::ParseJobSpec(input, format, &errors);
  Require(parsed.ok() == errors.empty(), "errors are listed where parsing fails, and only there");
  if (!parsed.ok()) return false;
  const auto again =
      spec::ParseJobSpec(spec::JobSpecToYaml(*parsed), spec::DocumentFormat::kYaml, nullptr);
  Require(again.ok(), "a spec that was written can be read");
  Require(google::protobuf::util::MessageDifferencer::Equals(*again, *parsed), "and is the same");
  spec::ResolveJob(*parsed, &errors).status().IgnoreError();
  return true;
}

constexpr char kYaml[] = R"(
name: seed
labels: {team: lm, stage: "two"}
seed: 7
model: {family: llama, vocab_size: 256, width: 64, blocks: 2, heads: 4, kv_heads: 2, mlp_width: 128}
data:
  path: tiny
training: {steps: 100, sequence_length: 32, batch_size: 4, micro_batch_size: 2}
optimizer: {name: adamw, learning_rate: 3.0e-3, schedule: {kind: cosine, warmup_steps: 5}}
precision:
  recipe: nvfp4
  high_precision_blocks: {first: 1, last: 0}
checkpoint: {interval: 10, keep: 2}
resources: {threads: 1}
)";

constexpr char kJson[] = R"({"name": "seed", "labels": {"team": "lm"}, "seed": 18446744073709551615,
 "model": {"preset": "tiny", "width": 64, "rope_theta": 1e4, "tied_embeddings": true},
 "data": {"path": "/data/tiny"}, "training": {"steps": "100", "batch_size": 4},
 "precision": {"recipe": "bf16"}, "priority": -3, "restart": {"max_failures": 1}})";

constexpr char kText[] = R"(name: "seed" seed: 7 labels { key: "a" value: "b" }
model { vocab_size: 256 width: 64 rope_theta: 1e4 } data { path: "tiny" }
training { steps: 100 } precision { recipe: "fp8" } # comment
optimizer < learning_rate: 0.5 >)";

bool RunYaml(absl::string_view input) { return RunSpec(input, spec::DocumentFormat::kYaml); }
bool RunJson(absl::string_view input) { return RunSpec(input, spec::DocumentFormat::kJson); }
bool RunText(absl::string_view input) { return RunSpec(input, spec::DocumentFormat::kTextProto); }

std::string Repeat(absl::string_view what, int times) {
  std::string all;
  for (int i = 0; i < times; ++i) all.append(what.data(), what.size());
  return all;
}

std::vector<std::string> YamlSeeds() {
  return {kYaml,
          "a: &x [*x, *x]",
          "? [a]\n: !tag {b: c}\n---\n...",
          Repeat("[", 300),
          Repeat("a:\n ", 99),
          "name: \"\\x00\\U0010ffff\\\n\"\nseed: 0x7f\ntraining: {steps: .inf}"};
}
std::vector<std::string> JsonSeeds() {
  return {kJson, Repeat("[", 5000), Repeat("{\"a\":", 300),
          "{\"name\": \"\\ud800\\u0000\", \"seed\": 1e999}"};
}
std::vector<std::string> TextSeeds() {
  return {kText, Repeat("model {", 200), "seed: -0x1 name: '\\777'"};
}

}  // namespace

std::vector<FuzzTarget> SpecTargets() {
  return {{"spec_yaml", RunYaml, YamlSeeds},
          {"spec_json", RunJson, JsonSeeds},
          {"spec_text", RunText, TextSeeds}};
}

}  // namespace nibble::fuzz
