#include <algorithm>
#include <iostream>

#include "base/log.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"
#include "worker/commands/commands.h"
#include "worker/commands/loaded_model.h"
#include "worker/interchange/export.h"

namespace nibble::worker {
namespace {

bool HasFile(const std::vector<checkpoint::TextFile>& texts, absl::string_view name) {
  return std::any_of(texts.begin(), texts.end(),
                     [name](const checkpoint::TextFile& text) { return text.name == name; });
}

std::string TextOf(const data::Tokenizer& tokenizer, int32_t id) {
  std::string text;
  if (!tokenizer.Decode({id}, &text).ok()) return "";
  return text;
}

// Without it transformers takes the tokenizer class of the model's architecture, which for a llama
// is another one.
void AddTokenizerConfig(const data::Tokenizer& tokenizer,
                        std::vector<checkpoint::TextFile>* texts) {
  nlohmann::ordered_json config;
  if (HasFile(*texts, "merges.txt")) {
    config["tokenizer_class"] = "GPT2Tokenizer";
    config["bos_token"] = config["eos_token"] = config["unk_token"] =
        std::string(data::kSeparatorToken);
  } else if (HasFile(*texts, "tokenizer.json") && !HasFile(*texts, "tokenizer.model")) {
    config["tokenizer_class"] = "PreTrainedTokenizerFast";
    if (tokenizer.bos_id() >= 0) config["bos_token"] = TextOf(tokenizer, tokenizer.bos_id());
    config["eos_token"] = TextOf(tokenizer, tokenizer.eos_id());
  } else {
    return;
  }
  texts->push_back(
      {"tokenizer_config.json",
       config.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n"});
}

}  // namespace

absl::Status RunExport(const ExportCommandOptions& options) {
  NIBBLE_ASSIGN_OR_RETURN(const OpenedCheckpoint checkpoint,
                          OpenDescribedCheckpoint(options.checkpoint));
  interchange::ExportOptions to;
  to.out = options.out;
  to.type = options.dtype == "bf16"  ? interchange::ForeignType::kBF16
            : options.dtype == "f16" ? interchange::ForeignType::kF16
                                     : interchange::ForeignType::kF32;
  if (options.tokenizer.empty()) {
    NIBBLE_ASSIGN_OR_RETURN(to.texts, TokenizerFilesOf(checkpoint));
  } else {
    NIBBLE_ASSIGN_OR_RETURN(to.texts, ReadTokenizerFiles(options.tokenizer));
  }
  // Ids of ends are a help to whoever generates; a model without a tokenizer goes without.
  const auto tokenizer = TokenizerOf(checkpoint, options.tokenizer);
  if (tokenizer.ok()) {
    to.ids.bos = (*tokenizer)->bos_id() >= 0 ? (*tokenizer)->bos_id() : (*tokenizer)->separator();
    to.ids.eos = (*tokenizer)->eos_id();
    AddTokenizerConfig(**tokenizer, &to.texts);
  } else if (!options.tokenizer.empty()) {
    return tokenizer.status();
  }
  NIBBLE_RETURN_IF_ERROR(
      interchange::ExportHuggingFace(checkpoint.description, checkpoint.files.model, to));
  std::cout << "written to " << EscapeControlCharacters(options.out) << "\n";
  return absl::OkStatus();
}

}  // namespace nibble::worker
