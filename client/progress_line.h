// A line on standard error that is drawn over; nothing where that is no terminal.
#ifndef CLIENT_PROGRESS_LINE_H_
#define CLIENT_PROGRESS_LINE_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "client/session.h"

namespace nibble::client {

class ProgressLine {
 public:
  // `session` outlives it. What is drawn goes away with the object.
  explicit ProgressLine(Session* session);
  ~ProgressLine();

  // A bar, per cent, `text` and the time left, ten times a second at most. share: 0 to 1.
  void Draw(double share, absl::string_view text);

 private:
  Session& session_;
  const int64_t start_nanos_;
  int64_t last_nanos_ = 0;
  bool drawn_ = false;
};

}  // namespace nibble::client

#endif  // CLIENT_PROGRESS_LINE_H_
