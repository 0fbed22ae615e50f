#include "server/store/backup.h"

#include <sqlite3.h>
#include <unistd.h>

#include <memory>

#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/status_macros.h"

namespace nibble::store {
namespace {

constexpr int kPagesPerTurn = 256;  // 1 MiB

struct CloseDatabase {
  void operator()(sqlite3* handle) const { sqlite3_close(handle); }
};
struct FinishBackup {
  void operator()(sqlite3_backup* backup) const { sqlite3_backup_finish(backup); }
};

absl::Status CopyError(int code, const std::string& path) {
  const std::string message = absl::StrCat("copy to ", path, ": ", sqlite3_errstr(code));
  if ((code & 0xff) == SQLITE_FULL) return absl::ResourceExhaustedError(message);
  if ((code & 0xff) == SQLITE_CANTOPEN) return absl::PermissionDeniedError(message);
  return absl::InternalError(message);
}

// SQLite carries what the source's own connection writes between two turns over into the copy, so
// it needs no lock and never starts again.
absl::Status Copy(DatabaseThread& thread, const std::string& path) {
  sqlite3* raw = nullptr;
  const int opened = sqlite3_open_v2(path.c_str(), &raw, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE,
                                     /*vfs=*/nullptr);
  const std::unique_ptr<sqlite3, CloseDatabase> target(raw);
  if (opened != SQLITE_OK) return CopyError(opened, path);
  std::unique_ptr<sqlite3_backup, FinishBackup> backup;
  bool done = false;
  absl::Status status;
  while (!done && status.ok()) {
    status = thread.Read([&](SqliteDatabase& source) -> absl::Status {
      if (backup == nullptr) {
        backup.reset(sqlite3_backup_init(target.get(), "main", source.handle(), "main"));
        if (backup == nullptr) return CopyError(sqlite3_errcode(target.get()), path);
      }
      const int code = sqlite3_backup_step(backup.get(), kPagesPerTurn);
      done = code == SQLITE_DONE;
      if (done) backup.reset();
      if (done || code == SQLITE_OK) return absl::OkStatus();
      return CopyError(code, path);
    });
  }
  // It belongs to the source's thread.
  if (backup != nullptr) {
    thread
        .Read([&](SqliteDatabase&) {
          backup.reset();
          return absl::OkStatus();
        })
        .IgnoreError();
  }
  return status;
}

}  // namespace

absl::Status BackUpDatabase(DatabaseThread& thread, const std::string& path) {
  if (FileExists(path)) return absl::AlreadyExistsError(absl::StrCat(path, " is there already"));
  const absl::Status copied = Copy(thread, path);
  if (!copied.ok()) {
    for (const char* suffix : {"", "-journal", "-wal"}) ::unlink((path + suffix).c_str());
    return copied;
  }
  return FsyncDirectory(path.substr(0, path.rfind('/')));
}

}  // namespace nibble::store
