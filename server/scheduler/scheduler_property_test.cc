// Thousands of random histories: users, workers and trainers that come, go, freeze, repeat
// themselves and lie about stale attempts, and a daemon that is killed. The invariants hold after
// every event, the same events give the same effects, and when the faults stop every job ends.
//
// Seen red with slots freed when a lease expires (trainers on one device), an attempt number that
// was not raised, replies before the transaction, reports of stale attempts believed, a queue in
// reverse order, and no scheduling after an attempt ends.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <map>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/scheduler/test_world.h"

namespace nibble::scheduler {
namespace {

constexpr int64_t kMilli = 1'000'000;

// Random histories run; NIBBLE_PROPERTY_SEEDS asks for more.
int Seeds() {
  const char* wanted = std::getenv("NIBBLE_PROPERTY_SEEDS");
  return wanted != nullptr ? std::atoi(wanted) : 2000;
}

// A worker process and its trainers, as the daemon sees them.
struct SimWorker {
  std::string id;
  int32_t slots = 1;
  int incarnation = 1;
  bool registered = false;
  bool cut_off = false;
  // Trainers alive, with the step each has reached.
  std::map<AttemptId, int64_t> trainers;
  // Told to die, and not dead before the worker looks again. They hold their devices.
  std::set<AttemptId> dying;
  // What each was given of this worker.
  std::map<AttemptId, int32_t> slots_of;
  std::string Incarnation() const { return absl::StrCat(id, "-", incarnation); }
};

// Projects with a quota and with a limit, short guarantees, so that jobs preempt each other often.
SchedulerOptions Options() {
  SchedulerOptions options;
  options.projects = {{"owner", 1, 2}, {"guest", 2, 0, 4}, {"default", 1}};
  options.min_run_nanos = 1000 * kMilli;
  options.pause_grace_nanos = 3000 * kMilli;
  return options;
}

class Simulation {
 public:
  explicit Simulation(uint64_t seed) : random_(seed), world_(Options()) {
    for (int i = 0; i < 3; ++i) {
      workers_.emplace_back();
      workers_.back().id = absl::StrCat("w", i);
      workers_.back().slots = 1 + static_cast<int32_t>(random_() % 3);
    }
    workers_[0].slots = 3;  // every job fits somewhere
  }

  void RunWithFaults(int events) {
    for (int i = 0; i < events; ++i) {
      world_.Stall(static_cast<int64_t>(random_() % 400) * kMilli);
      RandomEvent();
    }
  }

  // No more faults: how many rounds of a second it takes until every job has ended; -1 for too
  // many.
  int RunToTheEnd() {
    for (SimWorker& worker : workers_) {
      worker.cut_off = false;
      world_.Step(UndrainRequested{worker.id, "user"});
    }
    for (int round = 0; round < 1000; ++round) {
      world_.Advance(1000 * kMilli);
      for (SimWorker& worker : workers_) {
        // Three jobs that failed on it may have had it drained.
        world_.Step(UndrainRequested{worker.id, "user"});
        Obey(worker);
        Contact(worker);
        const std::map<AttemptId, int64_t> trainers = worker.trainers;
        for (const auto& [attempt, step] : trainers) TrainWithoutFault(worker, attempt);
      }
      bool ended = true;
      for (const auto& [job_id, job] : world_.ledger().jobs) {
        if (job.state == JobState::kPaused) world_.Step(ResumeRequested{job_id, "user"});
        ended = ended && IsTerminal(job.state);
      }
      if (ended) return round;
    }
    return -1;
  }

  World& world() { return world_; }
  const std::vector<std::string>& device_conflicts() const { return device_conflicts_; }
  int stale_answers() const { return stale_answers_; }

 private:
  bool Chance(int percent) { return static_cast<int>(random_() % 100) < percent; }
  SimWorker& AnyWorker() { return workers_[random_() % workers_.size()]; }
  std::string AnyJob() {
    if (world_.ledger().jobs.empty() || Chance(5)) return "j-none";
    auto it = world_.ledger().jobs.begin();
    std::advance(it, random_() % world_.ledger().jobs.size());
    return it->first;
  }

  void RandomEvent() {
    const int dice = random_() % 100;
    if (dice < 14) return Submit();
    if (dice < 22) return UserAct();
    if (dice < 26) return (void)(AnyWorker().cut_off = Chance(50));
    if (dice < 28) return CrashWorker(AnyWorker());
    if (dice < 29) return DaemonCrash();
    if (dice < 30) return world_.Stall(static_cast<int64_t>(random_() % 40) * 1000 * kMilli);
    if (dice < 33) return LieAboutAnAttempt();
    if (dice < 45) return (void)world_.Step(Tick{});
    SimWorker& worker = AnyWorker();
    if (worker.cut_off) return;
    if (dice < 65) {
      Obey(worker);
      return Contact(worker);
    }
    if (worker.trainers.empty()) return;
    auto trainer = worker.trainers.begin();
    std::advance(trainer, random_() % worker.trainers.size());
    Train(worker, trainer->first);
  }

  void Submit() {
    JobDocument document;
    document.priority = static_cast<int32_t>(random_() % 3) - 1;
    document.slots = 1 + static_cast<int32_t>(random_() % 3);
    document.max_failures = static_cast<int32_t>(random_() % 4);
    document.keep_checkpoints = 1 + static_cast<int32_t>(random_() % 2);
    document.total_steps = 5 + static_cast<int64_t>(random_() % 15);
    document.project = std::array<const char*, 3>{"owner", "guest", "default"}[random_() % 3];
    document.preemptible = Chance(80);
    if (Chance(30))
      document.max_run_nanos = static_cast<int64_t>(5 + random_() % 60) * 1000 * kMilli;
    if (Chance(30)) {
      document.request_key = absl::StrCat("key", random_() % 8);
      document.fingerprint = absl::StrCat("body", random_() % 2);
    }
    world_.Submit(document);
  }

  void UserAct() {
    const std::string job = AnyJob();
    switch (random_() % 9) {
      case 6:
        return (void)world_.Step(
            UpdateRequested{job, static_cast<int32_t>(random_() % 5), {}, 0, "user"});
      case 7:
        return (void)world_.Step(DrainRequested{AnyWorker().id, "", Chance(50), "user"});
      case 8:
        return (void)world_.Step(UndrainRequested{AnyWorker().id, "user"});
      case 0:
        return (void)world_.Step(CancelRequested{job, "user"});
      case 1:
        return (void)world_.Step(DeleteRequested{job, "user"});
      case 2:
        return (void)world_.Step(MetricsPurged{job});
      case 3:
        return (void)world_.Step(PauseRequested{job, "user"});
      default:
        return (void)world_.Step(ResumeRequested{job, "user"});
    }
  }

  void CrashWorker(SimWorker& worker) {
    ++worker.incarnation;
    worker.registered = false;
    worker.dying.clear();
    if (Chance(90)) worker.trainers.clear();  // else they outlive it, and are listed
  }

  void DaemonCrash() {
    world_.Restart();
    for (SimWorker& worker : workers_) worker.registered = false;
  }

  // Someone reports for an attempt of long ago, or of the future, or of nobody.
  void LieAboutAnAttempt() {
    SimWorker& worker = AnyWorker();
    const std::string job = AnyJob();
    AttemptId attempt{job, static_cast<int64_t>(random_() % 4)};
    // A living trainer's own report is no lie.
    if (worker.trainers.count(attempt) != 0 || worker.dying.count(attempt) != 0) return;
    const auto row = world_.ledger().jobs.find(job);
    if (row != world_.ledger().jobs.end() && row->second.worker_id() == worker.id)
      ++attempt.attempt;
    if (row != world_.ledger().jobs.end() && row->second.attempt == attempt.attempt) return;
    const Reply reply =
        Chance(50) ? world_.Report(worker.id, attempt, static_cast<AttemptStatus>(random_() % 7),
                                   FailureClass::kNumeric, worker.Incarnation())
                   : Commit(worker, attempt, 1);
    if (reply.error.reason == ErrorReason::kStaleAttempt) ++stale_answers_;
  }

  // Makes the trainers what the newest list says.
  void Obey(SimWorker& worker) {
    if (!worker.registered) return;
    worker.dying.clear();
    std::set<AttemptId> wanted;
    const AssignmentsChanged list = world_.list(worker.id);
    for (const Assignment& a : list.assignments) {
      wanted.insert(a.attempt);
      for (const WorkerShare& share : a.placement) {
        if (share.worker_id == worker.id) worker.slots_of[a.attempt] = share.slots;
      }
      if (ended_.count(a.attempt) != 0) continue;
      const int64_t from = a.resume_from.has_value() ? a.resume_from->step : 0;
      worker.trainers.emplace(a.attempt, from);
    }
    for (auto it = worker.trainers.begin(); it != worker.trainers.end();) {
      const bool unwanted = wanted.count(it->first) == 0;
      if (unwanted) worker.dying.insert(it->first);
      it = unwanted ? worker.trainers.erase(it) : std::next(it);
    }
    CheckDevices(worker);
  }

  // What no checker inside the scheduler can see: trainers that really run never hold more devices
  // than there are, dying ones of attempts long lost among them.
  void CheckDevices(const SimWorker& worker) {
    int32_t held = 0;
    for (const auto& [attempt, step] : worker.trainers) held += worker.slots_of.at(attempt);
    for (const AttemptId& attempt : worker.dying) held += worker.slots_of.at(attempt);
    if (held > worker.slots) {
      device_conflicts_.push_back(absl::StrCat(worker.id, " runs trainers for ", held, " slots"));
    }
  }

  void Contact(SimWorker& worker) {
    std::vector<AttemptId> alive;
    for (const auto& [attempt, step] : worker.trainers) alive.push_back(attempt);
    alive.insert(alive.end(), worker.dying.begin(), worker.dying.end());
    if (!worker.registered) {
      const Reply reply = world_.Register(worker.id, worker.slots, worker.Incarnation(), alive);
      worker.registered = reply.error.ok();
      return Obey(worker);
    }
    // Everything it was told to purge is gone by now.
    const Reply reply = world_.Step(LeasesRenewed{worker.id, worker.Incarnation(), alive,
                                                  world_.list(worker.id).purge_job_ids});
    if (!reply.error.ok()) worker.registered = false;
  }

  Reply Commit(SimWorker& worker, const AttemptId& attempt, int64_t step) {
    CheckpointRecord checkpoint;
    checkpoint.job_id = attempt.job_id;
    checkpoint.attempt = attempt.attempt;
    checkpoint.step = step;
    return world_.Step(CheckpointCommitted{worker.id, worker.Incarnation(), checkpoint});
  }

  void End(SimWorker& worker, const AttemptId& attempt, AttemptStatus status,
           FailureClass failure_class) {
    const int times = Chance(10) ? 2 : 1;  // reports are repeated where the answer was lost
    Reply reply;
    for (int i = 0; i < times; ++i) {
      AttemptReported report{
          worker.id, worker.Incarnation(), attempt, status, failure_class, "words", {}};
      if (status == AttemptStatus::kSucceeded) report.result = TrainingResult{};
      reply = world_.Step(report);
    }
    if (reply.error.ok() || reply.error.reason == ErrorReason::kStaleAttempt) {
      worker.trainers.erase(attempt);
      ended_.insert(attempt);
    } else {
      worker.registered = false;
    }
  }

  static AssignmentAction ActionOf(const AssignmentsChanged& list, const AttemptId& attempt) {
    for (const Assignment& a : list.assignments) {
      if (a.attempt == attempt) return a.action;
    }
    return AssignmentAction::kStop;
  }

  void Train(SimWorker& worker, const AttemptId& attempt) {
    switch (random_() % 12) {
      case 0:
        return End(worker, attempt, AttemptStatus::kFailed,
                   static_cast<FailureClass>(1 + random_() % 8));
      case 1:
        return End(worker, attempt, AttemptStatus::kReleased, FailureClass::kUnspecified);
      case 2:
        return (void)world_.Report(worker.id, attempt, AttemptStatus::kTraining,
                                   FailureClass::kUnspecified, worker.Incarnation());
      default:
        return TrainWithoutFault(worker, attempt);
    }
  }

  void TrainWithoutFault(SimWorker& worker, const AttemptId attempt) {
    const auto row = world_.ledger().jobs.find(attempt.job_id);
    if (row == world_.ledger().jobs.end()) return;  // deleted; the next list says so
    const int64_t total = row->second.document->total_steps;
    const AssignmentAction action = ActionOf(world_.list(worker.id), attempt);
    if (action == AssignmentAction::kStop) {
      return End(worker, attempt, AttemptStatus::kStopped, FailureClass::kUnspecified);
    }
    if (action == AssignmentAction::kPause) {
      Commit(worker, attempt, worker.trainers[attempt]);
      return End(worker, attempt, AttemptStatus::kPaused, FailureClass::kUnspecified);
    }
    world_.Report(worker.id, attempt, AttemptStatus::kTraining, FailureClass::kUnspecified,
                  worker.Incarnation());
    int64_t& step = worker.trainers[attempt];
    step = std::min(total, step + 1 + static_cast<int64_t>(random_() % 5));
    const Reply commit = Commit(worker, attempt, step);
    if (commit.error.reason == ErrorReason::kStaleAttempt) {
      ++stale_answers_;
      worker.trainers.erase(attempt);  // as the answer tells it
      worker.dying.insert(attempt);
      ended_.insert(attempt);
    } else if (step == total) {
      End(worker, attempt, AttemptStatus::kSucceeded, FailureClass::kUnspecified);
    }
  }

  std::mt19937_64 random_;
  World world_;
  std::vector<SimWorker> workers_;
  std::set<AttemptId> ended_;
  std::vector<std::string> device_conflicts_;
  int stale_answers_ = 0;
};

TEST(SchedulerPropertyTest, InvariantsHoldAndEveryJobEnds) {
  int64_t ended = 0, stale = 0, longest = 0, preemptions = 0;
  std::map<JobState, int64_t> ends;
  for (int seed = 1; seed <= Seeds(); ++seed) {
    Simulation simulation(seed);
    simulation.RunWithFaults(150);
    const int rounds = simulation.RunToTheEnd();
    ASSERT_THAT(simulation.world().violations(), ::testing::IsEmpty()) << "seed " << seed;
    ASSERT_THAT(simulation.device_conflicts(), ::testing::IsEmpty()) << "seed " << seed;
    ASSERT_GE(rounds, 0) << "a job never ended, seed " << seed;
    longest = std::max<int64_t>(longest, rounds);
    stale += simulation.stale_answers();
    for (const auto& [job_id, job] : simulation.world().ledger().jobs) {
      ++ends[job.state];
      preemptions += job.preemptions;
    }
    ended += static_cast<int64_t>(simulation.world().ledger().jobs.size());
    const SchedulerStats stats = simulation.world().scheduler().Stats();
    ASSERT_EQ(stats.leases, 0) << "seed " << seed;
  }
  RecordProperty("jobs", std::to_string(ended));
  EXPECT_GT(preemptions, 0);
  // A history without these would prove little.
  EXPECT_GT(ends[JobState::kSucceeded], 0);
  EXPECT_GT(ends[JobState::kFailed], 0);
  EXPECT_GT(ends[JobState::kCancelled], 0);
  EXPECT_GT(stale, 0);
  GTEST_LOG_(INFO) << ended << " jobs: " << ends[JobState::kSucceeded] << " succeeded, "
                   << ends[JobState::kFailed] << " failed, " << ends[JobState::kCancelled]
                   << " cancelled; " << preemptions << " preemptions; " << stale
                   << " stale reports; longest end " << longest << " s";
}

TEST(SchedulerPropertyTest, TheSameEventsGiveTheSameEffects) {
  for (int seed = 1; seed <= 50; ++seed) {
    Simulation simulation(seed);
    simulation.RunWithFaults(150);
    Scheduler replay{Options()};
    const std::vector<Event>& events = simulation.world().events();
    for (size_t i = 0; i < events.size(); ++i) {
      ASSERT_EQ(DebugString(replay.Step(events[i])), simulation.world().effect_texts()[i])
          << "seed " << seed << ", event " << i;
    }
  }
}

// Cost must not grow with the queue: 10,000 waiting jobs, and events that do not concern them.
TEST(SchedulerPropertyTest, ALongQueueIsNotScannedAtEveryEvent) {
  Scheduler scheduler{SchedulerOptions()};
  Event event;
  event.body = Recovered{};
  scheduler.Step(event);
  event.body = WorkerRegistered{"w", "i", "", "", "", 1, "", {}};
  scheduler.Step(event);
  const auto document = std::make_shared<const JobDocument>();
  const auto submit = [&](int i) {
    event.body = JobSubmitted{absl::StrCat("j-", i), document, "user", {}};
    scheduler.Step(event);
  };
  const auto seconds = [](auto work) {
    const auto start = std::chrono::steady_clock::now();
    work();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  const auto renewals = [&] {
    for (int i = 0; i < 20'000; ++i) {
      event.body = LeasesRenewed{"w", "i", {{"j-0", 1}}, {}};
      scheduler.Step(event);
    }
  };
  submit(0);
  const double short_queue = seconds(renewals);
  const double filling = seconds([&] {
    for (int i = 1; i <= 10'000; ++i) submit(i);
  });
  const double long_queue = seconds(renewals);
  GTEST_LOG_(INFO) << "renewal with 0 and 10,000 waiting: " << short_queue / 20'000 * 1e6 << " us, "
                   << long_queue / 20'000 * 1e6 << " us; submission " << filling / 10'000 * 1e6
                   << " us";
  // A scan of 10,000 jobs would cost some thousand times as much; 20 leaves room for a busy
  // machine.
  EXPECT_LT(long_queue, 20 * short_queue + 0.1);
  EXPECT_LT(filling, 5.0);
}

}  // namespace
}  // namespace nibble::scheduler
