// The one thread that touches a database. Writes that wait at the same time share one transaction
// and so one fsync; reads run between transactions and see only what is committed.
#ifndef SERVER_STORE_DATABASE_THREAD_H_
#define SERVER_STORE_DATABASE_THREAD_H_

#include <deque>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "base/mutex.h"
#include "server/store/sqlite_database.h"
#include "server/store/sqlite_store.h"

namespace nibble::store {

class DatabaseThread {
 public:
  using Work = std::function<absl::Status(SqliteDatabase&)>;

  // `observer` may be null.
  DatabaseThread(std::unique_ptr<SqliteDatabase> database, CommitObserver* observer);
  // Finishes what was asked for.
  ~DatabaseThread();
  DatabaseThread(const DatabaseThread&) = delete;
  DatabaseThread& operator=(const DatabaseThread&) = delete;

  // Runs `work` inside a transaction and returns after its commit; where `work` fails, only its own
  // changes are undone. Errors as for Store::Commit. Thread-safe.
  absl::Status Write(const Work& work);
  // `work` must be short: writers wait meanwhile.
  absl::Status Read(const Work& work);

 private:
  struct Request {
    const Work* work;
    bool write;
    bool done = false;
    absl::Status status;
  };
  absl::Status Wait(Request& request);
  void Run();
  void RunReads(const std::vector<Request*>& reads);
  void RunWrites(const std::vector<Request*>& writes);
  absl::Status RunGroup(const std::vector<Request*>& writes);
  absl::Status RunMember(Request& request);

  const std::unique_ptr<SqliteDatabase> database_;  // of the thread, once it runs
  CommitObserver* const observer_;
  Mutex mutex_;
  CondVar wake_;
  CondVar done_;
  std::deque<Request*> queue_ GUARDED_BY(mutex_);
  bool stop_ GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace nibble::store

#endif  // SERVER_STORE_DATABASE_THREAD_H_
