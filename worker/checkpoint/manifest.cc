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

bool IsDigest(const std::string& text, size_t digits) {
  return text.size() == digits && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

absl::StatusOr<std::vector<double>> Numbers(const Json& json, const char* name) {
  const auto list = json.find(name);
  if (list == json.end() || !list->is_array() || list->size() > SafetyState::kMaxWindow) {
    return Malformed(absl::StrCat("safety.", name, " must be a list of numbers"));
  }
  std::vector<double> numbers;
  for (const Json& number : *list) {
    if (!number.is_number() || !std::isfinite(number.get<double>())) {
      return Malformed(absl::StrCat("safety.", name, " must be a list of finite numbers"));
    }
    numbers.push_back(number.get<double>());
  }
  return numbers;
}

// Rows of `columns` whole numbers.
absl::StatusOr<std::vector<std::vector<int64_t>>> Rows(const Json& json, const char* name,
                                                       size_t columns, size_t most) {
  const auto list = json.find(name);
  if (list == json.end() || !list->is_array() || list->size() > most) {
    return Malformed(absl::StrCat("safety.", name, " must be a list of at most ", most));
  }
  std::vector<std::vector<int64_t>> rows;
  for (const Json& entry : *list) {
    std::vector<int64_t>& row = rows.emplace_back();
    if (!entry.is_array() || entry.size() != columns) {
      return Malformed(absl::StrCat("safety.", name, " has an entry of another form"));
    }
    for (const Json& value : entry) {
      if (!value.is_number_unsigned() || value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
        return Malformed(absl::StrCat("safety.", name, " must hold whole numbers"));
      }
      row.push_back(value.get<int64_t>());
    }
  }
  return rows;
}

absl::StatusOr<SafetyState> ReadSafety(const Json& json) {
  if (!json.is_object() || json.size() != 5) return Malformed("safety has unknown fields");
  SafetyState safety;
  NIBBLE_ASSIGN_OR_RETURN(const auto skipped, Rows(json, "skipped", 2, SafetyState::kMaxSkipped));
  for (const std::vector<int64_t>& row : skipped) safety.skipped.push_back({row[0], row[1]});
  NIBBLE_ASSIGN_OR_RETURN(safety.rollbacks, Count(json, "rollbacks"));
  NIBBLE_ASSIGN_OR_RETURN(safety.losses, Numbers(json, "losses"));
  NIBBLE_ASSIGN_OR_RETURN(safety.gradient_norms, Numbers(json, "gradient_norms"));
  NIBBLE_ASSIGN_OR_RETURN(const auto raised, Rows(json, "raised", 3, SafetyState::kMaxRaised));
  for (const std::vector<int64_t>& row : raised) safety.raised.push_back({row[0], row[1], row[2]});
  return safety;
}

Json WriteSafety(const SafetyState& safety) {
  Json json;
  json["skipped"] = Json::array();
  for (const SkippedBatch& batch : safety.skipped) {
    json["skipped"].push_back({batch.step, batch.data_position});
  }
  json["rollbacks"] = safety.rollbacks;
  json["losses"] = safety.losses;
  json["gradient_norms"] = safety.gradient_norms;
  json["raised"] = Json::array();
  for (const RaisedLayer& raised : safety.raised) {
    json["raised"].push_back({raised.layer, raised.first_step, raised.last_step});
  }
  return json;
}

absl::StatusOr<TrainingState> ReadState(const Json& json) {
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
  if (const auto safety = json.find("safety"); safety != json.end()) {
    NIBBLE_ASSIGN_OR_RETURN(state.safety, ReadSafety(*safety));
  }
  return state;
}

Json WriteState(const TrainingState& state) {
  Json json;
  json["format_version"] = kFormatVersion;
  json["step"] = state.step;
  json["tokens"] = state.tokens;
  json["data_position"] = state.data_position;
  json["seed"] = state.seed;
  json["config_digest"] = state.config_digest;
  json["loss_sum"] = state.loss_sum;
  json["loss_count"] = state.loss_count;
  if (!(state.safety == SafetyState())) json["safety"] = WriteSafety(state.safety);
  return json;
}

absl::StatusOr<std::vector<ManifestFile>> FilesFromJson(const Json& json, int64_t version) {
  const auto list = json.find("files");
  if (list == json.end() || !list->is_array()) return Malformed("files must be a list");
  std::vector<ManifestFile> files;
  std::set<std::string> names;
  for (const Json& entry : *list) {
    if (!entry.is_object() || entry.size() != (version == 1 ? 3 : 4)) {
      return Malformed("a file must have name, size_bytes, sha256 and, from version 2 on, xxh3");
    }
    ManifestFile file;
    NIBBLE_ASSIGN_OR_RETURN(file.name, Text(entry, "name"));
    NIBBLE_ASSIGN_OR_RETURN(file.size_bytes, Count(entry, "size_bytes"));
    NIBBLE_ASSIGN_OR_RETURN(file.sha256, Text(entry, "sha256"));
    if (!IsCheckpointFile(file.name)) return Malformed("a file is none that a checkpoint holds");
    if (!names.insert(file.name).second) return Malformed("a file is listed twice");
    if (!IsDigest(file.sha256, 64)) return Malformed("sha256 must be 64 lower-case hex digits");
    if (version > 1) {
      NIBBLE_ASSIGN_OR_RETURN(file.xxh3, Text(entry, "xxh3"));
      if (!IsDigest(file.xxh3, 32)) return Malformed("xxh3 must be 32 lower-case hex digits");
    }
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

std::string StateToJson(const TrainingState& state) { return WriteState(state).dump(); }

absl::StatusOr<TrainingState> StateFromJson(absl::string_view text) {
  if (static_cast<int64_t>(text.size()) > kMaxManifestBytes) return Malformed("too large");
  NIBBLE_ASSIGN_OR_RETURN(const Json json, ParseFlat(text));
  return ReadState(json);
}

std::string ManifestToJson(const Manifest& manifest) {
  Json json = WriteState(manifest.state);
  json["format_version"] = manifest.format_version;
  json["files"] = Json::array();
  for (const ManifestFile& file : manifest.files) {
    Json& entry = json["files"].emplace_back(
        Json{{"name", file.name}, {"size_bytes", file.size_bytes}, {"sha256", file.sha256}});
    if (manifest.format_version > 1) entry["xxh3"] = file.xxh3;
  }
  return json.dump(2) + "\n";
}

absl::StatusOr<Manifest> ManifestFromJson(absl::string_view text) {
  if (static_cast<int64_t>(text.size()) > kMaxManifestBytes) return Malformed("too large");
  NIBBLE_ASSIGN_OR_RETURN(const Json json, ParseFlat(text));
  Manifest manifest;
  NIBBLE_ASSIGN_OR_RETURN(manifest.format_version, Count(json, "format_version"));
  if (manifest.format_version < 1 || manifest.format_version > kFormatVersion) {
    return Malformed(absl::StrCat("format_version is ", manifest.format_version,
                                  "; this build reads 1 to ", kFormatVersion));
  }
  if (json.size() != 9 + json.count("safety")) return Malformed("unknown fields");
  NIBBLE_ASSIGN_OR_RETURN(manifest.state, ReadState(json));
  NIBBLE_ASSIGN_OR_RETURN(manifest.files, FilesFromJson(json, manifest.format_version));
  return manifest;
}

}  // namespace nibble::checkpoint
