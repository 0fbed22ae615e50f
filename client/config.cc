#include "client/config.h"

#include <map>

#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/status_macros.h"
#include "yaml-cpp/yaml.h"

namespace nibble::client {
namespace {

constexpr int64_t kMaxConfigBytes = 64 * 1024;

absl::Status Wrong(const std::string& path, absl::string_view problem) {
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", problem));
}

}  // namespace

absl::StatusOr<GlobalOptions> ReadConfig(const std::string& path) {
  GlobalOptions options;
  if (!FileExists(path)) return options;
  absl::StatusOr<std::string> contents = ReadFile(path, kMaxConfigBytes);
  if (!contents.ok()) return absl::InvalidArgumentError(contents.status().message());
  const std::map<std::string, std::string*> keys = {
      {"server", &options.server}, {"timeout", &options.timeout},   {"output", &options.format},
      {"tls_ca", &options.tls_ca}, {"tls_cert", &options.tls_cert}, {"tls_key", &options.tls_key}};
  try {
    const YAML::Node root = YAML::Load(*contents);
    if (root.IsNull()) return options;
    if (!root.IsMap()) return Wrong(path, "must be a map of settings");
    for (const auto& entry : root) {
      const std::string key = entry.first.Scalar();
      const auto found = keys.find(key);
      if (found == keys.end()) {
        return Wrong(path, absl::StrCat("unknown setting \"", key, "\"; allowed: server, timeout, ",
                                        "output, tls_ca, tls_cert, tls_key"));
      }
      if (!entry.second.IsScalar())
        return Wrong(path, absl::StrCat(key, " must be a single value"));
      *found->second = entry.second.Scalar();
    }
  } catch (const YAML::Exception& error) {
    return Wrong(path, error.what());
  }
  return options;
}

}  // namespace nibble::client
