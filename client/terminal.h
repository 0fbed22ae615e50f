// What the command line prints to: streams, and whether a person at a terminal reads them.
#ifndef CLIENT_TERMINAL_H_
#define CLIENT_TERMINAL_H_

#include <istream>
#include <ostream>
#include <string>

#include "absl/strings/string_view.h"

namespace nibble::client {

// Not thread-safe: one thread prints.
struct Terminal {
  std::ostream* out = nullptr;
  std::ostream* err = nullptr;
  std::istream* in = nullptr;
  // Progress bars and live views only where these say so.
  bool out_is_terminal = false;
  bool err_is_terminal = false;
  // Colours on `out` (a terminal, NO_COLOR unset or empty, TERM not "dumb").
  bool color = false;
  // The locale's character set is UTF-8: block and braille characters may be used.
  bool unicode = false;
  int columns = 100;
  int rows = 30;
};

// Standard input, output and error of this process.
Terminal SystemTerminal();

// Reads the size again, after the window may have changed.
void UpdateSize(Terminal& terminal);

enum class Color { kDefault, kBold, kDim, kRed, kGreen, kYellow, kBlue, kMagenta, kCyan };

// `text` in a colour, or as it is where the terminal shows none.
std::string Paint(const Terminal& terminal, Color color, absl::string_view text);

// Text from a server or a file, made harmless for a terminal: control characters escaped.
std::string Safe(absl::string_view text);

// Columns that `text` takes: escape sequences of Paint none, wide East Asian characters two.
int DisplayWidth(absl::string_view text);

// The longest prefix of at most `columns` columns; colours that it cuts open are reset.
std::string Truncate(absl::string_view text, int columns);

// `text` and spaces up to `columns`.
std::string PadRight(absl::string_view text, int columns);
std::string PadLeft(absl::string_view text, int columns);

}  // namespace nibble::client

#endif  // CLIENT_TERMINAL_H_
