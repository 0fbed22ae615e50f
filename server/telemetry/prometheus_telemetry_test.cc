#include "server/telemetry/prometheus_telemetry.h"

#include "absl/strings/str_cat.h"
#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace nibble::telemetry {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(PrometheusTelemetryTest, ShowsTheControlPlaneAsItWasSetLast) {
  PrometheusTelemetry telemetry;
  ControlPlaneCounts counts;
  counts.jobs_by_state = {{"QUEUED", 3}, {"RUNNING", 2}, {"FAILED", 0}};
  counts.queue_depth = 3;
  counts.workers_online = 1;
  counts.slots_total = 4;
  counts.slots_used = 2;
  counts.leases = 2;
  telemetry.SetCounts(counts);
  EXPECT_THAT(telemetry.Text(), HasSubstr("nibble_jobs{state=\"QUEUED\"} 3"));
  EXPECT_THAT(telemetry.Text(), HasSubstr("nibble_jobs{state=\"FAILED\"} 0"));
  EXPECT_THAT(telemetry.Text(), HasSubstr("nibble_queue_depth 3"));
  EXPECT_THAT(telemetry.Text(), HasSubstr("nibble_slots 4"));
  EXPECT_THAT(telemetry.Text(), HasSubstr("nibble_slots_used 2"));
  counts.queue_depth = 0;
  telemetry.SetCounts(counts);
  EXPECT_THAT(telemetry.Text(), HasSubstr("nibble_queue_depth 0"));
}

TEST(PrometheusTelemetryTest, AlertsStandAtZeroUntilRaised) {
  PrometheusTelemetry telemetry;
  EXPECT_THAT(telemetry.Text(), HasSubstr("nibble_alerts_total{kind=\"daemon_stalled\"} 0"));
  telemetry.Alerted("daemon_stalled");
  EXPECT_THAT(telemetry.Text(), HasSubstr("nibble_alerts_total{kind=\"daemon_stalled\"} 1"));
  EXPECT_THAT(telemetry.Text(), HasSubstr("nibble_alerts_total{kind=\"over_allocated\"} 0"));
  telemetry.IncidentNoted("TRAINER_HUNG");
  EXPECT_THAT(telemetry.Text(),
              HasSubstr("nibble_training_incidents_total{reason=\"TRAINER_HUNG\"} 1"));
  EXPECT_THAT(telemetry.Text(),
              HasSubstr("nibble_training_incidents_total{reason=\"GUARD_TRIPPED\"} 0"));
}

TEST(PrometheusTelemetryTest, CommitsAndWaitsFillTheirHistograms) {
  PrometheusTelemetry telemetry;
  telemetry.Committed(0.002, 3);
  telemetry.Committed(0.004, 1);
  telemetry.QueueWaited(2.5);
  telemetry.Scheduled(0.00002);
  const std::string text = telemetry.Text();
  EXPECT_THAT(text, HasSubstr("nibble_store_commit_group_size_count 2"));
  EXPECT_THAT(text, HasSubstr("nibble_store_commit_group_size_sum 4"));
  EXPECT_THAT(text, HasSubstr("nibble_store_commit_seconds_count 2"));
  EXPECT_THAT(text, HasSubstr("nibble_queue_wait_seconds_sum 2.5"));
  EXPECT_THAT(text, HasSubstr("nibble_scheduling_seconds_count 1"));
}

TEST(PrometheusTelemetryTest, CountsCallsByMethodAndCode) {
  PrometheusTelemetry telemetry;
  telemetry.RpcEnded("TrainingService/GetJob", "OK", 0.001);
  telemetry.RpcEnded("TrainingService/GetJob", "OK", 0.002);
  telemetry.RpcEnded("TrainingService/GetJob", "NOT_FOUND", 0.002);
  EXPECT_THAT(telemetry.Text(),
              HasSubstr("nibble_rpc_total{method=\"TrainingService/GetJob\",code=\"OK\"} 2"));
  EXPECT_THAT(
      telemetry.Text(),
      HasSubstr("nibble_rpc_total{method=\"TrainingService/GetJob\",code=\"NOT_FOUND\"} 1"));
}

TEST(PrometheusTelemetryTest, AJobHasSeriesWhileItIsActiveOnly) {
  PrometheusTelemetry telemetry;
  telemetry.TrainingSteps("j-1", {{1, {{"loss", 5.5}}}});
  EXPECT_THAT(telemetry.Text(), Not(HasSubstr("j-1")));

  telemetry.JobActive({"j-1", "bible", "nvfp4"});
  telemetry.TrainingSteps("j-1", {{1, {{"loss", 5.5}, {"tokens", 64}, {"step_seconds", 0.2}}},
                                  {2, {{"loss", 4.5}, {"tokens", 128}, {"step_seconds", 0.2}}}});
  const std::string labels = "{job_id=\"j-1\",name=\"bible\",recipe=\"nvfp4\"}";
  const std::string text = telemetry.Text();
  EXPECT_THAT(text, HasSubstr(absl::StrCat("nibble_job_loss", labels, " 4.5")));
  EXPECT_THAT(text, HasSubstr(absl::StrCat("nibble_job_step", labels, " 2")));
  EXPECT_THAT(text, HasSubstr(absl::StrCat("nibble_job_tokens_total", labels, " 128")));
  EXPECT_THAT(text, HasSubstr(absl::StrCat("nibble_job_step_seconds_count", labels, " 2")));

  telemetry.JobInactive("j-1");
  EXPECT_THAT(telemetry.Text(), Not(HasSubstr("j-1")));
}

TEST(PrometheusTelemetryTest, QuantisationHealthIsShownByClassOfLayers) {
  PrometheusTelemetry telemetry;
  telemetry.JobActive({"j-1", "bible", "nvfp4"});
  telemetry.TrainingSteps("j-1", {{1,
                                   {{"health/mlp.down/wgrad/gradient/underflow", 0.25},
                                    {"health/mlp.down/wgrad/gain", 0.5},
                                    {"health/shadow_loss", 3.5},
                                    {"health/blocks.0.mlp.down/wgrad/gain", 0.75}}}});
  const std::string job =
      "nibble_job_quantisation_health{job_id=\"j-1\",name=\"bible\",recipe=\"nvfp4\",layers=\"mlp."
      "down\",product=\"wgrad\",";
  const std::string text = telemetry.Text();
  EXPECT_THAT(text,
              HasSubstr(absl::StrCat(job, "operand=\"gradient\",measure=\"underflow\"} 0.25")));
  EXPECT_THAT(text, HasSubstr(absl::StrCat(job, "operand=\"\",measure=\"gain\"} 0.5")));
  EXPECT_THAT(text, HasSubstr("nibble_job_shadow_loss{job_id=\"j-1\",name=\"bible\","
                              "recipe=\"nvfp4\"} 3.5"));
  EXPECT_THAT(text, Not(HasSubstr("blocks.0")));
}

TEST(PrometheusTelemetryTest, SeriesOfJobsAreCapped) {
  PrometheusTelemetry telemetry;
  for (int i = 0; i < kMaxJobSeries + 50; ++i) {
    telemetry.JobActive({absl::StrCat("j-", i), "n", "bf16"});
  }
  EXPECT_THAT(telemetry.Text(), HasSubstr(absl::StrCat("\"j-", kMaxJobSeries - 1, "\"")));
  EXPECT_THAT(telemetry.Text(), Not(HasSubstr(absl::StrCat("\"j-", kMaxJobSeries, "\""))));
  // A place that comes free is given to the next job.
  telemetry.JobInactive("j-0");
  telemetry.JobActive({"j-late", "n", "bf16"});
  EXPECT_THAT(telemetry.Text(), HasSubstr("j-late"));
}

TEST(PrometheusTelemetryTest, RefusesAnAddressThatIsTaken) {
  PrometheusTelemetry first;
  ASSERT_OK_AND_ASSIGN(const int port, first.Serve("127.0.0.1:0"));
  EXPECT_GT(port, 0);
  PrometheusTelemetry second;
  EXPECT_THAT(second.Serve(absl::StrCat("127.0.0.1:", port)),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("127.0.0.1")));
}

}  // namespace
}  // namespace nibble::telemetry
