// Text files to a directory of token shards (docs/formats/token_shards.md): what
// `nibble data prepare` does.
#ifndef WORKER_DATA_PREPARE_H_
#define WORKER_DATA_PREPARE_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace nibble::data {

// Largest document, as text.
inline constexpr int64_t kMaxDocumentTextBytes = int64_t{128} << 20;

enum class InputFormat {
  kAuto,   // by name: .jsonl and .ndjson (before .gz or .zst) are JSON lines, everything else text
  kText,   // a file is a document, or several where document_separator is set
  kJsonl,  // a line is a JSON object whose json_field is a document
};

// Which documents are held out. Copies of one document are always on one side.
enum class SplitMethod {
  kLast,  // whole documents from the end, at least validation_fraction of the bytes
  kHash,  // every document by a hash of its text and split_seed: about validation_fraction of them
};

struct PrepareOptions {
  // Files, in order: plain, gzip, bzip2 or Zstandard, told by their first bytes. At least one.
  std::vector<std::string> inputs;
  InputFormat format = InputFormat::kAuto;
  std::string json_field = "text";
  // Text between documents of one text file, for example "\n\n" or "<|endoftext|>". Empty: none.
  std::string document_separator;

  // "bytes", "gpt2" with both files below, or what LoadTokenizer takes.
  std::string tokenizer = "bytes";
  std::string vocab_file;
  std::string merges_file;

  // 0 <= fraction < 1; 0 means no validation split.
  double validation_fraction = 0.05;
  SplitMethod split = SplitMethod::kLast;
  uint64_t split_seed = 0;  // kHash

  // Directory to make. Its parents are made too.
  std::string output_directory;
  // Replace the directory where it exists and holds a dataset.
  bool overwrite = false;
  // Tokens of one shard file at most.
  int64_t shard_tokens = int64_t{1} << 26;
  // That tokenise; 0: as many as there are processors. The dataset does not depend on it.
  int threads = 0;
  // Do not go on from what an interrupted preparation left.
  bool restart = false;
  // Text between two states from which another process can go on.
  int64_t save_bytes = int64_t{64} << 20;
};

struct PrepareProgress {
  // Input bytes read, compressed as they are, over all passes (kLast reads everything twice).
  int64_t bytes_done = 0;
  int64_t bytes_total = 0;
  int64_t documents = 0;  // tokenised so far
  int64_t tokens = 0;
};

struct SplitSummary {
  int64_t documents = 0;
  int64_t bytes = 0;   // of text
  int64_t tokens = 0;  // with a separator after every document
  int64_t files = 0;
};

struct PrepareResult {
  SplitSummary train;
  SplitSummary validation;  // all 0 where there is none
  int32_t vocab_size = 0;
  int64_t dropped_nul_bytes = 0;
  int64_t empty_documents = 0;    // skipped
  int64_t resumed_documents = 0;  // that an interrupted preparation had done
};

// Called every few hundred KiB of input and at the end, from the calling thread. An error status
// stops the work, which then leaves nothing behind. (A process that is killed leaves
// <output_directory>.partial, from which the next one goes on.)
using PrepareCallback = std::function<absl::Status(const PrepareProgress&)>;

// Reads the inputs in a stream (memory: 32 MiB of text or one document, five times that in all, a
// tokenizer a thread, and some 40 bytes a document for kLast), writes into a directory beside the
// output, fsyncs, renames. After an interruption the same call goes on, and the dataset is the same
// to the byte. `progress` may be empty.
// INVALID_ARGUMENT: options, tokenizer files, or a malformed line (with file and line), or a split
// that leaves no training document. NOT_FOUND: an input. ALREADY_EXISTS: the output. DATA_LOSS: a
// damaged or truncated compressed input. RESOURCE_EXHAUSTED: a document over
// kMaxDocumentTextBytes, more than 8 million documents with kLast, or the disk is full. ABORTED: an
// input changed between the passes. FAILED_PRECONDITION: another process prepares the same output,
// or an interrupted one was of other inputs or options.
absl::StatusOr<PrepareResult> PrepareDataset(const PrepareOptions& options,
                                             const PrepareCallback& progress);

}  // namespace nibble::data

#endif  // WORKER_DATA_PREPARE_H_
