#include "server/store/database_thread.h"

#include <utility>

#include "base/clock.h"
#include "base/status_macros.h"

namespace nibble::store {
namespace {

// Most writes of one group: bounds how long the first of them waits for the last.
constexpr size_t kMaxGroup = 512;

}  // namespace

DatabaseThread::DatabaseThread(std::unique_ptr<SqliteDatabase> database, CommitObserver* observer)
    : database_(std::move(database)), observer_(observer), thread_([this] { Run(); }) {}

DatabaseThread::~DatabaseThread() {
  {
    MutexLock lock(mutex_);
    stop_ = true;
    wake_.Signal();
  }
  thread_.join();
}

absl::Status DatabaseThread::Write(const Work& work) {
  Request request{&work, /*write=*/true, false, absl::OkStatus()};
  return Wait(request);
}

absl::Status DatabaseThread::Read(const Work& work) {
  Request request{&work, /*write=*/false, false, absl::OkStatus()};
  return Wait(request);
}

absl::Status DatabaseThread::Wait(Request& request) {
  MutexLock lock(mutex_);
  queue_.push_back(&request);
  wake_.Signal();
  while (!request.done) done_.Wait(mutex_);
  return request.status;
}

void DatabaseThread::Run() {
  while (true) {
    std::vector<Request*> reads, writes;
    {
      MutexLock lock(mutex_);
      while (queue_.empty() && !stop_) wake_.Wait(mutex_);
      if (queue_.empty()) return;
      while (!queue_.empty() && reads.size() + writes.size() < kMaxGroup) {
        (queue_.front()->write ? writes : reads).push_back(queue_.front());
        queue_.pop_front();
      }
    }
    // A read that waits together with writes may run before them: none of those has returned.
    if (!reads.empty()) RunReads(reads);
    if (!writes.empty()) RunWrites(writes);
  }
}

void DatabaseThread::RunReads(const std::vector<Request*>& reads) {
  for (Request* request : reads) {
    absl::Status status =
        database_->fatal().ok() ? (*request->work)(*database_) : database_->fatal();
    MutexLock lock(mutex_);
    request->status = std::move(status);
    request->done = true;
    done_.SignalAll();
  }
}

void DatabaseThread::RunWrites(const std::vector<Request*>& writes) {
  const int64_t start = RealClock().MonotonicNanos();
  const absl::Status group = RunGroup(writes);
  if (!group.ok()) database_->Rollback();
  const absl::Status fatal = database_->fatal();
  if (observer_ != nullptr && group.ok()) {
    observer_->OnCommit(RealClock().MonotonicNanos() - start, static_cast<int64_t>(writes.size()));
  }
  {
    MutexLock lock(mutex_);
    for (Request* request : writes) {
      if (!group.ok()) request->status = fatal.ok() ? group : fatal;
      request->done = true;
    }
    done_.SignalAll();
  }
  // After the answers: nobody waits for it. Its failure is remembered by the database.
  if (group.ok()) database_->CheckpointIfLarge().IgnoreError();
}

absl::Status DatabaseThread::RunGroup(const std::vector<Request*>& writes) {
  NIBBLE_RETURN_IF_ERROR(database_->fatal());
  NIBBLE_RETURN_IF_ERROR(database_->Begin());
  for (Request* request : writes) NIBBLE_RETURN_IF_ERROR(RunMember(*request));
  return database_->Commit();
}

// An error here is one of the whole group: the disk is full or broken.
absl::Status DatabaseThread::RunMember(Request& request) {
  NIBBLE_RETURN_IF_ERROR(database_->Prepare("SAVEPOINT member").Run());
  request.status = (*request.work)(*database_);
  NIBBLE_RETURN_IF_ERROR(database_->fatal());
  if (!request.status.ok()) {
    if (absl::IsResourceExhausted(request.status)) return request.status;
    NIBBLE_RETURN_IF_ERROR(database_->Prepare("ROLLBACK TO member").Run());
  }
  return database_->Prepare("RELEASE member").Run();
}

}  // namespace nibble::store
