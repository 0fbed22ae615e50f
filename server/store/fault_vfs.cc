#include "server/store/fault_vfs.h"

#include <sqlite3.h>

#include <atomic>
#include <cstring>
#include <new>

#include "base/check.h"
#include "base/mutex.h"

namespace nibble::store {
namespace {

std::atomic<bool> fail_syncs{false};
std::atomic<bool> disk_full{false};
std::atomic<bool> keep_images{false};
Mutex images_mutex;
std::map<std::string, std::string>* images = nullptr;
std::string* forgotten = nullptr;  // name of the file whose syncs are lost
sqlite3_vfs* real_vfs = nullptr;
sqlite3_vfs fault_vfs;

// Followed in memory by the real file.
struct FaultFile {
  sqlite3_file base;
  char name[256];
  sqlite3_file* real() { return reinterpret_cast<sqlite3_file*>(this + 1); }
};

FaultFile* Self(sqlite3_file* file) { return reinterpret_cast<FaultFile*>(file); }
sqlite3_file* Real(sqlite3_file* file) { return Self(file)->real(); }

int Close(sqlite3_file* file) { return Real(file)->pMethods->xClose(Real(file)); }
int Read(sqlite3_file* file, void* data, int bytes, sqlite3_int64 at) {
  return Real(file)->pMethods->xRead(Real(file), data, bytes, at);
}
int Write(sqlite3_file* file, const void* data, int bytes, sqlite3_int64 at) {
  if (disk_full) return SQLITE_FULL;
  return Real(file)->pMethods->xWrite(Real(file), data, bytes, at);
}
int Truncate(sqlite3_file* file, sqlite3_int64 bytes) {
  return Real(file)->pMethods->xTruncate(Real(file), bytes);
}

int Sync(sqlite3_file* file, int flags) {
  if (fail_syncs) return SQLITE_IOERR_FSYNC;
  const int code = Real(file)->pMethods->xSync(Real(file), flags);
  if (code != SQLITE_OK || !keep_images) return code;
  sqlite3_int64 size = 0;
  Real(file)->pMethods->xFileSize(Real(file), &size);
  std::string contents(size, '\0');
  if (size > 0) Read(file, contents.data(), static_cast<int>(size), 0);
  MutexLock lock(images_mutex);
  if (*forgotten != Self(file)->name) (*images)[Self(file)->name] = std::move(contents);
  return SQLITE_OK;
}

int FileSize(sqlite3_file* file, sqlite3_int64* size) {
  return Real(file)->pMethods->xFileSize(Real(file), size);
}
int Lock(sqlite3_file* file, int level) { return Real(file)->pMethods->xLock(Real(file), level); }
int Unlock(sqlite3_file* file, int level) {
  return Real(file)->pMethods->xUnlock(Real(file), level);
}
int CheckReservedLock(sqlite3_file* file, int* out) {
  return Real(file)->pMethods->xCheckReservedLock(Real(file), out);
}
int FileControl(sqlite3_file* file, int op, void* arg) {
  return Real(file)->pMethods->xFileControl(Real(file), op, arg);
}
int SectorSize(sqlite3_file* file) { return Real(file)->pMethods->xSectorSize(Real(file)); }
int Characteristics(sqlite3_file* file) {
  return Real(file)->pMethods->xDeviceCharacteristics(Real(file));
}

// Version 1: no shared memory, which exclusive locking does without, and no memory maps, which
// would pass by the functions above.
const sqlite3_io_methods kMethods = {1,
                                     Close,
                                     Read,
                                     Write,
                                     Truncate,
                                     Sync,
                                     FileSize,
                                     Lock,
                                     Unlock,
                                     CheckReservedLock,
                                     FileControl,
                                     SectorSize,
                                     Characteristics,
                                     nullptr,
                                     nullptr,
                                     nullptr,
                                     nullptr,
                                     nullptr,
                                     nullptr};

int Open(sqlite3_vfs*, const char* name, sqlite3_file* file, int flags, int* out_flags) {
  FaultFile* const self = Self(file);
  std::memset(self, 0, sizeof(*self));
  const char* slash = name == nullptr ? nullptr : std::strrchr(name, '/');
  std::strncpy(self->name, slash == nullptr ? "" : slash + 1, sizeof(self->name) - 1);
  const int code = real_vfs->xOpen(real_vfs, name, self->real(), flags, out_flags);
  if (self->real()->pMethods != nullptr) self->base.pMethods = &kMethods;
  return code;
}

int Delete(sqlite3_vfs*, const char* name, int sync_directory) {
  const int code = real_vfs->xDelete(real_vfs, name, sync_directory);
  const char* slash = std::strrchr(name, '/');
  MutexLock lock(images_mutex);
  // Without the directory's sync the file may be there again after a power cut.
  if (sync_directory != 0 && slash != nullptr) images->erase(slash + 1);
  return code;
}

}  // namespace

FaultVfs::FaultVfs() {
  real_vfs = sqlite3_vfs_find(nullptr);
  images = new std::map<std::string, std::string>;
  forgotten = new std::string;
  fail_syncs = disk_full = keep_images = false;
  fault_vfs = *real_vfs;
  fault_vfs.pNext = nullptr;
  fault_vfs.zName = kName;
  fault_vfs.szOsFile = static_cast<int>(sizeof(FaultFile)) + real_vfs->szOsFile;
  fault_vfs.xOpen = Open;
  fault_vfs.xDelete = Delete;
  NIBBLE_CHECK(sqlite3_vfs_register(&fault_vfs, 0) == SQLITE_OK);
}

FaultVfs::~FaultVfs() {
  sqlite3_vfs_unregister(&fault_vfs);
  delete images;
  delete forgotten;
  images = nullptr;
}

void FaultVfs::FailSyncs(bool fail) { fail_syncs = fail; }
void FaultVfs::FillDisk(bool full) { disk_full = full; }
void FaultVfs::KeepImages(bool keep) { keep_images = keep; }

void FaultVfs::ForgetSyncsOf(const std::string& name) {
  MutexLock lock(images_mutex);
  *forgotten = name;
}

std::map<std::string, std::string> FaultVfs::PowerCutImage() const {
  MutexLock lock(images_mutex);
  return *images;
}

}  // namespace nibble::store
