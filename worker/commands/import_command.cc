#include <iostream>

#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"
#include "worker/commands/commands.h"
#include "worker/commands/loaded_model.h"
#include "worker/interchange/import.h"

namespace nibble::worker {
namespace {

constexpr int64_t kMaxTokenizerBytes = int64_t{64} << 20;

absl::StatusOr<std::vector<checkpoint::TextFile>> TokenizerFiles(
    const ImportOptions& options, const interchange::ForeignModel& model) {
  if (!options.tokenizer.empty()) return ReadTokenizerFiles(options.tokenizer);
  std::vector<checkpoint::TextFile> files;
  for (const std::string& path : model.tokenizer_files) {
    checkpoint::TextFile& file = files.emplace_back();
    file.name = path.substr(path.rfind('/') + 1);
    NIBBLE_ASSIGN_OR_RETURN(file.contents, ReadFile(path, kMaxTokenizerBytes));
  }
  return files;
}

}  // namespace

absl::Status RunImport(const ImportOptions& options) {
  NIBBLE_ASSIGN_OR_RETURN(const interchange::ForeignModel model,
                          interchange::OpenForeignModel(options.source));
  NIBBLE_ASSIGN_OR_RETURN(const std::vector<checkpoint::TextFile> tokenizer,
                          TokenizerFiles(options, model));
  NIBBLE_ASSIGN_OR_RETURN(const interchange::ImportResult result,
                          interchange::ImportModel(model, tokenizer, options.out));
  const v1::ModelSpec& spec = model.description.model;
  if (options.json) {
    std::cout << nlohmann::ordered_json({{"path", result.saved.path},
                                         {"family", spec.family()},
                                         {"parameters", result.parameters},
                                         {"weights_digest", result.weights_digest},
                                         {"manifest_digest", result.saved.manifest_digest},
                                         {"size_bytes", result.saved.size_bytes}})
                     .dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace)
              << "\n";
  } else {
    std::cout << "checkpoint      " << EscapeControlCharacters(result.saved.path)
              << "\nmodel           " << spec.family() << ", " << result.parameters
              << " parameters\nweights digest  " << result.weights_digest << "\n";
  }
  return absl::OkStatus();
}

}  // namespace nibble::worker
