// Learns a byte-level byte-pair encoding from text: what `nibble data train-tokenizer` does.
//
// Pieces of text come from GPT-2's pre-tokenizer. The pair of neighbouring tokens that is most
// frequent over all pieces becomes a token, again and again; of equally frequent pairs the one
// whose left token, then right token, is greater as a string of bytes. So the result depends on the
// text alone.
#ifndef WORKER_DATA_BPE_TRAINER_H_
#define WORKER_DATA_BPE_TRAINER_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/data/prepare.h"

namespace nibble::data {

struct TrainTokenizerOptions {
  // As in PrepareOptions.
  std::vector<std::string> inputs;
  InputFormat format = InputFormat::kAuto;
  std::string json_field = "text";
  std::string document_separator;

  // <|endoftext|> (id 0), the 256 bytes, and a token for every merge: 257 to 2^20.
  int32_t vocab_size = 0;
  // Made where it is missing; vocab.json and merges.txt go there.
  std::string output_directory;
  // Replace those two files where they are there.
  bool overwrite = false;
};

struct TrainTokenizerProgress {
  int64_t bytes_done = 0;  // of the input, compressed as it is
  int64_t bytes_total = 0;
  int64_t merges_done = 0;  // 0 while the input is read
  int64_t merges_total = 0;
};

struct TrainTokenizerResult {
  int32_t vocab_size = 0;  // less than asked for where no pair was left to merge
  int64_t text_bytes = 0;
  int64_t distinct_pieces = 0;
};

// Called now and then, from the calling thread; an error status stops the work.
using TrainTokenizerCallback = std::function<absl::Status(const TrainTokenizerProgress&)>;

// Errors of the inputs as PrepareDataset; also RESOURCE_EXHAUSTED: distinct pieces of over 2 GiB.
// ALREADY_EXISTS: an output file. Memory: some 40 bytes for each byte of a distinct piece.
absl::StatusOr<TrainTokenizerResult> TrainTokenizer(const TrainTokenizerOptions& options,
                                                    const TrainTokenizerCallback& progress);

}  // namespace nibble::data

#endif  // WORKER_DATA_BPE_TRAINER_H_
