#include "tests/sim/stores.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/planted.h"
#include "server/store/memory_store.h"
#include "server/store/sqlite_store.h"

namespace nibble::sim {
namespace {

using store::CrashLosingStore;

// So far back may the tail lie that a power cut takes from metrics.db.
constexpr int64_t kUnsyncedNanos = 5 * kSeconds;

}  // namespace

SimStore::SimStore(World* world, std::string directory)
    : world_(world), directory_(std::move(directory)) {
  if (directory_.empty()) {
    memory_ = std::make_unique<CrashLosingStore>(NIBBLE_PLANTED("missing_fsync")
                                                     ? CrashLosingStore::Acknowledge::kTooEarly
                                                     : CrashLosingStore::Acknowledge::kWhenDurable);
    inner_ = memory_.get();
  } else {
    Reopen(/*power_cut=*/false);
  }
}

void SimStore::Reopen(bool power_cut) {
  crash_next_ = false;
  if (memory_ != nullptr) {
    // A process that dies takes nothing with it: the page cache stays.
    if (!power_cut) memory_->Sync();
    return memory_->Restart();
  }
  files_.reset();
  auto opened = store::OpenSqliteStore(directory_ + "/jobs.db");
  NIBBLE_CHECK(opened.ok());
  files_ = *std::move(opened);
  inner_ = files_.get();
}

absl::Status SimStore::Commit(const scheduler::Transaction& transaction) {
  if (full_) {
    world_->Reached("store: disk full");
    world_->Trace("the disk is full");
    on_full();
    return absl::ResourceExhaustedError("disk full");
  }
  if (!crash_next_) {
    absl::Status committed = inner_->Commit(transaction);
    if (committed.ok()) on_commit(transaction);
    return committed;
  }
  const bool kept = world_->Chance(500);
  world_->Reached(kept ? "store: crash after a commit" : "store: crash before a commit");
  if (memory_ != nullptr) {
    memory_->CrashAtNextCommit(kept ? CrashLosingStore::InFlight::kKept
                                    : CrashLosingStore::InFlight::kLost);
  }
  if (memory_ != nullptr || kept) inner_->Commit(transaction).IgnoreError();
  if (kept) on_commit(transaction);
  return absl::UnavailableError("the store has crashed");
}

SimMetricStore::SimMetricStore(World* world, std::string directory)
    : world_(world), directory_(std::move(directory)) {
  OpenInner();
}

void SimMetricStore::OpenInner() {
  if (directory_.empty()) {
    inner_ = store::MakeMemoryMetricStore();
    return;
  }
  auto opened = store::OpenSqliteMetricStore(absl::StrCat(directory_, "/metrics", ++files_, ".db"));
  NIBBLE_CHECK(opened.ok());
  inner_ = *std::move(opened);
}

void SimMetricStore::Apply(const Write& write) {
  if (write.records.empty()) {
    NIBBLE_CHECK(inner_->DeleteJob(write.source.attempt.job_id).ok());
  } else {
    NIBBLE_CHECK(inner_->Append(write.source, write.records).ok());
  }
}

absl::StatusOr<int64_t> SimMetricStore::Append(const store::MetricSource& source,
                                               absl::Span<const store::MetricRecord> records) {
  absl::StatusOr<int64_t> last = inner_->Append(source, records);
  if (last.ok() && !records.empty()) {
    writes_.push_back({source, {records.begin(), records.end()}, world_->now()});
  }
  return last;
}

absl::Status SimMetricStore::DeleteJob(absl::string_view job_id) {
  writes_.push_back({{{std::string(job_id), 0}, 0}, {}, 0});
  for (Write& write : writes_) write.at = 0;  // a deletion syncs the file
  return inner_->DeleteJob(job_id);
}

void SimMetricStore::PowerCut() {
  size_t synced = writes_.size();
  while (synced > 0 && writes_[synced - 1].at > world_->now() - kUnsyncedNanos) --synced;
  const size_t kept = synced + world_->Below(static_cast<int64_t>(writes_.size() - synced) + 1);
  if (kept == writes_.size()) return;
  world_->Reached("store: tail of metrics lost");
  for (size_t i = kept; i < writes_.size(); ++i) {
    lost_jobs_.insert(writes_[i].source.attempt.job_id);
  }
  writes_.resize(kept);
  OpenInner();
  for (const Write& write : writes_) Apply(write);
}

}  // namespace nibble::sim
