#include "worker/interchange/import.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/sha256.h"
#include "base/status_macros.h"

namespace nibble::interchange {
namespace {

// Values of one piece held at a time.
constexpr int64_t kStagingValues = int64_t{1} << 20;

class ForeignWeights : public checkpoint::TensorSource {
 public:
  ForeignWeights(const ForeignModel& model, const model::ParameterTable& table)
      : model_(model), table_(table) {
    for (const WeightPiece& piece : model.layout) pieces_[piece.parameter].push_back(&piece);
  }

  std::vector<checkpoint::TensorInfo> Tensors() const override {
    std::vector<checkpoint::TensorInfo> tensors;
    for (const model::Parameter& parameter : table_.parameters()) {
      checkpoint::TensorInfo& tensor = tensors.emplace_back();
      tensor.name = parameter.name;
      tensor.shape = parameter.shape;
    }
    return tensors;
  }

  absl::Status WriteTo(checkpoint::SafetensorsWriter& writer) override {
    for (const model::Parameter& parameter : table_.parameters()) {
      const auto pieces = pieces_.find(parameter.name);
      NIBBLE_CHECK(pieces != pieces_.end());
      int64_t written = 0;
      for (const WeightPiece* piece : pieces->second) {
        NIBBLE_RETURN_IF_ERROR(WritePiece(*piece, writer));
        written += piece->rows * piece->cols;
      }
      NIBBLE_CHECK(written == parameter.size);
    }
    return absl::OkStatus();
  }

  std::string Digest() { return sha256_.HexDigest(); }

 private:
  absl::Status WritePiece(const WeightPiece& piece, checkpoint::SafetensorsWriter& writer) {
    const ForeignTensor& tensor = model_.tensors.at(piece.foreign);
    const int64_t rows = std::max<int64_t>(1, kStagingValues / piece.cols);
    for (int64_t first = 0; first < piece.rows; first += rows) {
      const int64_t count = std::min(rows, piece.rows - first);
      staging_.resize(count * piece.cols);
      ReadRows(piece, tensor, first, count, staging_.data());
      sha256_.Update(staging_.data(), staging_.size() * sizeof(float));
      NIBBLE_RETURN_IF_ERROR(writer.Append(staging_.data(), static_cast<int64_t>(staging_.size())));
    }
    return absl::OkStatus();
  }

  const ForeignModel& model_;
  const model::ParameterTable& table_;
  std::map<std::string, std::vector<const WeightPiece*>> pieces_;  // by parameter, by rising row
  std::vector<float> staging_;
  Sha256 sha256_;
};

}  // namespace

absl::StatusOr<ImportResult> ImportModel(const ForeignModel& model,
                                         const std::vector<checkpoint::TextFile>& texts,
                                         const std::string& out) {
  if (FileExists(out)) return absl::AlreadyExistsError(absl::StrCat(out, " exists already"));
  NIBBLE_ASSIGN_OR_RETURN(const auto config, worker::ModelConfigOf(model.description));
  const model::ParameterTable table(config);
  ForeignWeights weights(model, table);
  const std::string description = worker::DescribeModel(model.description);
  checkpoint::CheckpointContents contents;
  contents.state.config_digest = Sha256Hex(description);
  contents.model = &weights;
  contents.texts = texts;
  contents.texts.insert(contents.texts.begin(), {checkpoint::kModelDescriptionFile, description});
  ImportResult result;
  NIBBLE_ASSIGN_OR_RETURN(result.saved, checkpoint::SaveCheckpointAt(out, contents));
  result.parameters = table.parameter_count();
  result.weights_digest = weights.Digest();
  return result;
}

}  // namespace nibble::interchange
