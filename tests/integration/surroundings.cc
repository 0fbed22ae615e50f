// A library to preload under nibbled: a disk that fails and a clock that jumps, when the test says
// so by files in the directory $NIBBLE_SURROUNDINGS:
//   full    writes to database files (*.db, *.db-wal) under $NIBBLE_SURROUNDINGS_DISK find no space
//   eio     fsync of such a file fails
//   clock   its number of seconds is added to the wall clock
// Everything else goes through to the C library. Needs no privilege, unlike a file system of its
// own.
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace {

const char* Directory() {
  static const char* const directory = std::getenv("NIBBLE_SURROUNDINGS");
  return directory;
}

bool Is(const char* what) {
  if (Directory() == nullptr) return false;
  const std::string path = std::string(Directory()) + "/" + what;
  const int error = errno;
  const bool is = ::access(path.c_str(), F_OK) == 0;
  errno = error;
  return is;
}

bool OnDisk(int fd) {
  static const char* const disk = std::getenv("NIBBLE_SURROUNDINGS_DISK");
  if (disk == nullptr) return false;
  char path[4096];
  const std::string link = "/proc/self/fd/" + std::to_string(fd);
  const ssize_t length = ::readlink(link.c_str(), path, sizeof(path) - 1);
  if (length <= 0) return false;
  path[length] = '\0';
  return std::strncmp(path, disk, std::strlen(disk)) == 0 && std::strstr(path, ".db") != nullptr;
}

bool Full(int fd) {
  if (!Is("full") || !OnDisk(fd)) return false;
  errno = ENOSPC;
  return true;
}

bool Broken(int fd) {
  if (!Is("eio") || !OnDisk(fd)) return false;
  errno = EIO;
  return true;
}

template <typename Function>
Function Real(const char* name) {
  return reinterpret_cast<Function>(::dlsym(RTLD_NEXT, name));
}

// Read at most every 10 ms of real time.
int64_t ClockSeconds() {
  static std::atomic<int64_t> seconds{0};
  static std::atomic<int64_t> read_at{0};
  static const auto real = Real<int (*)(clockid_t, timespec*)>("clock_gettime");
  timespec now;
  real(CLOCK_MONOTONIC, &now);
  const int64_t centis = int64_t{now.tv_sec} * 100 + now.tv_nsec / 10'000'000;
  if (read_at.exchange(centis) != centis && Directory() != nullptr) {
    const int error = errno;
    char text[32] = {};
    const int fd = ::open((std::string(Directory()) + "/clock").c_str(), O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
      if (::read(fd, text, sizeof(text) - 1) > 0) seconds = std::atoll(text);
      ::close(fd);
    }
    errno = error;
  }
  return seconds;
}

}  // namespace

extern "C" {

ssize_t write(int fd, const void* data, size_t bytes) {
  static const auto real = Real<ssize_t (*)(int, const void*, size_t)>("write");
  return Full(fd) ? -1 : real(fd, data, bytes);
}

ssize_t pwrite(int fd, const void* data, size_t bytes, off_t at) {
  static const auto real = Real<ssize_t (*)(int, const void*, size_t, off_t)>("pwrite");
  return Full(fd) ? -1 : real(fd, data, bytes, at);
}

ssize_t pwrite64(int fd, const void* data, size_t bytes, off64_t at) {
  static const auto real = Real<ssize_t (*)(int, const void*, size_t, off64_t)>("pwrite64");
  return Full(fd) ? -1 : real(fd, data, bytes, at);
}

int fsync(int fd) {
  static const auto real = Real<int (*)(int)>("fsync");
  return Broken(fd) ? -1 : real(fd);
}

int fdatasync(int fd) {
  static const auto real = Real<int (*)(int)>("fdatasync");
  return Broken(fd) ? -1 : real(fd);
}

int clock_gettime(clockid_t id, struct timespec* time) noexcept {
  static const auto real = Real<int (*)(clockid_t, timespec*)>("clock_gettime");
  const int result = real(id, time);
  if (result == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) {
    time->tv_sec += ClockSeconds();
  }
  return result;
}

int gettimeofday(struct timeval* __restrict time, void* __restrict zone) noexcept {
  static const auto real = Real<int (*)(timeval*, void*)>("gettimeofday");
  const int result = real(time, zone);
  if (result == 0) time->tv_sec += ClockSeconds();
  return result;
}

time_t time(time_t* out) noexcept {
  timeval now;
  gettimeofday(&now, nullptr);
  if (out != nullptr) *out = now.tv_sec;
  return now.tv_sec;
}

}  // extern "C"
