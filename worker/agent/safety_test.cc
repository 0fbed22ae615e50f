// What a worker does for a trainer that crashes or hangs: stories with a daemon, a clock and
// trainers that are not real.
#include <algorithm>
#include <csignal>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/files.h"
#include "base/random.h"
#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/agent/agent.h"
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

class SafetyTest : public ::testing::Test {
 protected:
  void SetUp() override {
    directory_ = std::make_unique<WorkDirectory>(*WorkDirectory::Open(temporary_.path()));
    launcher_.with_memory = true;
    AttemptContext context;
    context.worker_id = "w-1";
    context.incarnation = "i-1";
    context.clock = &clock_;
    context.random = &SystemRandom();
    context.loop = &loop_;
    context.link = &daemon_;
    context.launcher = &launcher_;
    context.tasks = &tasks_;
    context.directory = directory_.get();
    agent_ = std::make_unique<Agent>(AgentOptions(), context);
    Settle();
  }
  void Settle() {
    for (int i = 0; i < 40; ++i) {
      agent_->Tick();
      loop_.RunPending();
    }
  }
  void Pass(double seconds) {
    for (double t = 0; t < seconds; t += 0.1) {
      clock_.AdvanceNanos(100'000'000);
      Settle();
    }
  }
  void Assign(v1::Assignment::Action action = v1::Assignment::RUN) {
    v1::AssignmentList list;
    v1::Assignment* assignment = list.add_assignments();
    assignment->mutable_key()->set_job_id(kJob);
    assignment->mutable_key()->set_attempt(1);
    assignment->set_action(action);
    assignment->mutable_spec()->mutable_resources()->set_slots(1);
    assignment->mutable_spec()->mutable_checkpoint()->set_snapshot_steps(10);
    assignment->mutable_spec()->mutable_safety()->set_hang(hang_action_);
    daemon_.live = {{kJob, 1}};
    daemon_.Send(list);
    Settle();
  }
  FakeTrainer& trainer() { return *launcher_.trainers.back(); }
  // A trainer that has reported `steps` steps and left the snapshot of step `snapshot`.
  void Trained(int64_t steps, int64_t snapshot) {
    Assign();
    trainer().Started();
    trainer().Steps(1, steps);
    TakeSnapshot(snapshot);
    Settle();
  }
  void TakeSnapshot(int64_t step) {
    snapshot::TrainerMemory& memory = *trainer().request.memory;
    ASSERT_TRUE(memory.Reserve(64).ok());
    memory.Begin(step, "{}");
    memory.Commit(0);
  }
  std::vector<v1::ReportAttemptRequest> Notes() const {
    std::vector<v1::ReportAttemptRequest> notes;
    for (const v1::ReportAttemptRequest& report : daemon_.reports) {
      if (report.status() == v1::ReportAttemptRequest::NOTED) notes.push_back(report);
    }
    return notes;
  }
  std::vector<int64_t> StoredSteps() {
    std::vector<int64_t> steps;
    for (const v1::MetricRecord& row : daemon_.metrics[{kJob, 1}]) steps.push_back(row.step());
    return steps;
  }

  std::string hang_action_ = "notify";
  TemporaryDirectory temporary_ = *TemporaryDirectory::Make();
  FakeClock clock_;
  EventLoop loop_{clock_};
  InlineTaskRunner tasks_;
  FakeDaemon daemon_;
  FakeLauncher launcher_;
  std::unique_ptr<WorkDirectory> directory_;
  std::unique_ptr<Agent> agent_;
};

// Seen red with the crash reported as the attempt's end.
TEST_F(SafetyTest, ACrashedTrainerGoesOnFromItsSnapshotWithinTheAttempt) {
  Trained(/*steps=*/7, /*snapshot=*/5);
  trainer().Die(SIGKILL);
  Settle();
  ASSERT_THAT(launcher_.trainers, SizeIs(2)) << "at once";
  EXPECT_EQ(trainer().request.memory, launcher_.trainers[0]->request.memory);
  EXPECT_EQ(trainer().request.start.key().attempt(), 1);
  EXPECT_EQ(trainer().request.start.metric_sequence(), 7);
  EXPECT_EQ(trainer().request.start.reported_step(), 7);
  trainer().Started(5);
  trainer().Steps(8, 9);
  Pass(1);
  EXPECT_THAT(StoredSteps(), ElementsAre(1, 2, 3, 4, 5, 6, 7, 8, 9));
  ASSERT_THAT(Notes(), SizeIs(1));
  EXPECT_EQ(Notes()[0].reason(), v1::TRAINER_RESTARTED);
  EXPECT_EQ(Notes()[0].cause(), "failure:CONTROL");
  EXPECT_THAT(Notes()[0].message(),
              AllOf(HasSubstr("after step 7"), HasSubstr("signal 9"), HasSubstr("from step 5")));
  trainer().Succeeded(9);
  trainer().Exit(0);
  Pass(1);
  EXPECT_EQ(daemon_.reports.back().status(), v1::ReportAttemptRequest::SUCCEEDED);
}

TEST_F(SafetyTest, WithoutASnapshotACrashEndsTheAttempt) {
  Assign();
  trainer().Started();
  trainer().Step(1);
  trainer().Die(SIGSEGV);
  Pass(3);
  EXPECT_THAT(launcher_.trainers, SizeIs(1));
  EXPECT_EQ(daemon_.reports.back().status(), v1::ReportAttemptRequest::FAILED);
}

// Seen red without the count.
TEST_F(SafetyTest, ATrainerThatCrashesAtOnePlaceIsGivenUp) {
  Trained(7, 5);
  for (int i = 0; i < 10 && !trainer().exit.has_value(); ++i) {
    trainer().Die(SIGSEGV);
    Settle();
  }
  Pass(3);
  EXPECT_THAT(launcher_.trainers, SizeIs(1 + Attempt::kMaxRestartsWithoutProgress));
  EXPECT_EQ(daemon_.reports.back().status(), v1::ReportAttemptRequest::FAILED);
}

TEST_F(SafetyTest, ATrainerThatGetsFurtherEachTimeIsNot) {
  Trained(7, 5);
  for (int64_t step = 8; step < 20; ++step) {
    trainer().Die(SIGSEGV);
    Settle();
    trainer().Started(5);
    trainer().Step(step);
    Settle();
  }
  EXPECT_THAT(launcher_.trainers, SizeIs(13));
}

TEST_F(SafetyTest, ATrainerThatFailsByItsOwnWordIsNotStartedAgain) {
  Trained(7, 5);
  trainer().Failed(v1::DATA, "a shard is damaged");
  trainer().Exit(1);
  Pass(3);
  EXPECT_THAT(launcher_.trainers, SizeIs(1));
  EXPECT_EQ(daemon_.reports.back().failure_class(), v1::DATA);
}

TEST_F(SafetyTest, ACrashWhileItPausesIsFollowedByThePause) {
  Trained(7, 5);
  Assign(v1::Assignment::PAUSE);
  EXPECT_TRUE(trainer().was_told_to_pause());
  trainer().Die(SIGKILL);
  Settle();
  ASSERT_THAT(launcher_.trainers, SizeIs(2));
  EXPECT_TRUE(trainer().was_told_to_pause());
}

TEST_F(SafetyTest, ACheckpointThatWasCommittedIsNotCommittedAgain) {
  Trained(7, 5);
  trainer().Checkpoint(7);
  Pass(1);
  ASSERT_THAT(daemon_.checkpoints, SizeIs(1));
  trainer().Die(SIGKILL);
  Settle();
  EXPECT_EQ(trainer().request.start.resume_from().step(), 7);
  trainer().Started(7);
  trainer().Checkpoint(7);
  Pass(1);
  ASSERT_THAT(trainer().commands, SizeIs(1)) << "but answered";
  EXPECT_EQ(trainer().commands[0].checkpoint_committed().step(), 7);
  EXPECT_EQ(std::count(daemon_.log.begin(), daemon_.log.end(), "commit 7"), 1);
}

TEST_F(SafetyTest, AGuardsPauseIsReportedAsOne) {
  Trained(7, 5);
  v1::TrainerReport report;
  report.mutable_paused()->set_step(7);
  report.mutable_paused()->set_cause("guard:non_finite");
  report.mutable_paused()->set_message("the loss of step 8 is not finite");
  trainer().Report(report);
  trainer().Exit(0);
  Pass(1);
  EXPECT_EQ(daemon_.reports.back().status(), v1::ReportAttemptRequest::GUARD_PAUSED);
  EXPECT_EQ(daemon_.reports.back().cause(), "guard:non_finite");
}

// Seen red without WatchProgress.
TEST_F(SafetyTest, ATrainerWithoutProgressIsFoundAndItsStacksAskedForOnce) {
  Trained(7, 5);
  trainer().request.memory->Enter(snapshot::Phase::kBackward, 7);
  Pass(29);
  EXPECT_THAT(Notes(), IsEmpty());
  Pass(3);
  ASSERT_THAT(Notes(), SizeIs(1));
  EXPECT_EQ(Notes()[0].reason(), v1::TRAINER_HUNG);
  EXPECT_EQ(Notes()[0].cause(), "hang:backward");
  EXPECT_THAT(Notes()[0].message(), AllOf(HasSubstr("rank 0"), HasSubstr("after step 7"),
                                          HasSubstr("backward"), HasSubstr("stopped by a signal")));
  EXPECT_EQ(trainer().dumps, 1);
  Pass(60);
  EXPECT_THAT(Notes(), SizeIs(1));
  EXPECT_FALSE(trainer().was_killed());
  trainer().request.memory->Enter(snapshot::Phase::kOptimizer, 7);
  Pass(40);
  EXPECT_THAT(Notes(), SizeIs(2)) << "a new hang";
}

TEST_F(SafetyTest, SlowStepsAreNoHang) {
  Assign();
  trainer().Started();
  for (int64_t step = 1; step <= 3; ++step) {
    v1::TrainerReport report;
    report.mutable_metrics()->set_sequence(++trainer().sequence);
    report.mutable_metrics()->set_step(step);
    (*report.mutable_metrics()->mutable_values())["step_seconds"] = 6;
    trainer().Report(report);
  }
  Pass(59);
  EXPECT_THAT(Notes(), IsEmpty());
  Pass(3);
  EXPECT_THAT(Notes(), SizeIs(1)) << "ten median steps";
}

TEST_F(SafetyTest, StartingTakesLonger) {
  Assign();
  Pass(200);
  EXPECT_THAT(Notes(), IsEmpty());
  Pass(110);
  EXPECT_THAT(Notes(), SizeIs(1));
  EXPECT_EQ(Notes()[0].cause(), "hang:starting");
}

TEST_F(SafetyTest, AHangCanBeEndedAndTheTrainerGoesOn) {
  hang_action_ = "restart";
  Trained(7, 5);
  Pass(33);
  EXPECT_EQ(launcher_.trainers[0]->dumps, 1);
  EXPECT_TRUE(launcher_.trainers[0]->was_killed());
  ASSERT_THAT(launcher_.trainers, SizeIs(2));
  trainer().Started(5);
  Pass(1);
  ASSERT_THAT(Notes(), SizeIs(2));
  EXPECT_EQ(Notes()[1].reason(), v1::TRAINER_RESTARTED);
  EXPECT_THAT(Notes()[1].message(), HasSubstr("no progress"));
}

TEST_F(SafetyTest, ATrainerThatWaitsForTheDaemonDoesNotHang) {
  Trained(7, 5);
  daemon_.down = true;
  daemon_.Drop();
  trainer().Checkpoint(7);
  trainer().request.memory->Enter(snapshot::Phase::kWaiting, 7);
  Pass(120);
  EXPECT_EQ(trainer().dumps, 0);
}

}  // namespace
}  // namespace nibble::agent
