// Real processes: a scripted trainer (testing/scripted_trainer.cc) is started, watched and killed.
#include "worker/agent/process_launcher.h"

#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/files.h"
#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/agent/agent.h"
#include "worker/agent/testing/fake_daemon.h"
#include "worker/agent/trainer_exit.h"

namespace nibble::agent {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kJob[] = "j-0000000000000001";

std::string ScriptedTrainer() {
  char self[4096];
  const ssize_t n = readlink("/proc/self/exe", self, sizeof(self));
  const std::string path(self, n > 0 ? n : 0);
  return path.substr(0, path.rfind('/') + 1) + "worker_scripted_trainer";
}

// Generous, for a machine that is busy with other things; passed only by a failure.
bool Eventually(const std::function<bool()>& condition) {
  for (int i = 0; i < 3000; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

int PidInLogs(const std::vector<LogEntry>& logs) {
  for (const LogEntry& entry : logs) {
    absl::string_view text = entry.text;
    int pid = 0;
    if (absl::ConsumePrefix(&text, "pid ") && absl::SimpleAtoi(text, &pid)) return pid;
  }
  return 0;
}

class ProcessLauncherTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { BecomeReaper(); }

  std::unique_ptr<TrainerProcess> Launch(const std::string& script) {
    LaunchRequest request;
    request.start.mutable_spec()->set_name(script);
    request.attempt_directory = JoinPath(temporary_.path(), "attempt-1");
    request.start.set_output_directory(request.attempt_directory);
    return launcher_.Launch(request, [] {});
  }

  // Takes everything until the process is dead.
  TrainerExit RunToEnd(TrainerProcess& process) {
    const bool ended = Eventually([&] {
      const bool dead = process.exit().has_value();
      for (auto& report : process.TakeReports(1000)) reports_.push_back(std::move(report));
      for (auto& entry : process.TakeLogs(1000)) logs_.push_back(std::move(entry));
      return dead;
    });
    EXPECT_TRUE(ended);
    return process.exit().value_or(TrainerExit());
  }
  std::vector<std::string> Lines() const {
    std::vector<std::string> lines;
    for (const LogEntry& entry : logs_) lines.push_back(entry.text);
    return lines;
  }

  TemporaryDirectory temporary_ = *TemporaryDirectory::Make();
  ProcessLauncher launcher_{ScriptedTrainer()};
  std::vector<v1::TrainerReport> reports_;
  std::vector<LogEntry> logs_;
};

TEST_F(ProcessLauncherTest, CarriesReportsAndCommands) {
  const auto process = Launch("steps");
  v1::TrainerCommand command;
  command.mutable_checkpoint_committed()->set_step(3);
  process->Send(command);
  const TrainerExit exit = RunToEnd(*process);
  EXPECT_THAT(exit.launch_error, IsOk());
  EXPECT_THAT(exit.link_error, IsOk());
  EXPECT_EQ(exit.exit_code, 0);
  EXPECT_EQ(exit.signal, 0);
  ASSERT_EQ(reports_.size(), 6u);
  EXPECT_TRUE(reports_[0].has_started());
  EXPECT_EQ(reports_[3].metrics().sequence(), 3);
  EXPECT_EQ(reports_[4].checkpoint().metric_sequence(), 3);
  EXPECT_EQ(reports_[5].succeeded().result().steps(), 3);
}

TEST_F(ProcessLauncherTest, NothingIsLostInAFlood) {
  const auto process = Launch("flood");
  // Not taking holds the trainer up instead of filling memory.
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_FALSE(process->exit().has_value());
  RunToEnd(*process);
  for (auto& report : process->TakeReports(100'000)) reports_.push_back(std::move(report));
  ASSERT_EQ(reports_.size(), 20'002u);
  for (int64_t i = 1; i <= 20'000; ++i) ASSERT_EQ(reports_[i].metrics().sequence(), i);
}

TEST_F(ProcessLauncherTest, ACrashIsASignal) {
  const auto process = Launch("segfault");
  const TrainerExit exit = RunToEnd(*process);
  EXPECT_EQ(exit.signal, SIGSEGV);
  EXPECT_EQ(reports_.size(), 2u) << "what it sent before";
  EXPECT_EQ(ClassifyExit(exit, "").failure_class, v1::CONTROL);
}

TEST_F(ProcessLauncherTest, AnEndWithoutAReportHasItsCodeAndItsLastWords) {
  const auto process = Launch("exit");
  const TrainerExit exit = RunToEnd(*process);
  EXPECT_EQ(exit.exit_code, 3);
  EXPECT_THAT(Lines(), ElementsAre("no such thing as a free lunch"));
  EXPECT_THAT(ClassifyExit(exit, Lines().back()).message,
              AllOf(HasSubstr("code 3"), HasSubstr("free lunch")));
  ASSERT_OK_AND_ASSIGN(const std::string file,
                       ReadFile(JoinPath(temporary_.path(), "attempt-1/trainer.log"), 4096));
  EXPECT_EQ(file, "no such thing as a free lunch\n");
}

TEST_F(ProcessLauncherTest, OutputIsMadeHarmless) {
  const auto process = Launch("print");
  RunToEnd(*process);
  EXPECT_THAT(Lines(),
              ElementsAre("escape \\x1b[31m", "bad utf8 \\xff\\xfe", "windows", "", "no line end"));
}

TEST_F(ProcessLauncherTest, NoDescriptorLeaksIntoATrainer) {
  const int leak = dup(STDERR_FILENO);  // without close-on-exec
  const auto process = Launch("descriptors");
  RunToEnd(*process);
  close(leak);
  EXPECT_THAT(Lines(), ElementsAre("fd 0", "fd 1", "fd 2", "fd 3",
                                   absl::StrCat("in ", temporary_.path(), "/attempt-1")));
}

TEST_F(ProcessLauncherTest, TerminatesAndKills) {
  const auto willing = Launch("wait");
  ASSERT_TRUE(Eventually([&] { return !willing->TakeReports(10).empty(); }));
  willing->Signal(SIGTERM);
  EXPECT_EQ(RunToEnd(*willing).signal, SIGTERM);

  const auto unwilling = Launch("hang");
  ASSERT_TRUE(Eventually([&] { return !unwilling->TakeReports(10).empty(); }));
  unwilling->Signal(SIGTERM);
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT_FALSE(unwilling->exit().has_value());
  unwilling->Signal(SIGKILL);
  EXPECT_EQ(RunToEnd(*unwilling).signal, SIGKILL);
}

// Seen red: without the kill in ReapGroup the test never ends; without the wait for the group the
// grandchild is still there.
TEST_F(ProcessLauncherTest, TheWholeGroupIsDeadBeforeTheEndIsAnnounced) {
  const auto process = Launch("grandchild");
  RunToEnd(*process);
  const int pid = PidInLogs(logs_);
  ASSERT_GT(pid, 0);
  EXPECT_EQ(kill(pid, 0), -1);
  EXPECT_EQ(errno, ESRCH);
}

TEST_F(ProcessLauncherTest, AHostileFrameEndsTheTrainer) {
  const auto process = Launch("garbage");
  const TrainerExit exit = RunToEnd(*process);
  EXPECT_THAT(exit.link_error, StatusIs(absl::StatusCode::kDataLoss, HasSubstr("4294967295")));
  EXPECT_EQ(ClassifyExit(exit, "").failure_class, v1::CONTROL);
}

TEST_F(ProcessLauncherTest, AProgramThatIsNotThereIsALaunchError) {
  ProcessLauncher launcher("/nonexistent/nibble-trainer");
  LaunchRequest request;
  request.attempt_directory = JoinPath(temporary_.path(), "attempt-1");
  const auto process = launcher.Launch(request, [] {});
  EXPECT_THAT(RunToEnd(*process).launch_error, StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(ProcessLauncherTest, DestroyingKills) {
  auto process = Launch("hang");
  int pid = 0;
  ASSERT_TRUE(Eventually([&] { return (pid = PidInLogs(process->TakeLogs(10))) > 0; }));
  process.reset();
  EXPECT_EQ(kill(pid, 0), -1);
}

// Seen red: without PR_SET_PDEATHSIG.
TEST_F(ProcessLauncherTest, ATrainerDiesWithItsWorker) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const pid_t worker = fork();
  if (worker == 0) {
    auto process = Launch("hang");
    int pid = 0;
    Eventually([&] { return (pid = PidInLogs(process->TakeLogs(10))) > 0; });
    if (write(ends[1], &pid, sizeof(pid)) < 0) _exit(1);
    while (true) pause();
  }
  int trainer = 0;
  ASSERT_EQ(read(ends[0], &trainer, sizeof(trainer)), static_cast<ssize_t>(sizeof(trainer)));
  ASSERT_GT(trainer, 0);
  kill(worker, SIGKILL);
  ASSERT_EQ(waitpid(worker, nullptr, 0), worker);
  // This process reaps orphans: the trainer is its child now, and its death is seen first-hand.
  int status = 0;
  ASSERT_TRUE(Eventually([&] { return waitpid(trainer, &status, WNOHANG) == trainer; }));
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
  close(ends[0]);
  close(ends[1]);
}

// The agent over real processes and real time, with only the daemon in memory.
TEST_F(ProcessLauncherTest, AnAgentReportsATrainerThatWasKilled) {
  ASSERT_OK_AND_ASSIGN(WorkDirectory directory, WorkDirectory::Open(temporary_.path()));
  EventLoop loop(RealClock());
  InlineTaskRunner tasks;
  FakeDaemon daemon;
  AttemptContext context;
  context.worker_id = "w-1";
  context.incarnation = "i-1";
  context.clock = &RealClock();
  context.random = &SystemRandom();
  context.loop = &loop;
  context.link = &daemon;
  context.launcher = &launcher_;
  context.tasks = &tasks;
  context.directory = &directory;
  Agent agent(AgentOptions(), context);
  const auto run_until = [&](const std::function<bool()>& condition) {
    return Eventually([&] {
      agent.Tick();
      loop.RunPending();
      return condition();
    });
  };
  ASSERT_TRUE(run_until([&] { return daemon.watched(); }));
  v1::AssignmentList list;
  v1::Assignment* assignment = list.add_assignments();
  assignment->mutable_key()->set_job_id(kJob);
  assignment->mutable_key()->set_attempt(1);
  assignment->set_action(v1::Assignment::RUN);
  assignment->mutable_spec()->set_name("hang");
  daemon.live = {{kJob, 1}};
  daemon.Send(list);
  ASSERT_TRUE(run_until([&] {
    return !daemon.lines[{kJob, 1}].empty() && !daemon.log.empty() &&
           daemon.log.back() == "TRAINING";
  }));
  kill(PidInLogs({{0, daemon.lines[{kJob, 1}][0]}}), SIGKILL);
  ASSERT_TRUE(run_until([&] { return daemon.reports.size() == 2; }));
  EXPECT_EQ(daemon.reports[1].status(), v1::ReportAttemptRequest::FAILED);
  EXPECT_THAT(daemon.reports[1].message(), HasSubstr("signal 9"));
  // Another: the next attempt trains to its end.
  list.mutable_assignments(0)->mutable_key()->set_attempt(2);
  list.mutable_assignments(0)->mutable_spec()->set_name("steps");
  daemon.live = {{kJob, 2}};
  daemon.Send(list);
  ASSERT_TRUE(run_until([&] { return daemon.reports.size() == 4; }));
  EXPECT_EQ(daemon.reports[3].status(), v1::ReportAttemptRequest::SUCCEEDED);
  EXPECT_EQ(daemon.checkpoints[0].step(), 3);
  EXPECT_EQ((daemon.metrics[{kJob, 2}].size()), 3u);
}

}  // namespace
}  // namespace nibble::agent
