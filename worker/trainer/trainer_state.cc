// The trainer's state as checkpoints and as a digest.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "kernels/host_backend.h"
#include "worker/data/tokenizer.h"
#include "worker/trainer/tokenizer_path.h"
#include "worker/trainer/trainer.h"

namespace nibble::trainer {
namespace {

using checkpoint::SavedCheckpoint;
using model::Parameter;
using optimizer::StateTensor;

}  // namespace

absl::Status Trainer::Initialise() {
  state_.step = state_.tokens = state_.data_position = 0;
  state_.safety = {};
  guard_.Restore({});
  ApplyRaised();
  state_.loss_sum = 0;
  state_.loss_count = 0;
  for (const StateTensor& tensor : optimizer_->State()) {
    backend_.Zero(tensor.values, tensor.size * 4);
  }
  return weights_->Initialise(config_.seed);
}

std::vector<StateTensor> Trainer::WeightTensors() const {
  std::vector<StateTensor> tensors;
  for (const Parameter& parameter : table_.parameters()) {
    tensors.push_back(
        {parameter.name, parameter.shape, weights_->master() + parameter.offset, parameter.size});
  }
  return tensors;
}

std::vector<StateTensor> Trainer::AllTensors() const {
  std::vector<StateTensor> tensors = WeightTensors();
  for (StateTensor& tensor : optimizer_->State()) tensors.push_back(std::move(tensor));
  return tensors;
}

// Into memory of the host every byte is read once, to be verified and copied; to another device
// goes what was verified.
absl::StatusOr<checkpoint::OpenCheckpoint> Trainer::OpenToRestore(
    const std::string& directory, const std::string& manifest_digest) const {
  if (kernels::ComputesOnHost(backend_)) {
    return checkpoint::OpenToCopy(directory, manifest_digest);
  }
  return checkpoint::OpenAndVerify(directory, manifest_digest, config_.threads);
}

absl::Status Trainer::Load(const checkpoint::TensorFile& file,
                           const std::vector<StateTensor>& tensors) const {
  if (!file.verified()) {
    std::vector<checkpoint::TensorTarget> targets;
    for (const StateTensor& tensor : tensors) {
      targets.push_back({tensor.name, tensor.shape, tensor.values});
    }
    return file.CopyAndVerify(targets, config_.threads);
  }
  for (const StateTensor& tensor : tensors) {
    NIBBLE_ASSIGN_OR_RETURN(const absl::string_view values, file.Values(tensor.name, tensor.shape));
    backend_.CopyToDevice(tensor.values, values.data(), static_cast<int64_t>(values.size()));
  }
  return absl::OkStatus();
}

absl::Status Trainer::InitialiseFrom(const std::string& directory) {
  NIBBLE_RETURN_IF_ERROR(Initialise());
  NIBBLE_ASSIGN_OR_RETURN(const checkpoint::OpenCheckpoint opened,
                          checkpoint::OpenWeights(directory));
  const absl::Status loaded = Load(opened.model, WeightTensors());
  if (!loaded.ok() || opened.model.header().tensors.size() != table_.parameters().size()) {
    return absl::FailedPreconditionError(absl::StrCat("training.init_from: ", directory,
                                                      " is of another model",
                                                      loaded.ok() ? "" : ": ", loaded.message()));
  }
  weights_->RefreshBf16();
  return backend_.Synchronize();
}

absl::Status Trainer::Restore(const std::string& directory, const std::string& manifest_digest) {
  NIBBLE_ASSIGN_OR_RETURN(const checkpoint::OpenCheckpoint opened,
                          OpenToRestore(directory, manifest_digest));
  if (!opened.optimizer.has_value()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the checkpoint in ", directory,
                     " has no optimiser state: train on from it with training.init_from"));
  }
  const checkpoint::TrainingState& saved = opened.manifest.state;
  NIBBLE_RETURN_IF_ERROR(CheckState(saved, absl::StrCat("the checkpoint in ", directory)));
  NIBBLE_RETURN_IF_ERROR(Load(opened.model, WeightTensors()));
  NIBBLE_RETURN_IF_ERROR(Load(*opened.optimizer, optimizer_->State()));
  weights_->RefreshBf16();
  state_ = saved;
  guard_.Restore(saved.safety);
  ApplyRaised();
  return backend_.Synchronize();
}

absl::Status Trainer::CheckState(const checkpoint::TrainingState& saved,
                                 const std::string& what) const {
  if (saved.config_digest != config_.config_digest || saved.seed != config_.seed) {
    return absl::FailedPreconditionError(
        absl::StrCat(what, " is of another configuration (its digest is ", saved.config_digest,
                     ", this job's ", config_.config_digest, ")"));
  }
  const int64_t skipped = static_cast<int64_t>(saved.safety.skipped.size());
  // Compared by division: the manifest's numbers are not ours until they are checked.
  if (saved.step > config_.steps || saved.data_position % config_.batch_size != 0 ||
      saved.data_position / config_.batch_size - skipped != saved.step ||
      saved.tokens % model_->step_tokens() != 0 ||
      saved.tokens / model_->step_tokens() != saved.step || saved.loss_count > saved.step) {
    return absl::DataLossError(
        absl::StrCat(what, " has a step, token and data position that do not belong together"));
  }
  return absl::OkStatus();
}

absl::Status Trainer::RestoreSnapshot() {
  NIBBLE_ASSIGN_OR_RETURN(const snapshot::Snapshot newest, parts_.memory->Newest());
  NIBBLE_ASSIGN_OR_RETURN(const checkpoint::TrainingState saved,
                          checkpoint::StateFromJson(newest.state));
  NIBBLE_RETURN_IF_ERROR(CheckState(saved, "the snapshot"));
  const std::vector<StateTensor> tensors = AllTensors();
  int64_t bytes = 0;
  for (const StateTensor& tensor : tensors) bytes += tensor.size * 4;
  if (bytes != static_cast<int64_t>(newest.data.size())) {
    return absl::DataLossError("the snapshot is of another model");
  }
  const char* from = newest.data.data();
  for (const StateTensor& tensor : tensors) {
    backend_.CopyToDevice(tensor.values, from, tensor.size * 4);
    from += tensor.size * 4;
  }
  weights_->RefreshBf16();
  state_ = saved;
  guard_.Restore(saved.safety);
  ApplyRaised();
  return backend_.Synchronize();
}

absl::Status Trainer::PrepareSnapshots() {
  NIBBLE_ASSIGN_OR_RETURN(snapshots_,
                          SnapshotTaker::Create(backend_, AllTensors(), *parts_.memory));
  return absl::OkStatus();
}

absl::Status Trainer::StartSnapshot() {
  if (snapshots_ == nullptr) return absl::OkStatus();
  Enter(snapshot::Phase::kSnapshot);
  snapshots_->Finish();
  return snapshots_->Start(StateToSave());
}

absl::Status Trainer::PrepareSaves() {
  if (save_ != nullptr) return absl::OkStatus();
  std::vector<checkpoint::TextFile> texts;
  if (!config_.model_description.empty()) {
    texts.push_back({checkpoint::kModelDescriptionFile, config_.model_description});
  }
  const std::string tokenizer = TokenizerOfRun(config_);
  if (!tokenizer.empty()) {
    NIBBLE_ASSIGN_OR_RETURN(std::vector<data::NamedFile> files,
                            data::ReadTokenizerFiles(tokenizer));
    for (data::NamedFile& file : files) {
      texts.push_back({std::move(file.name), std::move(file.contents)});
    }
  }
  NIBBLE_ASSIGN_OR_RETURN(save_, BackgroundSave::Create(backend_, WeightTensors(),
                                                        optimizer_->State(), std::move(texts)));
  return absl::OkStatus();
}

absl::Status Trainer::StartSave() {
  NIBBLE_RETURN_IF_ERROR(PrepareSaves());
  saving_step_ = state_.step;
  return save_->Start(config_.output_directory, StateToSave());
}

bool Trainer::SaveUnderWay() const { return save_ != nullptr && save_->under_way(); }
bool Trainer::SaveWritten() const { return save_->written(); }
absl::StatusOr<SavedCheckpoint> Trainer::FinishSave() { return save_->Finish(); }

PlannedMemory Trainer::planned_memory() const {
  PlannedMemory memory;
  memory.parameters = table_.parameter_count();
  memory.optimizer_bytes = optimizer_->state_bytes();
  const int64_t bytes_per_element = 4 + 4 + (weights_->bf16() == nullptr ? 0 : 2);
  memory.total_bytes = table_.flat_size() * bytes_per_element + memory.optimizer_bytes +
                       model_->arena_bytes() + (save_ == nullptr ? 0 : save_->copy_bytes());
  return memory;
}

absl::StatusOr<std::string> Trainer::Digest() {
  Sha256 sha256;
  std::vector<float> staging(model::kStagingElements);
  for (const StateTensor& tensor : AllTensors()) {
    for (int64_t first = 0; first < tensor.size; first += model::kStagingElements) {
      const int64_t count = std::min(model::kStagingElements, tensor.size - first);
      backend_.CopyToHost(staging.data(), tensor.values + first, count * 4);
      NIBBLE_RETURN_IF_ERROR(backend_.Wait(backend_.Record()));
      sha256.Update(staging.data(), static_cast<size_t>(count) * 4);
    }
  }
  return sha256.HexDigest();
}

}  // namespace nibble::trainer
