// A checkpoint of ours as a directory that transformers' from_pretrained loads.
#ifndef WORKER_INTERCHANGE_EXPORT_H_
#define WORKER_INTERCHANGE_EXPORT_H_

#include <string>

#include "absl/status/status.h"
#include "worker/checkpoint/checkpoint_store.h"
#include "worker/interchange/foreign_model.h"
#include "worker/interchange/hf_config.h"
#include "worker/model_description.h"

namespace nibble::interchange {

struct ExportOptions {
  std::string out;                          // a directory that does not exist yet
  ForeignType type = ForeignType::kF32;     // FP32 loses nothing
  TokenIds ids;                             // of the tokenizer, for config.json
  std::vector<checkpoint::TextFile> texts;  // a tokenizer's files, copied
};

// Writes config.json, generation_config.json, model.safetensors and the texts. Values beyond the
// range of FP16 become infinite there. ALREADY_EXISTS: there is something at `out`; UNIMPLEMENTED:
// a family that transformers has no equal of; DATA_LOSS: the checkpoint's tensors are not those of
// its description; RESOURCE_EXHAUSTED: disk full. Nothing is left behind on an error.
absl::Status ExportHuggingFace(const worker::ModelDescription& description,
                               const checkpoint::TensorFile& weights, const ExportOptions& options);

}  // namespace nibble::interchange

#endif  // WORKER_INTERCHANGE_EXPORT_H_
