// A thin layer over one SQLite connection: statuses instead of result codes, cached prepared
// statements, migrations. Used by one thread at a time.
#ifndef SERVER_STORE_SQLITE_DATABASE_H_
#define SERVER_STORE_SQLITE_DATABASE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/store/schema/schema.h"

struct sqlite3;
struct sqlite3_stmt;

namespace nibble::store {

class SqliteDatabase;

// A prepared statement in use; reset when the object goes. Parameters and columns as SQLite counts
// them: from 1 and from 0. Only one use of a statement's text at a time.
class SqliteStatement {
 public:
  SqliteStatement(SqliteStatement&& other) noexcept;
  ~SqliteStatement();

  SqliteStatement& Bind(int parameter, int64_t value);
  SqliteStatement& Bind(int parameter, absl::string_view text);
  // Read by SQLite until the statement is reset: `bytes` must live so long.
  SqliteStatement& BindBlob(int parameter, absl::string_view bytes);

  // True where there is a row.
  absl::StatusOr<bool> Step();
  // For statements without rows.
  absl::Status Run();

  int64_t Int(int column) const;
  // Valid until the next Step.
  absl::string_view Text(int column) const;
  absl::string_view Blob(int column) const;

 private:
  friend class SqliteDatabase;
  SqliteStatement(SqliteDatabase* database, sqlite3_stmt* statement)
      : database_(database), statement_(statement) {}

  SqliteDatabase* database_;
  sqlite3_stmt* statement_;
};

class SqliteDatabase {
 public:
  enum class Durability {
    kEveryCommit,  // synchronous=FULL
    kCheckpoints,  // synchronous=NORMAL: a power cut may take the last commits, never consistency
  };
  struct Options {
    std::string vfs;
    Durability durability = Durability::kEveryCommit;
    // "application_id" of the file: tells the databases apart.
    int32_t application_id = 0;
    // Neither creates nor migrates: NOT_FOUND, or FAILED_PRECONDITION for an older schema.
    bool existing_only = false;
  };

  // See OpenSqliteStore for the errors.
  static absl::StatusOr<std::unique_ptr<SqliteDatabase>> Open(const std::string& path,
                                                              const Options& options,
                                                              const Migrations& migrations);
  ~SqliteDatabase();
  SqliteDatabase(const SqliteDatabase&) = delete;
  SqliteDatabase& operator=(const SqliteDatabase&) = delete;

  // `sql` is a literal: statements are kept by its address. A failure to compile is a bug and ends
  // the program, unless the database cannot be read.
  SqliteStatement Prepare(const char* sql);
  absl::Status Begin();
  absl::Status Commit();
  // Whatever state the transaction is in.
  void Rollback();
  // Moves the write-ahead log into the database where it has grown large.
  absl::Status CheckpointIfLarge();
  // Moves it whatever its size: what was committed is durable on return, also with kCheckpoints.
  // Not in a transaction.
  absl::Status Sync();

  // The error after which nothing may be written any more; OK before.
  const absl::Status& fatal() const { return fatal_; }
  sqlite3* handle() { return handle_; }
  // Status for an SQLite result code; remembers fatal ones.
  absl::Status ErrorOf(int code, absl::string_view operation);

 private:
  friend class SqliteStatement;
  SqliteDatabase(sqlite3* handle, std::string path) : handle_(handle), path_(std::move(path)) {}

  absl::Status Configure(const Options& options);
  absl::Status CheckIdentity(int32_t application_id);
  absl::Status Migrate(const Migrations& migrations, bool existing_only);
  absl::Status Execute(const char* sql);
  absl::StatusOr<int64_t> ReadPragma(const char* sql);

  sqlite3* handle_;
  std::string path_;
  std::map<const char*, sqlite3_stmt*> statements_;
  absl::Status fatal_;
  int wal_pages_ = 0;
};

}  // namespace nibble::store

#endif  // SERVER_STORE_SQLITE_DATABASE_H_
