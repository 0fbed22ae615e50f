#include "base/log.h"

#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace nibble {
namespace {
std::atomic<LogLevel> minimum_level{LogLevel::kInfo};
}

void SetLogLevel(LogLevel level) { minimum_level = level; }

bool LogEnabled(LogLevel level) { return level >= minimum_level.load(std::memory_order_relaxed); }

void Log(LogLevel level, const char* file, int line, absl::string_view message) {
  const char* slash = std::strrchr(file, '/');
  const std::string text = absl::StrCat(
      absl::string_view("DIWE").substr(static_cast<int>(level), 1),
      absl::FormatTime("%Y-%m-%d%ET%H:%M:%E6SZ", absl::Now(), absl::UTCTimeZone()), " ",
      slash != nullptr ? slash + 1 : file, ":", line, "] ", EscapeControlCharacters(message), "\n");
  // One write a line keeps lines of several threads and processes whole.
  if (write(STDERR_FILENO, text.data(), text.size()) < 0) return;
}

std::string EscapeControlCharacters(absl::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    const unsigned char c = text[i];
    // U+0080..U+009F, which terminals obey like ESC sequences, are C2 80..C2 9F in UTF-8.
    const bool c1 = c == 0xc2 && i + 1 < text.size() &&
                    static_cast<unsigned char>(text[i + 1]) >= 0x80 &&
                    static_cast<unsigned char>(text[i + 1]) < 0xa0;
    if ((c < 0x20 && c != '\t') || c == 0x7f || c1) {
      absl::StrAppend(&out, "\\x", absl::Hex(c, absl::kZeroPad2));
      if (c1) absl::StrAppend(&out, "\\x", absl::Hex(static_cast<unsigned char>(text[++i]), absl::kZeroPad2));
    } else {
      out.push_back(text[i]);
    }
  }
  return out;
}

}  // namespace nibble
