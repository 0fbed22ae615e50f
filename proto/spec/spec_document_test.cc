// The three document languages: what they accept, refuse and write. Seen to fail with: depth limit
// and bracket count removed, YAML anchors accepted, strings left unquoted by the writer.
#include "proto/spec/spec_document.h"

#include <sys/resource.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "google/protobuf/text_format.h"
#include "google/protobuf/util/json_util.h"
#include "google/protobuf/util/message_differencer.h"
#include "gtest/gtest.h"
#include "proto/spec/spec_test_util.h"

namespace nibble::spec {
namespace {

using google::protobuf::util::MessageDifferencer;
using testing::HasSubstr;

constexpr char kYaml[] = R"(# A comment.
name: kjv-bf16
labels:
  team: lm
  note: "yes"
priority: -3
seed: 18446744073709551615
model:
  preset: llama-2m
  width: 384
  rope_theta: 5e5
  tied_embeddings: true
data: {path: /data/kjv}
training:
  tokens: 1e9
  sequence_length: 512
optimizer:
  learning_rate: .003
  schedule: {kind: wsd, warmup_steps: 10}
precision:
  recipe: bf16
)";

constexpr char kJson[] = R"({
  "name": "kjv-bf16",
  "labels": {"team": "lm", "note": "yes"},
  "priority": -3,
  "seed": "18446744073709551615",
  "model": {"preset": "llama-2m", "width": 384, "rope_theta": 5e5, "tied_embeddings": true},
  "data": {"path": "/data/kjv"},
  "training": {"tokens": 1000000000, "sequence_length": 512},
  "optimizer": {"learning_rate": 0.003, "schedule": {"kind": "wsd", "warmup_steps": 10}},
  "precision": {"recipe": "bf16"}
})";

constexpr char kText[] = R"(
name: "kjv-" "bf16"
labels { key: "team" value: "lm" }
labels: [{ key: "note" value: "yes" }]
priority: -3
seed: 18446744073709551615
model { preset: "llama-2m", width: 384; rope_theta: 5e5 tied_embeddings: true }
data < path: '/data/kjv' >
training: { tokens: 1000000000 sequence_length: 512 }  # a comment
optimizer { learning_rate: 0.003 schedule { kind: "wsd" warmup_steps: 10 } }
precision { recipe: "bf16" }
)";

v1::JobSpec Expected() {
  v1::JobSpec spec;
  spec.set_name("kjv-bf16");
  (*spec.mutable_labels())["team"] = "lm";
  (*spec.mutable_labels())["note"] = "yes";
  spec.set_priority(-3);
  spec.set_seed(18446744073709551615u);
  spec.mutable_model()->set_preset("llama-2m");
  spec.mutable_model()->set_width(384);
  spec.mutable_model()->set_rope_theta(500000);
  spec.mutable_model()->set_tied_embeddings(true);
  spec.mutable_data()->set_path("/data/kjv");
  spec.mutable_training()->set_tokens(1000000000);
  spec.mutable_training()->set_sequence_length(512);
  spec.mutable_optimizer()->set_learning_rate(0.003);
  spec.mutable_optimizer()->mutable_schedule()->set_kind("wsd");
  spec.mutable_optimizer()->mutable_schedule()->set_warmup_steps(10);
  spec.mutable_precision()->set_recipe("bf16");
  return spec;
}

TEST(SpecDocumentTest, ThreeLanguagesOneMessage) {
  ASSERT_OK_AND_ASSIGN(auto yaml, ParseJobSpec(kYaml, DocumentFormat::kYaml, nullptr));
  ASSERT_OK_AND_ASSIGN(auto json, ParseJobSpec(kJson, DocumentFormat::kJson, nullptr));
  ASSERT_OK_AND_ASSIGN(auto text, ParseJobSpec(kText, DocumentFormat::kTextProto, nullptr));
  EXPECT_TRUE(MessageDifferencer::Equals(yaml, Expected())) << yaml.DebugString();
  EXPECT_TRUE(MessageDifferencer::Equals(json, Expected())) << json.DebugString();
  EXPECT_TRUE(MessageDifferencer::Equals(text, Expected())) << text.DebugString();
}

TEST(SpecDocumentTest, FormatsByName) {
  EXPECT_EQ(FormatOfFile("a/b.json"), DocumentFormat::kJson);
  EXPECT_EQ(FormatOfFile("b.JSON"), DocumentFormat::kJson);
  for (const char* name : {"a.textproto", "a.txtpb", "a.pbtxt"}) {
    EXPECT_EQ(FormatOfFile(name), DocumentFormat::kTextProto);
  }
  for (const char* name : {"a.yaml", "a.yml", "a", "-", "json"}) {
    EXPECT_EQ(FormatOfFile(name), DocumentFormat::kYaml);
  }
}

TEST(SpecDocumentTest, ReadsWhatProtobufWrites) {
  const v1::JobSpec resolved = ResolveOrDie(Expected()).spec;
  std::string json;
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  ASSERT_TRUE(google::protobuf::util::MessageToJsonString(resolved, &json, options).ok());
  ASSERT_OK_AND_ASSIGN(auto from_json, ParseJobSpec(json, DocumentFormat::kJson, nullptr));
  EXPECT_TRUE(MessageDifferencer::Equals(from_json, resolved));
  std::string text;
  ASSERT_TRUE(google::protobuf::TextFormat::PrintToString(resolved, &text));
  ASSERT_OK_AND_ASSIGN(auto from_text, ParseJobSpec(text, DocumentFormat::kTextProto, nullptr));
  EXPECT_TRUE(MessageDifferencer::Equals(from_text, resolved)) << text;
}

TEST(SpecDocumentTest, YamlRoundTripOfEveryField) {
  const v1::JobSpec resolved = ResolveOrDie(Expected()).spec;
  ASSERT_OK_AND_ASSIGN(auto again,
                       ParseJobSpec(JobSpecToYaml(resolved), DocumentFormat::kYaml, nullptr));
  EXPECT_TRUE(MessageDifferencer::Equals(again, resolved)) << JobSpecToYaml(resolved);
  EXPECT_TRUE(MessageDifferencer::Equals(ParseOrDie(JobSpecToYaml(v1::JobSpec())), v1::JobSpec()));
}

TEST(SpecDocumentTest, YamlRoundTripOfAwkwardStringsAndNumbers) {
  std::mt19937_64 random(7);
  for (const char* text : {"yes",          "no",   "null",  "~",      "true",       "1",
                           "1e5",          ".5",   "-",     "- a",    "a: b",       "#",
                           "a #b",         "\"",   "\\",    "'",      "line\nline", "tab\t",
                           "\x01\x1b\x7f", "ü€😀",  " lead", "trail ", "",           "[a]",
                           "{a: b}",       "&a",   "*a",    "!!str",  "%a",         "@a",
                           "`a`",          ".nan", "0x10",  "a,b",    "?",          "a/b.c_d-e"}) {
    v1::JobSpec spec;
    spec.set_name(text);
    (*spec.mutable_labels())[text] = text;
    spec.mutable_data()->set_path(text);
    spec.mutable_optimizer()->add_decay_exclude(text);
    spec.mutable_optimizer()->add_decay_exclude(text);
    EXPECT_TRUE(MessageDifferencer::Equals(ParseOrDie(JobSpecToYaml(spec)), spec))
        << JobSpecToYaml(spec);
  }
  for (int i = 0; i < 2000; ++i) {
    v1::JobSpec spec;
    const uint64_t bits = random();
    double value;
    static_assert(sizeof(value) == sizeof(bits));
    std::memcpy(&value, &bits, sizeof(value));
    if (!std::isfinite(value)) continue;
    spec.mutable_optimizer()->set_learning_rate(value);
    spec.set_seed(random());
    spec.mutable_training()->set_steps(static_cast<int64_t>(random()));
    EXPECT_TRUE(MessageDifferencer::Equals(ParseOrDie(JobSpecToYaml(spec)), spec))
        << JobSpecToYaml(spec);
  }
}

TEST(SpecDocumentTest, ErrorsNameFieldValueAllowedAndLine) {
  std::vector<FieldError> errors;
  const auto spec = ParseJobSpec(
      "name: a\nmodel:\n  width: wide\n  tied_embeddings: yes\ntraining: {steps: 1.5}\n",
      DocumentFormat::kYaml, &errors);
  ASSERT_EQ(errors.size(), 3u) << Describe(errors);
  EXPECT_EQ(errors[0].field, "model.width");
  EXPECT_EQ(errors[0].description,
            "is wide; allowed: an integer from -2147483648 to 2147483647 (line 3)");
  EXPECT_EQ(errors[1].description, "is yes; allowed: true or false (line 4)");
  EXPECT_EQ(errors[2].field, "training.steps");
  EXPECT_THAT(spec, StatusIs(absl::StatusCode::kInvalidArgument,
                             HasSubstr("model.width: is wide; allowed: an integer")));
  ParseJobSpec("{\n\"name\": \"a\",\n\"priority\": 1\n,\"seed\": -1\n}", DocumentFormat::kJson,
               &errors)
      .IgnoreError();
  ASSERT_EQ(errors.size(), 1u);
  EXPECT_THAT(errors[0].description, HasSubstr("(line 4)"));
}

TEST(SpecDocumentTest, RefusesWhatIsNotOnePlainDocument) {
  const struct {
    DocumentFormat format;
    std::string document;
    const char* message;
  } cases[] = {
      {DocumentFormat::kYaml, "", "empty"},
      {DocumentFormat::kYaml, "  \n\n", "empty"},
      {DocumentFormat::kYaml, "# nothing", "empty"},
      {DocumentFormat::kYaml, "text", "allowed: a mapping"},
      {DocumentFormat::kYaml, "- name: a", "allowed: a mapping"},
      {DocumentFormat::kYaml, "42", "allowed: a mapping"},
      {DocumentFormat::kYaml, "name: &x a", "anchor"},
      {DocumentFormat::kYaml, "name: *x", "line 1"},
      {DocumentFormat::kYaml, "model: &m {width: 1}\ndata: *m", "anchor"},
      {DocumentFormat::kYaml, "<<: {name: a}", "<<"},
      {DocumentFormat::kYaml, "name: !!str a", "tag"},
      {DocumentFormat::kYaml, "model: !m {width: 1}", "tag"},
      {DocumentFormat::kYaml, "name: !!python/object:os.system a", "tag"},
      {DocumentFormat::kYaml, "name: a\n---\nname: b", "second document"},
      {DocumentFormat::kYaml, "--- {name: a}\n--- {name: b}", "second document"},
      {DocumentFormat::kYaml, "name: a\nname: b", "given twice"},
      {DocumentFormat::kYaml, "model: {width: 1, width: 1}", "given twice"},
      {DocumentFormat::kYaml, "{? {a: b} : c}", "a key is a mapping"},
      {DocumentFormat::kYaml, "? [a]\n: b", "a key is a mapping"},
      {DocumentFormat::kYaml, "~: b", "a key is empty"},
      {DocumentFormat::kYaml, "name: [a", "not YAML"},
      {DocumentFormat::kYaml, "name: \"a", "not YAML"},
      {DocumentFormat::kYaml, "\tname: a", "not YAML"},
      {DocumentFormat::kYaml, "name: a: b", "not YAML"},
      {DocumentFormat::kYaml, std::string("name: a\0b", 9), "NUL"},
      {DocumentFormat::kYaml, "name: \xff", "not UTF-8"},
      {DocumentFormat::kYaml, "\xff\xfen\0a\0", "UTF-8"},
      {DocumentFormat::kYaml, "name: \xed\xa0\x80", "not UTF-8"},
      {DocumentFormat::kJson, "{\"name\": \"a\",}", "not JSON"},
      {DocumentFormat::kJson, "{\"name\": 'a'}", "not JSON"},
      {DocumentFormat::kJson, "{name: \"a\"}", "not JSON"},
      {DocumentFormat::kJson, "{\"name\": \"a\"} {}", "not JSON"},
      {DocumentFormat::kJson, "{\"name\": \"a\"", "not JSON"},
      {DocumentFormat::kJson, "{\"name\": \"\\ud800\"}", "not JSON"},
      {DocumentFormat::kJson, "{\"seed\": NaN}", "not JSON"},
      {DocumentFormat::kJson, "{\"seed\": 01}", "not JSON"},
      {DocumentFormat::kJson, "{\"priority\": 1, \"priority\": 1}", "given twice"},
      {DocumentFormat::kJson, "{\"labels\": {\"a\": \"b\", \"a\": \"c\"}}", "given twice"},
      {DocumentFormat::kJson, "[]", "allowed: a mapping"},
      {DocumentFormat::kJson, "// comment\n{}", "not JSON"},
      {DocumentFormat::kTextProto, "name: a", "allowed: a string"},
      {DocumentFormat::kTextProto, "name: \"a\" name: \"b\"", "given twice"},
      {DocumentFormat::kTextProto, "labels {key: \"a\"} labels {key: \"a\"}", "given twice"},
      {DocumentFormat::kTextProto, "labels {key: \"a\" vlue: \"b\"}", "did you mean value"},
      {DocumentFormat::kTextProto, "model {", "not text proto"},
      {DocumentFormat::kTextProto, "model }", "not text proto"},
      {DocumentFormat::kTextProto, "name: \"a", "not text proto"},
      {DocumentFormat::kTextProto, "[type.googleapis.com/x] {}", "not text proto"},
      {DocumentFormat::kTextProto, "model { width: }", "not text proto"},
      {DocumentFormat::kTextProto, "seed: -1", "seed"},
      {DocumentFormat::kTextProto, "optimizer { learning_rate: inf }", "learning_rate"},
      {DocumentFormat::kTextProto, "optimizer { learning_rate: -nan }", "learning_rate"},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.document);
    EXPECT_THAT(ParseJobSpec(c.document, c.format, nullptr),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(c.message)));
  }
}

int64_t PeakResidentBytes() {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return int64_t{usage.ru_maxrss} * 1024;
}

// Documents of the largest size: `start`, then `unit` over and over.
struct HostileDocument {
  const char* start;
  const char* unit;
};

TEST(SpecDocumentTest, HostileDocumentsCostLittle) {
  const HostileDocument documents[] = {{"", "["},           {"", "{"},
                                       {"", "{\"a\":"},     {"", "[[],"},
                                       {"", "- "},          {"", "? "},
                                       {"", "a: "},         {"", "model{"},
                                       {"", "model:<"},     {"a:", "["},
                                       {"[", "1,"},         {"", "&a "},
                                       {"", "*a "},         {"", "!a "},
                                       {"", "---\n"},       {"", "\""},
                                       {"", "'"},           {"", "|\n"},
                                       {"", ":"},           {"", "%"},
                                       {"", "\t"},          {"name: ", "9"},
                                       {"seed: ", "9"},     {"name: \"", "\\n"},
                                       {"{\"seed\":", "9"}, {"{\"seed\":1e", "9"},
                                       {"", "k: 1\n"},      {"", "\"k\":1,"},
                                       {"", "k:1 "},        {"", "-1 "},
                                       {"{a: b", ", a: b"}};
  const int64_t before = PeakResidentBytes();
  const auto start = std::chrono::steady_clock::now();
  for (const HostileDocument& hostile : documents) {
    for (const DocumentFormat format :
         {DocumentFormat::kYaml, DocumentFormat::kJson, DocumentFormat::kTextProto}) {
      std::string document = hostile.start;
      while (document.size() + std::strlen(hostile.unit) <= kMaxDocumentBytes) {
        document += hostile.unit;
      }
      EXPECT_FALSE(ParseJobSpec(document, format, nullptr).ok()) << document.substr(0, 20);
    }
  }
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  // 93 documents; one of quadratic cost would take minutes.
  EXPECT_LT(elapsed.count(), 60);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  // yaml-cpp's tokens and nodes of the worst of them take 40 MiB.
  EXPECT_LT(PeakResidentBytes() - before, int64_t{48} << 20);
#endif
  for (const size_t size : {size_t{kMaxDocumentBytes} + 1, size_t{16} << 20}) {
    EXPECT_THAT(ParseJobSpec(std::string(size, '['), DocumentFormat::kYaml, nullptr),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("at most 262144")));
  }
}

TEST(SpecDocumentTest, DepthLimitIsSixteen) {
  const auto nested = [](int depth) {
    std::string document;
    for (int i = 0; i < depth; ++i) document += "{\"a\": ";
    return document + "1" + std::string(static_cast<size_t>(depth), '}');
  };
  for (const DocumentFormat format : {DocumentFormat::kYaml, DocumentFormat::kJson}) {
    EXPECT_THAT(ParseJobSpec(nested(16), format, nullptr),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("is not a field")));
    EXPECT_THAT(ParseJobSpec(nested(17), format, nullptr),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("nested deeper")));
  }
}

TEST(SpecDocumentTest, MutatedDocumentsNeverCrash) {
  std::mt19937 random(1);
  const struct {
    const char* document;
    DocumentFormat format;
  } seeds[] = {{kYaml, DocumentFormat::kYaml},
               {kJson, DocumentFormat::kJson},
               {kText, DocumentFormat::kTextProto}};
  constexpr absl::string_view kBytes = "{}[]<>:,;\"'\\\n\t -#&*!|%@`?~0123456789eE.+nul\x80\xc3";
  for (const auto& seed : seeds) {
    for (int i = 0; i < 3000; ++i) {
      std::string document = seed.document;
      for (int edits = static_cast<int>(random() % 5); edits >= 0; --edits) {
        const size_t at = random() % document.size();
        switch (random() % 3) {
          case 0:
            document[at] = kBytes[random() % kBytes.size()];
            break;
          case 1:
            document.insert(at, 1, kBytes[random() % kBytes.size()]);
            break;
          default:
            document.erase(at, random() % 8);
        }
        if (document.empty()) document.assign(1, 'a');
      }
      const auto spec = ParseJobSpec(document, seed.format, nullptr);
      if (spec.ok()) ResolveJob(*spec, nullptr).IgnoreError();
    }
  }
}

}  // namespace
}  // namespace nibble::spec
