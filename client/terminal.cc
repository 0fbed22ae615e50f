#include "client/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdlib>
#include <iostream>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"

namespace nibble::client {
namespace {

absl::string_view Environment(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

bool LocaleIsUtf8() {
  for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    const absl::string_view value = Environment(name);
    if (value.empty()) continue;
    const std::string lower = absl::AsciiStrToLower(value);
    return absl::StrContains(lower, "utf-8") || absl::StrContains(lower, "utf8");
  }
  return false;
}

const char* Code(Color color) {
  switch (color) {
    case Color::kDefault:
      return "";
    case Color::kBold:
      return "\033[1m";
    case Color::kDim:
      return "\033[2m";
    case Color::kRed:
      return "\033[31m";
    case Color::kGreen:
      return "\033[32m";
    case Color::kYellow:
      return "\033[33m";
    case Color::kBlue:
      return "\033[34m";
    case Color::kMagenta:
      return "\033[35m";
    case Color::kCyan:
      return "\033[36m";
  }
  return "";
}

// One unit of text: an escape sequence of Paint (width 0) or a character.
struct Unit {
  size_t bytes = 1;
  int width = 1;
};

Unit UnitAt(absl::string_view text, size_t i) {
  const unsigned char c = text[i];
  if (c == 0x1b) {
    const size_t end = text.find('m', i);
    return {end == absl::string_view::npos ? text.size() - i : end - i + 1, 0};
  }
  if (c < 0xc0) return {1, 1};
  const size_t length = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;
  if (i + length > text.size()) return {text.size() - i, 1};
  uint32_t point = c & (0xff >> (length + 1));
  for (size_t k = 1; k < length; ++k) point = point << 6 | (text[i + k] & 0x3f);
  // The East Asian wide blocks, coarsely, and emoji.
  const bool wide = (point >= 0x1100 && point <= 0x115f) || (point >= 0x2e80 && point <= 0xa4cf) ||
                    (point >= 0xac00 && point <= 0xd7a3) || (point >= 0xf900 && point <= 0xfaff) ||
                    (point >= 0xfe30 && point <= 0xfe6f) || (point >= 0xff00 && point <= 0xff60) ||
                    (point >= 0x1f300 && point <= 0x1faff) ||
                    (point >= 0x20000 && point <= 0x3fffd);
  const bool combining = point >= 0x300 && point <= 0x36f;
  return {length, wide ? 2 : combining ? 0 : 1};
}

}  // namespace

Terminal SystemTerminal() {
  Terminal terminal;
  terminal.out = &std::cout;
  terminal.err = &std::cerr;
  terminal.in = &std::cin;
  terminal.out_is_terminal = isatty(STDOUT_FILENO) == 1;
  terminal.err_is_terminal = isatty(STDERR_FILENO) == 1;
  terminal.color = terminal.out_is_terminal && Environment("NO_COLOR").empty() &&
                   Environment("TERM") != "dumb" && !Environment("TERM").empty();
  terminal.unicode = LocaleIsUtf8();
  UpdateSize(terminal);
  return terminal;
}

void UpdateSize(Terminal& terminal) {
  if (!terminal.out_is_terminal && !terminal.err_is_terminal) return;
  winsize size = {};
  const int fd = terminal.out_is_terminal ? STDOUT_FILENO : STDERR_FILENO;
  if (ioctl(fd, TIOCGWINSZ, &size) != 0 || size.ws_col == 0 || size.ws_row == 0) return;
  terminal.columns = size.ws_col;
  terminal.rows = size.ws_row;
}

std::string Paint(const Terminal& terminal, Color color, absl::string_view text) {
  if (!terminal.color || color == Color::kDefault) return std::string(text);
  return absl::StrCat(Code(color), text, "\033[0m");
}

std::string Safe(absl::string_view text) { return EscapeControlCharacters(text); }

int DisplayWidth(absl::string_view text) {
  int width = 0;
  for (size_t i = 0; i < text.size();) {
    const Unit unit = UnitAt(text, i);
    width += unit.width;
    i += unit.bytes;
  }
  return width;
}

std::string Truncate(absl::string_view text, int columns) {
  int width = 0;
  bool colored = false;
  for (size_t i = 0; i < text.size();) {
    const Unit unit = UnitAt(text, i);
    if (width + unit.width > columns) {
      return absl::StrCat(text.substr(0, i), colored ? "\033[0m" : "");
    }
    if (text[i] == 0x1b) colored = text.substr(i, unit.bytes) != "\033[0m";
    width += unit.width;
    i += unit.bytes;
  }
  return std::string(text);
}

std::string PadRight(absl::string_view text, int columns) {
  const int missing = columns - DisplayWidth(text);
  return absl::StrCat(text, std::string(missing > 0 ? missing : 0, ' '));
}

std::string PadLeft(absl::string_view text, int columns) {
  const int missing = columns - DisplayWidth(text);
  return absl::StrCat(std::string(missing > 0 ? missing : 0, ' '), text);
}

}  // namespace nibble::client
