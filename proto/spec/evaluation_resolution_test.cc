// Evaluation of a spec: names compared after their default is filled in, the context bounded by the
// positions, steps 0 only with init_from.
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/spec/spec_test_util.h"

namespace nibble::spec {
namespace {

using ::testing::HasSubstr;

std::string WithEvaluation(const std::string& evaluation, const std::string& more = "") {
  return absl::StrCat("name: a\nmodel: {preset: llama-tiny}\ndata: {path: kjv}\n",
                      more.empty() ? "training: {steps: 5, sequence_length: 32}\n" : more,
                      "evaluation: ", evaluation, "\n");
}

std::string Errors(const std::string& document) {
  return Describe(ErrorsOf(document, DocumentFormat::kYaml));
}

TEST(EvaluationResolutionTest, FillsInWhatIsLeftOpen) {
  const ResolvedJob job = ResolveOrDie(ParseOrDie(
      WithEvaluation("{tasks: [{task: text, path: held_out.txt}, {task: piqa, path: /e/p.jsonl, "
                     "name: p-1, limit: 9}], interval: 50}")));
  const v1::EvaluationSpec& evaluation = job.spec.evaluation();
  ASSERT_EQ(evaluation.tasks_size(), 2);
  EXPECT_EQ(evaluation.tasks(0).name(), "text");
  EXPECT_TRUE(evaluation.tasks(0).has_limit());
  EXPECT_EQ(evaluation.tasks(0).limit(), 0);
  EXPECT_EQ(evaluation.tasks(1).name(), "p-1");
  EXPECT_EQ(evaluation.tasks(1).limit(), 9);
  EXPECT_EQ(evaluation.interval(), 50);
  EXPECT_EQ(evaluation.context(), 32);
  EXPECT_TRUE(evaluation.tokenizer().empty());
  // Resolved again, it is what it was; and it says nothing about what is trained.
  EXPECT_EQ(JobSpecToYaml(ResolveOrDie(job.spec).spec), JobSpecToYaml(job.spec));
  v1::JobSpec without = job.spec;
  without.clear_evaluation();
  EXPECT_FALSE(ResolveOrDie(without).spec.has_evaluation());
  EXPECT_EQ(ConfigDigest(without), ConfigDigest(job.spec));
}

TEST(EvaluationResolutionTest, RefusesByPath) {
  const std::string ok = "{task: text, path: t}";
  EXPECT_THAT(Errors(WithEvaluation("{interval: 5}")),
              HasSubstr("[evaluation.tasks] has 0; allowed: 1 to 32"));
  std::string many = ok;
  for (int i = 1; i < 33; ++i) many += absl::StrCat(", {task: text, path: t, name: t", i, "}");
  EXPECT_THAT(Errors(WithEvaluation("{tasks: [" + many + "]}")), HasSubstr("has 33"));
  EXPECT_THAT(Errors(WithEvaluation("{tasks: [" + ok + ", {task: texts, path: t}]}")),
              HasSubstr("[evaluation.tasks[1].task] is \"texts\"; allowed: lambada_openai"));
  EXPECT_THAT(Errors(WithEvaluation("{tasks: [{task: text}]}")),
              HasSubstr("[evaluation.tasks[0].path] is missing"));
  EXPECT_THAT(Errors(WithEvaluation("{tasks: [{task: text, path: ../x}]}")),
              HasSubstr("[evaluation.tasks[0].path]"));
  EXPECT_THAT(Errors(WithEvaluation("{tasks: [" + ok + ", " + ok + "]}")),
              HasSubstr("[evaluation.tasks[1].name] is \"text\", as another task's"));
  EXPECT_THAT(Errors(WithEvaluation("{tasks: [{task: piqa, path: t, name: text}, " + ok + "]}")),
              HasSubstr("[evaluation.tasks[1].name]"));
  for (const char* name : {"a/b", "a b", "ä", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}) {
    EXPECT_THAT(Errors(WithEvaluation(
                    absl::StrCat("{tasks: [{task: text, path: t, name: \"", name, "\"}]}"))),
                HasSubstr("[evaluation.tasks[0].name] is "))
        << name;
  }
  EXPECT_THAT(Errors(WithEvaluation("{tasks: [{task: text, path: t, limit: -1}]}")),
              HasSubstr("[evaluation.tasks[0].limit] is -1"));
  EXPECT_THAT(Errors(WithEvaluation("{tasks: [" + ok + "], interval: -1}")),
              HasSubstr("[evaluation.interval]"));
  EXPECT_THAT(Errors(WithEvaluation("{tasks: [" + ok + "], context: 0}")),
              HasSubstr("[evaluation.context] is 0; allowed: 1 to 1048576"));
  EXPECT_THAT(Errors(WithEvaluation("{tasks: [" + ok + "], tokenizer: /proc/x}")),
              HasSubstr("[evaluation.tokenizer]"));
  EXPECT_EQ(Errors(WithEvaluation("{tasks: [" + ok + "], tokenizer: bytes}")), "");
}

TEST(EvaluationResolutionTest, ContextEndsWhereLearnedPositionsDo) {
  const char* gpt2 =
      "name: a\nmodel: {preset: gpt2-tiny, max_positions: 64}\ndata: {path: kjv}\n"
      "training: {steps: 5, sequence_length: 32}\n"
      "evaluation: {context: %, tasks: [{task: text, path: t}]}\n";
  const auto with = [&](const std::string& context) {
    std::string text = gpt2;
    return Errors(text.replace(text.find('%'), 1, context));
  };
  EXPECT_EQ(with("64"), "");
  EXPECT_THAT(with("65"), HasSubstr("[evaluation.context] is 65; allowed: 1 to 64"));
}

TEST(EvaluationResolutionTest, NoStepsMeanACheckpointIsScored) {
  const std::string tasks = "{tasks: [{task: text, path: t}]}";
  const std::string head = "name: a\nmodel: {preset: llama-tiny}\n";
  const std::string from = "training: {steps: 0, init_from: /c}\n";
  const ResolvedJob job =
      ResolveOrDie(ParseOrDie(absl::StrCat(head, from, "evaluation: ", tasks, "\n")));
  EXPECT_EQ(job.total_steps, 0);
  EXPECT_GT(job.memory.weights, 0);
  EXPECT_EQ(job.memory.total(), job.memory.weights);
  EXPECT_EQ(JobSpecToYaml(ResolveOrDie(job.spec).spec), JobSpecToYaml(job.spec));
  const std::string why = "[training.steps] is 0; allowed: 1 to 1000000000, or with ";
  EXPECT_THAT(Errors(absl::StrCat(head, from, "data: {path: kjv}\n")), HasSubstr(why));
  EXPECT_THAT(Errors(absl::StrCat(head, "training: {steps: 0}\nevaluation: ", tasks, "\n")),
              HasSubstr(why));
  EXPECT_THAT(Errors(absl::StrCat(head, "training: {steps: -1, init_from: /c}\nevaluation: ", tasks,
                                  "\n")),
              HasSubstr("[training.steps] is -1"));
  // What trains needs data as before.
  EXPECT_THAT(Errors(absl::StrCat(head, "training: {steps: 1}\n")),
              HasSubstr("[data.path] is missing"));
}

}  // namespace
}  // namespace nibble::spec
