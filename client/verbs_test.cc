// Each verb against a fake daemon: what it prints, what it sends, how it exits.
#include "client/client_testing.h"
#include "google/rpc/error_details.pb.h"
#include "nlohmann/json.hpp"

namespace nibble::client {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kSpec[] =
    "name: a\nmodel: {preset: llama-tiny}\ndata: {path: kjv}\ntraining: {steps: 5}\n";

std::string Details(const std::string& reason, const std::string& field,
                    const std::string& description) {
  google::rpc::ErrorInfo info;
  info.set_reason(reason);
  info.set_domain("nibble");
  google::rpc::BadRequest bad_request;
  auto* violation = bad_request.add_field_violations();
  violation->set_field(field);
  violation->set_description(description);
  google::rpc::Status status;
  status.add_details()->PackFrom(info);
  if (!field.empty()) status.add_details()->PackFrom(bad_request);
  return status.SerializeAsString();
}

TEST_F(ClientTest, ListPrintsStableColumnsNewestFirst) {
  daemon_.PutJob(MakeJob(1, "first", v1::RUNNING));
  daemon_.PutJob(Succeeded(MakeJob(2, "second", v1::SUCCEEDED)));
  const Outcome outcome = Run({"list"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.out,
            "JOB                 NAME    STATE      PROGRESS         PRIORITY   AGE\n"
            "j-aaaaaaaaaaaaaaa2  second  SUCCEEDED  100/100 (100 %)         0  60 s\n"
            "j-aaaaaaaaaaaaaaa1  first   RUNNING    25/100 (25 %)           0  60 s\n");
}

TEST_F(ClientTest, ListFetchesPageAfterPageAndFilters) {
  for (int i = 0; i < 7; ++i) daemon_.PutJob(MakeJob(i, "x", i < 5 ? v1::RUNNING : v1::FAILED));
  const Outcome outcome = Run({"list", "--limit", "3", "--state", "running", "-o", "json"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto listed = nlohmann::json::parse(outcome.out);
  ASSERT_EQ(listed["jobs"].size(), 3);
  EXPECT_EQ(listed["jobs"][0]["job_id"], "j-aaaaaaaaaaaaaaa4");
  EXPECT_EQ(listed["jobs"][0]["parameters"], 1'900'000);  // a number, not a string
  EXPECT_EQ(listed["jobs"][0]["create_time"], "2023-11-14T22:12:20Z");
}

TEST_F(ClientTest, GetFindsByIdPrefixAndName) {
  daemon_.PutJob(MakeJob(1, "first", v1::RUNNING));
  daemon_.PutJob(MakeJob(2, "twice", v1::RUNNING));
  daemon_.PutJob(MakeJob(3, "twice", v1::FAILED));
  EXPECT_THAT(Run({"get", "first"}).out, HasSubstr("j-aaaaaaaaaaaaaaa1"));
  EXPECT_THAT(Run({"get", "j-aaaaaaaaaaaaaaa2"}).out, HasSubstr("twice"));
  const Outcome ambiguous = Run({"get", "twice"});
  EXPECT_EQ(ambiguous.code, 2);
  EXPECT_THAT(ambiguous.err, HasSubstr("j-aaaaaaaaaaaaaaa3 (twice, FAILED)"));
  EXPECT_EQ(Run({"get", "j-aaaaaa"}).code, 2);
  EXPECT_EQ(Run({"get", "nosuch"}).code, 3);
  EXPECT_EQ(Run({"get", "j-0000000000000000"}).code, 3);
}

TEST_F(ClientTest, GetShowsStateReasonProgressAndResult) {
  v1::Job job = Succeeded(MakeJob(1, "first", v1::SUCCEEDED));
  job.set_reason_message("trained all 100 steps");
  auto& efficiency = *job.mutable_result()->mutable_efficiency();
  efficiency["peak_memory_bytes"] = 3 << 20;
  efficiency["planned_memory_bytes"] = 2 << 20;
  efficiency["planned_bytes_per_parameter"] = 18.04;
  efficiency["step_seconds_p50"] = 2;
  efficiency["step_seconds_p95"] = 3;
  efficiency["step_seconds_p99"] = 90;
  efficiency["model_flops_utilization"] = 0.43;
  efficiency["measured_peak_flops"] = 2e11;
  daemon_.PutJob(job);
  const Outcome outcome = Run({"get", "first"});
  EXPECT_THAT(outcome.out, HasSubstr("state       SUCCEEDED  COMPLETED: trained all 100 steps\n"));
  EXPECT_THAT(outcome.out, HasSubstr("progress    100/100 (100 %)\n"));
  EXPECT_THAT(outcome.out, HasSubstr("created     2023-11-14T22:12:20Z  (60 s ago)\n"));
  EXPECT_THAT(outcome.out, HasSubstr("validation  loss 1.5000, 2.1640 bits/byte\n"));
  EXPECT_THAT(outcome.out, HasSubstr("speed       25.1k tokens/s\n"));
  EXPECT_THAT(outcome.out, HasSubstr("memory      3.0 MiB at most, 2.0 MiB planned, "
                                     "18.0 bytes a parameter\n"));
  EXPECT_THAT(outcome.out, HasSubstr("step time   median 2 s, 95 % 3 s, 99 % 90 s\n"));
  EXPECT_THAT(outcome.out, HasSubstr("compute     43 % of 200G FLOP/s measured\n"));
  EXPECT_THAT(outcome.out, Not(HasSubstr("energy")));
  EXPECT_THAT(Run({"get", "first", "-o", "yaml"}).out,
              HasSubstr("result:\n  steps: 100\n  tokens: 102400\n  train_loss: 1.25\n"));
}

TEST_F(ClientTest, SubmitPrintsTheIdAndKeepsItsRequestIdOverALostAnswer) {
  daemon_.LoseAnswer("SubmitJob");
  const Outcome outcome = Run({"submit", WriteFile("job.yaml", kSpec)});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.out, "j-000000000000abc0\n");
  EXPECT_EQ(outcome.err, "warning: a layer falls back to BF16\n");
  const auto submissions = daemon_.submissions();
  ASSERT_EQ(submissions.size(), 2u);
  EXPECT_EQ(submissions[0].request_id(), submissions[1].request_id());
  EXPECT_EQ(submissions[0].request_id().size(), 20u);
}

TEST_F(ClientTest, SubmitSendsWhatTheSpecAndTheCommandLineSay) {
  const Outcome outcome =
      Run({"submit", "-", "--set", "training.steps=", "--set", "training.tokens=4096", "--set",
           "labels.team/x=a.b", "--set", "optimizer.learning_rate=2e-3", "--name", "b",
           "--request-id", "mine"},
          kSpec);
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const v1::SubmitJobRequest sent = daemon_.submissions()[0];
  EXPECT_EQ(sent.request_id(), "mine");
  EXPECT_EQ(sent.spec().name(), "b");
  EXPECT_FALSE(sent.spec().training().has_steps());
  EXPECT_EQ(sent.spec().training().tokens(), 4096);
  EXPECT_EQ(sent.spec().labels().at("team/x"), "a.b");
  EXPECT_EQ(sent.spec().optimizer().learning_rate(), 2e-3);
  // What is left open stays open: the daemon's defaults count.
  EXPECT_FALSE(sent.spec().training().has_batch_size());
}

TEST_F(ClientTest, SubmitRefusesWrongSpecsBeforeAsking) {
  const Outcome wrong = Run({"submit", "-"}, "name: a\nmodel: {headz: 3}\ntraining: {steps: x}\n");
  EXPECT_EQ(wrong.code, 2);
  EXPECT_THAT(wrong.err, HasSubstr("model.headz"));
  EXPECT_THAT(wrong.err, HasSubstr("training.steps"));
  EXPECT_EQ(Run({"submit", "/nosuch.yaml"}).code, 2);
  const Outcome no_field = Run({"submit", "-", "--set", "model.nosuch=1"}, kSpec);
  EXPECT_EQ(no_field.code, 2);
  EXPECT_THAT(no_field.err, HasSubstr("model.nosuch"));
  EXPECT_EQ(Run({"submit", "-", "--set", "model.nosuch="}, kSpec).code, 2);
  EXPECT_EQ(Run({"submit", "-", "--set", "training.steps"}, kSpec).code, 2);
  EXPECT_EQ(Run({"submit", "-", "--set", "name=a\nseed: 1"}, kSpec).code, 2);
  EXPECT_EQ(daemon_.calls("SubmitJob"), 0);
}

TEST_F(ClientTest, ErrorsNameTheFieldAndEachCodeHasItsExitCode) {
  const std::string file = WriteFile("job.yaml", kSpec);
  daemon_.FailNext("SubmitJob", absl::InvalidArgumentError("spec.model.heads: is -1"), 1,
                   Details("INVALID_REQUEST", "spec.model.heads", "is -1; allowed: 1 to 1024"));
  const Outcome outcome = Run({"submit", file});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_EQ(outcome.err,
            "error: spec.model.heads: is -1 (INVALID_ARGUMENT, INVALID_REQUEST)\n"
            "  model.heads: is -1; allowed: 1 to 1024\n");
  const std::vector<std::pair<absl::Status, int>> codes = {
      {absl::NotFoundError(""), 3},          {absl::FailedPreconditionError(""), 4},
      {absl::PermissionDeniedError(""), 4},  {absl::AlreadyExistsError(""), 4},
      {absl::ResourceExhaustedError(""), 4}, {absl::UnauthenticatedError(""), 4},
      {absl::OutOfRangeError(""), 2},        {absl::DeadlineExceededError(""), 5},
      {absl::InternalError(""), 70},         {absl::DataLossError(""), 70}};
  for (const auto& [status, code] : codes) {
    daemon_.FailNext("SubmitJob", status, 1);
    EXPECT_EQ(Run({"submit", file}).code, code) << status;
  }
}

TEST_F(ClientTest, RepeatsOnlyWhatWasUnavailable) {
  daemon_.FailNext("GetServerInfo", absl::UnavailableError("restarting"), 2);
  EXPECT_EQ(Run({"info"}).code, 0);
  EXPECT_EQ(daemon_.calls("GetServerInfo"), 3);
  // Seen red: a loop that repeated every error.
  daemon_.FailNext("GetServerInfo", absl::AbortedError("no"), 2);
  EXPECT_EQ(Run({"info"}).code, 4);
  EXPECT_EQ(daemon_.calls("GetServerInfo"), 4);
}

TEST_F(ClientTest, AServerThatDoesNotAnswerIsUnreachableInTime) {
  daemon_.Delay("GetServerInfo", 2000);
  const auto start = RealClock().MonotonicNanos();
  const Outcome slow = Run({"info", "--timeout", "200ms"});
  EXPECT_EQ(slow.code, 5);
  EXPECT_LT(RealClock().MonotonicNanos() - start, 1'500'000'000);
  daemon_.Stop();
  const Outcome gone = Run({"info", "--timeout", "300ms"});
  EXPECT_EQ(gone.code, 5);
  EXPECT_THAT(gone.err, HasSubstr("is it running?"));
}

TEST_F(ClientTest, ServerComesFromOptionThenEnvironmentThenFile) {
  WriteFile("nibble", "");  // no directory of that name: no file
  ASSERT_TRUE(RemoveTree(directory_.path() + "/nibble").ok());
  ASSERT_TRUE(MakeDirectories(directory_.path() + "/nibble").ok());
  WriteFile("nibble/config.yaml", absl::StrCat("server: ", daemon_.address(), "\noutput: json\n"));
  EXPECT_EQ(nlohmann::json::parse(RunAlone({"info"}).out)["version"], "9.8.7");
  setenv("NIBBLE_SERVER", "127.0.0.1:1", 1);
  EXPECT_EQ(RunAlone({"info", "--timeout", "100ms"}).code, 5);
  EXPECT_EQ(Run({"info"}).code, 0);
  WriteFile("nibble/config.yaml", "serveur: x\n");
  const Outcome wrong = Run({"info"});
  EXPECT_EQ(wrong.code, 2);
  EXPECT_THAT(wrong.err, HasSubstr("unknown setting \"serveur\""));
}

TEST_F(ClientTest, MetricsAreExactInCsvAndJson) {
  daemon_.PutJob(MakeJob(1, "first", v1::RUNNING));
  const double odd = 0.1 + 0.2;  // 0.30000000000000004
  for (int step = 1; step <= 250; ++step) {
    v1::MetricRow row = MakeRow(step, step == 7 ? odd : 1.0 / step);
    daemon_.AddRow("j-aaaaaaaaaaaaaaa1", step == 100 ? WithValidation(row, 1.5) : row);
  }
  const Outcome csv = Run({"metrics", "first", "--name", "loss", "-o", "csv", "--to", "7"});
  EXPECT_THAT(csv.out, HasSubstr("step,attempt,rank,time,loss\n1,1,0,2023-11-14T22:13:21Z,1\n"));
  EXPECT_THAT(csv.out, HasSubstr("\n7,1,0,2023-11-14T22:13:27Z,0.30000000000000004\n"));
  // Three pages of the fake daemon, each row once.
  const auto rows = nlohmann::json::parse(Run({"metrics", "first", "-o", "json"}).out);
  ASSERT_EQ(rows.size(), 250);
  EXPECT_EQ(rows[6]["loss"].get<double>(), odd);
  for (int i = 0; i < 250; ++i) EXPECT_EQ(rows[i]["step"], i + 1);
  // Rows without the value are no rows.
  EXPECT_EQ(Run({"metrics", "first", "--name", "validation_loss", "-o", "csv"}).out,
            "step,attempt,rank,time,validation_loss\n100,1,0,2023-11-14T22:15:00Z,1.5\n");
  EXPECT_EQ(Run({"metrics", "first", "-o", "yaml"}).code, 2);
}

TEST_F(ClientTest, CompareShowsEfficiencyThatBothHave) {
  for (int i = 1; i <= 2; ++i) {
    v1::Job job = Succeeded(MakeJob(i, i == 1 ? "one" : "two", v1::SUCCEEDED));
    auto& efficiency = *job.mutable_result()->mutable_efficiency();
    efficiency["step_seconds_p50"] = i;
    if (i == 1) efficiency["tokens_per_joule"] = 7;
    daemon_.PutJob(job);
  }
  const Outcome text = Run({"compare", "one", "two"});
  EXPECT_THAT(text.out, HasSubstr("step, seconds"));
  EXPECT_THAT(text.out, HasSubstr("-50.00 %"));
  EXPECT_THAT(text.out, Not(HasSubstr("tokens/J")));
  const auto value = nlohmann::json::parse(Run({"compare", "one", "two", "-o", "json"}).out);
  EXPECT_EQ(value["a"]["efficiency"]["tokens_per_joule"], 7);
}

TEST_F(ClientTest, CompareComputesTheGapAtEqualTokens) {
  daemon_.PutJob(Succeeded(MakeJob(1, "four", v1::SUCCEEDED), 1.53));
  daemon_.PutJob(Succeeded(MakeJob(2, "sixteen", v1::SUCCEEDED), 1.50));
  // A is measured at steps 20, 40, ...; B at 10, 30, 50, ...: B is interpolated.
  for (int step = 20; step <= 100; step += 20) {
    daemon_.AddRow("j-aaaaaaaaaaaaaaa1", WithValidation(MakeRow(step, 0), 3.0 - 0.01 * step));
  }
  for (int step = 10; step <= 110; step += 20) {
    daemon_.AddRow("j-aaaaaaaaaaaaaaa2", WithValidation(MakeRow(step, 0), 2.0 - 0.01 * step));
  }
  const Outcome json = Run({"compare", "four", "sixteen", "-o", "json"});
  ASSERT_EQ(json.code, 0) << json.err;
  const auto value = nlohmann::json::parse(json.out);
  ASSERT_EQ(value["points"].size(), 5);
  EXPECT_EQ(value["points"][0]["tokens"], 20 * 1024);
  EXPECT_NEAR(value["points"][0]["b"], 1.8, 1e-12);
  EXPECT_NEAR(value["points"][0]["relative_gap"], 1.0 / 1.8, 1e-12);
  EXPECT_NEAR(value["final_relative_gap"], 1.0, 1e-12);
  EXPECT_EQ(value["a"]["name"], "four");
  const Outcome text = Run({"compare", "four", "sixteen"});
  EXPECT_THAT(text.out, HasSubstr("A four"));
  EXPECT_THAT(text.out, HasSubstr("validation loss     1.5300     1.5000      +2.00 %\n"));
  EXPECT_THAT(text.out, HasSubstr("20.5k  2.8000  1.8000     +55.56 %\n"));
  EXPECT_THAT(text.out, HasSubstr("relative gap of validation_loss in %\n"));
}

TEST_F(ClientTest, LogsGoOnOverALostConnectionWithoutRepetition) {
  daemon_.PutJob(MakeJob(1, "first", v1::RUNNING));
  for (const char* text : {"one", "two \033[2J", "three"}) {
    v1::LogLine line;
    line.set_attempt(1);
    line.set_text(text);
    daemon_.AddLogLine("j-aaaaaaaaaaaaaaa1", line);
  }
  const Outcome outcome = Run({"logs", "first", "-f"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.out, "one\ntwo \\x1b[2J\nthree\n");
  EXPECT_EQ(daemon_.calls("StreamLogs"), 2);
}

TEST_F(ClientTest, ActionsPrintTheNewStateAndGoOnAfterARefusal) {
  daemon_.PutJob(Succeeded(MakeJob(1, "done", v1::SUCCEEDED)));
  daemon_.PutJob(MakeJob(2, "runs", v1::RUNNING));
  const Outcome pause = Run({"pause", "done", "runs"});
  EXPECT_EQ(pause.code, 4);
  EXPECT_EQ(pause.out, "j-aaaaaaaaaaaaaaa2 PAUSING\n");
  EXPECT_EQ(pause.err, "error: job j-aaaaaaaaaaaaaaa1 is SUCCEEDED (FAILED_PRECONDITION)\n");
  EXPECT_EQ(Run({"resume", "runs"}).out, "j-aaaaaaaaaaaaaaa2 QUEUED\n");
  EXPECT_EQ(nlohmann::json::parse(Run({"cancel", "runs", "-o", "json"}).out)["state"], "STOPPING");
  EXPECT_EQ(Run({"delete", "runs"}).code, 4);
  EXPECT_EQ(Run({"delete", "done"}).out, "j-aaaaaaaaaaaaaaa1 deleted\n");
  EXPECT_EQ(Run({"get", "done"}).code, 3);
}

TEST_F(ClientTest, CheckpointsEventsWorkersAndInfo) {
  daemon_.PutJob(MakeJob(1, "first", v1::RUNNING));
  v1::Checkpoint checkpoint;
  checkpoint.set_job_id("j-aaaaaaaaaaaaaaa1");
  checkpoint.set_attempt(1);
  checkpoint.set_step(50);
  checkpoint.set_size_bytes(3 << 20);
  checkpoint.set_path("/state/step-50");
  checkpoint.mutable_create_time()->set_seconds(kNowSeconds);
  daemon_.AddCheckpoint(checkpoint);
  EXPECT_EQ(Run({"checkpoints", "first"}).out,
            "STEP  ATTEMPT     SIZE  CREATED               PATH\n"
            "  50        1  3.0 MiB  2023-11-14T22:13:20Z  /state/step-50\n");
  v1::JobEvent event;
  event.mutable_time()->set_seconds(kNowSeconds);
  event.set_actor("user");
  event.set_after(v1::QUEUED);
  event.set_reason(v1::SUBMITTED);
  event.set_message("submitted\nby \033]0;evil\007 name");
  daemon_.AddEvent(event);
  EXPECT_EQ(Run({"events", "first"}).out,
            "TIME                  ATTEMPT  ACTOR  STATE       REASON     MESSAGE\n"
            "2023-11-14T22:13:20Z        0  user   - > QUEUED  SUBMITTED  "
            "submitted\\x0aby \\x1b]0;evil\\x07 name\n");
  v1::Worker worker;
  worker.set_worker_id("w-1");
  worker.set_host("node");
  worker.set_state(v1::Worker::ONLINE);
  worker.set_device_kind("cpu");
  worker.set_slots(2);
  worker.set_slots_used(1);
  worker.add_job_ids("j-aaaaaaaaaaaaaaa1");
  worker.mutable_last_seen_time()->set_seconds(kNowSeconds - 3);
  daemon_.AddWorker(worker);
  EXPECT_EQ(Run({"workers"}).out,
            "WORKER  HOST  STATE   DEVICE  SLOTS  SEEN  JOBS\n"
            "w-1     node  ONLINE  cpu     1/2     3 s  j-aaaaaaaaaaaaaaa1\n");
  EXPECT_EQ(Run({"info"}).out,
            absl::StrCat("server   ", daemon_.address(),
                         "\nversion  9.8.7 (feedface)\n"
                         "started  2023-11-14T21:56:40Z  (16 min ago)\n"
                         "jobs     1,234\nmetrics  127.0.0.1:7879\nstate    /var/lib/nibble\n"));
}

TEST_F(ClientTest, NothingFromOutsideReachesTheTerminalAsAControlSequence) {
  v1::Job job = MakeJob(1, "first", v1::FAILED);
  // ESC, BEL and the C1 form of CSI.
  job.set_reason_message(
      "\033[31m \007 \xc2\x9b"
      "2J");
  job.set_worker_id("w\033c");
  daemon_.PutJob(job);
  for (const char* format : {"table", "wide", "json", "yaml"}) {
    for (const auto& arguments : {std::vector<std::string>{"get", "first"}, {"list"}}) {
      std::vector<std::string> with_format = arguments;
      with_format.insert(with_format.end(), {"-o", format});
      const Outcome outcome = Run(with_format);
      EXPECT_EQ(outcome.code, 0);
      EXPECT_THAT(outcome.out, Not(HasSubstr("\033"))) << format;
      EXPECT_THAT(outcome.out, Not(HasSubstr("\007"))) << format;
      EXPECT_THAT(outcome.out, Not(HasSubstr("\xc2\x9b"))) << format;
    }
  }
  daemon_.FailNext("GetServerInfo", absl::InternalError("bad \033[2J"), 1);
  EXPECT_EQ(Run({"info"}).err, "error: bad \\x1b[2J (INTERNAL)\n");
}

}  // namespace
}  // namespace nibble::client
