#include "worker/data/pair_merger.h"

#include <algorithm>
#include <utility>

namespace nibble::data {

bool PairMerger::Less::operator()(const Candidate& a, const Candidate& b) const {
  if (a.count != b.count) return a.count < b.count;
  // std::string compares as unsigned bytes.
  const std::string& a_left = (*tokens)[static_cast<size_t>(a.pair.left)];
  const std::string& b_left = (*tokens)[static_cast<size_t>(b.pair.left)];
  const int left = a_left.compare(b_left);
  if (left != 0) return left < 0;
  return (*tokens)[static_cast<size_t>(a.pair.right)] <
         (*tokens)[static_cast<size_t>(b.pair.right)];
}

void PairMerger::AddPiece(const std::vector<int32_t>& ids, int64_t count) {
  if (ids.size() < 2) return;
  pieces_.push_back({ids_.size(), static_cast<uint32_t>(ids.size()), count});
  ids_.insert(ids_.end(), ids.begin(), ids.end());
}

// Adds (sign 1) or takes away (-1) the pairs of a piece.
void PairMerger::CountPairs(uint32_t piece, int64_t sign, bool remember) {
  const Piece& p = pieces_[piece];
  const int32_t* ids = ids_.data() + p.begin;
  for (uint32_t i = 0; i + 1 < p.length; ++i) {
    const uint64_t key = Key({ids[i], ids[i + 1]});
    PairState& state = pairs_[key];
    if (remember && state.count == 0 && state.pieces.empty()) new_pairs_.push_back(key);
    state.count += sign * p.count;
    if (remember && (state.pieces.empty() || state.pieces.back() != piece)) {
      state.pieces.push_back(piece);
    }
  }
}

void PairMerger::Start() {
  for (uint32_t piece = 0; piece < pieces_.size(); ++piece) {
    CountPairs(piece, 1, /*remember=*/true);
  }
  for (const uint64_t key : new_pairs_) {
    queue_.push({pairs_[key].count,
                 {static_cast<int32_t>(key >> 32), static_cast<int32_t>(key & 0xffffffff)}});
  }
  new_pairs_.clear();
}

void PairMerger::MergeInPiece(uint32_t piece, Pair pair, int32_t merged) {
  int32_t* ids = ids_.data() + pieces_[piece].begin;
  const uint32_t length = pieces_[piece].length;
  uint32_t first = 0;
  while (first + 1 < length && (ids[first] != pair.left || ids[first + 1] != pair.right)) ++first;
  if (first + 1 >= length) return;  // an earlier merge took it
  CountPairs(piece, -1, /*remember=*/false);
  uint32_t kept = first;
  for (uint32_t i = first; i < length;) {
    if (i + 1 < length && ids[i] == pair.left && ids[i + 1] == pair.right) {
      ids[kept++] = merged;
      i += 2;
    } else {
      ids[kept++] = ids[i++];
    }
  }
  pieces_[piece].length = kept;
  // Only pairs with the new token are new to the piece, but the list of an old pair may name the
  // piece twice: that costs a look, no more.
  const int32_t* after = ids_.data() + pieces_[piece].begin;
  for (uint32_t i = 0; i + 1 < kept; ++i) {
    const uint64_t key = Key({after[i], after[i + 1]});
    PairState& state = pairs_[key];
    state.count += pieces_[piece].count;
    if (after[i] != merged && after[i + 1] != merged) continue;
    if (state.pieces.empty()) new_pairs_.push_back(key);
    if (state.pieces.empty() || state.pieces.back() != piece) state.pieces.push_back(piece);
  }
}

bool PairMerger::MergeBest(Pair* merged) {
  while (!queue_.empty()) {
    const Candidate best = queue_.top();
    queue_.pop();
    const auto found = pairs_.find(Key(best.pair));
    if (found == pairs_.end() || found->second.count == 0) continue;
    if (found->second.count != best.count) {  // it has fallen since it was queued
      queue_.push({found->second.count, best.pair});
      continue;
    }
    const auto id = static_cast<int32_t>(tokens_.size());
    tokens_.push_back(tokens_[static_cast<size_t>(best.pair.left)] +
                      tokens_[static_cast<size_t>(best.pair.right)]);
    const std::vector<uint32_t> pieces = std::move(found->second.pieces);
    pairs_.erase(found);
    for (const uint32_t piece : pieces) MergeInPiece(piece, best.pair, id);
    pairs_.erase(Key(best.pair));
    for (const uint64_t key : new_pairs_) {
      queue_.push({pairs_[key].count,
                   {static_cast<int32_t>(key >> 32), static_cast<int32_t>(key & 0xffffffff)}});
    }
    new_pairs_.clear();
    *merged = best.pair;
    return true;
  }
  return false;
}

}  // namespace nibble::data
