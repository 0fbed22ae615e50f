#include "worker/data/inspect.h"

#include <algorithm>
#include <limits>

#include "base/status_macros.h"

namespace nibble::data {

absl::StatusOr<SplitInspection> InspectSplit(const SourceConfig& source, Split split) {
  constexpr int64_t kAnyVocabulary = std::numeric_limits<int32_t>::max();
  NIBBLE_ASSIGN_OR_RETURN(const TokenStream stream,
                          TokenStream::Open(source, split, kAnyVocabulary));
  SplitInspection result;
  result.format = stream.format();
  result.files = stream.files();
  result.token_bytes = BytesOf(stream.type());
  result.tokens = stream.tokens();
  result.smallest_id = std::numeric_limits<int32_t>::max();
  int64_t separators = 0;
  int32_t last = -1;
  constexpr int64_t kChunk = 1 << 16;
  std::vector<int32_t> chunk(static_cast<size_t>(std::min(kChunk, stream.tokens())));
  for (int64_t first = 0; first < stream.tokens(); first += kChunk) {
    const int64_t count = std::min(kChunk, stream.tokens() - first);
    NIBBLE_RETURN_IF_ERROR(stream.Read(first, count, chunk.data()));
    for (int64_t i = 0; i < count; ++i) {
      last = chunk[static_cast<size_t>(i)];
      result.smallest_id = std::min(result.smallest_id, last);
      result.largest_id = std::max(result.largest_id, last);
      separators += last == stream.separator() ? 1 : 0;
    }
    if (first == 0) {
      result.first_ids.assign(chunk.begin(), chunk.begin() + std::min<int64_t>(count, 256));
    }
  }
  if (!stream.document_starts().empty()) {
    // An entry at the very end starts nothing.
    result.documents = static_cast<int64_t>(stream.document_starts().size()) -
                       (stream.document_starts().back() == stream.tokens() ? 1 : 0);
  } else if (stream.separator() >= 0) {
    result.documents = separators + (last == stream.separator() ? 0 : 1);
  }
  return result;
}

}  // namespace nibble::data
