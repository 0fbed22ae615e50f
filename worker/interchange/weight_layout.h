// How another program's tensors are laid out in ours: one list, read in one direction by import and
// in the other by export.
#ifndef WORKER_INTERCHANGE_WEIGHT_LAYOUT_H_
#define WORKER_INTERCHANGE_WEIGHT_LAYOUT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "nibble/v1/job.pb.h"

namespace nibble::interchange {

// Rows [first_row, first_row + rows) of one of our parameters, as one foreign tensor. A vector is a
// matrix of one column.
struct WeightPiece {
  std::string foreign;         // the tensor's name there
  std::vector<int64_t> shape;  // its shape there
  std::string parameter;       // a checkpoint's name of ours
  int64_t first_row = 0;
  int64_t rows = 0;
  int64_t cols = 0;
  // Stored there as [cols, rows] (GPT-2's Conv1D).
  bool transposed = false;
  // Not 0: there, each head of so many rows has the pairs that RoPE rotates side by side, (2i,
  // 2i + 1) (llama2.c); ours are (i, i + head_size / 2).
  int64_t interleaved_head_size = 0;
};

// The piece's row that becomes row `row` (both from 0) of ours.
int64_t ForeignRow(const WeightPiece& piece, int64_t row);

// Hugging Face's tensors of a resolved model, in file order. UNIMPLEMENTED: a family that
// transformers has no equal of.
absl::StatusOr<std::vector<WeightPiece>> HuggingFaceLayout(const v1::ModelSpec& model);

// llama2.c's, named after its struct ("wq.0"). `model` is a llama.
std::vector<WeightPiece> Llama2cLayout(const v1::ModelSpec& model);

}  // namespace nibble::interchange

#endif  // WORKER_INTERCHANGE_WEIGHT_LAYOUT_H_
