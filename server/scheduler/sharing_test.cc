// Stories of jobs that want the same slots: shares, quotas, ageing, reservations, preemption,
// drained and failing workers. After each, every invariant held.
#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/scheduler/fair_share.h"
#include "server/scheduler/test_cluster.h"

namespace nibble::scheduler {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(FairShareTest, UsageIsHalvedWithEveryHalfLife) {
  FairShare shares({{"a", 2, 4, 8, 0}}, 100 * kSecond);
  const int a = shares.IndexOf("a");
  shares.Hold(a, 3, 0);
  // Against the sum over small steps of what was held, each halved as its age has it.
  double sum = 0;
  for (int i = 0; i < 50'000; ++i) sum += 3 * 0.001 * std::exp2(-(50.0 - (i + 0.5) * 0.001) / 100);
  EXPECT_NEAR(shares.Usage(a, 50 * kSecond), sum, 1e-6);
  shares.Hold(a, -3, 50 * kSecond);
  EXPECT_NEAR(shares.Usage(a, 150 * kSecond), sum / 2, 1e-6);
  EXPECT_NEAR(shares.Rank(a, 150 * kSecond), sum / 4, 1e-6);
  EXPECT_FALSE(shares.Borrows(a, 4));
  EXPECT_TRUE(shares.Borrows(a, 5));
  EXPECT_FALSE(shares.ExceedsLimit(a, 8));
  EXPECT_TRUE(shares.ExceedsLimit(a, 9));
  EXPECT_EQ(shares.options(shares.IndexOf("new")).weight, 1);
}

TEST(SharingTest, EndlessDemandIsDividedLikeTheWeights) {
  for (const int slots : {1, 2, 8, 13}) {
    Cluster cluster(WithProjects({{"one", 1}, {"two", 2}, {"five", 5}}), /*checked=*/slots < 4);
    cluster.AddWorker("w", slots);
    int64_t submitted = 0;
    const auto feed = [&] {
      for (const char* project : {"one", "two", "five"}) {
        while (true) {
          int64_t queued = 0;
          for (const ProjectInfo& p : cluster.world().scheduler().Projects()) {
            if (p.options.name == project) queued = p.queued;
          }
          if (queued >= 3) break;
          cluster.Submit(Wants(1, project), 3 + ++submitted % 7);
        }
      }
    };
    for (int i = 0; i < 2400 / std::min(slots, 4); ++i) {
      feed();
      cluster.Second();
    }
    double all = 0;
    for (const auto& [project, used] : cluster.by_project) all += used;
    EXPECT_NEAR(cluster.by_project["one"] / all, 1.0 / 8, 0.05 / 8) << slots << " slots";
    EXPECT_NEAR(cluster.by_project["two"] / all, 2.0 / 8, 0.05 * 2 / 8) << slots << " slots";
    EXPECT_NEAR(cluster.by_project["five"] / all, 5.0 / 8, 0.05 * 5 / 8) << slots << " slots";
    EXPECT_THAT(cluster.world().violations(), IsEmpty());
  }
}

TEST(SharingTest, ABurstIsDividedBeforeAnybodyHasUsedAnything) {
  World world(WithProjects({{"a", 1}, {"b", 1}}));
  std::vector<std::string> jobs;
  for (int i = 0; i < 8; ++i) jobs.push_back(world.Submit(Wants(1, i < 4 ? "a" : "b")));
  world.Register("w", 4);
  const auto started = [&](int i) { return HasLiveAttempt(world.state(jobs[i])); };
  EXPECT_EQ(started(0) + started(1) + started(2) + started(3), 2);
  EXPECT_EQ(started(4) + started(5) + started(6) + started(7), 2);
}

TEST(SharingTest, UsageSurvivesARestart) {
  Cluster cluster(WithProjects({{"a", 1}, {"b", 1}}));
  cluster.AddWorker("w", 1);
  cluster.Submit(Wants(1, "a"), 200);
  cluster.Seconds(210);
  cluster.world().Restart();
  const std::string a = cluster.Submit(Wants(1, "a"), 0);
  const std::string b = cluster.Submit(Wants(1, "b"), 0);
  cluster.world().Register("w", 1);
  EXPECT_EQ(cluster.world().state(b), JobState::kStarting) << "a has had its turn";
  EXPECT_EQ(cluster.world().state(a), JobState::kQueued);
}

TEST(SharingTest, PriorityGoesFirstAndWaitingMakesUpForIt) {
  Cluster cluster;
  cluster.AddWorker("w", 1);
  cluster.Submit(Wants(1), 400);
  const std::string low = cluster.Submit(Wants(1, kDefaultProject, 0, 0), 5);
  cluster.Seconds(170);
  // Two points of priority are two minutes of waiting; five are five.
  const std::string two = cluster.Submit(Wants(1, kDefaultProject, 0, 2), 5);
  JobDocument urgent = Wants(1, kDefaultProject, 0, 5);
  const std::string five = cluster.Submit(urgent, 5);
  std::vector<std::string> order;
  for (int i = 0; i < 300; ++i) {
    cluster.Second();
    for (const std::string& job : {low, two, five}) {
      const bool started = cluster.world().job(job).attempt > 0;
      if (started && std::find(order.begin(), order.end(), job) == order.end()) {
        order.push_back(job);
      }
    }
  }
  EXPECT_THAT(order, ElementsAre(five, low, two));
}

TEST(SharingTest, QuotaComesBeforeBorrowingAndALimitIsALimit) {
  Cluster cluster(WithProjects({{"owner", 1, 2}, {"guest", 100, 0, 3}}));
  cluster.AddWorker("w", 4);
  const std::string first = cluster.Submit(Wants(1, "guest"), 0);
  std::vector<std::string> guests;
  for (int i = 0; i < 5; ++i) guests.push_back(cluster.Submit(Wants(1, "guest"), 0));
  cluster.Second();
  EXPECT_EQ(cluster.world().scheduler().Stats().slots_used, 3) << "its limit";
  const auto why = cluster.world().scheduler().Explain(guests.back(), cluster.world().now());
  EXPECT_EQ(why->reasons[0].code, BlockingCode::kProjectLimit);
  const std::string owner = cluster.Submit(Wants(1, "owner"), 0);
  EXPECT_EQ(cluster.world().state(owner), JobState::kStarting);
  EXPECT_THAT(cluster.world().violations(), IsEmpty());
}

TEST(SharingTest, WhatIsInsideAQuotaGoesBeforeTheProjectFurthestBehind) {
  Cluster cluster(WithProjects({{"owner", 1, 1}, {"guest", 1, 0}}));
  cluster.AddWorker("w", 1);
  cluster.Submit(Wants(1, "owner"), 100);
  const std::string guest = cluster.Submit(Wants(1, "guest"), 10);
  const std::string own = cluster.Submit(Wants(1, "owner"), 10);
  cluster.Seconds(102);
  EXPECT_TRUE(HasLiveAttempt(cluster.world().state(own)));
  EXPECT_EQ(cluster.world().state(guest), JobState::kQueued);
}

TEST(SharingTest, WhatWasBorrowedIsTakenBackAfterTheGuaranteedTime) {
  Cluster cluster(WithProjects({{"owner", 1, 2}, {"guest", 1}}));
  cluster.AddWorker("w", 2);
  const std::string a = cluster.Submit(Wants(1, "guest"), 0);
  cluster.Seconds(4);
  const std::string b = cluster.Submit(Wants(1, "guest"), 0);
  cluster.Seconds(40);
  const std::string owner = cluster.Submit(Wants(1, "owner"), 0);
  cluster.Seconds(10);
  EXPECT_EQ(cluster.world().state(owner), JobState::kQueued) << "a minute is guaranteed";
  cluster.Seconds(20);
  EXPECT_EQ(cluster.world().state(owner), JobState::kRunning);
  // The one that lost less since its last commit made room, and lost nothing.
  EXPECT_EQ(cluster.world().job(a).preemptions + cluster.world().job(b).preemptions, 1);
  const std::string victim = cluster.world().job(a).preemptions == 1 ? a : b;
  EXPECT_EQ(cluster.world().state(victim), JobState::kQueued);
  EXPECT_EQ(cluster.world().job(victim).reason, JobReason::kPreempted);
  EXPECT_EQ(cluster.world().job(victim).committed_step, cluster.trained(victim));
  EXPECT_THAT(cluster.world().violations(), IsEmpty());
  const auto& events = cluster.world().ledger().events;
  EXPECT_TRUE(std::any_of(events.begin(), events.end(), [&](const JobEventRecord& e) {
    return e.job_id == victim && e.after == JobState::kPausing && e.cause == "job:" + owner;
  })) << "the chain of causes";
}

TEST(SharingTest, AHigherPriorityPreemptsAndTheVictimGoesOnWhereItWas) {
  Cluster cluster;
  cluster.AddWorker("w", 1);
  const std::string low = cluster.Submit(Wants(1), 300);
  JobDocument firm = Wants(1, kDefaultProject, 0, 10);
  cluster.Seconds(100);
  const std::string high = cluster.Submit(firm, 20);
  cluster.Seconds(3);
  EXPECT_EQ(cluster.world().state(high), JobState::kRunning);
  cluster.Seconds(230);
  EXPECT_EQ(cluster.world().state(low), JobState::kSucceeded);
  EXPECT_EQ(cluster.world().job(low).attempt, 2);
  EXPECT_EQ(cluster.trained(low), 300) << "no step was trained twice";
  EXPECT_THAT(cluster.world().violations(), IsEmpty());
}

TEST(SharingTest, AJobThatIsNotPreemptibleStays) {
  Cluster cluster;
  cluster.AddWorker("w", 1);
  JobDocument document = Wants(1);
  document.preemptible = false;
  const std::string firm = cluster.Submit(document, 0);
  cluster.Seconds(100);
  const std::string high = cluster.Submit(Wants(1, kDefaultProject, 0, 100), 0);
  cluster.Seconds(100);
  EXPECT_EQ(cluster.world().state(firm), JobState::kRunning);
  EXPECT_EQ(cluster.world().state(high), JobState::kQueued);
}

TEST(SharingTest, AVictimThatDoesNotCheckpointInTimeIsStopped) {
  Cluster cluster;
  cluster.AddWorker("w", 1);
  cluster.deaf = true;
  const std::string low = cluster.Submit(Wants(1), 0);
  cluster.Seconds(105);
  const std::string high = cluster.Submit(Wants(1, kDefaultProject, 0, 1), 0);
  cluster.Seconds(119);
  EXPECT_EQ(cluster.world().state(low), JobState::kPausing);
  cluster.Seconds(4);
  EXPECT_EQ(cluster.world().state(low), JobState::kQueued);
  EXPECT_EQ(cluster.world().state(high), JobState::kRunning);
  EXPECT_EQ(cluster.world().job(low).committed_step, 100) << "it loses one interval at most";
}

TEST(SharingTest, AJobPausedWhileItMakesRoomStaysPaused) {
  Cluster cluster;
  cluster.AddWorker("w", 1);
  cluster.deaf = true;
  const std::string low = cluster.Submit(Wants(1), 0);
  cluster.Seconds(100);
  cluster.Submit(Wants(1, kDefaultProject, 0, 1), 0);
  cluster.Seconds(2);
  EXPECT_EQ(cluster.world().state(low), JobState::kPausing);
  EXPECT_TRUE(cluster.world().Step(PauseRequested{low, "user"}).error.ok());
  cluster.deaf = false;
  cluster.Second();
  EXPECT_EQ(cluster.world().state(low), JobState::kPaused);
}

TEST(SharingTest, AJobIsStoppedWhenItsRunTimeIsOver) {
  Cluster cluster;
  cluster.AddWorker("w", 1);
  const std::string job = cluster.Submit(Wants(1, kDefaultProject, 30), 0);
  cluster.Seconds(29);
  EXPECT_EQ(cluster.world().state(job), JobState::kRunning);
  cluster.Seconds(3);
  EXPECT_EQ(cluster.world().state(job), JobState::kFailed);
  EXPECT_EQ(cluster.world().job(job).reason, JobReason::kRunTimeExceeded);
}

TEST(SharingTest, AGangAmongEndlessSmallJobsStartsWithinItsPredictedTime) {
  Cluster cluster({}, /*checked=*/false);
  for (int i = 0; i < 16; ++i) cluster.AddWorker(absl::StrCat("w", i / 10, i % 10), 8);
  int64_t submitted = 0;
  const auto feed = [&] {
    while (cluster.world().scheduler().Stats().queue_depth < 40) {
      const int64_t length = 20 + ++submitted * 7 % 41;
      cluster.Submit(Wants(1, kDefaultProject, length), length - submitted % 5);
    }
  };
  for (int i = 0; i < 100; ++i) {
    feed();
    cluster.Second();
  }
  const std::string gang = cluster.Submit(Wants(64), 30);
  int64_t predicted = -1, waited = 0;
  while (cluster.world().job(gang).attempt == 0 && waited < 1000) {
    const auto why = cluster.world().scheduler().Explain(gang, cluster.world().now());
    if (predicted < 0 && why->start_in_nanos.has_value()) {
      predicted = waited + *why->start_in_nanos / kSecond;
    }
    feed();
    cluster.Second();
    ++waited;
  }
  ASSERT_GE(predicted, 0) << "no prediction was ever made";
  EXPECT_LE(waited, predicted);
  int64_t slots = 0;
  for (const WorkerShare& share : cluster.world().job(gang).placement) slots += share.slots;
  EXPECT_EQ(slots, 64);
  EXPECT_TRUE(cluster.world().scheduler().resources().Verify().ok());
  cluster.Seconds(40);
  EXPECT_EQ(cluster.world().state(gang), JobState::kSucceeded);
  EXPECT_THAT(cluster.world().violations(), IsEmpty());
}

TEST(SharingTest, OnlyJobsWithABoundFillTheGapBeforeAReservation) {
  Cluster cluster;
  cluster.AddWorker("w", 4);
  cluster.Submit(Wants(2, kDefaultProject, 400), 390);
  const std::string wide = cluster.Submit(Wants(4), 0);
  const std::string unbounded = cluster.Submit(Wants(1), 0);
  const std::string late = cluster.Submit(Wants(1, kDefaultProject, 500), 0);
  const std::string brief = cluster.Submit(Wants(1, kDefaultProject, 100), 90);
  cluster.Second();
  EXPECT_EQ(cluster.world().state(brief), JobState::kRunning);
  EXPECT_EQ(cluster.world().state(unbounded), JobState::kQueued);
  EXPECT_EQ(cluster.world().state(late), JobState::kQueued);
  const auto why = cluster.world().scheduler().Explain(unbounded, cluster.world().now());
  EXPECT_EQ(why->reasons.back().code, BlockingCode::kReserved);
  EXPECT_THAT(why->reasons.back().message, HasSubstr(wide));
  const auto head = cluster.world().scheduler().Explain(wide, cluster.world().now());
  EXPECT_EQ(head->start_in_nanos, 410 * kSecond - kSecond) << "and ten seconds to stop it";
  cluster.Seconds(395);
  EXPECT_EQ(cluster.world().state(wide), JobState::kRunning);
  EXPECT_THAT(cluster.world().violations(), IsEmpty());
}

TEST(SharingTest, AJobTooWideForAllWorkersDelaysNobody) {
  Cluster cluster;
  cluster.AddWorker("v", 2);
  cluster.AddWorker("w", 2);
  const std::string wide = cluster.Submit(Wants(5), 0);
  const std::string small = cluster.Submit(Wants(2), 0);
  EXPECT_EQ(cluster.world().state(small), JobState::kStarting);
  const auto why = cluster.world().scheduler().Explain(wide, cluster.world().now());
  EXPECT_EQ(why->reasons[0].code, BlockingCode::kTooWide);
}

TEST(SharingTest, AGangIsCancelledWhenEveryTrainerIsDead) {
  World world;
  world.Register("v", 2);
  world.Register("w", 2);
  const std::string gang = world.Submit(Wants(4));
  EXPECT_EQ(world.job(gang).placement.size(), 2u);
  EXPECT_EQ(world.list("v").assignments.size() + world.list("w").assignments.size(), 2u);
  world.Step(CancelRequested{gang, "user"});
  world.Report("v", {gang, 1}, AttemptStatus::kStopped);
  EXPECT_EQ(world.state(gang), JobState::kStopping);
  world.Report("w", {gang, 1}, AttemptStatus::kStopped);
  EXPECT_EQ(world.state(gang), JobState::kCancelled);
  EXPECT_EQ(world.scheduler().Stats().slots_used, 0);
  EXPECT_THAT(world.violations(), IsEmpty());
}

TEST(SharingTest, TheLeaderSaysWhenAGangHasSucceeded) {
  World world;
  world.Register("v", 2);
  world.Register("w", 2);
  const std::string gang = world.Submit(Wants(4));
  const std::string leader = world.job(gang).worker_id();
  world.Report(leader, {gang, 1}, AttemptStatus::kTraining);
  world.Report(leader == "v" ? "w" : "v", {gang, 1}, AttemptStatus::kSucceeded);
  EXPECT_EQ(world.state(gang), JobState::kRunning);
  EXPECT_EQ(world.scheduler().Stats().slots_used, 2);
  world.Report(leader, {gang, 1}, AttemptStatus::kSucceeded);
  EXPECT_EQ(world.state(gang), JobState::kSucceeded);
  EXPECT_EQ(world.scheduler().Stats().slots_used, 0);
  EXPECT_THAT(world.violations(), IsEmpty());
}

TEST(SharingTest, AGangThatLosesAWorkerGoesBackToTheQueueWhole) {
  World world;
  world.Register("v", 2);
  world.Register("w", 2);
  const std::string gang = world.Submit(Wants(4));
  for (int i = 0; i < 4; ++i) {
    world.Advance(5 * kSecond);
    world.Renew("v", {{gang, 1}});
  }
  EXPECT_EQ(world.state(gang), JobState::kQueued);
  EXPECT_EQ(world.scheduler().Stats().slots_used, 4) << "its trainers may still live";
  world.Renew("v", {});
  EXPECT_EQ(world.scheduler().Stats().slots_used, 2);
  world.Renew("w", {});
  EXPECT_EQ(world.state(gang), JobState::kStarting);
  EXPECT_THAT(world.violations(), IsEmpty());
}

TEST(SharingTest, AGangWhoseWorkersAllFallSilentIsLostOnce) {
  World world;
  world.Register("u", 1);
  world.Submit();
  world.Register("v", 2);
  world.Register("w", 2);
  const std::string gang = world.Submit(Wants(4));
  world.Advance(20 * 60 * kSecond);
  EXPECT_EQ(world.state(gang), JobState::kStarting) << "most leases never expire at once";
  world.Advance(12 * 60 * kSecond);
  EXPECT_EQ(world.state(gang), JobState::kQueued);
  EXPECT_EQ(world.job(gang).losses_without_progress, 1);
  EXPECT_THAT(world.violations(), IsEmpty());
}

TEST(SharingTest, ConstraintsChooseTheWorker) {
  World world;
  WorkerRegistered gpu{"gpu", "i1", "h", "cuda", "big", 1, "1", {}};
  gpu.slot_memory_bytes = int64_t{80} << 30;
  gpu.labels = {{"zone", "a"}};
  world.Register("cpu", 1);
  world.Step(gpu);
  JobDocument document = Wants(1);
  document.constraints = {"cuda", int64_t{80} << 30, {{"zone", "a"}}};  // all it has
  const std::string suits = world.Submit(document);
  EXPECT_EQ(world.job(suits).worker_id(), "gpu");
  document.constraints.labels = {{"zone", "b"}};
  const std::string nowhere = world.Submit(document);
  const auto why = world.scheduler().Explain(nowhere, world.now());
  EXPECT_EQ(why->reasons[0].code, BlockingCode::kNoMatchingWorker);
  document.constraints = {"", int64_t{100} << 30, {}};
  EXPECT_EQ(world.state(world.Submit(document)), JobState::kQueued);
  document.constraints = {};
  EXPECT_EQ(world.job(world.Submit(document)).worker_id(), "cpu");
}

TEST(SharingTest, ADrainedWorkerFinishesWhatItHasAndStaysDrained) {
  Cluster cluster;
  World& world = cluster.world();
  cluster.AddWorker("w", 1);
  const std::string job = cluster.Submit(Wants(1), 50);
  const Reply reply = world.Step(DrainRequested{"w", "new disk", false, "ann"});
  EXPECT_TRUE(std::get<WorkerInfo>(reply.answer).drained);
  cluster.Seconds(55);
  EXPECT_EQ(world.state(job), JobState::kSucceeded);
  const std::string next = cluster.Submit(Wants(1), 50);
  cluster.Seconds(3);
  EXPECT_EQ(world.state(next), JobState::kQueued);
  world.Restart();
  world.Register("w", 1);
  EXPECT_EQ(world.state(next), JobState::kQueued) << "drained over a restart";
  const auto why = world.scheduler().Explain(next, world.now());
  EXPECT_EQ(why->reasons[0].code, BlockingCode::kWorkersClosed);
  EXPECT_THAT(why->reasons[0].message, HasSubstr("w (drained)"));
  world.Step(UndrainRequested{"w", "ann"});
  EXPECT_EQ(world.state(next), JobState::kStarting);
  EXPECT_EQ(world.Step(DrainRequested{"none", "", false, "ann"}).error.reason,
            ErrorReason::kWorkerNotFound);
  EXPECT_THAT(world.ledger().workers, IsEmpty());
  EXPECT_THAT(world.violations(), IsEmpty());
}

TEST(SharingTest, AnEvictedJobGoesOnElsewhere) {
  Cluster cluster;
  cluster.AddWorker("w", 1);
  const std::string job = cluster.Submit(Wants(1), 100);
  cluster.Seconds(33);
  cluster.AddWorker("v", 1);
  cluster.world().Step(DrainRequested{"w", "", true, "ann"});
  EXPECT_EQ(cluster.world().state(job), JobState::kPausing);
  cluster.Seconds(2);
  EXPECT_EQ(cluster.world().job(job).worker_id(), "v");
  cluster.Seconds(100);
  EXPECT_EQ(cluster.world().state(job), JobState::kSucceeded);
  EXPECT_EQ(cluster.world().job(job).failures, 0);
}

TEST(SharingTest, TheWorkerThatJustFailedIsAvoidedWhereThereIsAnother) {
  World world;
  world.Register("v", 1);
  const std::string job = world.Submit();
  world.Report("v", {job, 1}, AttemptStatus::kFailed, FailureClass::kHardware);
  world.Advance(2 * kSecond);
  EXPECT_EQ(world.job(job).worker_id(), "v") << "there is no other";
  world.Register("w", 1);
  world.Report("v", {job, 2}, AttemptStatus::kFailed, FailureClass::kHardware);
  world.Advance(2 * kSecond);
  EXPECT_EQ(world.job(job).worker_id(), "w");
  EXPECT_THAT(world.violations(), IsEmpty());
}

TEST(SharingTest, AJobThatFailsOnThreeWorkersIsPoison) {
  World world;
  for (const char* worker : {"u", "v", "w"}) world.Register(worker, 1);
  JobDocument document;
  document.max_failures = 100;
  const std::string job = world.Submit(document);
  for (int i = 1; i <= 3; ++i) {
    EXPECT_EQ(world.state(job), JobState::kStarting);
    world.Report(world.job(job).worker_id(), {job, i}, AttemptStatus::kFailed,
                 FailureClass::kHardware);
    world.Advance(3 * kSecond);
    for (const char* worker : {"u", "v", "w"}) world.Renew(worker, {});
  }
  EXPECT_EQ(world.state(job), JobState::kFailed);
  EXPECT_EQ(world.job(job).reason, JobReason::kPoisonJob);
}

TEST(SharingTest, AWorkerOnWhichThreeJobsFailIsDrainedUnlessItIsTheLast) {
  World world;
  world.Register("lemon", 4);
  const auto fail = [&] {
    const std::string job = world.Submit();
    world.Report("lemon", {job, 1}, AttemptStatus::kFailed, FailureClass::kHardware);
    world.Step(CancelRequested{job, "user"});
  };
  fail();
  fail();
  world.Restart();  // what was counted stays counted
  world.Register("lemon", 4);
  world.TakeAlerts();
  fail();
  EXPECT_FALSE(world.scheduler().Workers()[0].drained) << "jobs have nowhere else to go";
  EXPECT_EQ(world.TakeAlerts().size(), 1u);
  // Work that gets further clears it.
  const std::string good = world.Submit();
  world.Commit("lemon", {good, 1}, 5);
  EXPECT_THAT(world.ledger().workers, IsEmpty());
  for (int i = 0; i < 3; ++i) fail();
  EXPECT_FALSE(world.scheduler().Workers()[0].drained);
  world.Commit("lemon", {good, 1}, 6);
  world.Register("other", 0);  // no slots: no alternative
  for (int i = 0; i < 2; ++i) fail();
  world.Register("other", 8);  // the tightest fit is the lemon
  fail();
  EXPECT_TRUE(world.scheduler().Workers()[0].drained);
  EXPECT_THAT(world.violations(), IsEmpty());
}

TEST(SharingTest, BudgetsAreByClassAndBackoffHasJitter) {
  World world;
  world.Register("w", 1);
  JobDocument document;
  document.max_failures = 100;
  const std::string job = world.Submit(document);
  world.Report("w", {job, 1}, AttemptStatus::kFailed, FailureClass::kData);
  EXPECT_EQ(world.state(job), JobState::kQueued);
  world.Advance(kSecond);
  world.Report("w", {job, 2}, AttemptStatus::kFailed, FailureClass::kData);
  EXPECT_EQ(world.state(job), JobState::kFailed) << "the same data a second time";
  EXPECT_EQ(world.job(job).reason, JobReason::kRestartBudgetExhausted);
  // Half of the delay is random.
  world.set_random(~uint64_t{0});
  const std::string again = world.Submit(document);
  world.Report("w", {again, 1}, AttemptStatus::kFailed, FailureClass::kHardware);
  world.Advance(kSecond / 4 + 1'000'000);
  EXPECT_EQ(world.state(again), JobState::kStarting);
}

TEST(SharingTest, AFailedNetworkIsGivenTime) {
  World world;
  world.Register("w", 1);
  const std::string job = world.Submit();
  world.Report("w", {job, 1}, AttemptStatus::kFailed, FailureClass::kNetwork);
  world.Advance(2 * kSecond);
  EXPECT_EQ(world.state(job), JobState::kQueued);
  world.Advance(4 * kSecond);
  EXPECT_EQ(world.state(job), JobState::kStarting);
}

TEST(SharingTest, AnUpdateChangesTheOrderAndLeavesATrace) {
  World world;
  world.Register("w", 1);
  world.Submit();
  const std::string first = world.Submit();
  const std::string second = world.Submit();
  UpdateRequested update{second, 7, {{{"team", "x"}}}, world.job(second).revision, "ann"};
  const Reply reply = world.Step(update);
  EXPECT_EQ(std::get<JobRecord>(reply.answer).document->priority, 7);
  EXPECT_EQ(world.job(second).document->labels.at("team"), "x");
  EXPECT_EQ(world.ledger().events.back().reason, JobReason::kUpdated);
  EXPECT_EQ(world.Step(update).error.reason, ErrorReason::kEtagMismatch);
  EXPECT_EQ(world.Step(update).error.code, absl::StatusCode::kAborted);
  world.Step(CancelRequested{"j-0000000000000001", "user"});
  world.Report("w", {"j-0000000000000001", 1}, AttemptStatus::kStopped);
  EXPECT_EQ(world.state(second), JobState::kStarting);
  EXPECT_EQ(world.state(first), JobState::kQueued);
  EXPECT_THAT(world.violations(), IsEmpty());
}

TEST(SharingTest, AnUpdateEndsNoBackOff) {
  World world;
  world.Register("w", 1);
  const std::string job = world.Submit();
  world.Report("w", {job, 1}, AttemptStatus::kFailed, FailureClass::kHardware);
  EXPECT_EQ(world.state(job), JobState::kQueued);
  world.Step(UpdateRequested{job, 7, {}, 0, "ann"});
  EXPECT_EQ(world.state(job), JobState::kQueued);
  world.Advance(10 * kSecond);
  EXPECT_EQ(world.state(job), JobState::kStarting);
}

TEST(SharingTest, AProjectsJobsAreLimited) {
  SchedulerOptions options = WithProjects({{"small", 1, 0, {}, 2}});
  World world(options);
  world.Submit(Wants(1, "small"));
  world.Submit(Wants(1, "small"));
  const auto document = std::make_shared<JobDocument>(Wants(1, "small"));
  EXPECT_EQ(world.Step(JobSubmitted{"j-x", document, "user", {}}).error.code,
            absl::StatusCode::kResourceExhausted);
}

TEST(SharingTest, APendingJobIsExplained) {
  Cluster cluster;
  World& world = cluster.world();
  const std::string job = cluster.Submit(Wants(1), 0);
  EXPECT_EQ(world.scheduler().Explain(job, world.now())->reasons[0].code, BlockingCode::kNoWorkers);
  cluster.AddWorker("w", 1);
  EXPECT_THAT(world.scheduler().Explain(job, world.now())->reasons, IsEmpty());
  const std::string next = cluster.Submit(Wants(1), 0);
  const std::string last = cluster.Submit(Wants(1), 0);
  auto why = world.scheduler().Explain(last, world.now());
  ASSERT_EQ(why->reasons.size(), 2u);
  EXPECT_EQ(why->reasons[0].code, BlockingCode::kBehindOthers);
  EXPECT_THAT(why->reasons[0].message, HasSubstr(next));
  EXPECT_EQ(why->reasons[1].code, BlockingCode::kSlotsBusy);
  ASSERT_EQ(why->holders.size(), 1u);
  EXPECT_EQ(why->holders[0].job_id, job);
  EXPECT_FALSE(why->holders[0].remaining_nanos.has_value());
  EXPECT_FALSE(why->start_in_nanos.has_value());
  world.Report("w", {job, 1}, AttemptStatus::kFailed, FailureClass::kHardware);
  EXPECT_EQ(world.scheduler().Explain(job, world.now())->reasons[0].code,
            BlockingCode::kBackingOff);
  EXPECT_FALSE(world.scheduler().Explain("j-none", world.now()).has_value());
  world.Step(PauseRequested{last, "user"});
  EXPECT_EQ(world.scheduler().Explain(last, world.now())->reasons[0].code, BlockingCode::kPaused);
}

}  // namespace
}  // namespace nibble::scheduler
