#include "worker/data/bpe_merge.h"

#include <algorithm>
#include <queue>

namespace nibble::data {
namespace {

using Merge = MergeTable::Merge;

// Up to here scanning all pairs for the best beats a heap.
constexpr size_t kScanLimit = 64;

size_t MergeByScan(const MergeTable& table, int32_t* ids, size_t count) {
  Merge merges[kScanLimit];  // of ids[i] and ids[i + 1]
  for (size_t i = 0; i + 1 < count; ++i) merges[i] = table.Find(ids[i], ids[i + 1]);
  while (count > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < count; ++i) {
      if (merges[i].rank < merges[best].rank) best = i;
    }
    if (merges[best].rank == MergeTable::kNoRank) break;
    ids[best] = merges[best].id;
    std::copy(ids + best + 2, ids + count, ids + best + 1);
    std::copy(merges + best + 1, merges + count - 1, merges + best);
    --count;
    if (best > 0) merges[best - 1] = table.Find(ids[best - 1], ids[best]);
    if (best + 1 < count) merges[best] = table.Find(ids[best], ids[best + 1]);
  }
  return count;
}

// A pair that was mergeable when it was queued; stale where either id has changed since.
struct Candidate {
  uint32_t rank;
  uint32_t position;
  int32_t left;
  int32_t right;
  int32_t merged;
  bool operator<(const Candidate& other) const {  // std::priority_queue: largest first
    return rank != other.rank ? rank > other.rank : position > other.position;
  }
};

size_t MergeByHeap(const MergeTable& table, int32_t* ids, size_t count) {
  constexpr uint32_t kNone = 0xffffffff;
  std::vector<uint32_t> next(count);
  std::vector<uint32_t> previous(count);
  for (size_t i = 0; i < count; ++i) {
    next[i] = i + 1 < count ? static_cast<uint32_t>(i + 1) : kNone;
    previous[i] = i > 0 ? static_cast<uint32_t>(i - 1) : kNone;
  }
  std::priority_queue<Candidate> queue;
  const auto push = [&](uint32_t position) {
    if (position == kNone || next[position] == kNone) return;
    const int32_t right = ids[next[position]];
    const Merge merge = table.Find(ids[position], right);
    if (merge.rank == MergeTable::kNoRank) return;
    queue.push({merge.rank, position, ids[position], right, merge.id});
  };
  for (size_t i = 0; i + 1 < count; ++i) push(static_cast<uint32_t>(i));
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    const uint32_t right = next[best.position];
    if (ids[best.position] != best.left || right == kNone || ids[right] != best.right) continue;
    ids[best.position] = best.merged;
    ids[right] = -1;  // gone: no candidate names it
    next[best.position] = next[right];
    if (next[right] != kNone) previous[next[right]] = best.position;
    push(previous[best.position]);
    push(best.position);
  }
  size_t kept = 0;
  for (uint32_t i = 0; i != kNone; i = next[i]) ids[kept++] = ids[i];
  return kept;
}

}  // namespace

MergeTable::MergeTable(size_t merges) {
  size_t slots = 16;
  int bits = 4;
  while (slots < 2 * merges + 2) {
    slots *= 2;
    ++bits;
  }
  entries_.resize(slots);
  mask_ = slots - 1;
  shift_ = 64 - bits;
}

bool MergeTable::Insert(int32_t left, int32_t right, Merge merge) {
  const uint64_t key = Key(left, right);
  size_t slot = Slot(key);
  while (entries_[slot].key != kEmpty) {
    if (entries_[slot].key == key) return false;
    slot = (slot + 1) & mask_;
  }
  entries_[slot] = {key, merge};
  return true;
}

size_t MergePairs(const MergeTable& table, int32_t* ids, size_t count) {
  if (count < 2) return count;
  return count <= kScanLimit ? MergeByScan(table, ids, count) : MergeByHeap(table, ids, count);
}

}  // namespace nibble::data
