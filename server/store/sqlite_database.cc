#include "server/store/sqlite_database.h"

#include <sqlite3.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/files.h"
#include "base/status_macros.h"

namespace nibble::store {
namespace {

// 4 MiB of pages: long enough that checkpoints are rare, short enough that one takes milliseconds.
constexpr int kCheckpointPages = 1000;

// Bounds what one connection keeps in memory, in KiB (negative, as the pragma has it).
constexpr char kCacheSize[] = "PRAGMA cache_size = -16384";

absl::Status OpenError(int code, const std::string& path, const char* message) {
  const std::string text = absl::StrCat("open ", path, ": ", message);
  switch (code & 0xff) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return absl::FailedPreconditionError(
          absl::StrCat(path, " is open in another process; stop it or use another directory"));
    case SQLITE_NOTADB:
    case SQLITE_CORRUPT:
      return absl::DataLossError(text);
    case SQLITE_CANTOPEN:
    case SQLITE_PERM:
    case SQLITE_READONLY:
      return absl::PermissionDeniedError(text);
    case SQLITE_FULL:
      return absl::ResourceExhaustedError(text);
    default:
      return absl::InternalError(text);
  }
}

}  // namespace

SqliteStatement::SqliteStatement(SqliteStatement&& other) noexcept
    : database_(other.database_), statement_(std::exchange(other.statement_, nullptr)) {}

SqliteStatement::~SqliteStatement() {
  if (statement_ == nullptr) return;
  sqlite3_reset(statement_);
  sqlite3_clear_bindings(statement_);
}

SqliteStatement& SqliteStatement::Bind(int parameter, int64_t value) {
  if (statement_ != nullptr) sqlite3_bind_int64(statement_, parameter, value);
  return *this;
}

SqliteStatement& SqliteStatement::Bind(int parameter, absl::string_view text) {
  if (statement_ != nullptr) {
    sqlite3_bind_text64(statement_, parameter, text.data() == nullptr ? "" : text.data(),
                        text.size(), SQLITE_TRANSIENT, SQLITE_UTF8);
  }
  return *this;
}

SqliteStatement& SqliteStatement::BindBlob(int parameter, absl::string_view bytes) {
  if (statement_ != nullptr) {
    sqlite3_bind_blob64(statement_, parameter, bytes.data() == nullptr ? "" : bytes.data(),
                        bytes.size(), SQLITE_STATIC);
  }
  return *this;
}

absl::StatusOr<bool> SqliteStatement::Step() {
  if (statement_ == nullptr) {
    return database_->fatal().ok() ? absl::DataLossError("the database cannot be read")
                                   : database_->fatal();
  }
  const int code = sqlite3_step(statement_);
  if (code == SQLITE_ROW) return true;
  if (code == SQLITE_DONE) return false;
  return database_->ErrorOf(code, sqlite3_sql(statement_));
}

absl::Status SqliteStatement::Run() {
  NIBBLE_ASSIGN_OR_RETURN(const bool row, Step());
  NIBBLE_CHECK(!row);
  return absl::OkStatus();
}

int64_t SqliteStatement::Int(int column) const { return sqlite3_column_int64(statement_, column); }

absl::string_view SqliteStatement::Text(int column) const {
  const void* text = sqlite3_column_text(statement_, column);
  return {static_cast<const char*>(text == nullptr ? "" : text),
          static_cast<size_t>(sqlite3_column_bytes(statement_, column))};
}

absl::string_view SqliteStatement::Blob(int column) const {
  const void* blob = sqlite3_column_blob(statement_, column);
  return {static_cast<const char*>(blob == nullptr ? "" : blob),
          static_cast<size_t>(sqlite3_column_bytes(statement_, column))};
}

absl::StatusOr<std::unique_ptr<SqliteDatabase>> SqliteDatabase::Open(const std::string& path,
                                                                     const Options& options,
                                                                     const Migrations& migrations) {
  sqlite3* handle = nullptr;
  if (options.existing_only && !FileExists(path)) {
    return absl::NotFoundError(absl::StrCat(path, " does not exist"));
  }
  const int code = sqlite3_open_v2(path.c_str(), &handle,
                                   SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX,
                                   options.vfs.empty() ? nullptr : options.vfs.c_str());
  std::unique_ptr<SqliteDatabase> database(new SqliteDatabase(handle, path));
  if (code != SQLITE_OK) {
    return OpenError(code, path, handle == nullptr ? "out of memory" : sqlite3_errmsg(handle));
  }
  sqlite3_extended_result_codes(handle, 1);
  NIBBLE_RETURN_IF_ERROR(database->Configure(options));
  NIBBLE_RETURN_IF_ERROR(database->CheckIdentity(options.application_id));
  NIBBLE_RETURN_IF_ERROR(database->Migrate(migrations, options.existing_only));
  const size_t slash = path.rfind('/');
  NIBBLE_RETURN_IF_ERROR(FsyncDirectory(slash == std::string::npos ? "." : path.substr(0, slash)));
  return database;
}

SqliteDatabase::~SqliteDatabase() {
  for (const auto& [sql, statement] : statements_) sqlite3_finalize(statement);
  sqlite3_close(handle_);
}

absl::Status SqliteDatabase::Execute(const char* sql) {
  const int code = sqlite3_exec(handle_, sql, nullptr, nullptr, nullptr);
  return code == SQLITE_OK ? absl::OkStatus() : OpenError(code, path_, sqlite3_errmsg(handle_));
}

absl::StatusOr<int64_t> SqliteDatabase::ReadPragma(const char* sql) {
  sqlite3_stmt* statement = nullptr;
  int code = sqlite3_prepare_v2(handle_, sql, -1, &statement, nullptr);
  if (code == SQLITE_OK) code = sqlite3_step(statement);
  const int64_t value = code == SQLITE_ROW ? sqlite3_column_int64(statement, 0) : 0;
  sqlite3_finalize(statement);
  if (code != SQLITE_ROW) return OpenError(code, path_, sqlite3_errmsg(handle_));
  return value;
}

absl::Status SqliteDatabase::Configure(const Options& options) {
  // Before the first access: no shared-memory file, and a second process fails at once. Two
  // connections that write to one file are what SQLite 3.40's WAL-reset bug needs.
  NIBBLE_RETURN_IF_ERROR(Execute("PRAGMA locking_mode = EXCLUSIVE"));
  // The change to WAL deletes a rollback journal. Were that deletion lost in a power cut, the
  // journal would undo everything since: EXTRA syncs the directory after it.
  NIBBLE_RETURN_IF_ERROR(Execute("PRAGMA synchronous = EXTRA"));
  NIBBLE_RETURN_IF_ERROR(Execute("PRAGMA journal_mode = WAL"));
  NIBBLE_RETURN_IF_ERROR(Execute(options.durability == Durability::kEveryCommit
                                     ? "PRAGMA synchronous = FULL"
                                     : "PRAGMA synchronous = NORMAL"));
  NIBBLE_RETURN_IF_ERROR(Execute(kCacheSize));
  NIBBLE_RETURN_IF_ERROR(Execute("PRAGMA trusted_schema = OFF"));
  // By CheckpointIfLarge instead: SQLite itself forgets a failed fsync of a checkpoint and tries it
  // again, which R4 forbids.
  sqlite3_wal_hook(
      handle_,
      [](void* self, sqlite3*, const char*, int pages) {
        static_cast<SqliteDatabase*>(self)->wal_pages_ = pages;
        return SQLITE_OK;
      },
      this);
  // Takes the lock, and finds out whether it is a database.
  NIBBLE_RETURN_IF_ERROR(Execute("BEGIN IMMEDIATE"));
  return Execute("COMMIT");
}

absl::Status SqliteDatabase::CheckIdentity(int32_t application_id) {
  NIBBLE_ASSIGN_OR_RETURN(const int64_t found, ReadPragma("PRAGMA application_id"));
  NIBBLE_ASSIGN_OR_RETURN(const int64_t version, ReadPragma("PRAGMA user_version"));
  if (found == application_id) return absl::OkStatus();
  if (found != 0 || version != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(path_, " is a database of another kind (application_id ", found, ", not ",
                     application_id, ")"));
  }
  return absl::OkStatus();
}

absl::Status SqliteDatabase::Migrate(const Migrations& migrations, bool existing_only) {
  NIBBLE_ASSIGN_OR_RETURN(int64_t version, ReadPragma("PRAGMA user_version"));
  const int64_t newest = static_cast<int64_t>(migrations.size());
  if (version > newest) {
    return absl::FailedPreconditionError(
        absl::StrCat(path_, " has schema version ", version, ", written by a newer nibbled; this ",
                     "one knows up to ", newest, " and does not downgrade"));
  }
  if (existing_only && version < newest) {
    return absl::FailedPreconditionError(
        absl::StrCat(path_, " has schema version ", version, " of ", newest,
                     ": start nibbled on it once, which brings it up to date"));
  }
  for (; version < newest; ++version) {
    NIBBLE_RETURN_IF_ERROR(Execute("BEGIN IMMEDIATE"));
    absl::Status status = Execute(migrations[version]);
    if (status.ok()) status = Execute("COMMIT");
    if (!status.ok()) {
      Rollback();
      return status;
    }
    NIBBLE_ASSIGN_OR_RETURN(const int64_t now, ReadPragma("PRAGMA user_version"));
    NIBBLE_CHECK(now == version + 1);
  }
  return absl::OkStatus();
}

SqliteStatement SqliteDatabase::Prepare(const char* sql) {
  sqlite3_stmt*& statement = statements_[sql];
  if (statement == nullptr) {
    const int code =
        sqlite3_prepare_v3(handle_, sql, -1, SQLITE_PREPARE_PERSISTENT, &statement, nullptr);
    if (code != SQLITE_OK) {
      NIBBLE_CHECK((code & 0xff) != SQLITE_ERROR);  // the literal is wrong
      ErrorOf(code, sql).IgnoreError();
      statement = nullptr;
    }
  }
  return SqliteStatement(this, statement);
}

absl::Status SqliteDatabase::Begin() { return Prepare("BEGIN IMMEDIATE").Run(); }

absl::Status SqliteDatabase::Commit() { return Prepare("COMMIT").Run(); }

void SqliteDatabase::Rollback() {
  // SQLite may have rolled back by itself.
  if (sqlite3_get_autocommit(handle_) != 0) return;
  const int code = sqlite3_exec(handle_, "ROLLBACK", nullptr, nullptr, nullptr);
  if (code != SQLITE_OK) ErrorOf(code, "ROLLBACK").IgnoreError();
}

absl::Status SqliteDatabase::CheckpointIfLarge() {
  if (wal_pages_ < kCheckpointPages) return absl::OkStatus();
  wal_pages_ = 0;
  const int code =
      sqlite3_wal_checkpoint_v2(handle_, nullptr, SQLITE_CHECKPOINT_PASSIVE, nullptr, nullptr);
  // Out of space: the log simply goes on growing, until a commit fails for the same reason.
  if (code == SQLITE_OK || (code & 0xff) == SQLITE_FULL) return absl::OkStatus();
  return ErrorOf(code, "checkpoint");
}

absl::Status SqliteDatabase::Sync() {
  const int code =
      sqlite3_wal_checkpoint_v2(handle_, nullptr, SQLITE_CHECKPOINT_PASSIVE, nullptr, nullptr);
  return code == SQLITE_OK ? absl::OkStatus() : ErrorOf(code, "checkpoint");
}

absl::Status SqliteDatabase::ErrorOf(int code, absl::string_view operation) {
  const std::string message =
      absl::StrCat(path_, ": ", sqlite3_errmsg(handle_), " (", code, ") in ", operation);
  switch (code & 0xff) {
    case SQLITE_FULL:
      return absl::ResourceExhaustedError(message);
    case SQLITE_CONSTRAINT:
    case SQLITE_TOOBIG:
    case SQLITE_MISMATCH:
      return absl::InternalError(message);
    case SQLITE_CORRUPT:
      if (sqlite3_get_autocommit(handle_) != 0) return absl::DataLossError(message);
      break;
    default:
      break;
  }
  if (fatal_.ok()) fatal_ = absl::UnavailableError(message);
  return fatal_;
}

}  // namespace nibble::store
