// Byte-pair merging within one piece of text. Internal to worker/data.
#ifndef WORKER_DATA_BPE_MERGE_H_
#define WORKER_DATA_BPE_MERGE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace nibble::data {

// Pairs of ids to (rank, merged id): open addressing, one cache line a look-up in most cases.
class MergeTable {
 public:
  static constexpr uint32_t kNoRank = 0xffffffff;
  struct Merge {
    uint32_t rank = kNoRank;
    int32_t id = -1;
  };

  explicit MergeTable(size_t merges);
  // False where the pair is there already.
  bool Insert(int32_t left, int32_t right, Merge merge);
  Merge Find(int32_t left, int32_t right) const {
    const uint64_t key = Key(left, right);
    for (size_t slot = Slot(key);; slot = (slot + 1) & mask_) {
      if (entries_[slot].key == key) return entries_[slot].merge;
      if (entries_[slot].key == kEmpty) return {};
    }
  }

 private:
  static constexpr uint64_t kEmpty = ~uint64_t{0};
  struct Entry {
    uint64_t key = kEmpty;
    Merge merge;
  };
  static uint64_t Key(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  size_t Slot(uint64_t key) const { return (key * 0x9e3779b97f4a7c15u) >> shift_; }

  std::vector<Entry> entries_;
  size_t mask_;
  int shift_;
};

// Merges the pair of lowest rank, the leftmost of equals, until none is in the table.
// ids: [count] in, the merged ids out. Returns their number. O(n log n) for long pieces.
size_t MergePairs(const MergeTable& table, int32_t* ids, size_t count);

}  // namespace nibble::data

#endif  // WORKER_DATA_BPE_MERGE_H_
