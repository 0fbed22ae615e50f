// `nibble watch` and `submit --wait`: plain lines, the live view, restarts of the daemon, Ctrl-C.
#include <csignal>
#include <thread>

#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "client/client_testing.h"
#include "nlohmann/json.hpp"

namespace nibble::client {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kId[] = "j-aaaaaaaaaaaaaaa1";

class WatchTest : public ClientTest {
 protected:
  // Waits until the watcher has opened its streams `times` times.
  void AwaitStreams(size_t times) {
    for (int i = 0; daemon_.metric_cursors().size() < times || daemon_.job_streams() < times; ++i) {
      if (i == 5000) {
        ADD_FAILURE() << "no stream " << times;
        // Lets the watcher end, so that the test does.
        return daemon_.PutJob(Succeeded(MakeJob(1, "first", v1::RUNNING)));
      }
      absl::SleepFor(absl::Milliseconds(2));
    }
  }

  // Submits a job with these flags; it succeeds once it is watched.
  Outcome SubmitWhatSucceeds(const std::vector<std::string>& flags) {
    std::thread training([this] {
      AwaitStreams(1);
      v1::Job job = MakeJob(1, "a", v1::RUNNING);
      job.set_job_id("j-000000000000abc0");
      daemon_.PutJob(Succeeded(job));
    });
    std::vector<std::string> arguments = {"submit", "-"};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    const Outcome outcome =
        Run(arguments,
            "name: a\nmodel: {preset: llama-tiny}\ndata: {path: kjv}\ntraining: {steps: 5}\n");
    training.join();
    return outcome;
  }
};

TEST_F(WatchTest, PlainLinesTellStatesStepsAndTheResult) {
  daemon_.PutJob(MakeJob(1, "first", v1::RUNNING));
  std::thread training([this] {
    AwaitStreams(1);
    for (int step = 1; step <= 3; ++step) daemon_.AddRow(kId, MakeRow(step, 5.0 - step));
    daemon_.AddRow(kId, WithValidation(MakeRow(100, 1.25), 1.5));
    daemon_.PutJob(Succeeded(MakeJob(1, "first", v1::RUNNING)));
  });
  const Outcome outcome = Run({"watch", "first"});
  training.join();
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("first  RUNNING  TRAINER_STARTED\n"));
  EXPECT_THAT(outcome.out,
              HasSubstr("first  step 1/100  loss 4.0000  2.05k tokens/s  50 s left\n"));
  EXPECT_THAT(outcome.out, HasSubstr("first  step 100/100  loss 1.2500  2.05k tokens/s  "
                                     "validation loss 1.5000, 2.1640 bits/byte\n"));
  EXPECT_TRUE(absl::EndsWith(outcome.out,
                             "first  SUCCEEDED  train loss 1.2500, validation loss 1.5000, "
                             "2.1640 bits/byte, 25.1k tokens/s\n"))
      << outcome.out;
  EXPECT_THAT(outcome.out, Not(HasSubstr("\033")));
}

TEST_F(WatchTest, EveryThinsTheLinesOut) {
  daemon_.PutJob(Succeeded(MakeJob(1, "first", v1::RUNNING)));
  for (int step = 1; step <= 100; ++step) daemon_.AddRow(kId, MakeRow(step, 1));
  const std::string out = Run({"watch", "first", "--every", "40"}).out;
  EXPECT_THAT(out, HasSubstr("step 40/"));
  EXPECT_THAT(out, HasSubstr("step 80/"));
  EXPECT_THAT(out, HasSubstr("step 100/"));  // the last one always
  EXPECT_THAT(out, Not(HasSubstr("step 41/")));
  EXPECT_EQ(Run({"watch", "first", "--every", "0"}).code, 2);
}

TEST_F(WatchTest, AFailedOrCancelledJobIsExitCodeOne) {
  v1::Job failed = MakeJob(1, "first", v1::FAILED);
  failed.set_reason(v1::RESTART_BUDGET_EXHAUSTED);
  failed.set_reason_message("3 attempts failed: loss is not finite");
  daemon_.PutJob(failed);
  daemon_.PutJob(Succeeded(MakeJob(2, "second", v1::SUCCEEDED)));
  const Outcome outcome = Run({"watch", "first", "second"});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.out, HasSubstr("first  FAILED  RESTART_BUDGET_EXHAUSTED: 3 attempts failed: "
                                     "loss is not finite\n"));
  daemon_.PutJob(MakeJob(1, "first", v1::CANCELLED));
  EXPECT_EQ(Run({"watch", "first"}).code, 1);
}

TEST_F(WatchTest, ARestartOfTheDaemonIsWaitedForAndNoStepIsLostOrRepeated) {
  daemon_.PutJob(MakeJob(1, "first", v1::RUNNING));
  daemon_.AddRow(kId, MakeRow(1, 4));
  daemon_.AddRow(kId, MakeRow(2, 3));
  std::thread restart([this] {
    AwaitStreams(1);
    absl::SleepFor(absl::Milliseconds(100));
    daemon_.Stop();
    absl::SleepFor(absl::Milliseconds(200));
    daemon_.AddRow(kId, MakeRow(3, 2));
    daemon_.Start();
    AwaitStreams(2);
    daemon_.PutJob(Succeeded(MakeJob(1, "first", v1::RUNNING)));
  });
  const Outcome outcome = Run({"watch", "first", "-o", "json"});
  restart.join();
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  std::vector<int> steps;
  std::istringstream lines(outcome.out);
  for (std::string line; std::getline(lines, line);) {
    const auto value = nlohmann::json::parse(line);
    if (value.contains("step")) steps.push_back(value["step"]);
  }
  EXPECT_THAT(steps, ::testing::ElementsAre(1, 2, 3));
  EXPECT_EQ(daemon_.metric_cursors().back(), 2);
}

TEST_F(WatchTest, ADaemonThatStaysAwayIsUnreachable) {
  daemon_.PutJob(MakeJob(1, "first", v1::RUNNING));
  std::thread stop([this] {
    AwaitStreams(1);
    daemon_.Stop();
  });
  const Outcome outcome = Run({"watch", "first", "--reconnect", "300ms"});
  stop.join();
  EXPECT_EQ(outcome.code, 5);
  EXPECT_THAT(outcome.err, HasSubstr("lost the connection"));
}

TEST_F(WatchTest, CtrlCLeavesTheJobRunningAndSaysSo) {
  daemon_.PutJob(MakeJob(1, "first", v1::RUNNING));
  std::thread user([this] {
    AwaitStreams(1);
    absl::SleepFor(absl::Milliseconds(50));
    raise(SIGINT);
  });
  const Outcome outcome = Run({"watch", "first"});
  user.join();
  EXPECT_EQ(outcome.code, 130);
  EXPECT_THAT(outcome.err, HasSubstr("The job goes on"));
  EXPECT_EQ(daemon_.calls("CancelJob"), 0);
}

TEST_F(WatchTest, SubmitWaitsQuietlyAndEndsWithTheJobsFate) {
  const Outcome outcome = SubmitWhatSucceeds({"--wait"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.out, "j-000000000000abc0\n");
  EXPECT_THAT(outcome.err, HasSubstr("a  SUCCEEDED"));
}

TEST_F(WatchTest, SubmitThatWaitsGivesProgramsTheJobAsItEnded) {
  const Outcome outcome = SubmitWhatSucceeds({"--wait", "-o", "json"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(nlohmann::json::parse(outcome.out)["state"], "SUCCEEDED");
}

TEST_F(WatchTest, TheLiveViewDrawsOverItselfWithinTheWindow) {
  terminal_.out_is_terminal = true;
  terminal_.color = true;
  terminal_.unicode = true;
  terminal_.columns = 80;
  terminal_.rows = 24;
  daemon_.PutJob(Succeeded(MakeJob(1, "first", v1::RUNNING)));
  for (int step = 1; step <= 100; ++step) {
    v1::MetricRow row = MakeRow(step, 5.0 / step);
    daemon_.AddRow(kId, step % 50 == 0 ? WithValidation(row, 1.5) : row);
  }
  const Outcome outcome = Run({"watch", "first"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_TRUE(absl::StartsWith(outcome.out, "\033[?25l"));
  EXPECT_TRUE(absl::EndsWith(outcome.out, "\033[?25h"));  // the cursor is back
  const std::string last = outcome.out.substr(outcome.out.rfind("first"));
  EXPECT_THAT(last, HasSubstr("SUCCEEDED"));
  EXPECT_THAT(last, HasSubstr("100 %  step 100/100"));
  EXPECT_THAT(last, HasSubstr("validation 1.5000 (2.164 bits/byte, step 100)"));
  EXPECT_THAT(last, HasSubstr("┤"));
  std::istringstream lines(last);
  int count = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    EXPECT_LE(DisplayWidth(line.substr(0, line.rfind("\033[K"))), 79) << line;
  }
  EXPECT_LE(count, 23);
}

}  // namespace
}  // namespace nibble::client
