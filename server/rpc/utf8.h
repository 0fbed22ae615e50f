// Well-formed UTF-8, byte by byte.
#ifndef SERVER_RPC_UTF8_H_
#define SERVER_RPC_UTF8_H_

#include <cstddef>

#include "absl/strings/string_view.h"

namespace nibble::rpc {

// Length of the well-formed UTF-8 sequence at the start of `text`, 0 where it is none (RFC 3629: no
// surrogates, no over-long forms, nothing above U+10FFFF).
size_t Utf8SequenceLength(absl::string_view text);

}  // namespace nibble::rpc

#endif  // SERVER_RPC_UTF8_H_
