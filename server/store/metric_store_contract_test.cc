// The promises of MetricStore, kept alike by SQLite and memory. Seen red with an append that took a
// known sequence again, one that took a gap, a read that gave the lowest attempt, and a
// down-sampling without its last row.
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/status_matchers.h"
#include "gtest/gtest.h"
#include "server/store/memory_store.h"
#include "server/store/sqlite_store.h"

namespace nibble::store {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

struct Kind {
  const char* name;
  std::function<std::unique_ptr<MetricStore>(const std::string& directory)> open;
};

MetricSource Source(int64_t attempt, int32_t rank = 0, const std::string& job_id = "j-1") {
  return {{job_id, attempt}, rank};
}

MetricRecord Record(int64_t sequence, int64_t step, MetricValues values) {
  return {sequence, step, 1000 + sequence, std::move(values)};
}

class MetricStoreContractTest : public ::testing::TestWithParam<Kind> {
 protected:
  MetricStoreContractTest()
      : directory_(*TemporaryDirectory::Make()), store_(GetParam().open(directory_.path())) {}
  // Steps first..last, sequences from 1, loss = attempt + step / 1000.
  void Train(int64_t attempt, int64_t first, int64_t last) {
    std::vector<MetricRecord> records;
    for (int64_t step = first; step <= last; ++step) {
      records.push_back(
          Record(step - first + 1, step, {{"loss", static_cast<double>(attempt) + step / 1000.0}}));
    }
    EXPECT_THAT(store_->Append(Source(attempt), records), IsOk());
  }
  std::vector<MetricRow> Read(const MetricQuery& query) {
    auto page = store_->Read(query);
    EXPECT_THAT(page, IsOk());
    return page->rows;
  }
  static MetricQuery Query() {
    MetricQuery query;
    query.job_id = "j-1";
    return query;
  }
  TemporaryDirectory directory_;
  std::unique_ptr<MetricStore> store_;
};

TEST_P(MetricStoreContractTest, ARecordSentTwiceIsThereOnce) {
  const std::vector<MetricRecord> first = {Record(1, 1, {{"loss", 5}}),
                                           Record(2, 2, {{"loss", 4}})};
  EXPECT_EQ(store_->Append(Source(1), first).value(), 2);
  EXPECT_EQ(store_->Append(Source(1), first).value(), 2);
  // Half known, half new; the known half is not looked at again.
  EXPECT_EQ(store_->Append(Source(1), {Record(2, 2, {{"loss", 99}}), Record(3, 3, {{"loss", 3}})})
                .value(),
            3);
  const auto rows = Read(Query());
  ASSERT_THAT(rows, SizeIs(3));
  EXPECT_EQ(rows[1].values, (MetricValues{{"loss", 4.0}}));
  EXPECT_EQ(rows[2].step, 3);
  EXPECT_EQ(rows[2].wall_micros, 1003);
  EXPECT_EQ(store_->LastSequence(Source(1)).value(), 3);
  EXPECT_EQ(store_->LastSequence(Source(2)).value(), 0);
  EXPECT_EQ(store_->Append(Source(1), {}).value(), 3);
}

TEST_P(MetricStoreContractTest, AGapIsRefusedAndSaysWhatIsMissing) {
  EXPECT_THAT(store_->Append(Source(1), {Record(1, 1, {{"loss", 5}})}), IsOk());
  const auto refused = store_->Append(Source(1), {Record(3, 3, {{"loss", 3}})});
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_EQ(ExpectedSequence(refused.status()), 2);
  EXPECT_EQ(ExpectedSequence(absl::InternalError("x")), std::nullopt);
  EXPECT_THAT(Read(Query()), SizeIs(1));
  // Every writer counts for itself.
  EXPECT_THAT(store_->Append(Source(1, 1), {Record(1, 1, {{"loss", 5}})}), IsOk());
  EXPECT_EQ(ExpectedSequence(store_->Append(Source(2), {Record(2, 1, {})}).status()), 1);
}

TEST_P(MetricStoreContractTest, BadRecordsAreRefusedWhole) {
  const double infinity = std::numeric_limits<double>::infinity();
  const std::vector<std::vector<MetricRecord>> bad = {
      {Record(1, 1, {{"loss", std::nan("")}})},
      {Record(1, 1, {{"loss", infinity}})},
      {Record(1, 1, {{"", 1}})},
      {Record(1, 1, {{"lo\nss", 1}})},
      {Record(1, 1, {{std::string(65, 'a'), 1}})},
      {Record(1, -1, {{"loss", 1}})},
      {Record(0, 1, {{"loss", 1}})},
      {Record(1, 1, {{"loss", 1}}), Record(3, 2, {{"loss", 1}})},
      {Record(1, 1, MetricValues(kMaxValuesOfRecord + 1, {"loss", 1}))},
      std::vector<MetricRecord>(kMaxRecordsOfAppend + 1),
  };
  for (size_t i = 0; i < bad.size(); ++i) {
    EXPECT_THAT(store_->Append(Source(1), bad[i]), StatusIs(absl::StatusCode::kInvalidArgument))
        << i;
  }
  EXPECT_THAT(Read(Query()), IsEmpty());
  std::vector<MetricRecord> many;
  for (int i = 0; i <= kMaxMetricNames; ++i) {
    if (i % 1024 == 0) many.push_back(Record(i / 1024 + 1, 1, {}));
    many.back().values.push_back({absl::StrCat("name", i), 1.0});
  }
  EXPECT_THAT(store_->Append(Source(1), many), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_EQ(store_->LastSequence(Source(1)).value(), 0);
}

TEST_P(MetricStoreContractTest, TheHighestAttemptCountsAndEarlierOnesStay) {
  Train(1, 1, 6);
  Train(2, 4, 5);  // resumed from step 3
  const auto rows = Read(Query());
  ASSERT_THAT(rows, SizeIs(6));
  const std::vector<int64_t> attempts = {1, 1, 1, 2, 2, 1};
  for (size_t i = 0; i < rows.size(); ++i) {
    EXPECT_EQ(rows[i].step, static_cast<int64_t>(i + 1));
    EXPECT_EQ(rows[i].attempt, attempts[i]);
    EXPECT_FALSE(rows[i].superseded);
  }
  MetricQuery all = Query();
  all.include_superseded = true;
  const auto every = Read(all);
  ASSERT_THAT(every, SizeIs(8));
  EXPECT_EQ(every[3].attempt, 1);
  EXPECT_TRUE(every[3].superseded);
  EXPECT_EQ(every[4].attempt, 2);
  EXPECT_FALSE(every[4].superseded);
  EXPECT_EQ(store_->LastSteps({"j-1", "j-none"}).value(), (std::vector<int64_t>{5, 0}));
}

TEST_P(MetricStoreContractTest, RecordsOfOneStepAreOneRow) {
  EXPECT_THAT(store_->Append(Source(1), {Record(1, 1, {{"loss", 5}, {"grad_norm", 1}}),
                                         Record(2, 1, {{"validation_loss", 6}, {"loss", 4}})}),
              IsOk());
  const auto rows = Read(Query());
  ASSERT_THAT(rows, SizeIs(1));
  EXPECT_EQ(rows[0].values,
            (MetricValues{{"grad_norm", 1.0}, {"loss", 4.0}, {"validation_loss", 6.0}}));
}

TEST_P(MetricStoreContractTest, ReadsByNameAndRange) {
  std::vector<MetricRecord> records;
  for (int64_t step = 1; step <= 20; ++step) {
    MetricValues values = {{"loss", 1.0}, {"tokens", 2.0}};
    if (step % 10 == 0) values.push_back({"validation_loss", 3.0});
    records.push_back(Record(step, step, values));
  }
  ASSERT_THAT(store_->Append(Source(1), records), IsOk());
  MetricQuery query = Query();
  query.names = {"validation_loss"};
  auto rows = Read(query);
  ASSERT_THAT(rows, SizeIs(2));
  EXPECT_EQ(rows[0].step, 10);
  EXPECT_EQ(rows[0].values, (MetricValues{{"validation_loss", 3.0}}));
  query.names = {"loss"};
  query.first_step = 5;
  query.last_step = 7;
  rows = Read(query);
  ASSERT_THAT(rows, SizeIs(3));
  EXPECT_EQ(rows[0].step, 5);
  EXPECT_EQ(rows[2].step, 7);
  EXPECT_EQ(rows[0].values.size(), 1u);
}

TEST_P(MetricStoreContractTest, PagesJoinWithoutGapOrRepeat) {
  Train(1, 1, 50);
  Train(2, 21, 40);
  for (const bool superseded : {false, true}) {
    MetricQuery query = Query();
    query.include_superseded = superseded;
    const auto all = Read(query);
    EXPECT_THAT(all, SizeIs(superseded ? 70 : 50));
    for (const int limit : {1, 7, 50}) {
      query.limit = limit;
      query.after.reset();
      std::vector<MetricRow> joined;
      do {
        ASSERT_OK_AND_ASSIGN(const MetricPage page, store_->Read(query));
        EXPECT_LE(page.rows.size(), static_cast<size_t>(limit));
        joined.insert(joined.end(), page.rows.begin(), page.rows.end());
        query.after = page.next;
      } while (query.after.has_value());
      ASSERT_EQ(joined.size(), all.size());
      for (size_t i = 0; i < all.size(); ++i) {
        EXPECT_EQ(joined[i].step, all[i].step);
        EXPECT_EQ(joined[i].attempt, all[i].attempt);
        EXPECT_EQ(joined[i].superseded, all[i].superseded);
      }
    }
  }
  MetricQuery bad = Query();
  bad.limit = 0;
  EXPECT_THAT(store_->Read(bad), StatusIs(absl::StatusCode::kInvalidArgument));
  bad.limit = 1;
  bad.max_points = 1;
  EXPECT_THAT(store_->Read(bad), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_P(MetricStoreContractTest, DownSamplingKeepsBothEndsAndEvenDistances) {
  Train(1, 1, 5000);
  for (const int points : {2, 3, 7, 100}) {
    MetricQuery query = Query();
    query.max_points = points;
    const auto rows = Read(query);
    ASSERT_THAT(rows, SizeIs(points));
    EXPECT_EQ(rows.front().step, 1);
    EXPECT_EQ(rows.back().step, 5000);
    // Thinning once moved the first row onto itself, which emptied it.
    for (const MetricRow& row : rows) EXPECT_FALSE(row.values.empty());
    const double spacing = 4999.0 / (points - 1);
    for (int i = 1; i < points; ++i) {
      // The sixteenth that the interface allows, at either end, and a row of rounding.
      EXPECT_NEAR(static_cast<double>(rows[i].step - rows[i - 1].step), spacing, spacing / 8 + 1);
    }
  }
  MetricQuery query = Query();
  query.max_points = 10'000;
  EXPECT_THAT(Read(query), SizeIs(5000));
  query.last_step = 5;
  query.max_points = 3;
  const auto rows = Read(query);
  ASSERT_THAT(rows, SizeIs(3));
  EXPECT_EQ(rows[1].step, 3);
}

TEST_P(MetricStoreContractTest, LogLinesAreKeptOnceAndReadInPages) {
  std::vector<LogRecord> lines;
  for (int64_t i = 1; i <= 5; ++i) lines.push_back({i * 2, i, absl::StrCat("line ", i)});
  EXPECT_EQ(store_->AppendLogs(Source(1), lines).value(), 10);
  EXPECT_EQ(store_->AppendLogs(Source(1), lines).value(), 10);
  ASSERT_THAT(store_->AppendLogs(Source(2), {{1, 7, "second"}}), IsOk());
  ASSERT_THAT(store_->AppendLogs(Source(3, /*rank=*/1), {{1, 7, "other rank"}}), IsOk());
  LogQuery query{"j-1", 1, 0, 0, 3};
  ASSERT_OK_AND_ASSIGN(LogPage page, store_->ReadLogs(query));
  ASSERT_THAT(page.lines, SizeIs(3));
  EXPECT_TRUE(page.more);
  EXPECT_EQ(page.lines[2].text, "line 3");
  query.after_sequence = page.lines[2].sequence;
  ASSERT_OK_AND_ASSIGN(page, store_->ReadLogs(query));
  EXPECT_THAT(page.lines, SizeIs(2));
  EXPECT_FALSE(page.more);
  ASSERT_OK_AND_ASSIGN(page, store_->ReadLogs({"j-1", 0, 0, 0, 10}));
  EXPECT_EQ(page.attempt, 2);
  ASSERT_THAT(page.lines, SizeIs(1));
  EXPECT_EQ(page.lines[0].text, "second");
}

TEST_P(MetricStoreContractTest, ALogHasABound) {
  const std::string text(kMaxLogLineBytes + 100, 'x');
  std::vector<LogRecord> lines;
  for (int64_t i = 1; i <= kMaxLogBytesOfJob / kMaxLogLineBytes + 10; ++i) {
    lines.push_back({i, 0, text});
  }
  EXPECT_THAT(store_->AppendLogs(Source(1), lines), IsOk());
  int64_t bytes = 0, first = 0;
  LogQuery query{"j-1", 1, 0, 0, 10'000};
  bool more = true;
  while (more) {
    ASSERT_OK_AND_ASSIGN(const LogPage page, store_->ReadLogs(query));
    for (const LogRecord& line : page.lines) {
      bytes += static_cast<int64_t>(line.text.size());
      EXPECT_EQ(line.text.size(), static_cast<size_t>(kMaxLogLineBytes));
      if (first == 0) first = line.sequence;
      query.after_sequence = line.sequence;
    }
    more = page.more;
  }
  EXPECT_LE(bytes, kMaxLogBytesOfJob);
  EXPECT_GT(bytes, kMaxLogBytesOfJob - 2 * kMaxLogLineBytes);
  EXPECT_EQ(first, 11) << "the oldest went";
  EXPECT_EQ(store_->AppendLogs(Source(1), {{1, 0, "again"}}).value(), lines.back().sequence)
      << "a line that went is not taken again";
}

TEST_P(MetricStoreContractTest, DeletingAJobTakesItsRowsAndNoOthers) {
  Train(1, 1, 30);
  ASSERT_THAT(store_->AppendLogs(Source(1), {{1, 0, "line"}}), IsOk());
  ASSERT_THAT(store_->Append(Source(1, 0, "j-2"), {Record(1, 1, {{"loss", 1}})}), IsOk());
  EXPECT_THAT(store_->DeleteJob("j-1"), IsOk());
  EXPECT_THAT(store_->DeleteJob("j-1"), IsOk());
  EXPECT_THAT(Read(Query()), IsEmpty());
  EXPECT_THAT(store_->ReadLogs({"j-1", 0, 0, 0, 10})->lines, IsEmpty());
  EXPECT_EQ(store_->LastSteps({"j-1", "j-2"}).value(), (std::vector<int64_t>{0, 1}));
  EXPECT_EQ(store_->Append(Source(1), {Record(1, 1, {{"loss", 1}})}).value(), 1);
}

INSTANTIATE_TEST_SUITE_P(
    Stores, MetricStoreContractTest,
    ::testing::Values(Kind{"Sqlite",
                           [](const std::string& directory) {
                             return OpenSqliteMetricStore(directory + "/metrics.db").value();
                           }},
                      Kind{"Memory", [](const std::string&) { return MakeMemoryMetricStore(); }}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace nibble::store
