#include "worker/data/token_stream.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace nibble::data {
namespace {

// False where a token is negative or not below `limit`.
template <typename T>
bool Widen(const char* tokens, int64_t count, int64_t limit, int32_t* out) {
  uint64_t largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    T token;
    std::memcpy(&token, tokens + i * static_cast<int64_t>(sizeof(T)), sizeof(T));
    largest = std::max(largest, static_cast<uint64_t>(token));  // negative ones become huge
    out[i] = static_cast<int32_t>(token);
  }
  return largest < static_cast<uint64_t>(limit);
}

bool WidenAs(TokenType type, const char* tokens, int64_t count, int64_t limit, int32_t* out) {
  switch (type) {
    case TokenType::kU8:
      return Widen<uint8_t>(tokens, count, limit, out);
    case TokenType::kI8:
      return Widen<int8_t>(tokens, count, limit, out);
    case TokenType::kU16:
      return Widen<uint16_t>(tokens, count, limit, out);
    case TokenType::kI16:
      return Widen<int16_t>(tokens, count, limit, out);
    case TokenType::kU32:
      return Widen<uint32_t>(tokens, count, limit, out);
    case TokenType::kI32:
      return Widen<int32_t>(tokens, count, limit, out);
    case TokenType::kI64:
      return Widen<int64_t>(tokens, count, limit, out);
  }
  return false;
}

}  // namespace

int64_t BytesOf(TokenType type) {
  switch (type) {
    case TokenType::kU8:
    case TokenType::kI8:
      return 1;
    case TokenType::kU16:
    case TokenType::kI16:
      return 2;
    case TokenType::kU32:
    case TokenType::kI32:
      return 4;
    case TokenType::kI64:
      return 8;
  }
  return 8;
}

absl::Status TokenStream::Read(int64_t first, int64_t count, int32_t* out) const {
  NIBBLE_CHECK(first >= 0 && count >= 0 && first <= tokens_ && count <= tokens_ - first);
  if (count == 0) return absl::OkStatus();
  auto run = std::upper_bound(
                 runs_.begin(), runs_.end(), first,
                 [](int64_t token, const TokenRun& other) { return token < other.first_token; }) -
             1;
  constexpr int64_t kChunk = 1 << 15;
  char bytes[kChunk];
  while (count > 0) {
    const int64_t before = first - run->first_token;
    const int64_t n = std::min({count, run->tokens - before, kChunk / BytesOf(type_)});
    NIBBLE_RETURN_IF_ERROR(
        files_[run->file].ReadAt(run->offset + before * BytesOf(type_), n * BytesOf(type_), bytes));
    const bool in_range = WidenAs(type_, bytes, n, limit_, out);
    if (!in_range) {
      return absl::OutOfRangeError(absl::StrCat("a token among ", first, " to ", first + n - 1,
                                                " is not below vocab_size ", limit_));
    }
    first += n;
    out += n;
    count -= n;
    if (before + n == run->tokens) ++run;
  }
  return absl::OkStatus();
}

}  // namespace nibble::data
