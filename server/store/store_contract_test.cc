// The promises of Store, kept alike by SQLite, memory and the crash-losing fake. Seen red with a
// deletion that left the idempotency key, a page that repeated its last job, and (Survives*) with
// CrashLosingStore::Acknowledge::kTooEarly.
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/files.h"
#include "base/status_matchers.h"
#include "gtest/gtest.h"
#include "server/store/crash_losing_store.h"
#include "server/store/memory_store.h"
#include "server/store/sqlite_store.h"
#include "server/store/store_test_util.h"

namespace nibble::store {
namespace {

using scheduler::JobRecord;
using scheduler::JobState;
using scheduler::Transaction;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

// One way to have a store, and to lose the process that has it.
class Fixture {
 public:
  virtual ~Fixture() = default;
  virtual Store& store() = 0;
  // Whether acknowledged work outlives Crash.
  virtual bool durable() const = 0;
  virtual void Crash() {}
};

class SqliteFixture : public Fixture {
 public:
  SqliteFixture() : directory_(*TemporaryDirectory::Make()) { Open(); }
  Store& store() override { return *store_; }
  bool durable() const override { return true; }
  void Crash() override {
    store_.reset();
    Open();
  }

 private:
  void Open() {
    auto store = OpenSqliteStore(directory_.path() + "/jobs.db");
    ASSERT_THAT(store, IsOk());
    store_ = *std::move(store);
  }
  TemporaryDirectory directory_;
  std::unique_ptr<Store> store_;
};

class MemoryFixture : public Fixture {
 public:
  Store& store() override { return *store_; }
  bool durable() const override { return false; }

 private:
  std::unique_ptr<Store> store_ = MakeMemoryStore();
};

class CrashLosingFixture : public Fixture {
 public:
  Store& store() override { return store_; }
  bool durable() const override { return true; }
  void Crash() override {
    store_.Crash();
    store_.Restart();
  }

 private:
  CrashLosingStore store_;
};

struct Kind {
  const char* name;
  std::function<std::unique_ptr<Fixture>()> make;
};

class StoreContractTest : public ::testing::TestWithParam<Kind> {
 protected:
  StoreContractTest() : fixture_(GetParam().make()) {}
  Store& store() { return fixture_->store(); }
  void Put(const Transaction& transaction) { ASSERT_THAT(store().Commit(transaction), IsOk()); }
  void PutJobs(int64_t first, int64_t last) {
    for (int64_t i = first; i <= last; ++i) Put(Submission(i));
  }
  std::vector<int64_t> Listed(const JobQuery& query, int64_t* next = nullptr) {
    const auto page = store().ListJobs(query);
    EXPECT_THAT(page, IsOk());
    std::vector<int64_t> sequences;
    for (const JobRecord& job : page->jobs) sequences.push_back(job.submit_sequence);
    if (next != nullptr) *next = page->next;
    return sequences;
  }
  std::unique_ptr<Fixture> fixture_;
};

TEST_P(StoreContractTest, AJobComesBackAsItWasWritten) {
  Transaction transaction;
  transaction.jobs = {MakeJob(1, JobState::kSucceeded), MakeJob(2)};
  Put(transaction);
  ASSERT_OK_AND_ASSIGN(const JobRecord first, store().GetJob(JobId(1)));
  EXPECT_TRUE(first == MakeJob(1, JobState::kSucceeded));
  ASSERT_OK_AND_ASSIGN(const JobRecord second, store().GetJob(JobId(2)));
  EXPECT_TRUE(second == MakeJob(2));
  EXPECT_THAT(store().GetJob(JobId(3)), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(store().GetJob(""), StatusIs(absl::StatusCode::kNotFound));
}

TEST_P(StoreContractTest, ALaterRowReplacesTheEarlierOne) {
  PutJobs(1, 1);
  JobRecord job = MakeJob(1, JobState::kRunning);
  job.revision = 10;
  job.placement = {{"w9", "i", 2}};
  Transaction transaction;
  transaction.jobs = {MakeJob(1, JobState::kStarting), job};  // two steps in one commit
  Put(transaction);
  ASSERT_OK_AND_ASSIGN(const JobRecord found, store().GetJob(JobId(1)));
  EXPECT_TRUE(found == job);
}

TEST_P(StoreContractTest, AnUpdatedDocumentReplacesLabelsToo) {
  PutJobs(1, 3);
  JobRecord job = MakeJob(2);
  auto document = std::make_shared<scheduler::JobDocument>(*job.document);
  document->priority = 99;
  document->labels = {{"team", "new"}};
  job.document = document;
  job.revision = 10;
  Transaction transaction;
  transaction.jobs = {job};
  transaction.updated_documents = {job.job_id};
  Put(transaction);
  ASSERT_OK_AND_ASSIGN(const JobRecord found, store().GetJob(JobId(2)));
  EXPECT_TRUE(found == job);
  JobQuery query;
  query.labels = {{"team", "new"}};
  EXPECT_THAT(Listed(query), ElementsAre(2));
  query.labels = {{"all", "yes"}};
  EXPECT_THAT(Listed(query), ElementsAre(3, 1));
}

TEST_P(StoreContractTest, WorkersAndUsagesAreKeptUntilTheyAreRemoved) {
  const scheduler::WorkerRecord drained{"w1", true, "why", "ann", 5, {"j-1", "j-2"}};
  Transaction transaction;
  transaction.workers = {{"w1", false, "", "", 0, {"j-1"}}, drained, {"w2", true, "", "", 0, {}}};
  transaction.usages = {{"lab", 1.5, 7}, {"lab", 2.5, 8}, {"default", 0.25, 8}};
  Put(transaction);
  ASSERT_OK_AND_ASSIGN(LiveState state, store().LoadLive());
  EXPECT_THAT(state.recovered.workers,
              ElementsAre(drained, scheduler::WorkerRecord{"w2", true, "", "", 0, {}}));
  EXPECT_THAT(state.recovered.usages, ElementsAre(scheduler::ProjectUsage{"default", 0.25, 8},
                                                  scheduler::ProjectUsage{"lab", 2.5, 8}));
  Transaction removal;
  removal.removed_workers = {"w1"};
  Put(removal);
  ASSERT_OK_AND_ASSIGN(state, store().LoadLive());
  EXPECT_EQ(state.recovered.workers.size(), 1u);
}

TEST_P(StoreContractTest, ListsNewestFirstInPagesWithoutGapOrRepeat) {
  PutJobs(1, 25);
  JobQuery query;
  query.limit = 10;
  int64_t next = 0;
  std::vector<int64_t> all;
  int pages = 0;
  do {
    query.before_sequence = next;
    for (int64_t sequence : Listed(query, &next)) all.push_back(sequence);
    ++pages;
  } while (next != 0);
  std::vector<int64_t> expected;
  for (int64_t i = 25; i >= 1; --i) expected.push_back(i);
  EXPECT_EQ(all, expected);
  EXPECT_EQ(pages, 3);
  query.before_sequence = 0;
  query.limit = 25;
  Listed(query, &next);
  EXPECT_EQ(next, 0) << "an exactly full last page is the last";
  query.limit = 0;
  EXPECT_THAT(store().ListJobs(query), StatusIs(absl::StatusCode::kInvalidArgument));
  query.limit = 1001;
  EXPECT_THAT(store().ListJobs(query), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_P(StoreContractTest, ListsByStateNameAndLabels) {
  PutJobs(1, 12);
  Transaction transaction;
  transaction.jobs = {MakeJob(4, JobState::kRunning), MakeJob(9, JobState::kFailed)};
  Put(transaction);
  JobQuery states;
  states.states = {JobState::kRunning, JobState::kFailed};
  EXPECT_THAT(Listed(states), ElementsAre(9, 4));
  JobQuery name;
  name.name = "even";
  name.limit = 3;
  int64_t next = 0;
  EXPECT_THAT(Listed(name, &next), ElementsAre(12, 10, 8));
  name.before_sequence = next;
  EXPECT_THAT(Listed(name), ElementsAre(6, 4, 2));
  JobQuery labels;
  labels.labels = {{"team", "three"}, {"all", "yes"}};
  EXPECT_THAT(Listed(labels), ElementsAre(12, 9, 6, 3));
  labels.name = "odd";
  labels.states = {JobState::kFailed};
  EXPECT_THAT(Listed(labels), ElementsAre(9));
  labels.labels["team"] = "none";
  EXPECT_THAT(Listed(labels), IsEmpty());
}

TEST_P(StoreContractTest, EventsComeOldestFirstPerJobAndInPages) {
  Transaction transaction;
  for (int64_t id = 1; id <= 7; ++id) {
    transaction.events.push_back(MakeEvent(id, JobId(id % 2)));
  }
  Put(transaction);
  ASSERT_OK_AND_ASSIGN(EventPage page, store().ListEvents({JobId(1), 0, 3}));
  EXPECT_THAT(page.events,
              ElementsAre(MakeEvent(1, JobId(1)), MakeEvent(3, JobId(1)), MakeEvent(5, JobId(1))));
  ASSERT_OK_AND_ASSIGN(page, store().ListEvents({JobId(1), page.next, 3}));
  EXPECT_THAT(page.events, ElementsAre(MakeEvent(7, JobId(1))));
  EXPECT_EQ(page.next, 0);
  ASSERT_OK_AND_ASSIGN(page, store().ListEvents({"", 5, 100}));
  EXPECT_THAT(page.events, ElementsAre(MakeEvent(6, JobId(0)), MakeEvent(7, JobId(1))));
}

TEST_P(StoreContractTest, CheckpointsComeNewestFirstAndGoWhenRemoved) {
  Transaction transaction;
  for (int64_t step : {100, 300, 200}) {
    transaction.checkpoints.push_back(MakeCheckpoint(JobId(1), step));
  }
  Put(transaction);
  Transaction later;
  later.checkpoints = {MakeCheckpoint(JobId(1), 300)};
  later.checkpoints[0].attempt = 8;
  later.removed_checkpoints = {MakeCheckpoint(JobId(1), 100)};
  Put(later);
  ASSERT_OK_AND_ASSIGN(const auto found, store().ListCheckpoints(JobId(1)));
  EXPECT_THAT(found, ElementsAre(later.checkpoints[0], MakeCheckpoint(JobId(1), 200)));
  ASSERT_OK_AND_ASSIGN(const auto none, store().ListCheckpoints(JobId(2)));
  EXPECT_THAT(none, IsEmpty());
}

TEST_P(StoreContractTest, AnIdempotencyKeyIsTakenOnce) {
  PutJobs(1, 1);
  ASSERT_OK_AND_ASSIGN(const auto key, store().FindKey("key-1"));
  ASSERT_TRUE(key.has_value());
  EXPECT_EQ(key->job_id, JobId(1));
  ASSERT_OK_AND_ASSIGN(const auto absent, store().FindKey("key-2"));
  EXPECT_FALSE(absent.has_value());
  Transaction again = Submission(2);
  again.keys[0].key = "key-1";
  EXPECT_THAT(store().Commit(again), StatusIs(absl::StatusCode::kInternal));
  EXPECT_THAT(store().GetJob(JobId(2)), StatusIs(absl::StatusCode::kNotFound))
      << "a refused transaction leaves nothing behind";
  EXPECT_THAT(store().Commit(Submission(2)), IsOk()) << "and stops nobody";
}

TEST_P(StoreContractTest, ADeletedJobLeavesOnlyItsPurges) {
  PutJobs(1, 2);
  Transaction checkpoint;
  checkpoint.checkpoints = {MakeCheckpoint(JobId(1), 5)};
  Put(checkpoint);
  Transaction deletion;
  deletion.deleted_jobs = {JobId(1)};
  deletion.purges = {{JobId(1), "w1"}, {JobId(1), ""}};
  Put(deletion);
  EXPECT_THAT(store().GetJob(JobId(1)), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(Listed({}), ElementsAre(2));
  JobQuery labels;
  labels.labels = {{"all", "yes"}};
  EXPECT_THAT(Listed(labels), ElementsAre(2));
  EXPECT_FALSE(store().FindKey("key-1")->has_value());
  EXPECT_THAT(store().ListCheckpoints(JobId(1)).value(), IsEmpty());
  EXPECT_THAT(store().ListEvents({JobId(1), 0, 10})->events, IsEmpty());
  Transaction done;
  done.finished_purges = {{JobId(1), ""}};
  Put(done);
  ASSERT_OK_AND_ASSIGN(const LiveState live, store().LoadLive());
  EXPECT_THAT(live.recovered.purges, ElementsAre(scheduler::PurgeRecord{JobId(1), "w1"}));
}

TEST_P(StoreContractTest, StartsFromLiveJobsAndNumbersNeverGivenBefore) {
  PutJobs(1, 4);
  Transaction transaction;
  transaction.jobs = {MakeJob(1, JobState::kSucceeded), MakeJob(2, JobState::kRunning),
                      MakeJob(3, JobState::kCancelled)};
  transaction.checkpoints = {MakeCheckpoint(JobId(2), 10), MakeCheckpoint(JobId(2), 20)};
  Put(transaction);
  Transaction deletion;  // of the newest: its numbers stay taken
  deletion.deleted_jobs = {JobId(4)};
  Put(deletion);
  ASSERT_OK_AND_ASSIGN(const LiveState live, store().LoadLive());
  ASSERT_EQ(live.recovered.jobs.size(), 1u);
  EXPECT_TRUE(live.recovered.jobs[0].record == MakeJob(2, JobState::kRunning));
  EXPECT_EQ(live.recovered.jobs[0].checkpoints.size(), 2u);
  EXPECT_EQ(live.recovered.last_event_id, 4);
  EXPECT_EQ(live.recovered.last_submit_sequence, 4);
  EXPECT_THAT(live.corrupt, IsEmpty());
}

TEST_P(StoreContractTest, LiveJobsComeInTheOrderOfTheirSubmissionWhateverTheirStates) {
  const JobState states[] = {JobState::kQueued,  JobState::kPaused,  JobState::kCancelled,
                             JobState::kRunning, JobState::kPausing, JobState::kStopping,
                             JobState::kFailed,  JobState::kStarting};
  PutJobs(1, 40);
  Transaction transaction;
  std::vector<int64_t> expected;
  for (int64_t i = 1; i <= 40; ++i) {
    const JobState state = states[i * 5 % 8];
    transaction.jobs.push_back(MakeJob(i, state));
    if (!scheduler::IsTerminal(state)) expected.push_back(i);
  }
  Put(transaction);
  ASSERT_OK_AND_ASSIGN(const LiveState live, store().LoadLive());
  std::vector<int64_t> sequences;
  for (const auto& job : live.recovered.jobs) {
    sequences.push_back(job.record.submit_sequence);
    EXPECT_TRUE(job.record == MakeJob(sequences.back(), states[sequences.back() * 5 % 8]));
  }
  EXPECT_EQ(sequences, expected);
}

TEST_P(StoreContractTest, CountsJobsByState) {
  PutJobs(1, 5);
  Transaction transaction;
  transaction.jobs = {MakeJob(1, JobState::kRunning), MakeJob(2, JobState::kRunning),
                      MakeJob(2, JobState::kSucceeded)};
  transaction.deleted_jobs = {JobId(5)};
  Put(transaction);
  const auto expect = [this] {
    ASSERT_OK_AND_ASSIGN(const auto counts, store().CountJobs());
    EXPECT_EQ(counts[static_cast<int>(JobState::kQueued)], 2);
    EXPECT_EQ(counts[static_cast<int>(JobState::kRunning)], 1);
    EXPECT_EQ(counts[static_cast<int>(JobState::kSucceeded)], 1);
  };
  expect();
  if (!fixture_->durable()) return;
  fixture_->Crash();
  expect();
}

TEST_P(StoreContractTest, SurvivesACrashAfterEveryAcknowledgement) {
  if (!fixture_->durable()) GTEST_SKIP() << "memory keeps nothing";
  for (int64_t i = 1; i <= 10; ++i) {
    Put(Submission(i));
    fixture_->Crash();
    for (int64_t known = 1; known <= i; ++known) {
      ASSERT_OK_AND_ASSIGN(const JobRecord job, store().GetJob(JobId(known)));
      EXPECT_TRUE(job == MakeJob(known));
    }
  }
}

TEST_P(StoreContractTest, ManyThreadsCommitAtOnce) {
  constexpr int kThreads = 8, kEach = 20;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([this, t] {
      for (int i = 0; i < kEach; ++i) {
        const int64_t sequence = t * kEach + i + 1;
        EXPECT_THAT(store().Commit(Submission(sequence)), IsOk());
        EXPECT_THAT(store().GetJob(JobId(sequence)), IsOk()) << "a read sees what was committed";
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  JobQuery query;
  query.limit = 1000;
  EXPECT_EQ(Listed(query).size(), static_cast<size_t>(kThreads * kEach));
}

INSTANTIATE_TEST_SUITE_P(
    Stores, StoreContractTest,
    ::testing::Values(Kind{"Sqlite", [] { return std::make_unique<SqliteFixture>(); }},
                      Kind{"Memory", [] { return std::make_unique<MemoryFixture>(); }},
                      Kind{"CrashLosing", [] { return std::make_unique<CrashLosingFixture>(); }}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(CrashLosingStoreTest, ACommitInFlightIsKeptOrLostAndTheCallerIsNotTold) {
  for (const auto in_flight :
       {CrashLosingStore::InFlight::kLost, CrashLosingStore::InFlight::kKept}) {
    CrashLosingStore store;
    ASSERT_THAT(store.Commit(Submission(1)), IsOk());
    store.CrashAtNextCommit(in_flight);
    EXPECT_THAT(store.Commit(Submission(2)), StatusIs(absl::StatusCode::kUnavailable));
    EXPECT_THAT(store.Commit(Submission(3)), StatusIs(absl::StatusCode::kUnavailable));
    store.Restart();
    EXPECT_THAT(store.GetJob(JobId(1)), IsOk());
    EXPECT_EQ(store.GetJob(JobId(2)).ok(), in_flight == CrashLosingStore::InFlight::kKept);
  }
}

TEST(CrashLosingStoreTest, AnEarlyAcknowledgementIsLost) {
  CrashLosingStore store(CrashLosingStore::Acknowledge::kTooEarly);
  ASSERT_THAT(store.Commit(Submission(1)), IsOk());
  store.Sync();
  ASSERT_THAT(store.Commit(Submission(2)), IsOk());
  store.Crash();
  store.Restart();
  EXPECT_THAT(store.GetJob(JobId(1)), IsOk());
  EXPECT_THAT(store.GetJob(JobId(2)), StatusIs(absl::StatusCode::kNotFound));
}

}  // namespace
}  // namespace nibble::store
