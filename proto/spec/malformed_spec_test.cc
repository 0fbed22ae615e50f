// Wrong specs, each refused with the field's path. Seen to fail with: the range check of
// CheckInteger inverted, duplicates accepted, the number of errors unbounded.
#include <cmath>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "gmock/gmock.h"
#include "google/protobuf/unknown_field_set.h"
#include "gtest/gtest.h"
#include "proto/spec/error_list.h"
#include "proto/spec/spec_test_util.h"

namespace nibble::spec {
namespace {

bool HasField(const std::vector<FieldError>& errors, absl::string_view field) {
  for (const FieldError& error : errors) {
    if (error.field == field) return true;
  }
  return false;
}

struct IntegerField {
  const char* path;
  std::vector<const char*> out_of_range;
};

const std::vector<IntegerField>& IntegerFields() {
  static const auto* fields = new std::vector<IntegerField>{
      {"priority", {"-1001", "1001", "2147483648"}},
      {"seed", {"-1", "18446744073709551616"}},
      {"model.vocab_size", {"-1", "0", "1", "1048577"}},
      {"model.width", {"-4", "0", "65537", "9999999999"}},
      {"model.blocks", {"-1", "0", "257"}},
      {"model.heads", {"-1", "0", "1025", "3"}},
      {"model.kv_heads", {"-1", "0", "1025", "3", "8"}},
      {"model.head_size", {"-2", "0", "1", "1026", "17"}},
      {"model.mlp_width", {"-1", "0", "262145"}},
      {"training.steps", {"-1", "0", "1000000001", "9223372036854775808"}},
      {"training.sequence_length", {"-1", "0", "1048577"}},
      {"training.batch_size", {"-1", "0", "65537"}},
      {"training.micro_batch_size", {"-1", "0", "3", "17"}},
      {"training.validation_interval", {"-1", "1000000001"}},
      {"training.validation_sequences", {"-1", "1000000001"}},
      {"optimizer.schedule.warmup_steps", {"-1", "101"}},
      {"optimizer.low_rank.rank", {"-1", "65537"}},
      {"optimizer.low_rank.update_interval", {"-1", "0", "1000000001"}},
      {"loss.sample_weights.warmup_steps", {"-1", "1000000001"}},
      {"precision.version", {"-1", "2"}},
      {"precision.high_precision_blocks.first", {"-1", "5"}},
      {"precision.high_precision_blocks.last", {"-1", "5"}},
      {"precision.hadamard_size", {"-16", "1", "8", "256"}},
      {"precision.late_switch.step", {"-1", "0", "101"}},
      {"health.interval", {"-1", "1000000001"}},
      {"precision.weight_block_rows", {"-1", "0", "2", "32"}},
      {"checkpoint.interval", {"-1", "1000000001"}},
      {"checkpoint.keep", {"-1", "0", "1001"}},
      {"checkpoint.snapshot_steps", {"-1", "1000000001"}},
      {"safety.window", {"7", "513"}},
      {"safety.max_rollbacks", {"-1", "1001"}},
      {"safety.precision_recovery_steps", {"0", "1000000001"}},
      {"resources.slots", {"-1", "0", "65537"}},
      {"scheduling.max_run_time", {"-1", "315360001"}},
      {"scheduling.constraints.min_slot_memory_bytes", {"-1", "1125899906842625"}},
      {"resources.threads", {"-1", "1025"}},
      {"restart.max_failures", {"-1", "1001"}},
  };
  return *fields;
}

struct RealField {
  const char* path;
  std::vector<const char*> out_of_range;
};

const std::vector<RealField>& RealFields() {
  static const auto* fields = new std::vector<RealField>{
      {"model.rope_theta", {"-1", "0", "0.5", "1e10"}},
      {"model.norm_epsilon", {"-1", "0", "1e-13", "0.2"}},
      {"model.init_std", {"-1", "0", "1.5"}},
      {"optimizer.learning_rate", {"-1e-3", "0", "10.5"}},
      {"optimizer.beta1", {"-0.1", "1", "1.5"}},
      {"optimizer.beta2", {"-0.1", "1", "1.5"}},
      {"optimizer.epsilon", {"-1", "0", "2"}},
      {"optimizer.weight_decay", {"-1", "11"}},
      {"optimizer.gradient_clip", {"-1", "1e7"}},
      {"optimizer.schedule.decay_fraction", {"-0.1", "1.1"}},
      {"optimizer.schedule.final_fraction", {"-0.1", "1.1"}},
      {"precision.late_switch.token_fraction", {"-0.1", "0", "1", "1.1"}},
      {"optimizer.low_rank.scale", {"-1", "0", "1001"}},
      {"loss.z_loss", {"-1e-4", "1.5"}},
      {"loss.logit_softcap", {"-30", "0.5", "20000"}},
      {"checkpoint.snapshot_seconds", {"-1", "86401"}},
      {"safety.threshold", {"-1", "0.5", "1000001"}},
      {"safety.hang_seconds", {"-1", "86401"}},
      {"loss.sample_weights.temperature", {"-1", "0", "0.001", "1001"}},
  };
  return *fields;
}

// Expects that the document, as YAML and as JSON, is refused at `path`. Values that JSON cannot
// write are refused there by its syntax.
void ExpectRefusedAt(const std::string& path, const std::string& value) {
  SCOPED_TRACE(path + ": " + value);
  const std::string document = DocumentWith(path, value);
  const auto yaml_errors = ErrorsOf(document, DocumentFormat::kYaml);
  EXPECT_TRUE(HasField(yaml_errors, path)) << Describe(yaml_errors);
  EXPECT_FALSE(ErrorsOf(document, DocumentFormat::kJson).empty());
}

TEST(MalformedSpecTest, IntegersOutOfRangeOrOfAnotherType) {
  int cases = 0;
  for (const IntegerField& field : IntegerFields()) {
    for (const char* value : field.out_of_range) {
      ExpectRefusedAt(field.path, value);
      ++cases;
    }
    for (const char* value : {"1.5", "word", "true", "\"1 \"", "[1]", "{a: 1}", "null", ".nan",
                              "-.inf", "1e400", "0x10", "1_000", "99999999999999999999999"}) {
      ExpectRefusedAt(field.path, value);
      ++cases;
    }
  }
  EXPECT_GE(cases, 400);
}

TEST(MalformedSpecTest, RealNumbersOutOfRangeOrOfAnotherType) {
  for (const RealField& field : RealFields()) {
    for (const char* value : field.out_of_range) ExpectRefusedAt(field.path, value);
    for (const char* value : {"word", "false", "\"0.5\"", "[]", "{}", "null", ".nan", "nan", "inf",
                              "-.inf", "1e999", "1e-999", "0x1p3", "1.5.2", "--1"}) {
      ExpectRefusedAt(field.path, value);
    }
  }
}

TEST(MalformedSpecTest, BoolsAndWords) {
  for (const char* path :
       {"model.tied_embeddings", "precision.stochastic_rounding", "precision.strict",
        "precision.power_of_two_scales", "health.shadow", "optimizer.low_rank.reset_moments"}) {
    for (const char* value : {"yes", "1", "\"true\"", "TRUE", "null", "[true]"}) {
      ExpectRefusedAt(path, value);
    }
  }
  for (const char* path :
       {"model.family", "model.preset", "optimizer.name", "optimizer.schedule.kind",
        "optimizer.schedule.decay_shape", "precision.recipe", "precision.hadamard_signs",
        "precision.four_over_six", "precision.fp8_gradients",
        "precision.high_precision_blocks.format", "precision.late_switch.recipe",
        "precision.late_switch.passes", "resources.backend", "safety.non_finite",
        "safety.loss_spike", "safety.gradient_spike", "safety.precision_recovery", "safety.hang"}) {
    for (const char* value : {"nothing", "\"\\u0000\"", "7", "true", "[a]", "{}", "\"llama \""}) {
      ExpectRefusedAt(path, value);
    }
  }
}

TEST(MalformedSpecTest, DecayPatterns) {
  std::string many = "[a";
  for (int i = 0; i < 64; ++i) many += ", a";
  const struct {
    std::string value;
    const char* refused_at;
  } cases[] = {{"[\"\"]", "optimizer.decay_exclude[0]"},
               {"[a, \"b c\"]", "optimizer.decay_exclude[1]"},
               {"[\"\\u0007\"]", "optimizer.decay_exclude[0]"},
               {"[ü]", "optimizer.decay_exclude[0]"},
               {"[" + std::string(257, 'a') + "]", "optimizer.decay_exclude[0]"},
               {"[1]", "optimizer.decay_exclude[0]"},
               {many + "]", "optimizer.decay_exclude"},
               {"word", "optimizer.decay_exclude"}};
  for (const auto& c : cases) {
    const auto errors =
        ErrorsOf(DocumentWith("optimizer.decay_exclude", c.value), DocumentFormat::kYaml);
    EXPECT_TRUE(HasField(errors, c.refused_at)) << c.value << Describe(errors);
  }
}

TEST(MalformedSpecTest, Names) {
  for (const char* value : {"\"\"", "UPPER", "a_b", "-a", "a-", "a.b", "\"a b\"", "\"a\\nb\"",
                            "\"\\u001b[31m\"", "\"\\u0000\"", "ünicode", "12", "true",
                            "a123456789012345678901234567890123456789012345678901234567890123"}) {
    ExpectRefusedAt("name", value);
  }
}

TEST(MalformedSpecTest, Paths) {
  for (const char* value :
       {"\"\"", "../up", "a/../b", "/a/../b", "a/..", "..", "/proc/self/mem", "//proc//self",
        "/./dev/zero", "/dev", "/sys/kernel", "\"a\\u0000b\"", "\"a\\nb\"", "\"\\u007f\"", "12"}) {
    ExpectRefusedAt("data.path", value);
  }
  ExpectRefusedAt("data.path", std::string(300, 'a'));
  std::string long_path;
  for (int i = 0; i < 100; ++i) long_path += std::string(50, 'a') + "/";
  ExpectRefusedAt("data.path", long_path);
  for (const char* value : {"relative", "./a", "/a/../b", "/proc/1", "\"/a\\tb\""}) {
    ExpectRefusedAt("training.init_from", value);
  }
}

TEST(MalformedSpecTest, Labels) {
  const auto errors_of = [](const std::string& labels) {
    return ErrorsOf(DocumentWith("labels", labels), DocumentFormat::kYaml);
  };
  for (const char* labels :
       {"[a, b]", "text", "{a: [1]}", "{a: {b: c}}", "{a: 1}", "{a: true}", "{\"a b\": c}",
        "{\"\": c}", "{a: \"b c\"}", "{a: \"\\e\"}", "{a: b, a: c}", "{\"\\u0001\": c}"}) {
    SCOPED_TRACE(labels);
    const auto errors = errors_of(labels);
    ASSERT_FALSE(errors.empty());
    EXPECT_TRUE(absl::StartsWith(errors[0].field, "labels")) << Describe(errors);
  }
  std::string many = "{";
  for (int i = 0; i < 33; ++i) many += absl::StrCat("k", i, ": v,");
  EXPECT_TRUE(HasField(errors_of(many + "}"), "labels"));
  EXPECT_TRUE(HasField(errors_of("{" + std::string(64, 'k') + ": v}"), "labels"));
  EXPECT_TRUE(errors_of("{team/a.b_c-d: \"\"}").empty());
}

TEST(MalformedSpecTest, UnknownFieldsAtEveryDepthNameTheNearestField) {
  const struct {
    const char* path;
    const char* suggestion;
  } cases[] = {
      {"nmae", "name"},
      {"modle", "model"},
      {"model.widht", "width"},
      {"model.kvHeads", "kv_heads"},
      {"data.pth", "path"},
      {"training.sequenceLength", "sequence_length"},
      {"training.batchsize", "batch_size"},
      {"training.max_steps", "steps"},
      {"optimizer.learning-rate", "learning_rate"},
      {"optimizer.schedule.warmup", "allowed: kind"},
      {"optimizer.schedule.knid", "kind"},
      {"precision.receipt", "recipe"},
      {"precision.high_precision_blocks.frist", "first"},
      {"checkpoint.intervall", "interval"},
      {"resources.slot", "slots"},
      {"restart.failures", "max_failures"},
      {"gpu", "allowed: name"},
      {"model.zzzzzzzz", "allowed: family"},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.path);
    for (const DocumentFormat format : {DocumentFormat::kYaml, DocumentFormat::kJson}) {
      const auto errors = ErrorsOf(DocumentWith(c.path, "1"), format);
      ASSERT_EQ(errors.size(), 1u) << Describe(errors);
      EXPECT_EQ(errors[0].field, c.path);
      EXPECT_THAT(errors[0].description, testing::HasSubstr("is not a field"));
      EXPECT_THAT(errors[0].description, testing::HasSubstr(c.suggestion));
      EXPECT_THAT(errors[0].description, testing::HasSubstr("line 1"));
    }
  }
}

TEST(MalformedSpecTest, MessagesThatAreNoMapping) {
  for (const char* path : {"model", "data", "training", "optimizer", "optimizer.schedule",
                           "precision", "precision.high_precision_blocks", "precision.late_switch",
                           "health", "checkpoint", "resources", "restart"}) {
    for (const char* value : {"7", "word", "[1, 2]", "null", "true"}) {
      SCOPED_TRACE(absl::StrCat(path, ": ", value));
      auto values = MinimalSpec();
      for (auto it = values.begin(); it != values.end();) {
        it =
            absl::StartsWith(it->first, absl::StrCat(path, ".")) ? values.erase(it) : std::next(it);
      }
      values[path] = value;
      const auto errors = ErrorsOf(Document(values), DocumentFormat::kYaml);
      EXPECT_TRUE(HasField(errors, path)) << Describe(errors);
    }
  }
}

TEST(MalformedSpecTest, WhatIsMissingOrContradicts) {
  const auto without = [](const std::string& path) {
    auto values = MinimalSpec();
    values.erase(path);
    return ErrorsOf(Document(values), DocumentFormat::kYaml);
  };
  EXPECT_TRUE(HasField(without("name"), "name"));
  EXPECT_TRUE(HasField(without("data.path"), "data.path"));
  EXPECT_TRUE(HasField(without("training.steps"), "training.steps"));
  const auto no_model = without("model.preset");
  for (const char* field : {"model.width", "model.blocks", "model.heads"}) {
    EXPECT_TRUE(HasField(no_model, field)) << field;
  }
  const struct {
    std::map<std::string, std::string> values;
    const char* field;
  } cases[] = {
      {{{"training.tokens", "1000"}}, "training.steps"},
      {{{"model.width", "66"}}, "model.heads"},
      {{{"model.heads", "3"}, {"model.width", "96"}}, "model.kv_heads"},
      {{{"model.width", "60"}, {"model.heads", "4"}}, "model.head_size"},
      {{{"training.batch_size", "65536"}, {"training.sequence_length", "1048576"}},
       "training.batch_size"},
      {{{"model.width", "65536"},
        {"model.blocks", "256"},
        {"model.heads", "1024"},
        {"model.head_size", "1024"},
        {"model.mlp_width", "262144"}},
       "model"},
      {{{"precision.high_precision_blocks.first", "3"},
        {"precision.high_precision_blocks.last", "2"}},
       "precision.high_precision_blocks"},
      {{{"optimizer.schedule.kind", "wsd"}, {"optimizer.schedule.warmup_steps", "81"}},
       "optimizer.schedule.warmup_steps"},
      {{{"precision.strict", "true"}, {"model.mlp_width", "100"}}, "precision.strict"},
      {{{"precision.power_of_two_scales", "false"}}, "precision.power_of_two_scales"},
      {{{"precision.late_switch.recipe", "bf16"}}, "precision.late_switch.step"},
      {{{"precision.late_switch.step", "5"}, {"precision.late_switch.token_fraction", "0.5"}},
       "precision.late_switch.step"},
      {{{"precision.four_over_six", "squared"}, {"precision.hadamard_products", "[fprop]"}},
       "precision.four_over_six"},
      {{{"precision.four_over_six", "squared"},
        {"precision.stochastic_operands", "[fprop.weight]"}},
       "precision.four_over_six"},
      {{{"precision.hadamard_products", "[wgrad, wgrad]"}}, "precision.hadamard_products[1]"},
      {{{"precision.hadamard_products", "[forward]"}}, "precision.hadamard_products[0]"},
      {{{"precision.stochastic_operands", "[dgrad.activation]"}},
       "precision.stochastic_operands[0]"},
      {{{"precision.overrides", "[{format: bf16}]"}}, "precision.overrides[0].layers"},
      {{{"precision.overrides", "[{layers: blocks.9.*, format: bf16}]"}},
       "precision.overrides[0].layers"},
      {{{"precision.overrides", "[{layers: \"*\", format: fp4}]"}},
       "precision.overrides[0].format"},
      {{{"precision.overrides", "[{layers: \"*\", products: [forward]}]"}},
       "precision.overrides[0].products[0]"},
      {{{"precision.overrides", "[{layers: \"*\", operands: [first]}]"}},
       "precision.overrides[0].operands[0]"},
      {{{"precision.overrides", "[{layers: \"*\", block_rows: 2}]"}},
       "precision.overrides[0].block_rows"},
      {{{"precision.overrides", "[{layers: \"*\", format: mxfp4, block_rows: 16}]"}},
       "precision.overrides[0].block_rows"},
      {{{"precision.overrides", "[{layers: \"*\", hadamard_size: 12}]"}},
       "precision.overrides[0].hadamard_size"},
      {{{"precision.overrides", "[{layers: \"*\", rounding: up}]"}},
       "precision.overrides[0].rounding"},
      {{{"precision.overrides", "[{layers: \"*\", format: mxfp8, rounding: stochastic}]"}},
       "precision.overrides[0].rounding"},
      {{{"precision.strict", "true"},
        {"training.sequence_length", "3"},
        {"training.batch_size", "5"}},
       "precision.strict"},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.field);
    auto values = MinimalSpec();
    for (const auto& [path, value] : c.values) values[path] = value;
    const auto errors = ErrorsOf(Document(values), DocumentFormat::kYaml);
    EXPECT_TRUE(HasField(errors, c.field)) << Describe(errors);
  }
  auto tokens = MinimalSpec();
  tokens.erase("training.steps");
  for (const char* value : {"0", "-5", "1000000000000001", "1e15"}) {
    tokens["training.tokens"] = value;
    tokens["training.batch_size"] = "1";
    tokens["training.sequence_length"] = "16";
    EXPECT_TRUE(HasField(ErrorsOf(Document(tokens), DocumentFormat::kYaml), "training.tokens"))
        << value;
  }
}

TEST(MalformedSpecTest, MessagesThatDocumentsCannotWrite) {
  const v1::JobSpec good = ParseOrDie(Document(MinimalSpec()));
  const double kNan = std::numeric_limits<double>::quiet_NaN();
  const double kInfinity = std::numeric_limits<double>::infinity();
  const auto refused_at = [&](const char* field, auto change) {
    SCOPED_TRACE(field);
    v1::JobSpec spec = good;
    change(&spec);
    std::vector<FieldError> errors;
    const auto job = ResolveJob(spec, &errors);
    EXPECT_EQ(job.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_TRUE(HasField(errors, field)) << Describe(errors);
  };
  for (const double value : {kNan, kInfinity, -kInfinity}) {
    refused_at("optimizer.learning_rate",
               [&](v1::JobSpec* s) { s->mutable_optimizer()->set_learning_rate(value); });
    refused_at("optimizer.gradient_clip",
               [&](v1::JobSpec* s) { s->mutable_optimizer()->set_gradient_clip(value); });
    refused_at("model.rope_theta",
               [&](v1::JobSpec* s) { s->mutable_model()->set_rope_theta(value); });
    refused_at("optimizer.schedule.decay_fraction", [&](v1::JobSpec* s) {
      s->mutable_optimizer()->mutable_schedule()->set_decay_fraction(value);
    });
  }
  refused_at("name", [](v1::JobSpec* s) { s->set_name(std::string("a\0b", 3)); });
  refused_at("data.path", [](v1::JobSpec* s) { s->mutable_data()->set_path("a\xff"); });
  refused_at("labels", [](v1::JobSpec* s) { (*s->mutable_labels())[std::string(1, '\0')] = "a"; });
  const auto add_unknown = [](google::protobuf::Message* message) {
    message->GetReflection()->MutableUnknownFields(message)->AddVarint(999, 1);
  };
  refused_at("", [&](v1::JobSpec* s) { add_unknown(s); });
  refused_at("model", [&](v1::JobSpec* s) { add_unknown(s->mutable_model()); });
  refused_at("optimizer.schedule",
             [&](v1::JobSpec* s) { add_unknown(s->mutable_optimizer()->mutable_schedule()); });
  refused_at("precision.high_precision_blocks", [&](v1::JobSpec* s) {
    add_unknown(s->mutable_precision()->mutable_high_precision_blocks());
  });
  refused_at("precision.overrides[0]",
             [&](v1::JobSpec* s) { add_unknown(s->mutable_precision()->add_overrides()); });
  refused_at("precision.overrides", [&](v1::JobSpec* s) {
    for (int i = 0; i < 65; ++i) s->mutable_precision()->add_overrides()->set_layers("*");
  });
  refused_at("precision.late_switch.token_fraction", [&](v1::JobSpec* s) {
    s->mutable_precision()->mutable_late_switch()->set_token_fraction(kNan);
  });
  std::vector<FieldError> errors;
  EXPECT_FALSE(ResolveJob(v1::JobSpec(), &errors).ok());
}

TEST(MalformedSpecTest, ManyErrorsStaySmall) {
  std::string document = "{";
  for (int i = 0; i < 20000; ++i) absl::StrAppend(&document, "\"k", i, "\": 1,\n");
  const auto errors = ErrorsOf(document + "}", DocumentFormat::kYaml);
  EXPECT_EQ(errors.size(), static_cast<size_t>(ErrorList::kMaxErrors));
  const auto spec = ParseJobSpec(document + "}", DocumentFormat::kYaml, nullptr);
  EXPECT_LT(spec.status().message().size(), 4096u);
  EXPECT_THAT(std::string(spec.status().message()), testing::HasSubstr("more"));
  // Escapes from a document do not reach a terminal.
  const auto hostile =
      ErrorsOf("{\"\\u001b[31m\": 1, \"name\": \"\\u001b]0;x\\u0007\"}", DocumentFormat::kJson);
  EXPECT_EQ(Describe(hostile).find('\x1b'), std::string::npos) << Describe(hostile);
}

}  // namespace
}  // namespace nibble::spec
