// The ids of short pieces of text seen before: direct-mapped, a cache line an entry, 2 MiB, the
// newest piece of a slot stays. Internal to worker/data.
#ifndef WORKER_DATA_PIECE_CACHE_H_
#define WORKER_DATA_PIECE_CACHE_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "absl/strings/string_view.h"

namespace nibble::data {

class PieceCache {
 public:
  static constexpr size_t kMaxBytes = 23;
  static constexpr size_t kMaxIds = 8;

  PieceCache() : entries_(kEntries) {}

  // Appends the ids of `piece` to `ids`. `encode(piece, ids)` appends them where they are not
  // known.
  template <typename Encode>
  void Append(absl::string_view piece, std::vector<int32_t>* ids, Encode encode) {
    if (piece.size() > kMaxBytes) {
      encode(piece, ids);
      return;
    }
    const Key key = MakeKey(piece);
    Entry& entry = At(key);
    if (entry.key == key) {
      ids->insert(ids->end(), entry.ids, entry.ids + entry.count);
      return;
    }
    const size_t before = ids->size();
    encode(piece, ids);
    const size_t count = ids->size() - before;
    if (count > kMaxIds) return;
    entry.key = key;
    entry.count = static_cast<int32_t>(count);
    std::copy(ids->begin() + static_cast<std::ptrdiff_t>(before), ids->end(), entry.ids);
  }

 private:
  struct Key {
    uint64_t words[3] = {0, 0, 0};  // the bytes, zeros, and the length in the last byte
    bool operator==(const Key& other) const {
      return ((words[0] ^ other.words[0]) | (words[1] ^ other.words[1]) |
              (words[2] ^ other.words[2])) == 0;
    }
  };
  struct alignas(64) Entry {
    Key key;
    int32_t count = 0;
    int32_t ids[kMaxIds];
  };
  static constexpr int kBits = 15;
  static constexpr size_t kEntries = size_t{1} << kBits;

  static Key MakeKey(absl::string_view piece) {
    Key key;
    std::memcpy(key.words, piece.data(), piece.size());
    key.words[2] |= static_cast<uint64_t>(piece.size()) << 56;
    return key;
  }
  // An entry of another key, or of none, is there to be overwritten.
  Entry& At(const Key& key) {
    uint64_t hash = key.words[0] * 0x9e3779b97f4a7c15u;
    hash = (hash ^ (hash >> 32) ^ key.words[1]) * 0xd6e8feb86659fd93u;
    hash = (hash ^ (hash >> 32) ^ key.words[2]) * 0x9e3779b97f4a7c15u;
    return entries_[hash >> (64 - kBits)];
  }

  std::vector<Entry> entries_;
};

}  // namespace nibble::data

#endif  // WORKER_DATA_PIECE_CACHE_H_
