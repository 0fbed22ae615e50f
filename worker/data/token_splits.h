// Merge tables of vocabularies that list tokens without saying which pairs made them: any two
// tokens whose bytes together are a token merge to it. Internal to worker/data.
#ifndef WORKER_DATA_TOKEN_SPLITS_H_
#define WORKER_DATA_TOKEN_SPLITS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/data/bpe_merge.h"

namespace nibble::data {

using TokenIndex = absl::flat_hash_map<absl::string_view, int32_t>;

// Ids by bytes; of equal tokens the first. Empty tokens are left out. The keys point into `tokens`.
TokenIndex IndexTokens(const std::vector<std::string>& tokens);

// Every (left, right) of `index` whose concatenation is in `index` too, with the rank of the
// result. ranks: by id, MergeTable::kNoRank for tokens that nothing merges to, as for ids beyond
// it. RESOURCE_EXHAUSTED, before any of the work, where the lengths of the tokens would make it
// unreasonable.
absl::StatusOr<MergeTable> MergesOfAllSplits(const TokenIndex& index,
                                             const std::vector<uint32_t>& ranks);

}  // namespace nibble::data

#endif  // WORKER_DATA_TOKEN_SPLITS_H_
