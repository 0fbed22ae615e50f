// Reads what a trainer prints, line by line: to a file of bounded size and to a callback.
#ifndef WORKER_AGENT_LOG_CAPTURE_H_
#define WORKER_AGENT_LOG_CAPTURE_H_

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/clock.h"
#include "worker/agent/trainer_process.h"

namespace nibble::agent {

class LogCapture {
 public:
  // Longer lines are split.
  static constexpr size_t kMaxLineBytes = 8 * 1024;
  // The file keeps the beginning; the rest goes to the callback only.
  static constexpr int64_t kMaxFileBytes = 16LL << 20;

  // `on_line` is called from the thread in Read. `clock` outlives this.
  LogCapture(std::string path, const Clock& clock, std::function<void(LogEntry)> on_line)
      : path_(std::move(path)), clock_(clock), on_line_(std::move(on_line)) {}
  ~LogCapture();
  LogCapture(const LogCapture&) = delete;
  LogCapture& operator=(const LogCapture&) = delete;

  // Opens the file and a pipe. Returns the pipe's writing end, which is the caller's to close.
  absl::StatusOr<int> Open();

  // Reads until every writer has closed the pipe, or Finish was called and the pipe is empty.
  void Read();
  // Thread-safe.
  void Finish();

 private:
  void Consume(absl::string_view bytes);
  void EmitLine(absl::string_view line);

  const std::string path_;
  const Clock& clock_;
  const std::function<void(LogEntry)> on_line_;
  int pipe_ = -1;
  int finish_ = -1;  // eventfd
  int file_ = -1;
  int64_t file_bytes_ = 0;
  std::string partial_;
};

}  // namespace nibble::agent

#endif  // WORKER_AGENT_LOG_CAPTURE_H_
