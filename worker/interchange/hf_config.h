// config.json of a Hugging Face model, read and written.
#ifndef WORKER_INTERCHANGE_HF_CONFIG_H_
#define WORKER_INTERCHANGE_HF_CONFIG_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/model_description.h"

namespace nibble::interchange {

// INVALID_ARGUMENT: malformed, or dimensions that no job may have; UNIMPLEMENTED, naming the
// setting and its value: an architecture that no family here is.
absl::StatusOr<worker::ModelDescription> ParseHuggingFaceConfig(absl::string_view json);

struct TokenIds {
  int bos = -1;  // -1: none
  int eos = -1;
};

// UNIMPLEMENTED: a family that transformers has no equal of. `dtype`: "float32", ...
absl::StatusOr<std::string> HuggingFaceConfig(const worker::ModelDescription& description,
                                              absl::string_view dtype, const TokenIds& ids);

}  // namespace nibble::interchange

#endif  // WORKER_INTERCHANGE_HF_CONFIG_H_
