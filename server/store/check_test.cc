// A sound directory passes; each kind of damage is named. Copies are whole and pass too.
#include "server/store/check.h"

#include <sqlite3.h>

#include <atomic>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/store/sqlite_store.h"
#include "server/store/state_directory.h"
#include "server/store/store_test_util.h"

namespace nibble::store {
namespace {

using scheduler::JobReason;
using scheduler::JobState;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// A submission whose rows agree with each other.
scheduler::Transaction SoundSubmission(int64_t sequence) {
  scheduler::Transaction t = Submission(sequence);
  scheduler::JobRecord& job = t.jobs[0];
  job.attempt = 1;
  job.reported_attempt = 0;
  job.placement.clear();
  job.end_micros = 0;
  t.events[0].before = JobState::kUnspecified;
  t.events[0].after = JobState::kQueued;
  t.events[0].attempt = 0;
  scheduler::CheckpointRecord checkpoint = MakeCheckpoint(job.job_id, 300);
  checkpoint.attempt = 1;
  t.checkpoints = {checkpoint};
  return t;
}

class CheckTest : public ::testing::Test {
 protected:
  CheckTest() : directory_(JoinPath(::testing::TempDir(), MakeName())) {
    EXPECT_THAT(MakeDirectories(directory_), IsOk());
    const auto store = OpenSqliteStore(jobs());
    EXPECT_THAT(store, IsOk());
    const auto metrics = OpenSqliteMetricStore(JoinPath(directory_, "metrics.db"));
    EXPECT_THAT(metrics, IsOk());
    for (int64_t i = 1; i <= 5; ++i) EXPECT_THAT((*store)->Commit(SoundSubmission(i)), IsOk());
    MetricRecord record;
    record.sequence = 1;
    record.step = 1;
    record.values = {{"loss", 2.5}};
    const LogRecord line{1, 7, "a line"};
    EXPECT_THAT((*metrics)->Append({{JobId(1), 1}, 0}, {&record, 1}), IsOk());
    EXPECT_THAT((*metrics)->AppendLogs({{JobId(1), 1}, 0}, {&line, 1}), IsOk());
  }
  static std::string MakeName() {
    static int number = 0;
    return absl::StrCat("check-", ++number, "-", getpid());
  }
  std::string jobs() const { return JoinPath(directory_, "jobs.db"); }
  void Sql(const std::string& sql, const char* file = "jobs.db") {
    sqlite3* handle = nullptr;
    ASSERT_EQ(sqlite3_open(JoinPath(directory_, file).c_str(), &handle), SQLITE_OK);
    char* error = nullptr;
    EXPECT_EQ(sqlite3_exec(handle, sql.c_str(), nullptr, nullptr, &error), SQLITE_OK) << error;
    sqlite3_close(handle);
  }
  std::vector<std::string> Problems() {
    const auto report = CheckStateDirectory(directory_);
    EXPECT_THAT(report, IsOk());
    return report.ok() ? report->problems : std::vector<std::string>{"no report"};
  }
  const std::string directory_;
};

TEST_F(CheckTest, ASoundDirectoryPasses) {
  const auto report = CheckStateDirectory(directory_);
  ASSERT_THAT(report, IsOk());
  EXPECT_THAT(report->problems, IsEmpty());
  EXPECT_EQ(report->jobs, 5);
  EXPECT_EQ(report->events, 5);
  EXPECT_EQ(report->metric_rows, 1);
}

TEST_F(CheckTest, EveryKindOfDamageIsNamed) {
  const struct {
    const char* file;
    const char* sql;
    const char* problem;
  } damages[] = {
      {"jobs.db", "UPDATE jobs SET name = 'x' WHERE submit_sequence = 2", "checksum"},
      {"jobs.db", "UPDATE job_documents SET crc = crc + 1 WHERE submit_sequence = 3",
       "job_documents"},
      {"jobs.db", "UPDATE job_events SET crc = crc + 1 WHERE event_id = 4", "job_events 4"},
      {"jobs.db", "DELETE FROM job_events WHERE event_id = 5", "its last event left it"},
      {"jobs.db", "UPDATE checkpoints SET step = 7", "checksum"},
      {"jobs.db", "DELETE FROM job_labels WHERE submit_sequence = 1", "job_labels of job"},
      {"jobs.db", "DELETE FROM idempotency_keys WHERE key = 'key-1'", "idempotency key"},
      {"jobs.db", "DELETE FROM jobs WHERE submit_sequence = 4", "its job does not exist"},
      {"jobs.db", "INSERT INTO workers VALUES ('w', x'02', 1)", "workers w"},
      {"jobs.db", "INSERT INTO quarantine VALUES ('jobs', 'j', x'00', 1)", "set aside"},
      {"metrics.db", "UPDATE metrics SET wall_micros = 9", "metrics"},
      {"metrics.db", "UPDATE logs SET text = 'another line'", "logs"},
      {"metrics.db", "UPDATE metric_tails SET last_step = 9", "metric_tails"},
      {"metrics.db", "DELETE FROM metric_jobs", "metric_jobs lacks"},
  };
  for (const auto& damage : damages) {
    Sql(damage.sql, damage.file);
    EXPECT_THAT(Problems(), Contains(HasSubstr(damage.problem))) << damage.sql;
  }
  Sql("PRAGMA user_version = 1");
  EXPECT_THAT(Problems(), Contains(HasSubstr("schema version 1 of 2")));
}

TEST_F(CheckTest, WhatRowsSayOfAJobMustHold) {
  {
    const auto store = OpenSqliteStore(jobs());
    ASSERT_THAT(store, IsOk());
    scheduler::Transaction t;
    t.jobs = {SoundSubmission(1).jobs[0]};
    t.jobs[0].state = JobState::kSucceeded;  // without result, end and event
    ASSERT_THAT((*store)->Commit(t), IsOk());
  }
  EXPECT_THAT(Problems(), Contains(HasSubstr("success without a result")));
  EXPECT_THAT(Problems(), Contains(HasSubstr("its end time")));
  EXPECT_THAT(Problems(), Contains(HasSubstr("its last event left it QUEUED")));
}

TEST_F(CheckTest, ADirectoryInUseOrEmptyIsRefused) {
  EXPECT_THAT(CheckStateDirectory(::testing::TempDir() + "/none"),
              StatusIs(absl::StatusCode::kNotFound));
  const auto lock = StateDirectoryLock::Acquire(directory_);
  ASSERT_THAT(lock, IsOk());
  EXPECT_THAT(CheckStateDirectory(directory_), StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST_F(CheckTest, ACopyTakenWhileJobsAreSubmittedIsWhole) {
  const std::string copy = JoinPath(directory_, "copy");
  ASSERT_THAT(MakeDirectories(copy), IsOk());
  {
    const auto store = OpenSqliteStore(jobs());
    const auto metrics = OpenSqliteMetricStore(JoinPath(directory_, "metrics.db"));
    ASSERT_THAT(store, IsOk());
    ASSERT_THAT(metrics, IsOk());
    std::atomic<bool> stop = false;
    std::atomic<int64_t> last = 5;
    std::thread writer([&] {
      while (!stop) {
        ASSERT_THAT((*store)->Commit(SoundSubmission(last + 1)), IsOk());
        ++last;
      }
    });
    while (last < 300) std::this_thread::yield();
    const int64_t before = last;
    EXPECT_THAT((*store)->BackUp(JoinPath(copy, "jobs.db")), IsOk());
    stop = true;
    writer.join();
    EXPECT_THAT((*metrics)->BackUp(JoinPath(copy, "metrics.db")), IsOk());
    EXPECT_THAT((*store)->BackUp(JoinPath(copy, "jobs.db")),
                StatusIs(absl::StatusCode::kAlreadyExists));
    EXPECT_THAT((*store)->BackUp("/none/jobs.db"), StatusIs(absl::StatusCode::kPermissionDenied));
    const auto report = CheckStateDirectory(copy);
    ASSERT_THAT(report, IsOk());
    EXPECT_THAT(report->problems, IsEmpty());
    EXPECT_GE(report->jobs, before);
    EXPECT_EQ(report->metric_rows, 1);
  }
}

}  // namespace
}  // namespace nibble::store
