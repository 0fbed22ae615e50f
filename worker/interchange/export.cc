#include "worker/interchange/export.h"

#include <algorithm>
#include <cstring>
#include <map>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/files.h"
#include "base/status_macros.h"
#include "kernels/nvfp4/bf16.h"
#include "worker/interchange/half.h"
#include "worker/model/parameter_table.h"

namespace nibble::interchange {
namespace {

constexpr int64_t kStagingValues = int64_t{1} << 20;

const char* SafetensorsName(ForeignType type) {
  return type == ForeignType::kF32 ? "F32" : type == ForeignType::kF16 ? "F16" : "BF16";
}

const char* TorchName(ForeignType type) {
  return type == ForeignType::kF32 ? "float32" : type == ForeignType::kF16 ? "float16" : "bfloat16";
}

void AppendValue(float value, ForeignType type, std::string* bytes) {
  if (type == ForeignType::kF32) {
    bytes->append(reinterpret_cast<const char*>(&value), sizeof(value));
    return;
  }
  const uint16_t bits = type == ForeignType::kBF16 ? nvfp4::F32ToBf16(value) : FloatToHalf(value);
  bytes->append(reinterpret_cast<const char*>(&bits), sizeof(bits));
}

// Writes one foreign tensor from the FP32 values of our parameter's rows.
absl::Status WritePiece(const WeightPiece& piece, absl::string_view values, ForeignType type,
                        checkpoint::SafetensorsWriter& writer) {
  NIBBLE_CHECK(piece.interleaved_head_size == 0);
  const int64_t size = piece.rows * piece.cols;
  std::string staging;
  for (int64_t i = 0; i < size; ++i) {
    const int64_t row = piece.transposed ? i % piece.rows : i / piece.cols;
    const int64_t col = piece.transposed ? i / piece.rows : i % piece.cols;
    float value;
    std::memcpy(&value, values.data() + ((piece.first_row + row) * piece.cols + col) * 4, 4);
    AppendValue(value, type, &staging);
    if (static_cast<int64_t>(staging.size()) >= kStagingValues * 4 || i + 1 == size) {
      NIBBLE_RETURN_IF_ERROR(writer.AppendBytes(staging));
      staging.clear();
    }
  }
  return absl::OkStatus();
}

absl::Status WriteWeights(const worker::ModelDescription& description,
                          const checkpoint::TensorFile& weights, ForeignType type,
                          const std::string& path) {
  NIBBLE_ASSIGN_OR_RETURN(const auto config, worker::ModelConfigOf(description));
  const model::ParameterTable table(config);
  std::map<std::string, std::vector<int64_t>> shapes;
  for (const model::Parameter& parameter : table.parameters()) {
    shapes[parameter.name] = parameter.shape;
  }
  NIBBLE_ASSIGN_OR_RETURN(const std::vector<WeightPiece> layout,
                          HuggingFaceLayout(description.model));
  std::vector<checkpoint::TensorInfo> tensors;
  for (const WeightPiece& piece : layout) {
    checkpoint::TensorInfo& tensor = tensors.emplace_back();
    tensor.name = piece.foreign;
    tensor.dtype = SafetensorsName(type);
    tensor.shape = piece.shape;
  }
  NIBBLE_ASSIGN_OR_RETURN(const auto writer, checkpoint::SafetensorsWriter::Create(path, tensors));
  for (const WeightPiece& piece : layout) {
    NIBBLE_ASSIGN_OR_RETURN(const absl::string_view values,
                            weights.Values(piece.parameter, shapes.at(piece.parameter)));
    NIBBLE_RETURN_IF_ERROR(WritePiece(piece, values, type, *writer));
  }
  return writer->Finish();
}

std::string GenerationConfig(const TokenIds& ids) {
  const auto text = [](int id) { return id < 0 ? "null" : absl::StrCat(id); };
  return absl::StrCat("{\n  \"bos_token_id\": ", text(ids.bos),
                      ",\n  \"eos_token_id\": ", text(ids.eos), "\n}\n");
}

absl::Status WriteAll(const worker::ModelDescription& description,
                      const checkpoint::TensorFile& weights, const ExportOptions& options,
                      const std::string& directory) {
  NIBBLE_ASSIGN_OR_RETURN(const std::string config,
                          HuggingFaceConfig(description, TorchName(options.type), options.ids));
  NIBBLE_RETURN_IF_ERROR(MakeDirectories(directory));
  NIBBLE_RETURN_IF_ERROR(
      WriteWeights(description, weights, options.type, JoinPath(directory, "model.safetensors")));
  NIBBLE_RETURN_IF_ERROR(WriteFileDurably(JoinPath(directory, "config.json"), config));
  NIBBLE_RETURN_IF_ERROR(WriteFileDurably(JoinPath(directory, "generation_config.json"),
                                          GenerationConfig(options.ids)));
  for (const checkpoint::TextFile& text : options.texts) {
    NIBBLE_RETURN_IF_ERROR(WriteFileDurably(JoinPath(directory, text.name), text.contents));
  }
  return FsyncDirectory(directory);
}

}  // namespace

absl::Status ExportHuggingFace(const worker::ModelDescription& description,
                               const checkpoint::TensorFile& weights,
                               const ExportOptions& options) {
  if (FileExists(options.out)) {
    return absl::AlreadyExistsError(absl::StrCat(options.out, " exists already"));
  }
  const std::string temporary = absl::StrCat(options.out, ".tmp");
  NIBBLE_RETURN_IF_ERROR(RemoveTree(temporary));
  const absl::Status written = WriteAll(description, weights, options, temporary);
  if (!written.ok()) {
    RemoveTree(temporary).IgnoreError();
    return written;
  }
  return RenameDurably(temporary, options.out);
}

}  // namespace nibble::interchange
