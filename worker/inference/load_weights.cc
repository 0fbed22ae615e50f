#include "worker/inference/load_weights.h"

#include "base/status_macros.h"

namespace nibble::inference {

absl::StatusOr<std::unique_ptr<model::Weights>> LoadWeights(const checkpoint::TensorFile& file,
                                                            const model::ParameterTable& table,
                                                            bool bf16_copy,
                                                            kernels::Backend& backend) {
  if (file.header().tensors.size() != table.parameters().size()) {
    return absl::DataLossError("the tensors are not those of the model's description");
  }
  NIBBLE_ASSIGN_OR_RETURN(
      std::unique_ptr<model::Weights> weights,
      model::Weights::Create(table, bf16_copy, backend, model::WeightsUse::kInference));
  for (const model::Parameter& parameter : table.parameters()) {
    NIBBLE_ASSIGN_OR_RETURN(const absl::string_view values,
                            file.Values(parameter.name, parameter.shape));
    backend.CopyToDevice(weights->master() + parameter.offset, values.data(),
                         static_cast<int64_t>(values.size()));
  }
  weights->RefreshBf16();
  NIBBLE_RETURN_IF_ERROR(backend.Synchronize());
  return weights;
}

}  // namespace nibble::inference
