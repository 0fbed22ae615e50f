// The coordinator over a store in memory and a clock that the tests move.
#include "server/coordinator/coordinator.h"

#include <atomic>
#include <condition_variable>
#include <future>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/coordinator/record_appender.h"
#include "server/store/memory_store.h"

namespace nibble::coordinator {
namespace {

using scheduler::ErrorReason;
using scheduler::JobRecord;
using scheduler::JobState;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;

// A store whose commits a test can hold up, refuse, or look into.
class GatedStore : public store::Store {
 public:
  absl::Status Commit(const scheduler::Transaction& transaction) override {
    std::unique_lock<std::mutex> lock(mutex_);
    ++waiting_;
    changed_.notify_all();
    changed_.wait(lock, [&] { return open_; });
    --waiting_;
    if (!error_.ok()) return error_;
    commits_.push_back(static_cast<int>(transaction.events.size()));
    return inner_->Commit(transaction);
  }
  absl::StatusOr<JobRecord> GetJob(absl::string_view job_id) override {
    return inner_->GetJob(job_id);
  }
  absl::StatusOr<store::JobPage> ListJobs(const store::JobQuery& query) override {
    return inner_->ListJobs(query);
  }
  absl::StatusOr<store::EventPage> ListEvents(const store::EventQuery& query) override {
    return inner_->ListEvents(query);
  }
  absl::StatusOr<std::vector<scheduler::CheckpointRecord>> ListCheckpoints(
      absl::string_view job_id) override {
    return inner_->ListCheckpoints(job_id);
  }
  absl::StatusOr<std::optional<scheduler::IdempotencyRecord>> FindKey(
      absl::string_view key) override {
    return inner_->FindKey(key);
  }
  absl::StatusOr<store::LiveState> LoadLive() override { return inner_->LoadLive(); }
  absl::StatusOr<std::array<int64_t, 10>> CountJobs() override { return inner_->CountJobs(); }

  void Close() {
    std::lock_guard<std::mutex> lock(mutex_);
    open_ = false;
  }
  void Open() {
    std::lock_guard<std::mutex> lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  void WaitForCommit() {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return waiting_ > 0; });
  }
  void FailWith(absl::Status error) {
    std::lock_guard<std::mutex> lock(mutex_);
    error_ = std::move(error);
  }
  std::vector<int> commits() {
    std::lock_guard<std::mutex> lock(mutex_);
    return commits_;
  }

 private:
  std::unique_ptr<store::Store> inner_ = store::MakeMemoryStore();
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = true;
  int waiting_ = 0;
  absl::Status error_;
  std::vector<int> commits_;
};

// Keeps the newest counts, which jobs are active, and every wait and group size.
class CountingTelemetry : public telemetry::NullTelemetry {
 public:
  void SetCounts(const telemetry::ControlPlaneCounts& counts) override {
    MutexLock lock(mutex_);
    counts_ = counts;
  }
  void JobActive(const telemetry::ActiveJob& job) override {
    MutexLock lock(mutex_);
    active_.insert(job.job_id);
  }
  void JobInactive(absl::string_view job_id) override {
    MutexLock lock(mutex_);
    active_.erase(std::string(job_id));
  }
  void TrainingSteps(absl::string_view,
                     const std::vector<telemetry::TrainingStepReport>& steps) override {
    MutexLock lock(mutex_);
    for (const auto& step : steps) steps_.push_back(step.step);
  }
  void QueueWaited(double seconds) override {
    MutexLock lock(mutex_);
    waits_.push_back(seconds);
  }
  void Committed(double, int64_t group_size) override {
    MutexLock lock(mutex_);
    group_sizes_.push_back(group_size);
  }
  std::vector<double> waits() {
    MutexLock lock(mutex_);
    return waits_;
  }
  std::vector<int64_t> group_sizes() {
    MutexLock lock(mutex_);
    return group_sizes_;
  }
  telemetry::ControlPlaneCounts counts() {
    MutexLock lock(mutex_);
    return counts_;
  }
  std::set<std::string> active() {
    MutexLock lock(mutex_);
    return active_;
  }
  std::vector<int64_t> steps() {
    MutexLock lock(mutex_);
    return steps_;
  }

 private:
  Mutex mutex_;
  telemetry::ControlPlaneCounts counts_ GUARDED_BY(mutex_);
  std::set<std::string> active_ GUARDED_BY(mutex_);
  std::vector<int64_t> steps_ GUARDED_BY(mutex_);
  std::vector<double> waits_ GUARDED_BY(mutex_);
  std::vector<int64_t> group_sizes_ GUARDED_BY(mutex_);
};

std::shared_ptr<const scheduler::JobDocument> Document(const std::string& key = "",
                                                       const std::string& fingerprint = "") {
  auto document = std::make_shared<scheduler::JobDocument>();
  document->name = "job";
  document->total_steps = 10;
  document->request_key = key;
  document->fingerprint = fingerprint;
  return document;
}

class CoordinatorTest : public ::testing::Test {
 protected:
  void SetUp() override { StartCoordinator(); }

  void StartCoordinator() {
    CoordinatorParts parts;
    parts.store = &store_;
    parts.metric_store = metric_store_.get();
    parts.telemetry = &telemetry_;
    parts.clock = &clock_;
    parts.pool = &pool_;
    parts.recipe_of = [](const scheduler::JobDocument&) { return std::string("bf16"); };
    parts.on_fatal = [this](const absl::Status& status) { fatal_ = status; };
    CoordinatorOptions options;
    options.tick_nanos = 5'000'000;
    auto started = Coordinator::Start(options, std::move(parts));
    ASSERT_THAT(started, IsOk());
    coordinator_ = *std::move(started);
    appender_ = std::make_unique<RecordAppender>(coordinator_.get(), metric_store_.get(),
                                                 &telemetry_, &pool_);
  }

  void Restart() {
    coordinator_->Stop();
    coordinator_.reset();
    StartCoordinator();
  }

  std::future<Outcome> Post(scheduler::EventBody body) {
    auto promise = std::make_shared<std::promise<Outcome>>();
    coordinator_->Post(std::move(body),
                       [promise](const Outcome& outcome) { promise->set_value(outcome); });
    return promise->get_future();
  }
  std::future<Outcome> Submit(const std::string& job_id, const std::string& key = "",
                              const std::string& fingerprint = "") {
    return Post(scheduler::JobSubmitted{job_id, Document(key, fingerprint), "user", {}});
  }
  Outcome Register(const std::string& incarnation, std::vector<scheduler::AttemptId> running = {},
                   int slots = 4) {
    return Post(scheduler::WorkerRegistered{"w", incarnation, "host", "cpu", "cpu", slots, "1",
                                            std::move(running)})
        .get();
  }
  Outcome Report(const std::string& incarnation, const scheduler::AttemptId& attempt,
                 scheduler::AttemptStatus status) {
    scheduler::AttemptReported event;
    event.worker_id = "w";
    event.incarnation = incarnation;
    event.attempt = attempt;
    event.status = status;
    if (status == scheduler::AttemptStatus::kSucceeded) event.result = scheduler::TrainingResult();
    return Post(std::move(event)).get();
  }
  AppendOutcome Append(const std::string& incarnation, const scheduler::AttemptId& attempt,
                       const std::vector<int64_t>& sequences) {
    AppendRequest request;
    request.worker_id = "w";
    request.incarnation = incarnation;
    request.source = {attempt, 0};
    for (const int64_t sequence : sequences) {
      request.metrics.push_back({sequence, sequence, 1, {{"loss", 1.0}}});
    }
    std::promise<AppendOutcome> promise;
    appender_->AppendMetrics(std::move(request),
                             [&](const AppendOutcome& outcome) { promise.set_value(outcome); });
    return promise.get_future().get();
  }
  JobState StateOf(const std::string& job_id) { return store_.GetJob(job_id)->state; }

  FakeClock clock_;
  GatedStore store_;
  std::unique_ptr<store::MetricStore> metric_store_ = store::MakeMemoryMetricStore();
  CountingTelemetry telemetry_;
  WorkPool pool_{2, 1000};
  absl::Status fatal_;
  std::unique_ptr<Coordinator> coordinator_;
  std::unique_ptr<RecordAppender> appender_;
};

// Seen red with the replies carried out before Commit.
TEST_F(CoordinatorTest, AnswersOnlyWhatIsDurable) {
  store_.Close();
  std::future<Outcome> answer = Submit("j-1");
  store_.WaitForCommit();
  EXPECT_EQ(answer.wait_for(std::chrono::milliseconds(50)), std::future_status::timeout);
  EXPECT_THAT(store_.GetJob("j-1"), StatusIs(absl::StatusCode::kNotFound));
  store_.Open();
  EXPECT_EQ(std::get<JobRecord>(answer.get().reply.answer).job_id, "j-1");
  EXPECT_THAT(store_.GetJob("j-1"), IsOk());
}

TEST_F(CoordinatorTest, TheAssignmentToAWorkerIsDurableToo) {
  Register("i1");
  store_.Close();
  std::future<Outcome> answer = Submit("j-1");
  store_.WaitForCommit();
  EXPECT_THAT(coordinator_->assignments().Read("w", "i1")->assignments, IsEmpty());
  store_.Open();
  answer.get();
  EXPECT_THAT(coordinator_->assignments().Read("w", "i1")->assignments, SizeIs(1));
}

TEST_F(CoordinatorTest, EventsThatArriveDuringACommitShareTheNext) {
  store_.Close();
  std::vector<std::future<Outcome>> answers;
  answers.push_back(Submit("j-0"));
  store_.WaitForCommit();
  for (int i = 1; i <= 100; ++i) answers.push_back(Submit(absl::StrCat("j-", i)));
  store_.Open();
  for (auto& answer : answers) EXPECT_THAT(answer.get().status, IsOk());
  EXPECT_THAT(store_.commits(), ElementsAre(1, 100));
}

// The group's own transaction is not in the store yet when its later events are stepped.
TEST_F(CoordinatorTest, AGroupSeesItsOwnEarlierEvents) {
  store_.Close();
  std::future<Outcome> first = Submit("j-0");
  store_.WaitForCommit();
  std::future<Outcome> submitted = Submit("j-1", "key", "same");
  std::future<Outcome> cancelled = Post(scheduler::CancelRequested{"j-1", "user"});
  std::future<Outcome> again = Submit("j-2", "key", "same");
  std::future<Outcome> other = Submit("j-3", "key", "different");
  std::future<Outcome> removed = Post(scheduler::DeleteRequested{"j-1", "user"});
  std::future<Outcome> gone = Post(scheduler::CancelRequested{"j-1", "user"});
  store_.Open();
  EXPECT_EQ(std::get<JobRecord>(submitted.get().reply.answer).state, JobState::kQueued);
  EXPECT_EQ(std::get<JobRecord>(cancelled.get().reply.answer).state, JobState::kCancelled);
  EXPECT_EQ(std::get<JobRecord>(again.get().reply.answer).job_id, "j-1");
  EXPECT_EQ(other.get().reply.error.reason, ErrorReason::kRequestIdReused);
  EXPECT_TRUE(removed.get().reply.error.ok());
  EXPECT_EQ(gone.get().reply.error.reason, ErrorReason::kJobNotFound);
  EXPECT_THAT(store_.GetJob("j-1"), StatusIs(absl::StatusCode::kNotFound));
  first.get();
}

TEST_F(CoordinatorTest, AnswersARepeatedSubmissionFromTheStore) {
  EXPECT_THAT(Submit("j-1", "key", "same").get().status, IsOk());
  Post(scheduler::CancelRequested{"j-1", "user"}).get();
  Restart();
  EXPECT_EQ(std::get<JobRecord>(Submit("j-2", "key", "same").get().reply.answer).job_id, "j-1");
  EXPECT_EQ(Submit("j-3", "key", "other").get().reply.error.code, absl::StatusCode::kAlreadyExists);
}

TEST_F(CoordinatorTest, ARestartedDaemonAdoptsWhatStillRuns) {
  Register("i1");
  Submit("j-1").get();
  Report("i1", {"j-1", 1}, scheduler::AttemptStatus::kTraining);
  EXPECT_EQ(StateOf("j-1"), JobState::kRunning);
  Restart();
  EXPECT_THAT(coordinator_->assignments().Read("w", "i1"), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_EQ(Append("i1", {"j-1", 1}, {1}).refusal.reason, ErrorReason::kUnknownWorker);
  const Outcome registered = Register("i1", {{"j-1", 1}, {"j-9", 1}});
  EXPECT_THAT(std::get<scheduler::Registration>(registered.reply.answer).adopted, SizeIs(1));
  EXPECT_THAT(coordinator_->assignments().Read("w", "i1")->assignments, SizeIs(1));
  EXPECT_EQ(Append("i1", {"j-1", 1}, {1}).acknowledged_sequence, 1);
  EXPECT_EQ(StateOf("j-1"), JobState::kRunning);
}

TEST_F(CoordinatorTest, RefusesRecordsOfStaleAttempts) {
  Register("i1");
  Submit("j-1").get();
  EXPECT_EQ(Append("i1", {"j-1", 1}, {1, 2}).acknowledged_sequence, 2);
  EXPECT_EQ(Append("i1", {"j-1", 2}, {1}).refusal.reason, ErrorReason::kStaleAttempt);
  Register("i2");  // the trainer died with its worker: attempt 2 is under way
  EXPECT_EQ(Append("i1", {"j-1", 1}, {3}).refusal.reason, ErrorReason::kStaleIncarnation);
  EXPECT_EQ(Append("i2", {"j-1", 1}, {3}).refusal.reason, ErrorReason::kStaleAttempt);
  EXPECT_EQ(Append("i2", {"j-1", 2}, {1}).acknowledged_sequence, 1);
  EXPECT_EQ(*metric_store_->LastSequence({{"j-1", 1}, 0}), 2);
}

TEST_F(CoordinatorTest, StepsThatAreSentAgainCountOnce) {
  Register("i1");
  Submit("j-1").get();
  Append("i1", {"j-1", 1}, {1, 2});
  Append("i1", {"j-1", 1}, {1, 2, 3});
  EXPECT_THAT(telemetry_.steps(), ElementsAre(1, 2, 3));
}

TEST_F(CoordinatorTest, GaugesEqualRows) {
  Register("i1", {}, /*slots=*/2);
  for (int i = 0; i < 5; ++i) Submit(absl::StrCat("j-", i)).get();
  Report("i1", {"j-0", 1}, scheduler::AttemptStatus::kSucceeded);
  Post(scheduler::CancelRequested{"j-4", "user"}).get();
  // The counts follow the answers of their group.
  Post(scheduler::CancelRequested{"j-9", "user"}).get();
  const telemetry::ControlPlaneCounts counts = telemetry_.counts();
  EXPECT_EQ(counts.jobs_by_state.at("STARTING"), 2);
  EXPECT_EQ(counts.jobs_by_state.at("QUEUED"), 1);
  EXPECT_EQ(counts.jobs_by_state.at("SUCCEEDED"), 1);
  EXPECT_EQ(counts.jobs_by_state.at("CANCELLED"), 1);
  EXPECT_EQ(counts.queue_depth, 1);
  EXPECT_EQ(counts.slots_total, 2);
  EXPECT_EQ(counts.slots_used, 2);
  EXPECT_EQ(counts.leases, 2);
  EXPECT_THAT(telemetry_.active(), ElementsAre("j-1", "j-2"));
}

// Seen red with only those waits counted whose QUEUED was published: a job that finds free slots
// never publishes it.
TEST_F(CoordinatorTest, EveryAttemptWaitedOnce) {
  Register("i1", {}, /*slots=*/1);
  Submit("j-0").get();
  Submit("j-1").get();
  EXPECT_THAT(telemetry_.waits(), ElementsAre(0.0));
  clock_.AdvanceNanos(2'000'000'000);
  Report("i1", {"j-0", 1}, scheduler::AttemptStatus::kSucceeded);
  EXPECT_THAT(telemetry_.waits(), ElementsAre(0.0, 2.0));
  // What was counted is not counted again by the next daemon.
  Restart();
  Register("i2", {{"j-1", 1}}, /*slots=*/1);
  Submit("j-2").get();
  EXPECT_THAT(telemetry_.waits(), ElementsAre(0.0, 2.0));
  clock_.AdvanceNanos(1'000'000'000);
  Report("i2", {"j-1", 1}, scheduler::AttemptStatus::kSucceeded);
  EXPECT_THAT(telemetry_.waits(), ElementsAre(0.0, 2.0, 1.0));
}

// Seen red without the time of the start kept: the first change of a job would begin its wait.
TEST_F(CoordinatorTest, AQueueThatAStartFindsWaitsFromThere) {
  for (const char* job : {"j-0", "j-1"}) Submit(job).get();  // there is no worker
  clock_.AdvanceNanos(5'000'000'000);
  Restart();
  clock_.AdvanceNanos(2'000'000'000);
  scheduler::UpdateRequested update;
  update.job_id = "j-1";
  update.priority = 1;
  Post(update).get();
  Submit("j-2").get();
  clock_.AdvanceNanos(1'000'000'000);
  Register("i1", {}, /*slots=*/3);
  EXPECT_THAT(telemetry_.waits(), UnorderedElementsAre(3.0, 3.0, 1.0));
}

// A submission that finds slots is one change, though two events. Seen red with events counted.
TEST_F(CoordinatorTest, ACommitSaysHowManyChangesItCarries) {
  Register("i1");
  store_.Close();
  std::vector<std::future<Outcome>> answers;
  answers.push_back(Submit("j-0"));
  store_.WaitForCommit();
  for (int i = 1; i < 4; ++i) answers.push_back(Submit(absl::StrCat("j-", i)));
  store_.Open();
  for (auto& answer : answers) EXPECT_THAT(answer.get().status, IsOk());
  EXPECT_THAT(telemetry_.group_sizes(), ElementsAre(1, 3));
}

TEST_F(CoordinatorTest, AFullDiskRefusesAndThenGoesOn) {
  Register("i1");
  Submit("j-0").get();
  store_.FailWith(absl::ResourceExhaustedError("disk full"));
  const Outcome refused = Submit("j-1").get();
  EXPECT_THAT(refused.status, StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_EQ(refused.reason, "DISK_FULL");
  EXPECT_EQ(Submit("j-2").get().reason, "DISK_FULL");  // not even tried for a second
  store_.FailWith(absl::OkStatus());
  clock_.AdvanceNanos(2'000'000'000);
  EXPECT_THAT(Submit("j-1").get().status, IsOk());
  // The scheduler started anew from the store, so the worker has to register; its attempt goes on.
  const Outcome registered = Register("i1", {{"j-0", 1}});
  EXPECT_THAT(std::get<scheduler::Registration>(registered.reply.answer).adopted, SizeIs(1));
  EXPECT_THAT(fatal_, IsOk());
}

TEST_F(CoordinatorTest, AnIoErrorIsFatalAndNothingIsAcknowledged) {
  store_.FailWith(absl::UnavailableError("fsync failed"));
  EXPECT_THAT(Submit("j-1").get().status, StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(fatal_, StatusIs(absl::StatusCode::kUnavailable));
  store_.FailWith(absl::OkStatus());
  EXPECT_THAT(Submit("j-2").get().status, StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(store_.GetJob("j-2"), StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(CoordinatorTest, LeasesExpireByTheInjectedClock) {
  Register("i1");
  Submit("j-1").get();
  Submit("j-2").get();
  // Small steps: a long silence of the clock would read as a stall of the daemon.
  for (int i = 0; i < 20 && StateOf("j-1") == JobState::kStarting; ++i) {
    clock_.AdvanceNanos(2'000'000'000);
    Post(scheduler::CancelRequested{"j-9", "user"}).get();
    Post(scheduler::CancelRequested{"j-9", "user"}).get();
  }
  EXPECT_EQ(StateOf("j-1"), JobState::kQueued);
  EXPECT_EQ(store_.GetJob("j-1")->reason, scheduler::JobReason::kLeaseExpired);
}

TEST_F(CoordinatorTest, AShutDownWorkerIsToldSoAlsoWhenItRegistersLater) {
  coordinator_->assignments().ShutDownWorker("w");
  Register("i1");
  EXPECT_TRUE(coordinator_->assignments().Read("w", "i1")->shut_down);
}

TEST_F(CoordinatorTest, DeletionRemovesMetricsAndPurgesFilesUntilAcknowledged) {
  Register("i1");
  Submit("j-1").get();
  Append("i1", {"j-1", 1}, {1});
  Report("i1", {"j-1", 1}, scheduler::AttemptStatus::kSucceeded);
  EXPECT_TRUE(Post(scheduler::DeleteRequested{"j-1", "user"}).get().reply.error.ok());
  EXPECT_THAT(coordinator_->assignments().Read("w", "i1")->purge_job_ids, ElementsAre("j-1"));
  for (int i = 0; i < 1000 && *metric_store_->LastSequence({{"j-1", 1}, 0}) != 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_EQ(*metric_store_->LastSequence({{"j-1", 1}, 0}), 0);
  Restart();
  Register("i1");
  EXPECT_THAT(coordinator_->assignments().Read("w", "i1")->purge_job_ids, ElementsAre("j-1"));
  Post(scheduler::LeasesRenewed{"w", "i1", {}, {"j-1"}}).get();
  EXPECT_THAT(coordinator_->assignments().Read("w", "i1")->purge_job_ids, IsEmpty());
}

TEST_F(CoordinatorTest, AfterStopEverythingIsRefused) {
  coordinator_->Stop();
  EXPECT_EQ(Submit("j-1").get().reason, "SHUTTING_DOWN");
}

TEST(ChangeFeedTest, WakesTheSubscribersOfATopicUntilTheyLeave) {
  ChangeFeed feed;
  int woken = 0;
  auto subscription = feed.Subscribe({JobTopic("a"), MetricsTopic("a")}, [&] { ++woken; });
  feed.Publish(JobTopic("a"));
  feed.Publish(MetricsTopic("a"));
  feed.Publish(JobTopic("b"));
  EXPECT_EQ(woken, 2);
  subscription.reset();
  feed.Publish(JobTopic("a"));
  EXPECT_EQ(woken, 2);
}

TEST(DeletionLogTest, KeepsTheNewest) {
  DeletionLog log;
  int64_t position = log.position();
  log.Add("a");
  log.Add("b");
  EXPECT_THAT(log.Since(&position), ElementsAre("a", "b"));
  EXPECT_THAT(log.Since(&position), IsEmpty());
  for (size_t i = 0; i < 2 * DeletionLog::kKept; ++i) log.Add("x");
  EXPECT_THAT(log.Since(&position), SizeIs(DeletionLog::kKept));
}

TEST(WorkPoolTest, RefusesBeyondItsLimitAndRunsTheRestWhenStopped) {
  std::atomic<int> ran{0};
  std::promise<void> gate;
  std::shared_future<void> opened = gate.get_future().share();
  WorkPool pool(1, 2);
  std::promise<void> started;
  ASSERT_TRUE(pool.Submit([&] {
    started.set_value();
    opened.wait();
    ++ran;
  }));
  started.get_future().wait();
  ASSERT_TRUE(pool.Submit([&] { ++ran; }));
  ASSERT_TRUE(pool.Submit([&] { ++ran; }));
  EXPECT_FALSE(pool.Submit([&] { ++ran; }));
  EXPECT_TRUE(pool.SubmitUnbounded([&] { ++ran; }));
  gate.set_value();
  pool.Stop();
  EXPECT_EQ(ran, 4);
  EXPECT_FALSE(pool.SubmitUnbounded([&] { ++ran; }));
}

}  // namespace
}  // namespace nibble::coordinator
