#include <iostream>

#include "base/log.h"
#include "base/status_macros.h"
#include "worker/commands/commands.h"
#include "worker/commands/loaded_model.h"
#include "worker/interchange/export.h"

namespace nibble::worker {
namespace {

// Without it transformers takes the tokenizer class of the model's architecture, which for a llama
// is another one.
void AddTokenizerConfig(std::vector<checkpoint::TextFile>* texts) {
  for (const checkpoint::TextFile& text : *texts) {
    if (text.name != "merges.txt") continue;
    texts->push_back({"tokenizer_config.json",
                      "{\n  \"tokenizer_class\": \"GPT2Tokenizer\",\n"
                      "  \"bos_token\": \"<|endoftext|>\",\n"
                      "  \"eos_token\": \"<|endoftext|>\",\n"
                      "  \"unk_token\": \"<|endoftext|>\"\n}\n"});
    return;
  }
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
  AddTokenizerConfig(&to.texts);
  // Ids of ends are a help to whoever generates; a model without a tokenizer goes without.
  const auto tokenizer = TokenizerOf(checkpoint, options.tokenizer);
  if (tokenizer.ok()) {
    to.ids.bos = (*tokenizer)->bos_id() >= 0 ? (*tokenizer)->bos_id() : (*tokenizer)->separator();
    to.ids.eos = (*tokenizer)->eos_id();
  } else if (!options.tokenizer.empty()) {
    return tokenizer.status();
  }
  NIBBLE_RETURN_IF_ERROR(
      interchange::ExportHuggingFace(checkpoint.description, checkpoint.files.model, to));
  std::cout << "written to " << EscapeControlCharacters(options.out) << "\n";
  return absl::OkStatus();
}

}  // namespace nibble::worker
