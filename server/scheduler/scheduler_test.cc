// Stories of jobs, told by events. After each, every invariant held.
#include "server/scheduler/scheduler.h"

#include <algorithm>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/scheduler/test_world.h"

namespace nibble::scheduler {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr int64_t kSecond = 1'000'000'000;
constexpr AttemptStatus kTraining = AttemptStatus::kTraining;

class SchedulerTest : public ::testing::Test {
 protected:
  ~SchedulerTest() override { EXPECT_THAT(world_.violations(), IsEmpty()); }
  // A job that trains on worker "w".
  std::string Running(JobDocument document = {}) {
    const std::string job = world_.Submit(std::move(document));
    EXPECT_TRUE(world_.Report("w", Attempt(job), kTraining).error.ok());
    EXPECT_EQ(world_.state(job), JobState::kRunning);
    return job;
  }
  AttemptId Attempt(const std::string& job) { return {job, world_.job(job).attempt}; }
  // Keeps every live attempt of worker "w" leased while time passes.
  void AdvanceRenewing(int64_t nanos) {
    while (nanos > 0) {
      world_.Advance(std::min(nanos, 5 * kSecond));
      nanos -= 5 * kSecond;
      std::vector<AttemptId> held;
      for (const Assignment& a : world_.list("w").assignments) held.push_back(a.attempt);
      world_.Renew("w", held);
    }
  }
  static JobDocument Named(int32_t max_failures) {
    JobDocument document;
    document.max_failures = max_failures;
    return document;
  }
  World world_;
};

TEST_F(SchedulerTest, AJobIsSubmittedTrainedAndDone) {
  world_.Register("w", 2);
  const std::string job = world_.Submit();
  EXPECT_EQ(world_.state(job), JobState::kStarting);
  ASSERT_THAT(world_.list("w").assignments, SizeIs(1));
  EXPECT_EQ(world_.list("w").assignments[0].action, AssignmentAction::kRun);
  EXPECT_FALSE(world_.list("w").assignments[0].resume_from.has_value());
  world_.Report("w", {job, 1}, kTraining);
  EXPECT_EQ(world_.state(job), JobState::kRunning);
  const Reply commit = world_.Commit("w", {job, 1}, 10);
  EXPECT_THAT(std::get<CheckpointAnswer>(commit.answer).retained, SizeIs(1));
  world_.Report("w", {job, 1}, AttemptStatus::kSucceeded);
  EXPECT_EQ(world_.state(job), JobState::kSucceeded);
  EXPECT_TRUE(world_.job(job).result.has_value());
  EXPECT_THAT(world_.list("w").assignments, IsEmpty());
  EXPECT_EQ(world_.scheduler().FindJob(job), nullptr) << "the store answers for ended jobs";
  EXPECT_EQ(world_.scheduler().Stats().slots_used, 0);
}

TEST_F(SchedulerTest, AJobWaitsForSlotsAndSaysSo) {
  const std::string job = world_.Submit();
  EXPECT_EQ(world_.state(job), JobState::kQueued);
  EXPECT_EQ(world_.job(job).reason, JobReason::kWaitingForSlots);
  world_.Register("w", 1);
  EXPECT_EQ(world_.state(job), JobState::kStarting);
}

TEST_F(SchedulerTest, TheFirstSubmittedStartsFirstWhateverItAsksFor) {
  JobDocument wide;
  wide.slots = 2;
  const std::string first = world_.Submit(wide);
  const std::string second = world_.Submit();
  world_.Register("w", 2);
  EXPECT_EQ(world_.state(first), JobState::kStarting);
  EXPECT_EQ(world_.state(second), JobState::kQueued);
}

TEST_F(SchedulerTest, AKeyWithTheSameBodyGivesTheSameJob) {
  world_.Register("w", 1);
  JobDocument document;
  document.request_key = "key";
  document.fingerprint = "one";
  document.total_steps = 5;
  const std::string job = world_.Submit(document);
  const auto again = [&](const std::string& fingerprint) {
    document.fingerprint = fingerprint;
    return world_.Step(
        JobSubmitted{"j-other", std::make_shared<JobDocument>(document), "user", {}});
  };
  EXPECT_EQ(std::get<JobRecord>(again("one").answer).job_id, job);
  EXPECT_EQ(again("two").error.reason, ErrorReason::kRequestIdReused);
  EXPECT_EQ(again("two").error.code, absl::StatusCode::kAlreadyExists);
  world_.Report("w", {job, 1}, AttemptStatus::kSucceeded);
  EXPECT_EQ(std::get<JobRecord>(again("one").answer).state, JobState::kSucceeded)
      << "also when only the store knows it";
  EXPECT_EQ(again("two").error.reason, ErrorReason::kRequestIdReused);
  EXPECT_THAT(world_.ledger().jobs, SizeIs(1));
}

TEST_F(SchedulerTest, CancelledMeansTheTrainerIsDead) {
  world_.Register("w", 1);
  const std::string job = Running();
  world_.Step(CancelRequested{job, "user"});
  EXPECT_EQ(world_.state(job), JobState::kStopping);
  EXPECT_EQ(world_.list("w").assignments[0].action, AssignmentAction::kStop);
  AdvanceRenewing(60 * kSecond);
  EXPECT_EQ(world_.state(job), JobState::kStopping) << "for as long as it takes";
  EXPECT_TRUE(world_.Step(CancelRequested{job, "user"}).error.ok());
  world_.Report("w", {job, 1}, AttemptStatus::kStopped);
  EXPECT_EQ(world_.state(job), JobState::kCancelled);
  EXPECT_TRUE(world_.Step(CancelRequested{job, "user"}).error.ok()) << "idempotent";
  EXPECT_EQ(world_.Report("w", {job, 1}, kTraining).error.reason, ErrorReason::kStaleAttempt);
  EXPECT_TRUE(world_.Report("w", {job, 1}, AttemptStatus::kStopped).error.ok()) << "a repetition";
}

TEST_F(SchedulerTest, ASuccessThatCrossesACancellationIsCancelled) {
  world_.Register("w", 1);
  const std::string job = Running();
  world_.Step(CancelRequested{job, "user"});
  world_.Report("w", {job, 1}, AttemptStatus::kSucceeded);
  EXPECT_EQ(world_.state(job), JobState::kCancelled);
}

TEST_F(SchedulerTest, EndedJobsRefuseEverythingButDeletion) {
  world_.Register("w", 1);
  const std::string job = Running();
  world_.Report("w", {job, 1}, AttemptStatus::kSucceeded);
  EXPECT_EQ(world_.Step(CancelRequested{job, "user"}).error.reason, ErrorReason::kWrongState);
  EXPECT_EQ(world_.Step(PauseRequested{job, "user"}).error.reason, ErrorReason::kWrongState);
  EXPECT_EQ(world_.Step(ResumeRequested{job, "user"}).error.code,
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(world_.Step(CancelRequested{"j-none", "user"}).error.reason, ErrorReason::kJobNotFound);
}

TEST_F(SchedulerTest, PausingCheckpointsAndReleasesAndResumeGoesOnFromThere) {
  world_.Register("w", 1);
  const std::string job = Running();
  world_.Step(PauseRequested{job, "user"});
  EXPECT_EQ(world_.state(job), JobState::kPausing);
  EXPECT_EQ(world_.list("w").assignments[0].action, AssignmentAction::kPause);
  EXPECT_EQ(world_.Step(PauseRequested{job, "user"}).error.reason, ErrorReason::kWrongState);
  EXPECT_EQ(world_.Step(ResumeRequested{job, "user"}).error.reason, ErrorReason::kWrongState);
  EXPECT_TRUE(world_.Commit("w", {job, 1}, 7).error.ok());
  world_.Report("w", {job, 1}, AttemptStatus::kPaused);
  EXPECT_EQ(world_.state(job), JobState::kPaused);
  EXPECT_EQ(world_.scheduler().Stats().slots_used, 0);
  world_.Step(ResumeRequested{job, "user"});
  EXPECT_EQ(world_.state(job), JobState::kStarting);
  ASSERT_THAT(world_.list("w").assignments, SizeIs(1));
  EXPECT_EQ(world_.list("w").assignments[0].attempt.attempt, 2);
  EXPECT_EQ(world_.list("w").assignments[0].resume_from->step, 7);
  EXPECT_EQ(world_.job(job).failures, 0);
}

TEST_F(SchedulerTest, AQueuedJobPausesAtOnceAndATrainerThatDiesPausingIsPaused) {
  const std::string queued = world_.Submit();
  world_.Step(PauseRequested{queued, "user"});
  EXPECT_EQ(world_.state(queued), JobState::kPaused);
  world_.Register("w", 1);
  EXPECT_EQ(world_.state(queued), JobState::kPaused);
  const std::string job = Running();
  world_.Step(PauseRequested{job, "user"});
  world_.Report("w", {job, 1}, AttemptStatus::kFailed, FailureClass::kHardware);
  EXPECT_EQ(world_.state(job), JobState::kPaused);
  EXPECT_EQ(world_.job(job).failures, 1);
}

TEST_F(SchedulerTest, AFailureIsRetriedLaterAndLaterUntilTheBudgetIsSpent) {
  world_.Register("w", 1);
  const std::string job = Running(Named(/*max_failures=*/2));
  world_.Report("w", {job, 1}, AttemptStatus::kFailed, FailureClass::kNumeric);
  EXPECT_EQ(world_.state(job), JobState::kQueued);
  EXPECT_EQ(world_.job(job).reason, JobReason::kTrainerFailed);
  world_.Advance(kSecond / 4);
  EXPECT_EQ(world_.state(job), JobState::kQueued) << "backs off half a second";
  world_.Advance(kSecond / 4);
  EXPECT_EQ(world_.state(job), JobState::kStarting);
  world_.Report("w", {job, 2}, AttemptStatus::kFailed, FailureClass::kNumeric);
  world_.Restart();  // what was spent stays spent
  world_.Register("w", 1);
  world_.Advance(kSecond * 9 / 10);
  EXPECT_EQ(world_.state(job), JobState::kQueued) << "now a whole second";
  world_.Advance(kSecond / 10);
  EXPECT_EQ(world_.state(job), JobState::kStarting);
  world_.Report("w", {job, 3}, AttemptStatus::kFailed, FailureClass::kNumeric);
  EXPECT_EQ(world_.state(job), JobState::kFailed);
  EXPECT_EQ(world_.job(job).reason, JobReason::kNoProgress);
  EXPECT_EQ(world_.job(job).last_failure, FailureClass::kNumeric);
  EXPECT_EQ(world_.job(job).failures, 3);
}

TEST_F(SchedulerTest, ACommittedStepRenewsTheBudget) {
  world_.Register("w", 1);
  const std::string job = Running(Named(/*max_failures=*/1));
  for (int i = 1; i <= 5; ++i) {
    EXPECT_TRUE(world_.Commit("w", Attempt(job), i * 10).error.ok());
    world_.Report("w", Attempt(job), AttemptStatus::kFailed, FailureClass::kOutOfMemory);
    AdvanceRenewing(2 * kSecond);
    EXPECT_EQ(world_.state(job), JobState::kStarting);
  }
  EXPECT_EQ(world_.job(job).failures, 5);
  world_.Report("w", Attempt(job), AttemptStatus::kFailed, FailureClass::kOutOfMemory);
  EXPECT_EQ(world_.state(job), JobState::kFailed) << "twice without a new step";
}

TEST_F(SchedulerTest, AFaultOfTheSpecIsNotRetried) {
  world_.Register("w", 1);
  const std::string job = Running();
  world_.Report("w", {job, 1}, AttemptStatus::kFailed, FailureClass::kUser);
  EXPECT_EQ(world_.state(job), JobState::kFailed);
  EXPECT_EQ(world_.job(job).reason, JobReason::kTrainerFailed);
}

TEST_F(SchedulerTest, ALeaseExpiresAndTheSlotsStayTakenUntilTheWorkerIsBack) {
  world_.Register("w", 1);
  const std::string job = Running();
  world_.Advance(14 * kSecond);
  EXPECT_EQ(world_.state(job), JobState::kRunning);
  world_.Advance(2 * kSecond);
  EXPECT_EQ(world_.state(job), JobState::kQueued);
  EXPECT_EQ(world_.job(job).reason, JobReason::kLeaseExpired);
  EXPECT_EQ(world_.job(job).failures, 0);
  EXPECT_FALSE(world_.scheduler().Workers()[0].online);
  EXPECT_EQ(world_.scheduler().Stats().slots_used, 1) << "its trainer may still compute";
  const Reply renewal = world_.Renew("w", {{job, 1}});
  EXPECT_THAT(std::get<Renewal>(renewal.answer).stale, ElementsAre(AttemptId{job, 1}));
  EXPECT_EQ(world_.state(job), JobState::kQueued) << "the slot is not free before it is dead";
  EXPECT_EQ(world_.Commit("w", {job, 1}, 5).error.reason, ErrorReason::kStaleAttempt);
  world_.Renew("w", {});
  EXPECT_EQ(world_.state(job), JobState::kStarting);
  EXPECT_EQ(world_.job(job).attempt, 2);
}

TEST_F(SchedulerTest, AnotherWorkerTakesOverAndTheOldEpochIsRefused) {
  world_.Register("w", 1);
  const std::string job = Running();
  EXPECT_TRUE(world_.Commit("w", {job, 1}, 5).error.ok());
  world_.Register("v", 1);
  for (int i = 0; i < 4; ++i) {
    world_.Advance(5 * kSecond);
    world_.Renew("v", {});
  }
  EXPECT_EQ(world_.job(job).worker_id(), "v");
  EXPECT_EQ(world_.list("v").assignments[0].attempt, (AttemptId{job, 2}));
  EXPECT_EQ(world_.list("v").assignments[0].resume_from->step, 5);
  for (const AttemptStatus status :
       {kTraining, AttemptStatus::kSucceeded, AttemptStatus::kFailed}) {
    EXPECT_EQ(world_.Report("w", {job, 1}, status).error.reason, ErrorReason::kStaleAttempt);
  }
  EXPECT_EQ(world_.Commit("w", {job, 1}, 6).error.reason, ErrorReason::kStaleAttempt);
  EXPECT_EQ(world_.state(job), JobState::kStarting);
  EXPECT_EQ(world_.scheduler().CheckAttempt("w", "i1", {job, 1}).reason,
            ErrorReason::kStaleAttempt);
  EXPECT_TRUE(world_.scheduler().CheckAttempt("v", "i1", {job, 2}).ok());
}

// Seen red without the guard, and with one that counts only what has expired already.
TEST_F(SchedulerTest, MostLeasesNeverExpireAtOnce) {
  std::vector<std::string> jobs;
  for (const char* worker : {"a", "b", "c", "d"}) {
    world_.Register(worker, 1);
    jobs.push_back(world_.Submit());
    world_.Advance(kSecond);  // so that they expire one after the other
  }
  world_.Advance(60 * kSecond);
  for (const std::string& job : jobs) EXPECT_EQ(world_.state(job), JobState::kStarting);
  const std::vector<Alert> alerts = world_.TakeAlerts();
  ASSERT_FALSE(alerts.empty());
  EXPECT_EQ(alerts[0].kind, AlertKind::kMassExpiryHeld);
  EXPECT_LE(alerts.size(), 5u) << "one a term, not one a tick";
  world_.Advance(30 * 60 * kSecond);
  for (const std::string& job : jobs) {
    EXPECT_EQ(world_.state(job), JobState::kQueued) << "past the orphan limit they are dead";
  }
}

TEST_F(SchedulerTest, AMinorityExpiresAlone) {
  std::vector<std::string> jobs;
  for (const char* worker : {"a", "b", "c", "d", "e"}) {
    world_.Register(worker, 1);
    jobs.push_back(world_.Submit());
  }
  for (int i = 0; i < 5; ++i) {
    world_.Advance(4 * kSecond);
    for (const char* worker : {"c", "d", "e"}) {
      world_.Renew(worker, {world_.list(worker).assignments[0].attempt});
    }
  }
  EXPECT_EQ(world_.job(jobs[0]).reason, JobReason::kLeaseExpired);
  EXPECT_EQ(world_.job(jobs[1]).reason, JobReason::kLeaseExpired);
  EXPECT_EQ(world_.state(jobs[2]), JobState::kStarting);
  EXPECT_THAT(world_.TakeAlerts(), IsEmpty());
}

TEST_F(SchedulerTest, AStallOfTheDaemonCostsNoLease) {
  world_.Register("w", 1);
  const std::string job = Running();
  world_.Advance(10 * kSecond);
  world_.Stall(3600 * kSecond);
  world_.Step(Tick{});
  EXPECT_EQ(world_.state(job), JobState::kRunning);
  EXPECT_THAT(world_.TakeAlerts(), SizeIs(1));
  EXPECT_TRUE(world_.scheduler().Workers()[0].online);
  world_.Advance(16 * kSecond);
  EXPECT_EQ(world_.state(job), JobState::kQueued) << "one term, not for ever";
}

TEST_F(SchedulerTest, AfterARestartTrainersAreAdopted) {
  world_.Register("w", 2);
  const std::string job = Running();
  const std::string starting = world_.Submit();
  world_.Commit("w", {job, 1}, 5);
  world_.Restart();
  EXPECT_EQ(world_.Renew("w", {{job, 1}}).error.reason, ErrorReason::kUnknownWorker);
  EXPECT_EQ(world_.Report("w", {job, 1}, kTraining).error.code, absl::StatusCode::kNotFound);
  world_.Advance(14 * kSecond);
  EXPECT_EQ(world_.state(job), JobState::kRunning) << "one full term from the restart";
  const Reply reply = world_.Register("w", 2, "i1", {{job, 1}, {"j-none", 3}});
  EXPECT_THAT(std::get<Registration>(reply.answer).adopted, ElementsAre(AttemptId{job, 1}));
  EXPECT_EQ(world_.state(job), JobState::kRunning);
  EXPECT_THAT(world_.list("w").assignments, SizeIs(2)) << "the other one has yet to be started";
  EXPECT_EQ(world_.state(starting), JobState::kStarting);
  EXPECT_EQ(world_.list("w").assignments[0].resume_from->step, 5);
  EXPECT_TRUE(world_.Commit("w", {job, 1}, 9).error.ok());
}

// Seen red without AddZombie.
TEST_F(SchedulerTest, AStaleTrainerFoundAfterARestartHoldsItsSlotUntilItIsDead) {
  world_.Register("w", 1);
  const std::string job = Running();
  world_.Advance(16 * kSecond);
  EXPECT_EQ(world_.state(job), JobState::kQueued);
  world_.Restart();  // the new daemon knows of a queued job only
  world_.Register("w", 1, "i1", {{job, 1}});
  EXPECT_EQ(world_.state(job), JobState::kQueued);
  world_.Renew("w", {{job, 1}});
  EXPECT_EQ(world_.state(job), JobState::kQueued);
  world_.Renew("w", {});
  EXPECT_EQ(world_.state(job), JobState::kStarting);
  EXPECT_EQ(world_.job(job).attempt, 2);
}

TEST_F(SchedulerTest, AnEndReportedAfterTheLeaseExpiredFreesTheSlot) {
  world_.Register("w", 1);
  const std::string job = Running();
  world_.Advance(16 * kSecond);
  EXPECT_EQ(world_.state(job), JobState::kQueued);
  world_.Renew("w", {{job, 1}});
  EXPECT_EQ(world_.state(job), JobState::kQueued) << "its old trainer still runs";
  EXPECT_EQ(world_.Report("w", {job, 1}, AttemptStatus::kStopped).error.reason,
            ErrorReason::kStaleAttempt);
  EXPECT_EQ(world_.state(job), JobState::kStarting);
  EXPECT_EQ(world_.job(job).attempt, 2);
}

TEST_F(SchedulerTest, ANewProcessOfAWorkerLosesWhatItDoesNotList) {
  world_.Register("w", 2);
  const std::string lost = Running();
  const std::string kept = Running();
  const Reply reply = world_.Register("w", 2, "i2", {{kept, 1}});
  EXPECT_THAT(std::get<Registration>(reply.answer).adopted, ElementsAre(AttemptId{kept, 1}));
  EXPECT_EQ(world_.state(kept), JobState::kRunning);
  EXPECT_EQ(world_.job(kept).placement[0].incarnation, "i2");
  EXPECT_EQ(world_.job(lost).attempt, 2) << "started anew at once";
  EXPECT_EQ(world_.job(lost).failures, 0);
  EXPECT_EQ(world_.job(lost).losses_without_progress, 1);
  EXPECT_EQ(world_.Renew("w", {{kept, 1}}, "i1").error.reason, ErrorReason::kStaleIncarnation);
  EXPECT_EQ(world_.Register("w", 2, "i1").error.reason, ErrorReason::kStaleIncarnation);
}

TEST_F(SchedulerTest, ALostWorkerIsNoFailureButLossesHaveABound) {
  const std::string job = world_.Submit();
  for (int i = 0; i < 30 && !IsTerminal(world_.state(job)); ++i) {
    world_.Register("w", 1, std::to_string(i));
    for (int s = 0; s < 70 && world_.state(job) == JobState::kQueued; ++s) {
      world_.Advance(kSecond);
      world_.Renew("w", {}, std::to_string(i));
    }
  }
  EXPECT_EQ(world_.state(job), JobState::kFailed);
  EXPECT_EQ(world_.job(job).reason, JobReason::kRestartBudgetExhausted);
  EXPECT_EQ(world_.job(job).failures, 0);
  EXPECT_EQ(world_.job(job).losses_without_progress, 21);
}

TEST_F(SchedulerTest, AnAttemptGivenBackCostsNothingAndDoesNotComeStraightBack) {
  world_.Register("w", 1);
  const std::string job = Running();
  world_.Report("w", {job, 1}, AttemptStatus::kReleased);
  EXPECT_EQ(world_.state(job), JobState::kQueued);
  EXPECT_EQ(world_.job(job).reason, JobReason::kWorkerStopped);
  EXPECT_EQ(world_.job(job).losses_without_progress, 0);
  world_.Register("v", 1);
  EXPECT_EQ(world_.job(job).worker_id(), "v");
}

TEST_F(SchedulerTest, CheckpointsRiseAndTheNewestFewAreKept) {
  world_.Register("w", 1);
  JobDocument document;
  document.keep_checkpoints = 2;
  const std::string job = Running(document);
  for (int64_t step : {10, 20, 30}) EXPECT_TRUE(world_.Commit("w", {job, 1}, step).error.ok());
  EXPECT_THAT(world_.ledger().checkpoints.at(job), SizeIs(2));
  EXPECT_EQ(world_.ledger().checkpoints.at(job).begin()->first, 20);
  const Reply again = world_.Commit("w", {job, 1}, 30);
  EXPECT_THAT(std::get<CheckpointAnswer>(again.answer).retained, SizeIs(2)) << "sent twice";
  EXPECT_EQ(world_.Commit("w", {job, 1}, 15).error.reason, ErrorReason::kCheckpointOrder);
  CheckpointRecord other = world_.ledger().checkpoints.at(job).at(30);
  other.manifest_digest += "x";
  EXPECT_EQ(world_.Step(CheckpointCommitted{"w", "i1", other}).error.reason,
            ErrorReason::kCheckpointOrder)
      << "another one of the same step";
  EXPECT_EQ(world_.Commit("w", {job, 1}, 1001).error.code, absl::StatusCode::kInvalidArgument);
  // The next attempt finds the last one damaged and goes on from step 20.
  world_.Report("w", {job, 1}, AttemptStatus::kFailed, FailureClass::kHardware);
  AdvanceRenewing(5 * kSecond);
  EXPECT_TRUE(world_.Commit("w", {job, 2}, 25).error.ok());
  EXPECT_THAT(world_.ledger().checkpoints.at(job), SizeIs(2));
  EXPECT_EQ(world_.ledger().checkpoints.at(job).rbegin()->second.step, 25);
}

TEST_F(SchedulerTest, ADeletedJobIsPurgedWhereverItWas) {
  world_.Register("w", 1);
  const std::string job = Running();
  EXPECT_EQ(world_.Step(DeleteRequested{job, "user"}).error.reason, ErrorReason::kWrongState);
  world_.Report("w", {job, 1}, AttemptStatus::kSucceeded);
  EXPECT_TRUE(world_.Step(DeleteRequested{job, "user"}).error.ok());
  EXPECT_TRUE(std::any_of(world_.effects().begin(), world_.effects().end(),
                          [](const Effect& e) { return std::holds_alternative<PurgeMetrics>(e); }));
  EXPECT_THAT(world_.list("w").purge_job_ids, ElementsAre(job));
  EXPECT_EQ(world_.Step(DeleteRequested{job, "user"}).error.reason, ErrorReason::kJobNotFound);
  world_.Restart();
  EXPECT_TRUE(std::any_of(world_.effects().begin(), world_.effects().end(), [](const Effect& e) {
    return std::holds_alternative<PurgeMetrics>(e);
  })) << "asked for again until it is done";
  world_.Step(MetricsPurged{job});
  world_.Register("w", 1);
  EXPECT_THAT(world_.list("w").purge_job_ids, ElementsAre(job));
  world_.Step(LeasesRenewed{"w", "i1", {}, {job}});
  EXPECT_THAT(world_.list("w").purge_job_ids, IsEmpty());
  EXPECT_THAT(world_.ledger().purges, IsEmpty());
}

TEST_F(SchedulerTest, LimitsAreKept) {
  EXPECT_EQ(world_.Register("w", -1).error.code, absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(world_.Register("w", kMaxSlotsOfWorker + 1).error.code,
            absl::StatusCode::kInvalidArgument);
  SchedulerOptions options;
  options.max_live_jobs = 1;
  options.max_workers = 1;
  World small(options);
  small.Submit();
  const auto document = std::make_shared<JobDocument>();
  EXPECT_EQ(small.Step(JobSubmitted{"j-2", document, "user", {}}).error.reason,
            ErrorReason::kTooManyJobs);
  EXPECT_TRUE(small.Register("w", 0).error.ok());
  EXPECT_EQ(small.Register("v", 1).error.reason, ErrorReason::kTooManyWorkers);
}

TEST_F(SchedulerTest, AWorkerBackWithFewerSlotsLosesNothingButGetsNoMore) {
  world_.Register("w", 2);
  const std::string first = Running();
  const std::string second = Running();
  world_.Submit();
  // Not through the checker: that a worker shrinks is the one way to hold more than there is.
  Scheduler& scheduler = world_.scheduler();
  Event event{world_.now(), 1, WorkerRegistered{"w", "i1", "", "", "", 1, "", {}}, nullptr};
  scheduler.Step(event);
  EXPECT_EQ(scheduler.resources().FreeSlots("w"), 0);
  AttemptReported stopped;
  stopped.worker_id = "w";
  stopped.incarnation = "i1";
  stopped.attempt = {first, 1};
  stopped.status = AttemptStatus::kStopped;
  event.body = stopped;
  scheduler.Step(event);
  EXPECT_EQ(scheduler.Stats().slots, 1);
  EXPECT_EQ(scheduler.Stats().slots_used, 1);
  EXPECT_EQ(scheduler.FindJob(second)->state, JobState::kRunning);
}

// A pause that came too late stops one attempt, not those after it. Seen red without the flag's
// reset.
TEST_F(SchedulerTest, AnAttemptAfterAnOverduePauseRuns) {
  SchedulerOptions options;
  options.pause_grace_nanos = 5 * kSecond;
  World world(options);
  world.Register("w1", 1);
  const std::string job = world.Submit();
  world.Report("w1", {job, 1}, AttemptStatus::kTraining);
  world.Step(PauseRequested{job, "user"});
  EXPECT_EQ(world.list("w1").assignments.at(0).action, AssignmentAction::kPause);
  world.Advance(6 * kSecond);
  EXPECT_EQ(world.list("w1").assignments.at(0).action, AssignmentAction::kStop);
  world.Report("w1", {job, 1}, AttemptStatus::kStopped);
  ASSERT_EQ(world.state(job), JobState::kPaused);
  world.Step(ResumeRequested{job, "user"});
  ASSERT_EQ(world.state(job), JobState::kStarting);
  EXPECT_EQ(world.list("w1").assignments.at(0).action, AssignmentAction::kRun);
  EXPECT_THAT(world.violations(), IsEmpty());
}

}  // namespace
}  // namespace nibble::scheduler
