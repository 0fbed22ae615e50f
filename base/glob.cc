#include "base/glob.h"

namespace nibble {

bool GlobMatches(absl::string_view pattern, absl::string_view name) {
  size_t p = 0, n = 0;
  // Where to go on when what follows the last star does not fit: the star takes one more.
  size_t after_star = absl::string_view::npos, taken = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      after_star = ++p;
      taken = n;
    } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == name[n])) {
      ++p;
      ++n;
    } else if (after_star != absl::string_view::npos) {
      p = after_star;
      n = ++taken;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

}  // namespace nibble
