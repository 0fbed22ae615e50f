#include "worker/checkpoint/manifest.h"

#include <cmath>
#include <set>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"

namespace nibble::checkpoint {
namespace {

using Json = nlohmann::ordered_json;

absl::Status Malformed(absl::string_view what) {
  return absl::DataLossError(absl::StrCat(kManifestFile, ": ", what));
}

absl::StatusOr<int64_t> Count(const Json& json, const char* name) {
  const auto field = json.find(name);
  if (field == json.end() || !field->is_number_unsigned() ||
      field->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
    return Malformed(absl::StrCat(name, " must be a whole number from 0 to 2^63 - 1"));
  }
  return field->get<int64_t>();
}

absl::StatusOr<std::string> Text(const Json& json, const char* name) {
  const auto field = json.find(name);
  if (field == json.end() || !field->is_string()) {
    return Malformed(absl::StrCat(name, " must be a string"));
  }
  return field->get<std::string>();
}

bool IsDigest(const std::string& text) {
  return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

absl::StatusOr<TrainingState> StateFromJson(const Json& json) {
  TrainingState state;
  NIBBLE_ASSIGN_OR_RETURN(state.step, Count(json, "step"));
  NIBBLE_ASSIGN_OR_RETURN(state.tokens, Count(json, "tokens"));
  NIBBLE_ASSIGN_OR_RETURN(state.data_position, Count(json, "data_position"));
  NIBBLE_ASSIGN_OR_RETURN(state.config_digest, Text(json, "config_digest"));
  NIBBLE_ASSIGN_OR_RETURN(state.loss_count, Count(json, "loss_count"));
  const auto seed = json.find("seed");
  if (seed == json.end() || !seed->is_number_unsigned()) {
    return Malformed("seed must be a whole number from 0 to 2^64 - 1");
  }
  state.seed = seed->get<uint64_t>();
  const auto loss_sum = json.find("loss_sum");
  if (loss_sum == json.end() || !loss_sum->is_number() || !std::isfinite(loss_sum->get<double>())) {
    return Malformed("loss_sum must be a finite number");
  }
  state.loss_sum = loss_sum->get<double>();
  return state;
}

absl::StatusOr<std::vector<ManifestFile>> FilesFromJson(const Json& json) {
  const auto list = json.find("files");
  if (list == json.end() || !list->is_array()) return Malformed("files must be a list");
  std::vector<ManifestFile> files;
  std::set<std::string> names;
  for (const Json& entry : *list) {
    if (!entry.is_object() || entry.size() != 3) {
      return Malformed("a file must have name, size_bytes and sha256");
    }
    ManifestFile file;
    NIBBLE_ASSIGN_OR_RETURN(file.name, Text(entry, "name"));
    NIBBLE_ASSIGN_OR_RETURN(file.size_bytes, Count(entry, "size_bytes"));
    NIBBLE_ASSIGN_OR_RETURN(file.sha256, Text(entry, "sha256"));
    if (!IsCheckpointFile(file.name)) return Malformed("a file is none that a checkpoint holds");
    if (!names.insert(file.name).second) return Malformed("a file is listed twice");
    if (!IsDigest(file.sha256)) return Malformed("sha256 must be 64 lower-case hex digits");
    files.push_back(file);
  }
  if (names.count(kModelFile) == 0) return Malformed("model.safetensors is not listed");
  return files;
}

// Parses with a bound on depth and without repeated keys, which nlohmann would otherwise accept.
absl::StatusOr<Json> ParseFlat(absl::string_view text) {
  constexpr int kMaxDepth = 4;
  bool refused = false;
  std::vector<std::set<std::string>> keys;
  const auto callback = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (depth > kMaxDepth) refused = true;
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end && !keys.empty()) keys.pop_back();
    if (event == Json::parse_event_t::key && !keys.empty() &&
        !keys.back().insert(parsed.get<std::string>()).second) {
      refused = true;
    }
    return !refused;
  };
  Json json = Json::parse(text.begin(), text.end(), callback, /*allow_exceptions=*/false);
  if (refused || json.is_discarded() || !json.is_object()) {
    return Malformed("not a JSON object, too deep, or with a repeated key");
  }
  return json;
}

}  // namespace

bool IsCheckpointFile(absl::string_view name) {
  for (const char* known :
       {kModelFile, kOptimizerFile, kModelDescriptionFile, "tokenizer.bin", "tokenizer.model",
        "tokenizer.json", "tokenizer.tiktoken", "vocab.json", "merges.txt"}) {
    if (name == known) return true;
  }
  return false;
}

const ManifestFile* Manifest::Find(absl::string_view name) const {
  for (const ManifestFile& file : files) {
    if (file.name == name) return &file;
  }
  return nullptr;
}

std::string ManifestToJson(const Manifest& manifest) {
  Json json;
  json["format_version"] = kFormatVersion;
  json["step"] = manifest.state.step;
  json["tokens"] = manifest.state.tokens;
  json["data_position"] = manifest.state.data_position;
  json["seed"] = manifest.state.seed;
  json["config_digest"] = manifest.state.config_digest;
  json["loss_sum"] = manifest.state.loss_sum;
  json["loss_count"] = manifest.state.loss_count;
  json["files"] = Json::array();
  for (const ManifestFile& file : manifest.files) {
    json["files"].push_back(
        {{"name", file.name}, {"size_bytes", file.size_bytes}, {"sha256", file.sha256}});
  }
  return json.dump(2) + "\n";
}

absl::StatusOr<Manifest> ManifestFromJson(absl::string_view text) {
  if (static_cast<int64_t>(text.size()) > kMaxManifestBytes) return Malformed("too large");
  NIBBLE_ASSIGN_OR_RETURN(const Json json, ParseFlat(text));
  NIBBLE_ASSIGN_OR_RETURN(const int64_t version, Count(json, "format_version"));
  if (version != kFormatVersion) {
    return Malformed(
        absl::StrCat("format_version is ", version, "; this build reads ", kFormatVersion));
  }
  if (json.size() != 9) return Malformed("unknown fields");
  Manifest manifest;
  NIBBLE_ASSIGN_OR_RETURN(manifest.state, StateFromJson(json));
  NIBBLE_ASSIGN_OR_RETURN(manifest.files, FilesFromJson(json));
  return manifest;
}

}  // namespace nibble::checkpoint
