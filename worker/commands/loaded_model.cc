#include "worker/commands/loaded_model.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/status_macros.h"
#include "worker/inference/load_weights.h"

namespace nibble::worker {
namespace {

constexpr int64_t kMaxDescriptionBytes = 64 << 10;
constexpr int64_t kMaxTokenizerBytes = 64 << 20;
constexpr const char* kTokenizerFiles[] = {"tokenizer.bin",  "tokenizer.model",
                                           "tokenizer.json", "tokenizer.tiktoken",
                                           "vocab.json",     "merges.txt"};

absl::StatusOr<std::unique_ptr<data::Tokenizer>> CheckpointTokenizer(
    const OpenedCheckpoint& checkpoint) {
  for (const char* name : kTokenizerFiles) {
    if (checkpoint.files.manifest.Find(name) == nullptr) continue;
    return data::LoadTokenizer(checkpoint.directory);
  }
  if (checkpoint.description.model.vocab_size() == 256) return data::MakeByteTokenizer();
  return absl::NotFoundError(absl::StrCat("the checkpoint in ", checkpoint.directory,
                                          " has no tokenizer; give one with --tokenizer"));
}

}  // namespace

absl::StatusOr<OpenedCheckpoint> OpenDescribedCheckpoint(const std::string& directory) {
  NIBBLE_ASSIGN_OR_RETURN(checkpoint::OpenCheckpoint files, checkpoint::OpenWeights(directory));
  NIBBLE_ASSIGN_OR_RETURN(
      const std::string text,
      checkpoint::ReadCheckpointText(directory, files.manifest, checkpoint::kModelDescriptionFile,
                                     kMaxDescriptionBytes));
  absl::StatusOr<ModelDescription> description = ParseModelDescription(text);
  if (!description.ok()) {
    return absl::Status(description.status().code(),
                        absl::StrCat(JoinPath(directory, checkpoint::kModelDescriptionFile), ": ",
                                     description.status().message()));
  }
  return OpenedCheckpoint{directory, std::move(files), *std::move(description)};
}

absl::StatusOr<std::unique_ptr<data::Tokenizer>> TokenizerOf(const OpenedCheckpoint& checkpoint,
                                                             const std::string& path) {
  absl::StatusOr<std::unique_ptr<data::Tokenizer>> tokenizer =
      path.empty() ? CheckpointTokenizer(checkpoint) : data::LoadTokenizer(path);
  if (!tokenizer.ok()) return tokenizer;
  const int32_t vocab_size = checkpoint.description.model.vocab_size();
  if ((*tokenizer)->vocab_size() > vocab_size) {
    return absl::InvalidArgumentError(absl::StrCat("the tokenizer has ", (*tokenizer)->vocab_size(),
                                                   " ids, the model's vocabulary ", vocab_size));
  }
  return tokenizer;
}

absl::StatusOr<std::vector<checkpoint::TextFile>> ReadTokenizerFiles(const std::string& path) {
  NIBBLE_ASSIGN_OR_RETURN(std::vector<data::NamedFile> read, data::ReadTokenizerFiles(path));
  std::vector<checkpoint::TextFile> files;
  for (data::NamedFile& file : read) {
    files.push_back({std::move(file.name), std::move(file.contents)});
  }
  return files;
}

absl::StatusOr<std::vector<checkpoint::TextFile>> TokenizerFilesOf(
    const OpenedCheckpoint& checkpoint) {
  std::vector<checkpoint::TextFile> files;
  for (const char* name : kTokenizerFiles) {
    if (checkpoint.files.manifest.Find(name) == nullptr) continue;
    NIBBLE_ASSIGN_OR_RETURN(std::string text, checkpoint::ReadCheckpointText(
                                                  checkpoint.directory, checkpoint.files.manifest,
                                                  name, kMaxTokenizerBytes));
    files.push_back({name, std::move(text)});
  }
  return files;
}

absl::StatusOr<std::unique_ptr<LoadedModel>> LoadedModel::Load(const OpenedCheckpoint& checkpoint,
                                                               const RunOptions& options) {
  NIBBLE_ASSIGN_OR_RETURN(const model::ModelConfig config, ModelConfigOf(checkpoint.description));
  const bool bf16 = options.precision == "bf16";
  std::unique_ptr<LoadedModel> loaded(
      new LoadedModel(config, checkpoint.description.logit_softcap,
                      bf16 ? inference::Precision::kBF16 : inference::Precision::kF32));
  kernels::BackendOptions backend;
  backend.threads = options.threads;
  NIBBLE_ASSIGN_OR_RETURN(loaded->backend_, kernels::CreateBackend(options.backend, backend));
  absl::StatusOr<std::unique_ptr<model::Weights>> weights =
      inference::LoadWeights(checkpoint.files.model, loaded->table_, bf16, *loaded->backend_);
  if (!weights.ok()) {
    return absl::Status(weights.status().code(),
                        absl::StrCat(checkpoint.directory, ": ", weights.status().message()));
  }
  loaded->weights_ = *std::move(weights);
  return loaded;
}

absl::StatusOr<std::unique_ptr<inference::Decoder>> LoadedModel::MakeDecoder(
    int64_t capacity) const {
  inference::DecoderOptions options;
  options.precision = precision_;
  options.capacity = capacity;
  options.logit_softcap = logit_softcap_;
  return inference::Decoder::Create(config_, *weights_, options, *backend_);
}

}  // namespace nibble::worker
