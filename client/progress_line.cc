#include "client/progress_line.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/plot.h"
#include "client/text.h"

namespace nibble::client {
namespace {

constexpr int64_t kDrawNanos = 100'000'000;

}  // namespace

ProgressLine::ProgressLine(Session* session)
    : session_(*session), start_nanos_(session->clock().MonotonicNanos()) {}

ProgressLine::~ProgressLine() {
  if (drawn_) session_.err() << "\r\033[K" << std::flush;
}

void ProgressLine::Draw(double share, absl::string_view text) {
  const Terminal& terminal = session_.terminal();
  const int64_t now = session_.clock().MonotonicNanos();
  if (!terminal.err_is_terminal || now - last_nanos_ < kDrawNanos) return;
  last_nanos_ = now;
  drawn_ = true;
  const double seconds = static_cast<double>(now - start_nanos_) * 1e-9;
  std::string line = absl::StrCat(ProgressBar(terminal, share, 30),
                                  absl::StrFormat(" %3.0f %%  ", 100 * share), text);
  if (share > 0.01) {
    absl::StrAppend(&line, "  ", Duration(seconds * (1 - share) / share), " left");
  }
  session_.err() << "\r" << Truncate(line, terminal.columns - 1) << "\033[K" << std::flush;
}

}  // namespace nibble::client
