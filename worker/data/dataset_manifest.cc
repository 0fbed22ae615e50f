#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/files.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"
#include "worker/data/token_shards.h"

namespace nibble::data {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kFormatName[] = "nibble-token-shards";
constexpr int64_t kVersion = 1;
constexpr int64_t kMaxManifestBytes = int64_t{1} << 20;
constexpr int64_t kMaxCount = int64_t{1} << 50;

Json SplitToJson(const SplitManifest& split) {
  Json files = Json::array();
  for (const ShardFile& file : split.files) {
    files.push_back({{"name", file.name}, {"tokens", file.tokens}, {"sha256", file.sha256}});
  }
  return {{"documents", split.documents},
          {"bytes", split.bytes},
          {"tokens", split.tokens},
          {"files", std::move(files)}};
}

// Reads members of one object; remembers the first that is wrong.
class ObjectReader {
 public:
  ObjectReader(const Json& object, std::string path, absl::Status* status)
      : object_(object), path_(std::move(path)), status_(status) {
    if (!object.is_object()) Fail("", "is no object");
  }

  int64_t Integer(const char* name, int64_t min, int64_t max) {
    const Json* value = Find(name);
    if (value == nullptr) return min;
    const bool good = value->is_number_unsigned() &&
                      value->get<uint64_t>() >= static_cast<uint64_t>(min) &&
                      value->get<uint64_t>() <= static_cast<uint64_t>(max);
    if (good) return value->get<int64_t>();
    Fail(name, absl::StrCat("is not an integer from ", min, " to ", max));
    return min;
  }

  std::string String(const char* name) {
    const Json* value = Find(name);
    if (value == nullptr) return "";
    if (value->is_string()) return value->get<std::string>();
    Fail(name, "is no string");
    return "";
  }

  const Json* Find(const char* name) {
    if (!status_->ok()) return nullptr;
    const auto it = object_.find(name);
    if (it != object_.end()) return &*it;
    Fail(name, "is missing");
    return nullptr;
  }

  void Fail(absl::string_view name, absl::string_view what) {
    if (!status_->ok()) return;
    *status_ = absl::InvalidArgumentError(absl::StrCat(
        kDatasetFileName, ": ", path_, path_.empty() || name.empty() ? "" : ".", name, " ", what));
  }

 private:
  const Json& object_;
  const std::string path_;
  absl::Status* status_;
};

bool IsHexDigest(absl::string_view text) {
  if (text.size() != 64) return false;
  for (const char c : text) {
    if (!absl::ascii_isdigit(c) && !(c >= 'a' && c <= 'f')) return false;
  }
  return true;
}

// Only the names that ShardWriter gives: a file of the directory itself, never a path.
bool IsShardName(absl::string_view name, absl::string_view split) {
  if (!absl::ConsumePrefix(&name, split) || !absl::ConsumePrefix(&name, "-") ||
      !absl::ConsumeSuffix(&name, ".bin") || name.empty() || name.size() > 10) {
    return false;
  }
  for (const char c : name) {
    if (!absl::ascii_isdigit(c)) return false;
  }
  return true;
}

void ParseSplit(const Json& object, const std::string& name, SplitManifest* split,
                absl::Status* status) {
  const std::string path = "splits." + name;
  ObjectReader reader(object, path, status);
  split->documents = reader.Integer("documents", 1, kMaxCount);
  split->bytes = reader.Integer("bytes", 0, kMaxCount);
  split->tokens = reader.Integer("tokens", 1, kMaxCount);
  const Json* files = reader.Find("files");
  if (files == nullptr) return;
  if (!files->is_array() || files->empty()) return reader.Fail("files", "is no list of files");
  int64_t sum = 0;
  for (const Json& item : *files) {
    const std::string item_path = absl::StrCat(path, ".files[", split->files.size(), "]");
    ObjectReader file_reader(item, item_path, status);
    ShardFile file;
    file.name = file_reader.String("name");
    file.tokens = file_reader.Integer("tokens", 1, kMaxCount);
    file.sha256 = file_reader.String("sha256");
    if (!status->ok()) return;
    if (!IsShardName(file.name, name)) {
      return file_reader.Fail(
          "name", absl::StrCat("is \"", EscapeControlCharacters(file.name.substr(0, 64)),
                               "\"; allowed: ", name, "-<number>.bin"));
    }
    if (!IsHexDigest(file.sha256)) return file_reader.Fail("sha256", "is not 64 hex digits");
    sum += file.tokens;
    if (sum > kMaxCount) return file_reader.Fail("tokens", "is too large");
    split->files.push_back(std::move(file));
  }
  if (sum != split->tokens) reader.Fail("tokens", "is not the sum over files");
}

}  // namespace

std::string ManifestToJson(const DatasetManifest& manifest) {
  Json splits = Json::object();
  if (manifest.train.documents > 0) splits["train"] = SplitToJson(manifest.train);
  if (manifest.validation.documents > 0) splits["validation"] = SplitToJson(manifest.validation);
  const Json document = {{"format", kFormatName},
                         {"version", kVersion},
                         {"vocab_size", manifest.vocab_size},
                         {"token_bytes", manifest.token_bytes},
                         {"tokenizer",
                          {{"kind", manifest.tokenizer_kind},
                           {"digest", manifest.tokenizer_digest},
                           {"separator", manifest.separator}}},
                         {"splits", std::move(splits)}};
  return document.dump(/*indent=*/2) + "\n";
}

absl::StatusOr<DatasetManifest> ParseManifest(absl::string_view json) {
  const Json document = Json::parse(json.begin(), json.end(), /*cb=*/nullptr,
                                    /*allow_exceptions=*/false);
  if (document.is_discarded()) {
    return absl::InvalidArgumentError(absl::StrCat(kDatasetFileName, ": not JSON"));
  }
  absl::Status status;
  DatasetManifest manifest;
  ObjectReader reader(document, "", &status);
  if (reader.String("format") != kFormatName) reader.Fail("format", "is not nibble-token-shards");
  reader.Integer("version", kVersion, kVersion);
  manifest.vocab_size = static_cast<int32_t>(reader.Integer("vocab_size", 2, kMaxVocabSize));
  manifest.token_bytes = static_cast<int>(reader.Integer("token_bytes", 2, 4));
  if (manifest.token_bytes != TokenBytes(manifest.vocab_size)) {
    reader.Fail("token_bytes", "does not fit vocab_size");
  }
  if (const Json* tokenizer = reader.Find("tokenizer"); tokenizer != nullptr) {
    ObjectReader tokenizer_reader(*tokenizer, "tokenizer", &status);
    manifest.tokenizer_kind = tokenizer_reader.String("kind");
    manifest.tokenizer_digest = tokenizer_reader.String("digest");
    manifest.separator =
        static_cast<int32_t>(tokenizer_reader.Integer("separator", 0, manifest.vocab_size - 1));
  }
  if (const Json* splits = reader.Find("splits"); splits != nullptr) {
    if (!splits->is_object() || splits->empty()) {
      reader.Fail("splits", "is no object of splits");
    } else {
      for (const auto& [name, split] : splits->items()) {
        if (name != "train" && name != "validation") {
          reader.Fail("splits", "has a split other than train and validation");
          break;
        }
        ParseSplit(split, name, name == "train" ? &manifest.train : &manifest.validation, &status);
      }
    }
  }
  if (!status.ok()) return status;
  return manifest;
}

absl::StatusOr<DatasetManifest> ReadManifest(const std::string& directory) {
  const std::string path = JoinPath(directory, kDatasetFileName);
  NIBBLE_ASSIGN_OR_RETURN(const std::string json, ReadFile(path, kMaxManifestBytes));
  const auto manifest = ParseManifest(json);
  if (manifest.ok()) return manifest;
  return absl::Status(manifest.status().code(),
                      absl::StrCat(directory, "/", manifest.status().message()));
}

}  // namespace nibble::data
