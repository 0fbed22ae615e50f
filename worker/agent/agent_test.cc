// The agent with a daemon, a clock and trainers that are not real. Each test is a story of what the
// daemon and the trainers do, and of what the worker must do about it.
#include "worker/agent/agent.h"

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/clock.h"
#include "base/files.h"
#include "base/random.h"
#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/agent/testing/fake_daemon.h"
#include "worker/agent/testing/fake_trainer.h"

namespace nibble::agent {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr char kJob[] = "j-0000000000000001";
constexpr char kOtherJob[] = "j-0000000000000002";

// Always the longest wait that the jitter allows.
class LongestWait : public RandomSource {
 public:
  uint64_t Next() override { return ~uint64_t{0}; }
};

class AgentTest : public ::testing::Test {
 protected:
  void SetUp() override {
    directory_ = std::make_unique<WorkDirectory>(*WorkDirectory::Open(temporary_.path()));
    Boot(1);
  }

  void Boot(int slots) {
    agent_.reset();
    AttemptContext context;
    context.worker_id = "w-1";
    context.incarnation = "i-1";
    context.data_directory = "/data";
    context.clock = &clock_;
    context.random = &random_;
    context.loop = &loop_;
    context.link = &daemon_;
    context.launcher = &launcher_;
    context.tasks = &tasks_;
    context.directory = directory_.get();
    AgentOptions options;
    options.slots = slots;
    agent_ = std::make_unique<Agent>(options, context);
    Settle();
  }

  // Until nothing more happens without time.
  void Settle() {
    for (int i = 0; i < 40; ++i) {
      agent_->Tick();
      loop_.RunPending();
    }
  }

  void Pass(double seconds) {
    constexpr double kStep = 0.05;
    for (double t = 0; t < seconds; t += kStep) {
      clock_.AdvanceNanos(static_cast<int64_t>(kStep * 1e9));
      Settle();
    }
  }

  static v1::Assignment MakeAssignment(const std::string& job_id, int64_t attempt,
                                       v1::Assignment::Action action = v1::Assignment::RUN) {
    v1::Assignment assignment;
    assignment.mutable_key()->set_job_id(job_id);
    assignment.mutable_key()->set_attempt(attempt);
    assignment.set_action(action);
    assignment.mutable_spec()->mutable_resources()->set_slots(1);
    return assignment;
  }

  // Sends the complete list, and makes exactly these attempts live.
  void Assign(const std::vector<v1::Assignment>& assignments) {
    v1::AssignmentList list;
    daemon_.live.clear();
    for (const v1::Assignment& assignment : assignments) {
      *list.add_assignments() = assignment;
      daemon_.live.push_back({assignment.key().job_id(), assignment.key().attempt()});
    }
    last_list_ = list;
    daemon_.Send(list);
    Settle();
  }

  FakeTrainer& StartOne() {
    Assign({MakeAssignment(kJob, 1)});
    FakeTrainer& trainer = *launcher_.trainers.back();
    trainer.Started();
    Settle();
    return trainer;
  }

  std::string Log() const { return absl::StrJoin(daemon_.log, ", "); }
  std::vector<int64_t> StoredSteps(const std::string& job_id, int64_t attempt) {
    std::vector<int64_t> steps;
    for (const v1::MetricRecord& row : daemon_.metrics[{job_id, attempt}]) {
      steps.push_back(row.step());
    }
    return steps;
  }
  void MakeCheckpointDirectory(int64_t attempt, int64_t step) {
    ASSERT_THAT(MakeDirectories(CheckpointDirectory(attempt, step)), IsOk());
  }
  std::string CheckpointDirectory(int64_t attempt, int64_t step) const {
    return absl::StrCat(directory_->AttemptDirectory(kJob, attempt), "/step-", step);
  }

  TemporaryDirectory temporary_ = *TemporaryDirectory::Make();
  FakeClock clock_;
  LongestWait random_;
  EventLoop loop_{clock_};
  InlineTaskRunner tasks_;
  FakeDaemon daemon_;
  FakeLauncher launcher_;
  std::unique_ptr<WorkDirectory> directory_;
  std::unique_ptr<Agent> agent_;
  v1::AssignmentList last_list_;
};

TEST_F(AgentTest, RunsAJobToItsEnd) {
  FakeTrainer& trainer = StartOne();
  EXPECT_EQ(trainer.request.start.data_directory(), "/data");
  EXPECT_EQ(trainer.request.start.output_directory(), directory_->AttemptDirectory(kJob, 1));
  trainer.Steps(1, 3);
  trainer.Checkpoint(3);
  Pass(0.2);
  ASSERT_THAT(trainer.commands, SizeIs(1));
  EXPECT_EQ(trainer.commands[0].checkpoint_committed().step(), 3);
  trainer.Succeeded(3);
  Pass(0.2);
  EXPECT_THAT(Log(), testing::Not(HasSubstr("SUCCEEDED"))) << "before the process was dead";
  trainer.Exit(0);
  Settle();
  EXPECT_EQ(Log(), "register 0, TRAINING, metrics 1-3, commit 3, SUCCEEDED");
  EXPECT_EQ(daemon_.reports.back().result().steps(), 3);
}

// Seen red: without the comparison with metric_sequence in PublishCheckpoint.
TEST_F(AgentTest, CommitsACheckpointOnlyAfterTheRowsBeforeIt) {
  FakeTrainer& trainer = StartOne();
  daemon_.silent_metrics = true;
  trainer.Steps(1, 2);
  trainer.Checkpoint(2);
  Pass(1);
  EXPECT_THAT(Log(), testing::Not(HasSubstr("commit")));
  daemon_.silent_metrics = false;
  Pass(5);
  EXPECT_THAT(Log(), HasSubstr("commit 2"));
  EXPECT_THAT(StoredSteps(kJob, 1), ElementsAre(1, 2)) << "sent again, stored once";
}

TEST_F(AgentTest, GoesOnTrainingWithoutTheDaemonAndIsAdopted) {
  FakeTrainer& trainer = StartOne();
  trainer.Steps(1, 2);
  Pass(0.2);
  daemon_.down = true;
  daemon_.Drop();
  trainer.Steps(3, 6);
  Pass(60);
  EXPECT_FALSE(trainer.was_killed());
  daemon_.down = false;
  daemon_.log.clear();
  Pass(5);
  EXPECT_THAT(Log(), AllOf(HasSubstr("register 1"), HasSubstr("metrics")));
  EXPECT_THAT(StoredSteps(kJob, 1), ElementsAre(1, 2, 3, 4, 5, 6));
  daemon_.Send(last_list_);
  Settle();
  EXPECT_THAT(launcher_.trainers, SizeIs(1)) << "not started twice";
}

// Seen red: without RewindOne, and without RewindTo.
TEST_F(AgentTest, SendsAgainWhatTheDaemonLostInAPowerCut) {
  FakeTrainer& trainer = StartOne();
  trainer.Steps(1, 1000);
  Pass(2);
  ASSERT_THAT(StoredSteps(kJob, 1), SizeIs(1000));
  daemon_.metrics[{kJob, 1}].resize(400);
  daemon_.down = true;
  daemon_.Drop();
  Pass(1);
  daemon_.down = false;
  Pass(10);
  EXPECT_THAT(StoredSteps(kJob, 1), SizeIs(1000)) << "though no new row came";
  trainer.Steps(1001, 1002);
  Pass(1);
  const std::vector<int64_t> steps = StoredSteps(kJob, 1);
  ASSERT_THAT(steps, SizeIs(1002));
  for (int64_t i = 0; i < 1002; ++i) EXPECT_EQ(steps[i], i + 1);
}

TEST_F(AgentTest, GivesUpWhereLostRowsAreNotKeptAnyMore) {
  FakeTrainer& trainer = StartOne();
  trainer.Steps(1, 6000);
  Pass(3);
  ASSERT_THAT(StoredSteps(kJob, 1), SizeIs(6000));
  daemon_.metrics[{kJob, 1}].clear();
  trainer.Step(6001);
  Pass(1);
  ASSERT_FALSE(daemon_.reports.empty());
  EXPECT_EQ(daemon_.reports.back().status(), v1::ReportAttemptRequest::FAILED);
  EXPECT_EQ(daemon_.reports.back().failure_class(), v1::CONTROL);
}

// Seen red: without the lease's deadline in Pump, and with the lease counted from the answer.
TEST_F(AgentTest, PublishesNothingPastItsLease) {
  FakeTrainer& trainer = StartOne();
  trainer.Step(1);
  Pass(0.2);
  daemon_.hold_renewals = true;
  Pass(15);
  daemon_.log.clear();
  trainer.Step(2);
  trainer.Checkpoint(2);
  trainer.Succeeded(2);
  trainer.Exit(0);
  Pass(20);
  EXPECT_THAT(daemon_.log, IsEmpty());
  EXPECT_FALSE(trainer.was_killed()) << "it goes on computing";
  // The late answer renews from when it was asked for, which is over too.
  daemon_.AnswerRenewals();
  loop_.RunPending();
  for (const auto& publish : {1, 2, 3}) {
    agent_->Tick();
    EXPECT_THAT(daemon_.log, IsEmpty()) << publish;
  }
  Settle();
  EXPECT_EQ(Log(), "metrics 2-2, commit 2, SUCCEEDED");
}

TEST_F(AgentTest, KillsWhatTheDaemonDoesNotAdopt) {
  FakeTrainer& trainer = StartOne();
  trainer.Step(1);
  daemon_.down = true;
  daemon_.Drop();
  Pass(1);
  daemon_.live.clear();
  daemon_.down = false;
  daemon_.log.clear();
  Pass(5);
  EXPECT_TRUE(trainer.was_killed());
  EXPECT_EQ(Log(), "register 1") << "nothing of a stale attempt is published";
}

TEST_F(AgentTest, KillsAStaleAttemptHoweverItHears) {
  {
    SCOPED_TRACE("a lease that is not renewed");
    FakeTrainer& trainer = StartOne();
    daemon_.live.clear();
    Pass(6);
    EXPECT_TRUE(trainer.was_killed());
  }
  {
    SCOPED_TRACE("a refused append");
    Assign({MakeAssignment(kJob, 2)});
    FakeTrainer& trainer = *launcher_.trainers.back();
    trainer.Started();
    Settle();
    daemon_.live.clear();
    trainer.Step(1);
    Pass(0.2);
    EXPECT_TRUE(trainer.was_killed());
  }
  {
    SCOPED_TRACE("a list without it");
    Assign({MakeAssignment(kJob, 3)});
    FakeTrainer& trainer = *launcher_.trainers.back();
    Assign({});
    EXPECT_TRUE(trainer.was_killed());
  }
  EXPECT_THAT(daemon_.log, testing::Not(testing::Contains("FAILED")));
}

// Seen red: with EndIsReady not asking for `ended_`.
TEST_F(AgentTest, StoppedMeansProvenDead) {
  FakeTrainer& trainer = StartOne();
  trainer.dies_of_sigkill = false;  // as one in an uninterruptible wait
  Assign({MakeAssignment(kJob, 1, v1::Assignment::STOP)});
  EXPECT_THAT(trainer.signals, ElementsAre(SIGTERM));
  Pass(6);
  EXPECT_THAT(trainer.signals, ElementsAre(SIGTERM, SIGKILL));
  Pass(6);
  EXPECT_THAT(Log(), testing::Not(HasSubstr("STOPPED")));
  trainer.Die(SIGKILL);
  Settle();
  EXPECT_THAT(Log(), HasSubstr("STOPPED"));
}

// Though there is another slot: both would write under one job. Seen red: without the comparison of
// job ids in HasRoom.
TEST_F(AgentTest, TheNextTrainerWaitsUntilTheOneBeforeIsDead) {
  Boot(2);
  FakeTrainer& old = StartOne();
  old.dies_of_sigkill = false;
  Assign({MakeAssignment(kJob, 2)});
  Pass(1);
  EXPECT_THAT(launcher_.trainers, SizeIs(1));
  EXPECT_GT(daemon_.renewals, 0);
  old.Die(SIGKILL);
  Settle();
  ASSERT_THAT(launcher_.trainers, SizeIs(2));
  EXPECT_EQ(launcher_.trainers[1]->request.start.key().attempt(), 2);
}

TEST_F(AgentTest, PausesWithACommittedCheckpoint) {
  FakeTrainer& trainer = StartOne();
  trainer.Steps(1, 4);
  Assign({MakeAssignment(kJob, 1, v1::Assignment::PAUSE)});
  EXPECT_TRUE(trainer.was_told_to_pause());
  trainer.Checkpoint(4);
  Pass(0.2);
  trainer.Paused(4);
  trainer.Exit(0);
  Settle();
  EXPECT_EQ(Log(), "register 0, TRAINING, metrics 1-4, commit 4, PAUSED");
}

TEST_F(AgentTest, AnAssignmentThatNeverRanIsPausedStoppedOrNotStarted) {
  Assign({MakeAssignment(kJob, 1, v1::Assignment::PAUSE)});
  Pass(0.2);
  Assign({MakeAssignment(kOtherJob, 1, v1::Assignment::STOP)});
  Pass(0.2);
  EXPECT_THAT(launcher_.trainers, IsEmpty());
  EXPECT_EQ(Log(), "register 0, PAUSED, STOPPED");
}

TEST_F(AgentTest, AnAttemptOfAnEarlierIncarnationIsGivenBack) {
  ASSERT_THAT(MakeDirectories(directory_->AttemptDirectory(kJob, 1)), IsOk());
  Assign({MakeAssignment(kJob, 1)});
  Pass(0.2);
  EXPECT_THAT(launcher_.trainers, IsEmpty());
  EXPECT_EQ(Log(), "register 0, RELEASED");
}

TEST_F(AgentTest, ReportsAFailureWithItsClass) {
  FakeTrainer& trainer = StartOne();
  trainer.Step(1);
  trainer.Failed(v1::NUMERIC, "loss is not finite at step 2");
  trainer.Exit(1);
  Pass(0.2);
  EXPECT_EQ(Log(), "register 0, TRAINING, metrics 1-1, FAILED");
  EXPECT_EQ(daemon_.reports.back().failure_class(), v1::NUMERIC);
  EXPECT_EQ(daemon_.reports.back().message(), "loss is not finite at step 2");
}

TEST_F(AgentTest, ReportsACrashWithTheLastLines) {
  FakeTrainer& trainer = StartOne();
  trainer.Print("terrible things");
  trainer.Die(SIGSEGV);
  Pass(3);
  EXPECT_EQ(daemon_.reports.back().status(), v1::ReportAttemptRequest::FAILED);
  EXPECT_EQ(daemon_.reports.back().failure_class(), v1::CONTROL);
  EXPECT_THAT(daemon_.reports.back().message(),
              AllOf(HasSubstr("signal 11"), HasSubstr("terrible things")));
  EXPECT_THAT((daemon_.lines[{kJob, 1}]), ElementsAre("terrible things"));
}

TEST_F(AgentTest, ATrainerThatBreaksTheProtocolIsKilledAndFails) {
  FakeTrainer& trainer = StartOne();
  ++trainer.sequence;  // a row is missing
  trainer.Step(2);
  Settle();
  EXPECT_TRUE(trainer.was_killed());
  EXPECT_EQ(daemon_.reports.back().status(), v1::ReportAttemptRequest::FAILED);
  EXPECT_THAT(daemon_.reports.back().message(), HasSubstr("does not follow"));
}

TEST_F(AgentTest, ACheckpointOutsideTheJobsDirectoryIsRefused) {
  FakeTrainer& trainer = StartOne();
  v1::TrainerReport report;
  report.mutable_checkpoint()->set_step(1);
  report.mutable_checkpoint()->set_path("/etc");
  trainer.Report(report);
  Settle();
  EXPECT_TRUE(trainer.was_killed());
  EXPECT_THAT(daemon_.checkpoints, IsEmpty());
}

TEST_F(AgentTest, ARefusedCheckpointEndsTheTrainer) {
  FakeTrainer& trainer = StartOne();
  daemon_.commit_refusal = absl::InvalidArgumentError("the step is beyond the job's last");
  trainer.Checkpoint(0);
  Settle();
  ASSERT_THAT(trainer.commands, SizeIs(1));
  EXPECT_TRUE(trainer.commands[0].has_checkpoint_refused());
  EXPECT_EQ(daemon_.reports.back().status(), v1::ReportAttemptRequest::FAILED);
}

// Seen red: without `newest`.
TEST_F(AgentTest, RemovesCheckpointsThatAreNotRetained) {
  daemon_.keep = 1;
  MakeCheckpointDirectory(1, 2);  // of an earlier attempt
  Assign({MakeAssignment(kJob, 2)});
  FakeTrainer& trainer = *launcher_.trainers.back();
  trainer.Started(2);
  for (const int64_t step : {4, 6, 8}) MakeCheckpointDirectory(2, step);
  trainer.Checkpoint(4);
  trainer.Checkpoint(6);
  Settle();
  EXPECT_FALSE(FileExists(CheckpointDirectory(1, 2)));
  EXPECT_FALSE(FileExists(CheckpointDirectory(2, 4)));
  EXPECT_TRUE(FileExists(CheckpointDirectory(2, 6)));
  EXPECT_TRUE(FileExists(CheckpointDirectory(2, 8))) << "written, not yet committed";
}

TEST_F(AgentTest, PurgesDeletedJobsAndNothingElse) {
  MakeCheckpointDirectory(1, 2);
  const std::string outside = JoinPath(temporary_.path(), "precious");
  ASSERT_THAT(MakeDirectories(outside), IsOk());
  v1::AssignmentList list;
  list.add_purge_job_ids(kJob);
  for (const char* bad : {"..", "../precious", "/", "", "."}) list.add_purge_job_ids(bad);
  daemon_.Send(list);
  Pass(0.2);
  EXPECT_FALSE(FileExists(JoinPath(temporary_.path(), absl::StrCat("jobs/", kJob))));
  EXPECT_TRUE(FileExists(outside));
  EXPECT_TRUE(FileExists(JoinPath(temporary_.path(), "jobs")));
  EXPECT_THAT(daemon_.purged, ElementsAre(kJob));
}

TEST_F(AgentTest, AShutdownPausesTrainersAndGivesTheirJobsBack) {
  FakeTrainer& trainer = StartOne();
  trainer.Steps(1, 5);
  agent_->ShutDown();
  Settle();
  EXPECT_TRUE(trainer.was_told_to_pause());
  EXPECT_FALSE(agent_->done());
  trainer.Checkpoint(5);
  Pass(0.2);
  trainer.Paused(5);
  trainer.Exit(0);
  Settle();
  EXPECT_EQ(Log(), "register 0, TRAINING, metrics 1-5, commit 5, RELEASED");
  EXPECT_TRUE(agent_->done());
  EXPECT_THAT(agent_->result(), IsOk());
}

TEST_F(AgentTest, AShutdownEndsInBoundedTimeWithASilentTrainer) {
  FakeTrainer& trainer = StartOne();
  agent_->ShutDown();
  Pass(24);
  EXPECT_FALSE(trainer.was_killed());
  Pass(2);
  EXPECT_TRUE(trainer.was_killed());
  EXPECT_THAT(Log(), HasSubstr("RELEASED"));
  EXPECT_TRUE(agent_->done());
}

TEST_F(AgentTest, AShutdownEndsInBoundedTimeWithoutADaemon) {
  FakeTrainer& trainer = StartOne();
  daemon_.down = true;
  daemon_.Drop();
  agent_->ShutDown();
  Pass(31);
  EXPECT_TRUE(trainer.was_killed());
  EXPECT_TRUE(agent_->done());
}

TEST_F(AgentTest, TheDaemonsShutdownIsOurs) {
  FakeTrainer& trainer = StartOne();
  last_list_.set_shut_down(true);
  daemon_.Send(last_list_);
  Settle();
  EXPECT_TRUE(trainer.was_told_to_pause());
  trainer.Paused(0);
  trainer.Exit(0);
  Settle();
  EXPECT_TRUE(agent_->done());
}

TEST_F(AgentTest, AnIdleWorkerShutsDownAtOnce) {
  agent_->ShutDown();
  agent_->Tick();
  EXPECT_TRUE(agent_->done());
}

TEST_F(AgentTest, OrphansAreKilledAfterTheLimit) {
  FakeTrainer& trainer = StartOne();
  daemon_.down = true;
  daemon_.Drop();
  Pass(29 * 60);
  EXPECT_FALSE(trainer.was_killed());
  Pass(2 * 60);
  EXPECT_TRUE(trainer.was_killed());
  daemon_.down = false;
  daemon_.log.clear();
  Pass(5);
  EXPECT_EQ(Log(), "register 0");
}

TEST_F(AgentTest, RegistersAgainWhereTheDaemonForgotIt) {
  FakeTrainer& trainer = StartOne();
  daemon_.knows_worker = false;
  daemon_.log.clear();
  trainer.Step(1);
  Pass(2);
  EXPECT_EQ(Log(), "register 1, metrics 1-1");
}

TEST_F(AgentTest, EndsWhereAnotherProcessHasItsName) {
  FakeTrainer& trainer = StartOne();
  daemon_.renewal_error =
      StatusWithReason(absl::FailedPreconditionError("replaced"), "STALE_INCARNATION");
  Pass(6);
  EXPECT_TRUE(trainer.was_killed());
  EXPECT_TRUE(agent_->done());
  EXPECT_THAT(agent_->result(), StatusIs(absl::StatusCode::kAborted, HasSubstr("another process")));
}

// A list that was on its way while the end was reported; and one of a daemon that lost the report.
TEST_F(AgentTest, AnEndedAttemptIsNeverStartedAgain) {
  FakeTrainer& trainer = StartOne();
  trainer.Failed(v1::DATA, "no such file");
  trainer.Exit(1);
  Settle();
  daemon_.Send(last_list_);
  Settle();
  EXPECT_THAT(launcher_.trainers, SizeIs(1));
  EXPECT_THAT(daemon_.reports, SizeIs(2)) << "TRAINING and FAILED";
  daemon_.Drop();
  Pass(1);
  daemon_.Send(last_list_);
  Settle();
  EXPECT_THAT(launcher_.trainers, SizeIs(1));
  ASSERT_THAT(daemon_.reports, SizeIs(3));
  EXPECT_EQ(daemon_.reports.back().status(), v1::ReportAttemptRequest::FAILED);
}

TEST_F(AgentTest, IgnoresAssignmentsWhoseNamesAreNotNames) {
  Assign({MakeAssignment("../../etc", 1), MakeAssignment(kJob, 0), MakeAssignment("", 1)});
  EXPECT_THAT(launcher_.trainers, IsEmpty());
}

TEST_F(AgentTest, RunsAsManyAsItHasSlots) {
  Boot(2);
  Assign({MakeAssignment(kJob, 1), MakeAssignment(kOtherJob, 1),
          MakeAssignment("j-0000000000000003", 1)});
  EXPECT_THAT(launcher_.trainers, SizeIs(2));
}

TEST_F(AgentTest, BackOffGrowsToItsCapAndStartsOver) {
  daemon_.down = true;
  daemon_.Drop();
  Backoff backoff;
  std::vector<double> waits;
  for (int i = 0; i < 7; ++i) {
    backoff.Failed(0, random_);
    waits.push_back(static_cast<double>(backoff.ready_at()) / 1e9);
  }
  for (const double wait : waits) EXPECT_LE(wait, 4.0);
  backoff.Succeeded();
  EXPECT_TRUE(backoff.Ready(0));
}

}  // namespace
}  // namespace nibble::agent
