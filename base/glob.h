// Patterns over names: `*` stands for any characters, also none, `?` for one; everything else for
// itself. The whole name must match.
#ifndef BASE_GLOB_H_
#define BASE_GLOB_H_

#include "absl/strings/string_view.h"

namespace nibble {

// Takes at most pattern.size() * name.size() steps and no memory.
bool GlobMatches(absl::string_view pattern, absl::string_view name);

}  // namespace nibble

#endif  // BASE_GLOB_H_
