// A model in another program's files, opened: what it is, and its tensors.
#ifndef WORKER_INTERCHANGE_FOREIGN_MODEL_H_
#define WORKER_INTERCHANGE_FOREIGN_MODEL_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/files.h"
#include "worker/interchange/weight_layout.h"
#include "worker/model_description.h"

namespace nibble::interchange {

enum class ForeignType { kF32, kF16, kBF16 };
inline int64_t SizeOf(ForeignType type) { return type == ForeignType::kF32 ? 4 : 2; }

struct ForeignTensor {
  ForeignType type = ForeignType::kF32;
  std::vector<int64_t> shape;
  absl::string_view bytes;  // row-major, little-endian, any alignment; into the model's files
};

// Movable. Every piece of `layout` has its tensor in `tensors`, with the shape of the piece.
struct ForeignModel {
  worker::ModelDescription description;
  std::vector<WeightPiece> layout;
  std::map<std::string, ForeignTensor> tensors;
  std::vector<MappedFile> files;             // what the tensors lie in
  std::vector<std::string> tokenizer_files;  // paths, as far as they lie beside the model
};

// A file of karpathy/llama2.c: version 0 (seven int32, then FP32 weights) or version 1 ("ak42").
// NOT_FOUND; INVALID_ARGUMENT: it is neither, has dimensions that no job may have, or a size that
// is not theirs; UNIMPLEMENTED: version 2, whose weights are 8-bit.
absl::StatusOr<ForeignModel> OpenLlama2c(const std::string& path);

// A directory as transformers' save_pretrained leaves it: config.json and model.safetensors, or
// model.safetensors.index.json with its shards; values in FP32, FP16 or BF16. NOT_FOUND;
// INVALID_ARGUMENT: malformed, or dimensions that no job may have; UNIMPLEMENTED, naming the
// setting: an architecture that no family here is; DATA_LOSS: damaged tensor files.
absl::StatusOr<ForeignModel> OpenHuggingFace(const std::string& directory);

// By what lies at `path`: a directory, or a file.
absl::StatusOr<ForeignModel> OpenForeignModel(const std::string& path);

// Rows [first, first + count) of a piece in our layout, as FP32: out [count, piece.cols].
void ReadRows(const WeightPiece& piece, const ForeignTensor& tensor, int64_t first, int64_t count,
              float* out);

}  // namespace nibble::interchange

#endif  // WORKER_INTERCHANGE_FOREIGN_MODEL_H_
