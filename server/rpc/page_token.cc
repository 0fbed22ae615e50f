#include "server/rpc/page_token.h"

#include <cstring>

#include "absl/strings/escaping.h"
#include "base/crc32c.h"
#include "server/rpc/grpc_status.h"

namespace nibble::rpc {
namespace {

// kind, CRC of the filters, position, CRC of all before; little-endian.
constexpr size_t kTokenBytes = 1 + 4 + sizeof(Position) + 4;
constexpr char kVersion = 'A';

}  // namespace

std::string EncodePageToken(TokenKind kind, absl::string_view filters, const Position& position) {
  std::string bytes(kTokenBytes, '\0');
  const uint32_t filters_crc = Crc32c(filters);
  bytes[0] = static_cast<char>(kind);
  std::memcpy(&bytes[1], &filters_crc, 4);
  std::memcpy(&bytes[5], position.data(), sizeof(Position));
  const uint32_t crc = Crc32c(absl::string_view(bytes).substr(0, kTokenBytes - 4));
  std::memcpy(&bytes[kTokenBytes - 4], &crc, 4);
  return kVersion + absl::WebSafeBase64Escape(bytes);
}

absl::StatusOr<Position> DecodePageToken(absl::string_view token, TokenKind kind,
                                         absl::string_view filters, absl::string_view field) {
  std::string bytes;
  if (token.size() <= 64 &&
      absl::WebSafeBase64Unescape(token.substr(token.empty() ? 0 : 1), &bytes) &&
      bytes.size() == kTokenBytes) {
    Position position;
    std::memcpy(position.data(), &bytes[5], sizeof(Position));
    // Making it again checks every bit, the encoding's padding included.
    if (token == EncodePageToken(kind, filters, position)) return position;
  }
  return InvalidField(std::string(field),
                      "is not a token of this list and these filters; allowed: empty, or the value "
                      "of an earlier answer to the same request");
}

}  // namespace nibble::rpc
