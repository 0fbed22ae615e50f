#include "worker/trainer/background_save.h"

#include <utility>

#include "absl/strings/cord.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "worker/trainer/training_run.h"

namespace nibble::trainer {
namespace {

using optimizer::StateTensor;

int64_t Elements(const std::vector<StateTensor>& tensors) {
  int64_t elements = 0;
  for (const StateTensor& tensor : tensors) elements += tensor.size;
  return elements;
}

}  // namespace

// Tensors whose values lie one after the other in memory of the host.
class BackgroundSave::CopiedTensors : public checkpoint::TensorSource {
 public:
  CopiedTensors(const std::vector<StateTensor>& tensors, const float* values)
      : tensors_(tensors), values_(values) {}

  std::vector<checkpoint::TensorInfo> Tensors() const override {
    std::vector<checkpoint::TensorInfo> infos;
    for (const StateTensor& tensor : tensors_) {
      checkpoint::TensorInfo& info = infos.emplace_back();
      info.name = tensor.name;
      info.shape = tensor.shape;
    }
    return infos;
  }
  absl::Status WriteTo(checkpoint::SafetensorsWriter& writer) override {
    return writer.Append(values_, Elements(tensors_));
  }

 private:
  const std::vector<StateTensor>& tensors_;
  const float* const values_;
};

absl::StatusOr<std::unique_ptr<BackgroundSave>> BackgroundSave::Create(
    kernels::Backend& backend, std::vector<StateTensor> model, std::vector<StateTensor> optimizer,
    std::vector<checkpoint::TextFile> texts) {
  std::unique_ptr<BackgroundSave> save(
      new BackgroundSave(backend, std::move(model), std::move(optimizer), std::move(texts)));
  const int64_t elements = Elements(save->model_) + Elements(save->optimizer_);
  NIBBLE_ASSIGN_OR_RETURN(save->copy_, HostMemory::Allocate(elements * 4));
  return save;
}

BackgroundSave::~BackgroundSave() {
  if (writer_.joinable()) writer_.join();
}

absl::Status BackgroundSave::Start(const std::string& root,
                                   const checkpoint::TrainingState& state) {
  NIBBLE_CHECK(!under_way());
  float* to = static_cast<float*>(copy_.data());
  for (const std::vector<StateTensor>* tensors : {&model_, &optimizer_}) {
    for (const StateTensor& tensor : *tensors) {
      backend_.CopyToHost(to, tensor.values, tensor.size * 4);
      to += tensor.size;
    }
  }
  NIBBLE_RETURN_IF_ERROR(backend_.Wait(backend_.Record()));
  written_ = false;
  writer_ = std::thread([this, root, state] {
    const float* values = static_cast<const float*>(copy_.data());
    CopiedTensors model(model_, values);
    CopiedTensors optimizer(optimizer_, values + Elements(model_));
    result_ = checkpoint::SaveCheckpoint(root, {state, &model, &optimizer, texts_});
    if (result_.ok()) {
      absl::Status verified = checkpoint::VerifyWritten(*result_);
      if (!verified.ok()) {
        verified.SetPayload(kHardwareFault, absl::Cord());
        result_ = verified;
      }
    }
    written_.store(true, std::memory_order_release);
  });
  return absl::OkStatus();
}

absl::StatusOr<checkpoint::SavedCheckpoint> BackgroundSave::Finish() {
  NIBBLE_CHECK(under_way());
  writer_.join();
  return std::move(result_);
}

}  // namespace nibble::trainer
