// XXH3 (https://github.com/Cyan4973/xxHash) through libxxhash, with the CPU's instructions: digests
// as fast as memory, which find damage. Against somebody who changes bytes on purpose there is
// base/sha256.h.
#ifndef BASE_XXH3_H_
#define BASE_XXH3_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/strings/string_view.h"

// libxxhash's own name; its header is not for headers.
struct XXH3_state_s;

namespace nibble {

// XXH3-64 of the bytes of all updates, in order.
class Xxh3 {
 public:
  Xxh3();
  ~Xxh3();
  Xxh3(const Xxh3&) = delete;
  Xxh3& operator=(const Xxh3&) = delete;

  void Update(absl::string_view data);
  uint64_t Value() const;

 private:
  XXH3_state_s* const state_;
};

uint64_t Xxh3Of(absl::string_view data);

// A digest of a large file whose parts can be checked at the same time: XXH3-128 of each MiB (the
// last one may be shorter), and XXH3-128 of these digests in order, each as its 16 canonical
// (big-endian) bytes. `split -b 1M` and `xxhsum -H2` compute the same.
class PieceDigest {
 public:
  static constexpr size_t kPieceBytes = size_t{1} << 20;

  PieceDigest();
  ~PieceDigest();
  PieceDigest(const PieceDigest&) = delete;
  PieceDigest& operator=(const PieceDigest&) = delete;

  void Update(absl::string_view data);
  // 32 lower-case hex digits. Call once, last.
  std::string HexDigest();

 private:
  XXH3_state_s* const state_;  // of the piece at hand
  size_t filled_ = 0;          // its bytes so far
  std::string digests_;        // of the pieces before
};

// The same of bytes that are all there, by at most `threads` threads; 0: as many as processors.
std::string PieceDigestHex(absl::string_view data, int threads);
// Calls `use` for each part of `data`, once, right after it was read for the digest: while it is in
// the cache. In any order, and from several threads at a time. No part is larger than kPartBytes.
inline constexpr size_t kPartBytes = size_t{128} << 10;
std::string PieceDigestHex(absl::string_view data, int threads,
                           absl::FunctionRef<void(size_t offset, absl::string_view part)> use);

}  // namespace nibble

#endif  // BASE_XXH3_H_
