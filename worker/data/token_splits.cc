#include "worker/data/token_splits.h"

#include "absl/strings/str_cat.h"

namespace nibble::data {
namespace {

// Looking up both parts of every split costs the square of a token's length. Llama's 32,000 tokens
// come to 2 million, 200,000 tokens of o200k_base to 14 million.
constexpr int64_t kMaxSquares = int64_t{1} << 30;
constexpr size_t kMaxPairs = size_t{1} << 23;

struct Pair {
  int32_t left;
  int32_t right;
  int32_t merged;
};

}  // namespace

TokenIndex IndexTokens(const std::vector<std::string>& tokens) {
  TokenIndex index;
  index.reserve(tokens.size());
  for (size_t id = 0; id < tokens.size(); ++id) {
    if (!tokens[id].empty()) index.try_emplace(tokens[id], static_cast<int32_t>(id));
  }
  return index;
}

absl::StatusOr<MergeTable> MergesOfAllSplits(const TokenIndex& index,
                                             const std::vector<uint32_t>& ranks) {
  int64_t squares = 0;
  for (const auto& [token, id] : index) {
    const auto size = static_cast<int64_t>(token.size());
    if (size >= kMaxSquares || (squares += size * size) > kMaxSquares) {
      return absl::ResourceExhaustedError("the tokens are too long together");
    }
  }
  std::vector<Pair> pairs;
  for (const auto& [token, merged] : index) {
    const auto id = static_cast<size_t>(merged);
    if (id >= ranks.size() || ranks[id] == MergeTable::kNoRank) continue;
    for (size_t cut = 1; cut < token.size(); ++cut) {
      const auto left = index.find(token.substr(0, cut));
      if (left == index.end()) continue;
      const auto right = index.find(token.substr(cut));
      if (right == index.end()) continue;
      if (pairs.size() == kMaxPairs) {
        return absl::ResourceExhaustedError(
            absl::StrCat("over ", kMaxPairs, " pairs of tokens are tokens"));
      }
      pairs.push_back({left->second, right->second, merged});
    }
  }
  MergeTable table(pairs.size());
  for (const Pair& pair : pairs) {
    table.Insert(pair.left, pair.right, {ranks[static_cast<size_t>(pair.merged)], pair.merged});
  }
  return table;
}

}  // namespace nibble::data
