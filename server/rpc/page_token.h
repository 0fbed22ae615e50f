// Page tokens and stream cursors: where to go on, in a form that clients hand back unread.
//
// A token names the list it belongs to and the filters it was made under, and carries a CRC. One
// that was made up, damaged, cut or taken from another list is refused. It holds no secret and
// grants nothing: it only says where in a list that the caller may read anyway to go on.
#ifndef SERVER_RPC_PAGE_TOKEN_H_
#define SERVER_RPC_PAGE_TOKEN_H_

#include <array>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace nibble::rpc {

// Lists that have tokens. Part of the token: never renumber.
enum class TokenKind : uint8_t { kJobs = 1, kEvents = 2, kMetrics = 3, kJobChanges = 4 };

// Where a list goes on; what the numbers mean is the list's business.
using Position = std::array<int64_t, 3>;

// `filters` is any string that differs where the request's filters do; it is not stored in the
// token, only its checksum.
std::string EncodePageToken(TokenKind kind, absl::string_view filters, const Position& position);

// INVALID_ARGUMENT with a violation of `field` where `token` is not one that EncodePageToken made
// for this kind and these filters.
absl::StatusOr<Position> DecodePageToken(absl::string_view token, TokenKind kind,
                                         absl::string_view filters, absl::string_view field);

}  // namespace nibble::rpc

#endif  // SERVER_RPC_PAGE_TOKEN_H_
