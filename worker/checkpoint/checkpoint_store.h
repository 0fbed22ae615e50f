// Checkpoints as directories <root>/step-<N> with model.safetensors, manifest.json and, as far as
// they are there, optimizer.safetensors, model.yaml and a tokenizer's files
// (docs/formats/checkpoint.md).
//
// A directory of that name is always complete: everything is written under <root>/step-<N>.tmp,
// fsynced, and renamed. Whether a checkpoint counts is somebody else's decision (a daemon's
// commit).
#ifndef WORKER_CHECKPOINT_CHECKPOINT_STORE_H_
#define WORKER_CHECKPOINT_CHECKPOINT_STORE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/files.h"
#include "worker/checkpoint/manifest.h"
#include "worker/checkpoint/safetensors.h"

namespace nibble::checkpoint {

struct SavedCheckpoint {
  std::string path;             // the directory, in place
  std::string manifest_digest;  // SHA-256 of manifest.json, hex
  int64_t size_bytes = 0;       // of all its files
};

// Gives the values of the tensors of one file, in order and in pieces: writes all of them to
// `writer`.
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  virtual std::vector<TensorInfo> Tensors() const = 0;  // name and shape
  virtual absl::Status WriteTo(SafetensorsWriter& writer) = 0;
};

// A small file of a checkpoint, whole.
struct TextFile {
  std::string name;  // IsCheckpointFile
  std::string contents;
};

struct CheckpointContents {
  TrainingState state;
  TensorSource* model = nullptr;
  TensorSource* optimizer = nullptr;  // null: weights only, nothing to resume from
  std::vector<TextFile> texts;
};

// Writes <root>/step-<state.step>, replacing what a killed attempt left there.
// RESOURCE_EXHAUSTED: disk full (nothing is left behind); others as base/files.h says.
absl::StatusOr<SavedCheckpoint> SaveCheckpoint(const std::string& root,
                                               const CheckpointContents& contents);
// The same into `directory`, whatever its name.
absl::StatusOr<SavedCheckpoint> SaveCheckpointAt(const std::string& directory,
                                                 const CheckpointContents& contents);

// Where the values of a tensor are to lie, in memory of the host.
struct TensorTarget {
  std::string name;
  std::vector<int64_t> shape;
  void* values = nullptr;
};

// One file of an opened checkpoint, mapped. Movable.
class TensorFile {
 public:
  // DATA_LOSS: malformed.
  static absl::StatusOr<TensorFile> Parse(MappedFile file);
  // The same of a file that CopyAndVerify is to verify: its digest (base/xxh3.h PieceDigest), and
  // its name for errors.
  static absl::StatusOr<TensorFile> ParseUnverified(MappedFile file, std::string digest,
                                                    std::string path);
  const SafetensorsHeader& header() const { return header_; }
  // The FP32 values of a tensor, possibly unaligned, valid while the file is. DATA_LOSS: no such
  // tensor, another dtype or another shape. REQUIRES: verified().
  absl::StatusOr<absl::string_view> Values(absl::string_view name,
                                           const std::vector<int64_t>& shape) const;
  // False: of OpenToCopy.
  bool verified() const { return unverified_.empty(); }
  // Copies the values of all targets and verifies the file, reading it once, by `threads` threads
  // (0: all processors). DATA_LOSS: as Values says, and nothing was written; or the file is
  // damaged, and targets may hold anything. REQUIRES: !verified().
  absl::Status CopyAndVerify(const std::vector<TensorTarget>& targets, int threads) const;

 private:
  TensorFile(MappedFile file, SafetensorsHeader header)
      : file_(std::move(file)), header_(std::move(header)) {}
  absl::StatusOr<absl::string_view> Find(absl::string_view name,
                                         const std::vector<int64_t>& shape) const;

  MappedFile file_;
  SafetensorsHeader header_;
  std::string unverified_;  // the digest that is still to be found; empty: verified
  std::string path_;        // where there is one
};

struct OpenCheckpoint {
  Manifest manifest;
  std::string manifest_digest;
  TensorFile model;
  std::optional<TensorFile> optimizer;  // none where the checkpoint has weights only
};

// Reads a checkpoint that was just written back from where it lies, as far as the system lets go of
// its cache, and verifies it. DATA_LOSS: what was written is not what is there.
absl::Status VerifyWritten(const SavedCheckpoint& saved);

// Opens and verifies a checkpoint directory: sizes and digests of all files, the form of both
// tensor files. `expected_digest`: SHA-256 that manifest.json must have; empty for any. Of the
// files the digest that is made for speed is verified, by `threads` threads (0: all processors);
// the SHA-256 only where there is no other.
// NOT_FOUND: no such directory or file. DATA_LOSS: anything in it is not what it should be.
absl::StatusOr<OpenCheckpoint> OpenAndVerify(const std::string& directory,
                                             const std::string& expected_digest, int threads = 0);
// The same, but the tensor files that have the digest made for speed are verified only as their
// values are copied, by TensorFile::CopyAndVerify: for who can have copied in vain.
absl::StatusOr<OpenCheckpoint> OpenToCopy(const std::string& directory,
                                          const std::string& expected_digest);
// As OpenAndVerify, without the optimiser's file, which is neither opened nor verified.
absl::StatusOr<OpenCheckpoint> OpenWeights(const std::string& directory);

// A small file of an opened checkpoint. NOT_FOUND where it has none of that name; DATA_LOSS where
// it is not what the manifest says; RESOURCE_EXHAUSTED over `max_bytes`.
absl::StatusOr<std::string> ReadCheckpointText(const std::string& directory,
                                               const Manifest& manifest, absl::string_view name,
                                               int64_t max_bytes);

// Steps of the complete checkpoints under `root`, newest first; empty where there is no such
// directory. Not verified.
std::vector<int64_t> ListCheckpoints(const std::string& root);
// <root>/step-<N>.
std::string CheckpointPath(const std::string& root, int64_t step);
// Removes what killed writers left under `root`: *.tmp.
absl::Status RemoveTemporaries(const std::string& root);

}  // namespace nibble::checkpoint

#endif  // WORKER_CHECKPOINT_CHECKPOINT_STORE_H_
