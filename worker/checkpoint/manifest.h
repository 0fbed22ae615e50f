// manifest.json of a checkpoint: what the checkpoint is, and the size and digests of each of its
// files. Its own SHA-256 identifies the checkpoint. It holds no time, so that the same training
// state gives the same manifest. Format: docs/formats/checkpoint.md.
#ifndef WORKER_CHECKPOINT_MANIFEST_H_
#define WORKER_CHECKPOINT_MANIFEST_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace nibble::checkpoint {

// Version 1 has no xxh3.
inline constexpr int64_t kFormatVersion = 2;
inline constexpr int64_t kMaxManifestBytes = 256 * 1024;
inline constexpr char kManifestFile[] = "manifest.json";
inline constexpr char kModelFile[] = "model.safetensors";
inline constexpr char kOptimizerFile[] = "optimizer.safetensors";
inline constexpr char kModelDescriptionFile[] = "model.yaml";

// Whether a checkpoint may hold a file of this name: one of the three above, or a tokenizer's
// ("tokenizer.bin", "tokenizer.model", "tokenizer.json", "tokenizer.tiktoken", "vocab.json",
// "merges.txt").
bool IsCheckpointFile(absl::string_view name);

// A batch that was judged and left out: samples from data_position on.
struct SkippedBatch {
  int64_t step = 0;  // that it would have been, from 1
  int64_t data_position = 0;

  bool operator==(const SkippedBatch&) const = default;
};

// A linear layer that computes in a higher precision than its policy says, in steps first to last.
struct RaisedLayer {
  int64_t layer = 0;  // its number in the policy
  int64_t first_step = 0;
  int64_t last_step = 0;

  bool operator==(const RaisedLayer&) const = default;
};

// What training safety has done to a run and what it will judge by (docs/training_safety.md): with
// it a resumed run does what the run would have done.
struct SafetyState {
  static constexpr size_t kMaxSkipped = 1000;
  static constexpr size_t kMaxWindow = 512;
  static constexpr size_t kMaxRaised = 256;

  std::vector<SkippedBatch> skipped;  // oldest first
  int64_t rollbacks = 0;              // since the last pause
  std::vector<double> losses;         // of the steps before, oldest first
  std::vector<double> gradient_norms;
  std::vector<RaisedLayer> raised;

  bool operator==(const SafetyState&) const = default;
};

// Where a run stands. Random numbers need no state of their own: they are functions of seed and
// step.
struct TrainingState {
  int64_t step = 0;           // updates done
  int64_t tokens = 0;         // trained
  int64_t data_position = 0;  // samples read from the shuffled stream
  uint64_t seed = 0;
  std::string config_digest;
  // Over the steps that count for the run's result: sum of their losses in step order.
  double loss_sum = 0;
  int64_t loss_count = 0;
  // In a manifest only where it is not as at the start.
  SafetyState safety;

  bool operator==(const TrainingState&) const = default;
};

struct ManifestFile {
  std::string name;  // a plain name, in the checkpoint's directory
  int64_t size_bytes = 0;
  std::string sha256;  // anybody can check it
  std::string xxh3;    // base/xxh3.h PieceDigest: what loading verifies; empty in version 1
};

struct Manifest {
  int64_t format_version = kFormatVersion;
  TrainingState state;
  std::vector<ManifestFile> files;

  // Null where the checkpoint has no such file.
  const ManifestFile* Find(absl::string_view name) const;
};

// The state by itself, as a snapshot has it; the same errors as below.
std::string StateToJson(const TrainingState& state);
absl::StatusOr<TrainingState> StateFromJson(absl::string_view text);

std::string ManifestToJson(const Manifest& manifest);

// DATA_LOSS: not such a document: malformed, unknown version, a missing, repeated, unknown or
// wrong field, a file that no checkpoint holds, no model.safetensors. Never trusts the text.
absl::StatusOr<Manifest> ManifestFromJson(absl::string_view text);

}  // namespace nibble::checkpoint

#endif  // WORKER_CHECKPOINT_MANIFEST_H_
