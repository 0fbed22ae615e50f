// The merging half of byte-pair training. Internal to worker/data.
#ifndef WORKER_DATA_PAIR_MERGER_H_
#define WORKER_DATA_PAIR_MERGER_H_

#include <cstdint>
#include <queue>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"

namespace nibble::data {

// Counts of pairs are kept up to date piece by piece, so that a merge costs the pieces it is in.
class PairMerger {
 public:
  // tokens: by id, as bytes, without merges yet.
  explicit PairMerger(std::vector<std::string> tokens) : tokens_(std::move(tokens)) {}

  // A distinct piece of text, as ids, and how often it comes. Before the first merge.
  void AddPiece(const std::vector<int32_t>& ids, int64_t count);
  // Counts all pairs. Once, after the last piece.
  void Start();

  struct Pair {
    int32_t left = -1;
    int32_t right = -1;
  };
  // Merges the best pair, whose token becomes tokens().back(). False where none is left.
  bool MergeBest(Pair* merged);

  const std::vector<std::string>& tokens() const { return tokens_; }

 private:
  struct Piece {
    uint64_t begin;  // in ids_
    uint32_t length;
    int64_t count;
  };
  struct PairState {
    int64_t count = 0;
    // Pieces that have or had the pair; those pieces' numbers never fall.
    std::vector<uint32_t> pieces;
  };
  struct Candidate {
    int64_t count;
    Pair pair;
  };
  // std::priority_queue's order: the greatest comes first.
  struct Less {
    const std::vector<std::string>* tokens;
    bool operator()(const Candidate& a, const Candidate& b) const;
  };

  static uint64_t Key(Pair pair) {
    return static_cast<uint64_t>(static_cast<uint32_t>(pair.left)) << 32 |
           static_cast<uint32_t>(pair.right);
  }
  void CountPairs(uint32_t piece, int64_t sign, bool remember);
  void MergeInPiece(uint32_t piece, Pair pair, int32_t merged);

  std::vector<std::string> tokens_;
  std::vector<int32_t> ids_;
  std::vector<Piece> pieces_;
  absl::flat_hash_map<uint64_t, PairState> pairs_;
  std::priority_queue<Candidate, std::vector<Candidate>, Less> queue_{Less{&tokens_}};
  std::vector<uint64_t> new_pairs_;
};

}  // namespace nibble::data

#endif  // WORKER_DATA_PAIR_MERGER_H_
