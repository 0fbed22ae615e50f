// The trainer's state as checkpoints and as a digest.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "worker/trainer/trainer.h"

namespace nibble::trainer {
namespace {

using model::Parameter;
using model::ParameterTable;

// Names of the moments in a checkpoint, as torch.optim.AdamW calls them.
constexpr char kFirstMomentSuffix[] = ".exp_avg";
constexpr char kSecondMomentSuffix[] = ".exp_avg_sq";

struct FlatBuffer {
  const float* device;
  const char* suffix;
};

// Calls visit(values, count) for every piece of a flat device buffer, parameter by parameter.
template <typename Visitor>
absl::Status ReadFlat(kernels::Backend& backend, const ParameterTable& table, const float* device,
                      std::vector<float>& staging, Visitor visit) {
  staging.resize(model::kStagingElements);
  for (const Parameter& parameter : table.parameters()) {
    for (int64_t first = 0; first < parameter.size; first += model::kStagingElements) {
      const int64_t count = std::min(model::kStagingElements, parameter.size - first);
      backend.CopyToHost(staging.data(), device + parameter.offset + first, count * 4);
      NIBBLE_RETURN_IF_ERROR(backend.Wait(backend.Record()));
      NIBBLE_RETURN_IF_ERROR(visit(staging.data(), count));
    }
  }
  return absl::OkStatus();
}

class FlatTensors : public checkpoint::TensorSource {
 public:
  FlatTensors(kernels::Backend& backend, const ParameterTable& table,
              std::vector<FlatBuffer> buffers)
      : backend_(backend), table_(table), buffers_(std::move(buffers)) {}

  std::vector<checkpoint::TensorInfo> Tensors() const override {
    std::vector<checkpoint::TensorInfo> tensors;
    for (const FlatBuffer& buffer : buffers_) {
      for (const Parameter& parameter : table_.parameters()) {
        checkpoint::TensorInfo& tensor = tensors.emplace_back();
        tensor.name = absl::StrCat(parameter.name, buffer.suffix);
        tensor.shape = parameter.shape;
      }
    }
    return tensors;
  }

  absl::Status WriteTo(checkpoint::SafetensorsWriter& writer) override {
    std::vector<float> staging;
    for (const FlatBuffer& buffer : buffers_) {
      NIBBLE_RETURN_IF_ERROR(ReadFlat(
          backend_, table_, buffer.device, staging,
          [&](const float* values, int64_t count) { return writer.Append(values, count); }));
    }
    return absl::OkStatus();
  }

 private:
  kernels::Backend& backend_;
  const ParameterTable& table_;
  const std::vector<FlatBuffer> buffers_;
};

}  // namespace

absl::Status Trainer::Initialise() {
  state_.step = state_.tokens = state_.data_position = 0;
  state_.loss_sum = 0;
  state_.loss_count = 0;
  backend_.Zero(optimizer_->first_moment(), table_.flat_size() * 4);
  backend_.Zero(optimizer_->second_moment(), table_.flat_size() * 4);
  return weights_->Initialise(config_.seed);
}

absl::Status Trainer::LoadFlat(const checkpoint::TensorFile& file, const std::string& suffix,
                               float* device) const {
  for (const Parameter& parameter : table_.parameters()) {
    NIBBLE_ASSIGN_OR_RETURN(const absl::string_view values,
                            file.Values(absl::StrCat(parameter.name, suffix), parameter.shape));
    backend_.CopyToDevice(device + parameter.offset, values.data(),
                          static_cast<int64_t>(values.size()));
  }
  return absl::OkStatus();
}

absl::Status Trainer::InitialiseFrom(const std::string& directory) {
  NIBBLE_RETURN_IF_ERROR(Initialise());
  NIBBLE_ASSIGN_OR_RETURN(const checkpoint::OpenCheckpoint opened,
                          checkpoint::OpenWeights(directory));
  const absl::Status loaded = LoadFlat(opened.model, "", weights_->master());
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
                          checkpoint::OpenAndVerify(directory, manifest_digest));
  if (!opened.optimizer.has_value()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the checkpoint in ", directory,
                     " has no optimiser state: train on from it with training.init_from"));
  }
  const checkpoint::TrainingState& saved = opened.manifest.state;
  if (saved.config_digest != config_.config_digest || saved.seed != config_.seed) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the checkpoint in ", directory, " is of another configuration (its digest is ",
        saved.config_digest, ", this job's ", config_.config_digest, ")"));
  }
  // Compared by division: the manifest's numbers are not ours until they are checked.
  if (saved.step > config_.steps || saved.data_position % config_.batch_size != 0 ||
      saved.data_position / config_.batch_size != saved.step ||
      saved.tokens % model_->step_tokens() != 0 ||
      saved.tokens / model_->step_tokens() != saved.step || saved.loss_count > saved.step) {
    return absl::DataLossError(
        absl::StrCat("the checkpoint in ", directory,
                     " has a step, token and data position that do not belong together"));
  }
  NIBBLE_RETURN_IF_ERROR(LoadFlat(opened.model, "", weights_->master()));
  NIBBLE_RETURN_IF_ERROR(
      LoadFlat(*opened.optimizer, kFirstMomentSuffix, optimizer_->first_moment()));
  NIBBLE_RETURN_IF_ERROR(
      LoadFlat(*opened.optimizer, kSecondMomentSuffix, optimizer_->second_moment()));
  weights_->RefreshBf16();
  state_ = saved;
  return backend_.Synchronize();
}

absl::StatusOr<checkpoint::SavedCheckpoint> Trainer::Save() {
  FlatTensors model(backend_, table_, {{weights_->master(), ""}});
  FlatTensors moments(backend_, table_,
                      {{optimizer_->first_moment(), kFirstMomentSuffix},
                       {optimizer_->second_moment(), kSecondMomentSuffix}});
  checkpoint::CheckpointContents contents;
  contents.state = state_;
  contents.model = &model;
  contents.optimizer = &moments;
  if (!config_.model_description.empty()) {
    contents.texts.push_back({checkpoint::kModelDescriptionFile, config_.model_description});
  }
  return checkpoint::SaveCheckpoint(config_.output_directory, contents);
}

absl::StatusOr<std::string> Trainer::Digest() {
  Sha256 sha256;
  std::vector<float> staging;
  for (const float* buffer : {static_cast<const float*>(weights_->master()),
                              static_cast<const float*>(optimizer_->first_moment()),
                              static_cast<const float*>(optimizer_->second_moment())}) {
    NIBBLE_RETURN_IF_ERROR(
        ReadFlat(backend_, table_, buffer, staging, [&](const float* values, int64_t count) {
          sha256.Update(values, static_cast<size_t>(count) * 4);
          return absl::OkStatus();
        }));
  }
  return sha256.HexDigest();
}

}  // namespace nibble::trainer
