// What a job trains on, as plain values.
#ifndef WORKER_DATA_DATA_CONFIG_H_
#define WORKER_DATA_DATA_CONFIG_H_

#include <cstdint>
#include <string>
#include <vector>

namespace nibble::data {

enum class TokenFormat {
  kAuto,      // told by its files: nibble, llm.c or Megatron
  kNibble,    // a directory that `nibble data prepare` wrote
  kLlmc,      // llm.c's .bin, versions 1 (16 bits a token) and 7 (32 bits)
  kMegatron,  // Megatron's .bin and .idx
  kRawU16,    // nothing but tokens, little-endian, as nanoGPT writes them
  kRawU32,
};

// One source of tokens. Paths: a directory, a file, Megatron's common prefix of both files, or a
// pattern (* ? [ ]) in the last component, which names files in the order of their names. Of a
// directory that is no nibble dataset the training files are *train*.bin, the held-out ones
// *val*.bin.
struct SourceConfig {
  std::string path;             // absolute
  std::string validation_path;  // absolute; empty: what `path` holds of it
  TokenFormat format = TokenFormat::kAuto;
  double weight = 1;  // above 0, relative to the other sources of the phase
  // SHA-256, hex, of the files' bytes in order (of Megatron's pairs, .idx first); empty: unchecked.
  // nibble datasets have their own digests.
  std::string sha256;
  std::string validation_sha256;
  // The id that ends a document, where the files do not say it; -1: none.
  int32_t separator = -1;

  bool operator==(const SourceConfig&) const = default;
};

struct PhaseConfig {
  double share = 1;  // of the run's tokens; the shares of all phases add up to 1
  std::vector<SourceConfig> sources;
};

// How sequences and documents meet.
enum class DocumentMode {
  kJoin,      // documents follow each other; a sequence may hold several
  kMask,      // the same, but the first token of a document is nobody's target
  kSeparate,  // a sequence holds one document or a part of one; what is left of it has no target
};

struct DataConfig {
  std::vector<PhaseConfig> phases;  // at least one
  DocumentMode documents = DocumentMode::kJoin;
};

// How much of a source has been read.
struct SourceProgress {
  std::string path;
  double epochs = 0;  // 1: every sequence once
  int64_t tokens = 0;
};

}  // namespace nibble::data

#endif  // WORKER_DATA_DATA_CONFIG_H_
