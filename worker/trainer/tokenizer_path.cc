#include "worker/trainer/tokenizer_path.h"

#include "worker/data/token_shards.h"
#include "worker/data/tokenizer.h"

namespace nibble::trainer {
namespace {

// Of the first nibble dataset; empty where there is none.
std::string TokenizerOfData(const data::DataConfig& config) {
  for (const data::PhaseConfig& phase : config.phases) {
    for (const data::SourceConfig& source : phase.sources) {
      if (source.format != data::TokenFormat::kNibble &&
          source.format != data::TokenFormat::kAuto) {
        continue;
      }
      const auto manifest = data::ReadManifest(source.path);
      if (!manifest.ok()) continue;
      if (manifest->tokenizer_kind == "bytes") return "bytes";
      if (data::HasTokenizer(source.path)) return source.path;
    }
  }
  return "";
}

std::string TokenizerOfStart(const TrainingConfig& config) {
  if (!config.init_from.empty() && data::HasTokenizer(config.init_from)) return config.init_from;
  return config.model.vocab_size == 256 ? "bytes" : "";
}

}  // namespace

std::string TokenizerOfRun(const TrainingConfig& config) {
  const std::string of_data = TokenizerOfData(config.data);
  if (!of_data.empty()) return of_data;
  if (!config.evaluation.tokenizer.empty()) return config.evaluation.tokenizer;
  return TokenizerOfStart(config);
}

std::string TokenizerOfEvaluation(const TrainingConfig& config) {
  return config.evaluation.tokenizer.empty() ? TokenizerOfRun(config) : config.evaluation.tokenizer;
}

}  // namespace nibble::trainer
