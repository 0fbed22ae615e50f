// What token files hold: what `nibble data inspect` shows.
#ifndef WORKER_DATA_INSPECT_H_
#define WORKER_DATA_INSPECT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/data/data_config.h"
#include "worker/data/token_stream.h"

namespace nibble::data {

struct SplitInspection {
  std::string format;  // "nibble", "llmc", "megatron", "raw_u16" or "raw_u32"
  int64_t files = 0;
  int64_t token_bytes = 0;  // of one token
  int64_t tokens = 0;
  int64_t documents = -1;  // -1: nothing says where they end
  int32_t smallest_id = 0;
  int32_t largest_id = 0;
  std::vector<int32_t> first_ids;  // at most 256
};

// Reads every token. Errors as TokenStream::Open.
absl::StatusOr<SplitInspection> InspectSplit(const SourceConfig& source, Split split);

}  // namespace nibble::data

#endif  // WORKER_DATA_INSPECT_H_
