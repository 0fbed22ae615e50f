// A checkpoint opened to be used: its model on a device, and its tokenizer.
#ifndef WORKER_COMMANDS_LOADED_MODEL_H_
#define WORKER_COMMANDS_LOADED_MODEL_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "worker/checkpoint/checkpoint_store.h"
#include "worker/commands/commands.h"
#include "worker/data/tokenizer.h"
#include "worker/inference/decoder.h"
#include "worker/model/weights.h"
#include "worker/model_description.h"

namespace nibble::worker {

struct OpenedCheckpoint {
  std::string directory;
  checkpoint::OpenCheckpoint files;
  ModelDescription description;
};

// NOT_FOUND: no checkpoint there, or one without model.yaml; otherwise as checkpoint::OpenWeights
// and ParseModelDescription say.
absl::StatusOr<OpenedCheckpoint> OpenDescribedCheckpoint(const std::string& directory);

// The tokenizer at `path`, or where that is empty the checkpoint's own: its tokenizer files, or
// bytes for a vocabulary of 256. NOT_FOUND: it has none; INVALID_ARGUMENT: it has more ids than the
// model's vocabulary; otherwise as data::LoadTokenizer says.
absl::StatusOr<std::unique_ptr<data::Tokenizer>> TokenizerOf(const OpenedCheckpoint& checkpoint,
                                                             const std::string& path);

// Files of a tokenizer at `path`, as a checkpoint holds them. Errors as data::ReadTokenizerFiles.
absl::StatusOr<std::vector<checkpoint::TextFile>> ReadTokenizerFiles(const std::string& path);
// The same of a checkpoint: empty where it has none.
absl::StatusOr<std::vector<checkpoint::TextFile>> TokenizerFilesOf(
    const OpenedCheckpoint& checkpoint);

// Not movable: its parts refer to each other.
class LoadedModel {
 public:
  static absl::StatusOr<std::unique_ptr<LoadedModel>> Load(const OpenedCheckpoint& checkpoint,
                                                           const RunOptions& options);
  // A decoder for sequences of up to `capacity` tokens. The model outlives it.
  absl::StatusOr<std::unique_ptr<inference::Decoder>> MakeDecoder(int64_t capacity) const;

 private:
  LoadedModel(const model::ModelConfig& config, double logit_softcap,
              inference::Precision precision)
      : config_(config), table_(config), logit_softcap_(logit_softcap), precision_(precision) {}

  const model::ModelConfig config_;
  const model::ParameterTable table_;
  const double logit_softcap_;
  const inference::Precision precision_;
  std::unique_ptr<kernels::Backend> backend_;
  std::unique_ptr<model::Weights> weights_;
};

}  // namespace nibble::worker

#endif  // WORKER_COMMANDS_LOADED_MODEL_H_
