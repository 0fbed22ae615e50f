// One line to standard error a call: "I2026-01-31T12:00:00.123456Z file.cc:42] message".
// Control characters in the message are escaped, so that nothing from outside reaches a terminal.
//   NIBBLE_LOG(kInfo, absl::StrCat("listening on ", address));
#ifndef BASE_LOG_H_
#define BASE_LOG_H_

#include <string>

#include "absl/strings/string_view.h"

namespace nibble {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

// Lines below this level are dropped. Default kInfo. Thread-safe.
void SetLogLevel(LogLevel level);
bool LogEnabled(LogLevel level);
void Log(LogLevel level, const char* file, int line, absl::string_view message);

// `text` with control characters (ESC, newline, C1, DEL) as \xNN; UTF-8 passes.
std::string EscapeControlCharacters(absl::string_view text);

}  // namespace nibble

#define NIBBLE_LOG(level, message)                                             \
  do {                                                                         \
    if (::nibble::LogEnabled(::nibble::LogLevel::level))                       \
      ::nibble::Log(::nibble::LogLevel::level, __FILE__, __LINE__, (message)); \
  } while (false)

#endif  // BASE_LOG_H_
