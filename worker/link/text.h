// Text from trainers and the operating system on its way into protobuf strings, which must be
// UTF-8.
#ifndef WORKER_LINK_TEXT_H_
#define WORKER_LINK_TEXT_H_

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"

namespace nibble::link {

// `text` as valid UTF-8 without control characters: bytes that are not UTF-8, and control
// characters, become \xNN. At most `max_bytes` long; what is cut off ends in "...".
// REQUIRES: max_bytes >= 16.
std::string SafeText(absl::string_view text, size_t max_bytes);

}  // namespace nibble::link

#endif  // WORKER_LINK_TEXT_H_
