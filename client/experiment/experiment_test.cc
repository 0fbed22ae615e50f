// Experiments: what is planned, the arithmetic of gaps, and the verbs against a fake daemon.
#include <cmath>

#include "client/client_testing.h"
#include "client/experiment/gap_table.h"
#include "client/experiment/plan.h"
#include "nlohmann/json.hpp"
#include "proto/spec/job_resolution.h"

namespace nibble::client {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

ExperimentOptions TinyOptions() {
  ExperimentOptions options;
  options.group = "tiny";
  options.base.mutable_model()->set_preset("llama-tiny");
  options.base.mutable_data()->set_path("kjv");
  options.base.mutable_training()->set_steps(100);
  options.base.set_seed(7);
  return options;
}

TEST(PlanTest, EveryVariantIsAValidJobThatDiffersFromTheOthers) {
  ExperimentOptions options = TinyOptions();
  options.seeds = 2;
  const auto jobs = PlanPaperExperiment(options);
  ASSERT_TRUE(jobs.ok()) << jobs.status();
  const size_t variants = 1 + PaperVariants(4).size();
  ASSERT_EQ(jobs->size(), 2 * variants);
  std::map<std::string, std::string> digests, ids;
  for (const PlannedJob& job : *jobs) {
    const auto resolved = spec::ResolveJob(job.spec, nullptr);
    ASSERT_TRUE(resolved.ok()) << job.variant << ": " << resolved.status();
    EXPECT_EQ(job.spec.labels().at("experiment.variant"), job.variant);
    const std::string digest = spec::ConfigDigest(resolved->spec);
    EXPECT_TRUE(digests.emplace(digest, job.spec.name()).second)
        << job.spec.name() << " trains the same as " << digests[digest];
    EXPECT_TRUE(ids.emplace(job.request_id, job.spec.name()).second);
    EXPECT_EQ(job.spec.training().validation_interval(), 5);
  }
  EXPECT_EQ((*jobs)[0].spec.name(), "tiny-bf16-s7");
  EXPECT_EQ((*jobs)[variants].spec.name(), "tiny-bf16-s8");
}

TEST(PlanTest, RefusesWhatIsNoExperiment) {
  ExperimentOptions options = TinyOptions();
  options.variants = {"nvfp4", "nosuch"};
  EXPECT_THAT(PlanPaperExperiment(options).status().message(), HasSubstr("nosuch"));
  options = TinyOptions();
  options.group = "Not A Label";
  EXPECT_THAT(PlanPaperExperiment(options).status().message(), HasSubstr("not a valid job"));
  options = TinyOptions();
  options.seeds = 0;
  EXPECT_THAT(PlanPaperExperiment(options).status().message(), HasSubstr("--seeds is 0"));
  options = TinyOptions();
  options.baseline = "nvfp4";
  EXPECT_THAT(PlanPaperExperiment(options).status().message(), HasSubstr("allowed: bf16"));
}

TEST(GapTableTest, StatisticsAreThoseOfATextbook) {
  // Deviation sqrt(2.5), t(4) = 2.7764: half width 2.7764 * 1.58114 / sqrt(5).
  const SeedStatistics five = StatisticsOf({1, 2, 3, 4, 5});
  EXPECT_DOUBLE_EQ(five.mean, 3);
  EXPECT_NEAR(five.deviation, 1.5811388, 1e-7);
  EXPECT_NEAR(five.half_width, 1.96323, 1e-4);
  EXPECT_TRUE(five.ExceedsNoise());
  EXPECT_FALSE(StatisticsOf({-1, 2, 3}).ExceedsNoise());
  EXPECT_FALSE(StatisticsOf({5}).ExceedsNoise());
  EXPECT_TRUE(std::isnan(StatisticsOf({5}).half_width));
  EXPECT_EQ(StatisticsOf({}).count, 0);
  // t(30) = 2.0423.
  std::vector<double> many(31, 0.0);
  many[0] = 31;
  EXPECT_NEAR(StatisticsOf(many).half_width / (StatisticsOf(many).deviation / std::sqrt(31.0)),
              2.0423, 0.0005);
}

TEST(GapTableTest, PairsSeedsAndInterpolates) {
  std::map<std::string, SeedCurves> curves;
  curves["bf16"] = {{0, {{50, 100}, {4, 2}}}, {1, {{50, 100}, {6, 4}}}};
  curves["nvfp4"] = {{0, {{50, 100}, {4, 2.2}}}, {1, {{50, 100}, {6, 4.2}}}};
  curves["other"] = {{1, {{50, 100}, {6, 4.62}}}};
  const GapTable table = MakeGapTable(curves, {"other", "nvfp4", "bf16"}, "bf16", "nvfp4", 100, 4);
  ASSERT_EQ(table.rows.size(), 3u);
  EXPECT_EQ(table.rows[0].variant, "bf16");
  EXPECT_EQ(table.rows[1].variant, "other");
  const GapRow& recipe = table.rows[2];
  ASSERT_EQ(recipe.points.size(), 4u);
  EXPECT_EQ(recipe.points[0].gap.count, 0);  // before the first validation
  // At 75: baselines 3 and 5, ours 3.1 and 5.1.
  EXPECT_NEAR(recipe.points[2].gap.mean, (0.1 / 3 + 0.1 / 5) / 2, 1e-12);
  // Seed by seed: 10 % and 5 %; of the means it would be 6.67 %.
  EXPECT_NEAR(recipe.points[3].gap.mean, 0.075, 1e-6);
  EXPECT_NEAR(recipe.loss.mean, 3.2, 1e-6);
  EXPECT_EQ(table.rows[1].points[3].gap.count, 1);
  EXPECT_NEAR(table.rows[1].against_recipe.mean, 0.1, 1e-6);
}

class ExperimentTest : public ClientTest {
 protected:
  v1::Job MakeRun(int number, const std::string& variant, uint64_t seed, double loss) {
    v1::Job job =
        Succeeded(MakeJob(number, absl::StrCat("g-", variant, "-s", seed), v1::SUCCEEDED), loss);
    job.mutable_spec()->set_seed(seed);
    job.mutable_spec()->mutable_training()->set_batch_size(4);
    job.mutable_spec()->mutable_training()->set_sequence_length(256);
    job.mutable_spec()->mutable_model()->set_blocks(4);
    auto& labels = *job.mutable_spec()->mutable_labels();
    labels["experiment"] = "g";
    labels["experiment.variant"] = variant;
    labels["experiment.baseline"] = "bf16";
    daemon_.PutJob(job);
    for (const int step : {25, 50, 75, 100}) {
      daemon_.AddRow(job.job_id(), WithValidation(MakeRow(step, loss), loss + 1 - step / 100.0));
    }
    return job;
  }
};

TEST_F(ExperimentTest, ReportShowsGapsAndWhichExceedTheNoise) {
  MakeRun(0, "bf16", 0, 2.0);
  MakeRun(1, "bf16", 1, 2.1);
  MakeRun(2, "nvfp4", 0, 2.02);
  MakeRun(3, "nvfp4", 1, 2.121);
  MakeRun(4, "no-hadamard", 0, 2.0);
  MakeRun(5, "no-hadamard", 1, 2.15);
  const Outcome outcome = Run({"experiment", "report", "g"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("102k tokens; 6 of 6 jobs succeeded"));
  EXPECT_THAT(outcome.out, HasSubstr("+1.00 ± 0.00 *"));
  EXPECT_THAT(outcome.out, HasSubstr("+1.19 ± 15.1"));
  EXPECT_THAT(outcome.out, Not(HasSubstr("+1.19 ± 15.13 *")));
  EXPECT_THAT(outcome.out, HasSubstr("(baseline)"));
  const auto json = nlohmann::json::parse(Run({"experiment", "report", "g", "-o", "json"}).out);
  EXPECT_EQ(json["variants"][1]["variant"], "nvfp4");
  EXPECT_NEAR(json["variants"][1]["relative_gap"].back()["gap"]["mean"], 0.01, 1e-6);
  EXPECT_EQ(Run({"experiment", "report", "nosuch"}).code, 3);
}

TEST_F(ExperimentTest, ReportSaysWhichRunsHaveNoResult) {
  MakeRun(0, "bf16", 0, 2.0);
  v1::Job failed = MakeRun(1, "nvfp4", 0, 2.02);
  failed.set_state(v1::FAILED);
  failed.clear_result();
  daemon_.PutJob(failed);
  const Outcome outcome = Run({"experiment", "report", "g"});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.out, HasSubstr("Without a result: g-nvfp4-s0"));
}

TEST_F(ExperimentTest, SubmitsTheGroupOnceAndWithStableRequestIds) {
  const std::vector<std::string> arguments = {
      "experiment", "nvfp4-paper", "--preset", "llama-tiny", "--data",
      "kjv",        "--tokens",    "100000",   "--seeds",    "2",
      "--variants", "nvfp4",       "--group",  "g",          "--no-wait"};
  const Outcome outcome = Run(arguments);
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  ASSERT_EQ(daemon_.submissions().size(), 4u);
  EXPECT_EQ(daemon_.submissions()[1].spec().name(), "g-nvfp4-s0");
  EXPECT_EQ(daemon_.submissions()[1].spec().precision().recipe(), "nvfp4");
  EXPECT_EQ(daemon_.submissions()[3].spec().seed(), 1u);
  EXPECT_EQ(Run(arguments).code, 0);
  EXPECT_EQ(daemon_.submissions()[4].request_id(), daemon_.submissions()[0].request_id());
  const Outcome refused = Run({"experiment", "nvfp4-paper", "--preset", "llama-tiny", "--data",
                               "kjv", "--tokens", "100000", "--group", "Not a label", "--no-wait"});
  EXPECT_EQ(refused.code, 2);
  EXPECT_THAT(refused.err, HasSubstr("name"));
  EXPECT_EQ(daemon_.submissions().size(), 8u);
}

}  // namespace
}  // namespace nibble::client
