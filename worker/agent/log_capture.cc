#include "worker/agent/log_capture.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "worker/link/text.h"

namespace nibble::agent {

LogCapture::~LogCapture() {
  for (const int fd : {pipe_, finish_, file_}) {
    if (fd >= 0) close(fd);
  }
}

absl::StatusOr<int> LogCapture::Open() {
  file_ = open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
  if (file_ < 0) return ErrnoStatus(errno, "open", path_);
  finish_ = eventfd(0, EFD_CLOEXEC);
  int ends[2];
  if (finish_ < 0 || pipe2(ends, O_CLOEXEC) != 0) return ErrnoStatus(errno, "pipe for", path_);
  pipe_ = ends[0];
  // Only the reading end: the trainer's writes must block rather than fail.
  fcntl(pipe_, F_SETFL, O_NONBLOCK);
  return ends[1];
}

void LogCapture::Read() {
  bool finishing = false;
  char buffer[16 * 1024];
  while (true) {
    const ssize_t n = read(pipe_, buffer, sizeof(buffer));
    if (n > 0) {
      Consume({buffer, static_cast<size_t>(n)});
      continue;
    }
    if (n == 0 || finishing) break;
    if (errno != EAGAIN && errno != EINTR) break;
    pollfd polled[2] = {{pipe_, POLLIN, 0}, {finish_, POLLIN, 0}};
    if (poll(polled, 2, -1) > 0 && polled[1].revents != 0) finishing = true;
  }
  if (!partial_.empty()) EmitLine(std::exchange(partial_, ""));
}

void LogCapture::Finish() {
  const uint64_t one = 1;
  // Cannot fail: the counter is far from its limit.
  if (write(finish_, &one, sizeof(one)) < 0) return;
}

void LogCapture::Consume(absl::string_view bytes) {
  for (const char c : bytes) {
    if (c == '\n') {
      EmitLine(std::exchange(partial_, ""));
      continue;
    }
    partial_.push_back(c);
    if (partial_.size() == kMaxLineBytes) EmitLine(std::exchange(partial_, ""));
  }
}

void LogCapture::EmitLine(absl::string_view line) {
  if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
  // Escaping makes a byte four.
  LogEntry entry{clock_.WallMicros(), link::SafeText(line, 2 * kMaxLineBytes)};
  const std::string record = absl::StrCat(entry.text, "\n");
  if (file_bytes_ + static_cast<int64_t>(record.size()) <= kMaxFileBytes) {
    // A full disk costs the copy here; the line still goes to the daemon.
    const ssize_t written = write(file_, record.data(), record.size());
    if (written > 0) file_bytes_ += written;
  }
  on_line_(std::move(entry));
}

}  // namespace nibble::agent
