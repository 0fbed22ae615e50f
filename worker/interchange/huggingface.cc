#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"
#include "worker/checkpoint/safetensors.h"
#include "worker/interchange/foreign_model.h"
#include "worker/interchange/hf_config.h"

namespace nibble::interchange {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMaxConfigBytes = 1 << 20;
constexpr int64_t kMaxIndexBytes = 64 << 20;
constexpr size_t kMaxShards = 10'000;
constexpr char kSingleFile[] = "model.safetensors";
constexpr char kIndexFile[] = "model.safetensors.index.json";

absl::Status At(const std::string& path, const absl::Status& status) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
}

std::string Quoted(absl::string_view name) {
  return absl::StrCat("'", EscapeControlCharacters(name.substr(0, 80)), "'");
}

// The files that hold the tensors, by name, without repetition.
absl::StatusOr<std::set<std::string>> TensorFiles(const std::string& directory) {
  const std::string index = JoinPath(directory, kIndexFile);
  if (!FileExists(index)) return std::set<std::string>{kSingleFile};
  NIBBLE_ASSIGN_OR_RETURN(const std::string text, ReadFile(index, kMaxIndexBytes));
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("weight_map") || !json["weight_map"].is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(index, ": no JSON object with a weight_map"));
  }
  std::set<std::string> names;
  for (const auto& [tensor, file] : json["weight_map"].items()) {
    const std::string name = file.is_string() ? file.get<std::string>() : "";
    if (name.empty() || absl::StrContains(name, "/") || name[0] == '.') {
      return absl::InvalidArgumentError(absl::StrCat(index, ": the file of tensor ", Quoted(tensor),
                                                     " is not a name in this directory"));
    }
    names.insert(name);
    if (names.size() > kMaxShards) {
      return absl::InvalidArgumentError(absl::StrCat(index, ": over ", kMaxShards, " files"));
    }
  }
  return names;
}

absl::StatusOr<ForeignType> TypeOf(const checkpoint::TensorInfo& tensor) {
  if (tensor.dtype == "F32") return ForeignType::kF32;
  if (tensor.dtype == "F16") return ForeignType::kF16;
  if (tensor.dtype == "BF16") return ForeignType::kBF16;
  return absl::UnimplementedError(absl::StrCat("tensor ", Quoted(tensor.name), " is of type ",
                                               tensor.dtype, "; F32, F16 and BF16 can be read"));
}

// Buffers that old files carry beside the weights, and a head that is the embedding table.
bool MayBeIgnored(const std::string& name, const v1::ModelSpec& model) {
  return absl::EndsWith(name, ".rotary_emb.inv_freq") ||
         (model.family() == "gpt2" &&
          (absl::EndsWith(name, ".attn.bias") || absl::EndsWith(name, ".attn.masked_bias"))) ||
         (model.tied_embeddings() && name == "lm_head.weight");
}

absl::Status TakeTensors(const std::string& path,
                         const std::map<std::string, const WeightPiece*>& pieces,
                         ForeignModel* model) {
  NIBBLE_ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(path));
  const absl::string_view bytes = file.contents();
  NIBBLE_ASSIGN_OR_RETURN(const checkpoint::SafetensorsHeader header,
                          checkpoint::ParseSafetensors(bytes));
  for (const checkpoint::TensorInfo& info : header.tensors) {
    // Files of a bare GPT2Model leave out the prefix that GPT2LMHeadModel's have.
    auto piece = pieces.find(info.name);
    if (piece == pieces.end()) piece = pieces.find(absl::StrCat("transformer.", info.name));
    if (piece == pieces.end()) {
      if (MayBeIgnored(info.name, model->description.model)) continue;
      return absl::UnimplementedError(
          absl::StrCat("tensor ", Quoted(info.name), " has no place in a ",
                       model->description.model.family(), " of this configuration"));
    }
    if (info.shape != piece->second->shape) {
      return absl::InvalidArgumentError(absl::StrCat(
          "tensor ", Quoted(info.name), " has another shape than config.json's dimensions give"));
    }
    ForeignTensor tensor;
    NIBBLE_ASSIGN_OR_RETURN(tensor.type, TypeOf(info));
    tensor.shape = info.shape;
    tensor.bytes = bytes.substr(header.data_start + info.begin, info.end - info.begin);
    if (!model->tensors.emplace(piece->first, tensor).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", Quoted(info.name), " is there twice"));
    }
  }
  model->files.push_back(std::move(file));
  return absl::OkStatus();
}

void FindTokenizer(const std::string& directory, ForeignModel* model) {
  for (const char* name : {"tokenizer.model", "vocab.json", "merges.txt", "tokenizer.json"}) {
    const std::string path = JoinPath(directory, name);
    if (FileExists(path)) model->tokenizer_files.push_back(path);
  }
}

}  // namespace

absl::StatusOr<ForeignModel> OpenHuggingFace(const std::string& directory) {
  const std::string config_path = JoinPath(directory, "config.json");
  NIBBLE_ASSIGN_OR_RETURN(const std::string config, ReadFile(config_path, kMaxConfigBytes));
  absl::StatusOr<worker::ModelDescription> description = ParseHuggingFaceConfig(config);
  if (!description.ok()) return At(config_path, description.status());
  ForeignModel model;
  model.description = *std::move(description);
  NIBBLE_ASSIGN_OR_RETURN(model.layout, HuggingFaceLayout(model.description.model));
  std::map<std::string, const WeightPiece*> pieces;
  for (const WeightPiece& piece : model.layout) pieces[piece.foreign] = &piece;
  NIBBLE_ASSIGN_OR_RETURN(const std::set<std::string> files, TensorFiles(directory));
  for (const std::string& name : files) {
    const std::string path = JoinPath(directory, name);
    const absl::Status taken = TakeTensors(path, pieces, &model);
    if (absl::IsNotFound(taken) && name == kSingleFile) {
      return absl::NotFoundError(
          absl::StrCat(directory,
                       " has no model.safetensors; other weight files (pytorch_model.bin) are not "
                       "read: save the model with safetensors"));
    }
    if (!taken.ok()) return At(path, taken);
  }
  for (const WeightPiece& piece : model.layout) {
    if (model.tensors.count(piece.foreign) == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(directory, ": no tensor ", Quoted(piece.foreign)));
    }
  }
  FindTokenizer(directory, &model);
  return model;
}

absl::StatusOr<ForeignModel> OpenForeignModel(const std::string& path) {
  if (FileExists(JoinPath(path, "config.json"))) return OpenHuggingFace(path);
  const absl::StatusOr<std::vector<std::string>> names = ListDirectory(path);
  if (names.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " has no config.json: not a Hugging Face model's directory"));
  }
  return OpenLlama2c(path);
}

}  // namespace nibble::interchange
