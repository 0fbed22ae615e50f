#include <algorithm>
#include <iostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/clock.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"
#include "worker/commands/commands.h"
#include "worker/commands/loaded_model.h"

namespace nibble::worker {
namespace {

// How many of the last bytes may be the beginning of a character that is not whole yet.
size_t UnfinishedBytes(const std::string& text) {
  for (size_t back = 1; back <= std::min<size_t>(3, text.size()); ++back) {
    const auto byte = static_cast<unsigned char>(text[text.size() - back]);
    if ((byte & 0xc0) == 0x80) continue;  // a later byte of a character: its first one is further
    const size_t length = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 1;
    return length > back ? back : 0;
  }
  return 0;
}

// Shows tokens as they come, prompt included, never half a character.
class TextStream {
 public:
  explicit TextStream(const data::Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  absl::Status Show(const std::vector<int32_t>& ids, bool last) {
    std::string text;
    NIBBLE_RETURN_IF_ERROR(tokenizer_.Decode(ids, &text));
    const size_t end = last ? text.size() : text.size() - UnfinishedBytes(text);
    if (end > shown_) {
      std::cout.write(text.data() + shown_, static_cast<std::streamsize>(end - shown_));
      std::cout.flush();
      shown_ = end;
    }
    return absl::OkStatus();
  }

 private:
  const data::Tokenizer& tokenizer_;
  size_t shown_ = 0;
};

class Generation {
 public:
  Generation(const GenerateOptions& options, data::Tokenizer* tokenizer)
      : options_(options), tokenizer_(tokenizer) {}

  absl::Status Run(const OpenedCheckpoint& checkpoint) {
    NIBBLE_RETURN_IF_ERROR(MakePrompt());
    NIBBLE_ASSIGN_OR_RETURN(const std::unique_ptr<LoadedModel> model,
                            LoadedModel::Load(checkpoint, options_.run));
    // The last token is only given out.
    const int64_t capacity = prompt_size() + std::max<int64_t>(options_.max_tokens, 1) - 1;
    const int64_t context = checkpoint.description.context_length;
    if (capacity > context) {
      std::cerr << "nibble-model: up to " << capacity << " tokens, where training saw sequences of "
                << context << "\n";
    }
    NIBBLE_ASSIGN_OR_RETURN(const std::unique_ptr<inference::Decoder> decoder,
                            model->MakeDecoder(capacity));
    NIBBLE_RETURN_IF_ERROR(Generate(*decoder));
    return Finish();
  }

 private:
  int64_t prompt_size() const { return prompt_size_; }

  absl::Status MakePrompt() {
    if (!options_.prompt_ids.empty()) {
      ids_ = options_.prompt_ids;
    } else {
      if (tokenizer_->bos_id() >= 0) ids_.push_back(tokenizer_->bos_id());
      if (!options_.prompt.empty()) tokenizer_->EncodeAll(options_.prompt, &ids_);
      // A model needs something to go on from: what it saw before every document.
      if (ids_.empty()) ids_.push_back(tokenizer_->separator());
    }
    prompt_size_ = static_cast<int64_t>(ids_.size());
    return absl::OkStatus();
  }

  bool streams_text() const { return options_.output == "text"; }
  // Tokens from here on are text: what the prompt begins with need not be.
  std::vector<int32_t> TextIds() const {
    const bool marked = ids_[0] == tokenizer_->bos_id() || ids_[0] == tokenizer_->separator();
    return std::vector<int32_t>(ids_.begin() + (marked ? 1 : 0), ids_.end());
  }

  absl::Status Generate(inference::Decoder& decoder) {
    std::vector<float> logits(decoder.vocab_size());
    std::unique_ptr<TextStream> stream;
    if (streams_text()) stream = std::make_unique<TextStream>(*tokenizer_);
    const int64_t start = RealClock().MonotonicNanos();
    NIBBLE_RETURN_IF_ERROR(decoder.Append(ids_.data(), prompt_size(), 1, logits.data()));
    prompt_seconds_ = SecondsSince(start);
    const int64_t decoding = RealClock().MonotonicNanos();
    for (int64_t i = 0; i < options_.max_tokens; ++i) {
      const int32_t id = inference::SampleToken(logits, options_.sampling, prompt_size() + i);
      if (!options_.ignore_end && tokenizer_ != nullptr && id == tokenizer_->eos_id()) {
        ended_ = true;
        break;
      }
      ids_.push_back(id);
      if (stream != nullptr) NIBBLE_RETURN_IF_ERROR(stream->Show(TextIds(), /*last=*/false));
      if (i + 1 < options_.max_tokens) {
        NIBBLE_RETURN_IF_ERROR(decoder.Append(&id, 1, 1, logits.data()));
      }
    }
    seconds_ = SecondsSince(decoding);
    if (stream != nullptr) {
      NIBBLE_RETURN_IF_ERROR(stream->Show(TextIds(), /*last=*/true));
      std::cout << std::endl;
    }
    return absl::OkStatus();
  }

  static double SecondsSince(int64_t nanos) {
    return static_cast<double>(RealClock().MonotonicNanos() - nanos) * 1e-9;
  }

  absl::Status Finish() const {
    const std::vector<int32_t> generated(ids_.begin() + prompt_size(), ids_.end());
    const double rate = seconds_ > 0 ? static_cast<double>(generated.size()) / seconds_ : 0;
    if (options_.output == "ids") {
      std::cout << absl::StrJoin(generated, " ") << "\n";
    } else if (options_.output == "json") {
      nlohmann::ordered_json json;
      json["prompt_ids"] = std::vector<int32_t>(ids_.begin(), ids_.begin() + prompt_size());
      json["ids"] = generated;
      if (tokenizer_ != nullptr) {
        std::string text;
        NIBBLE_RETURN_IF_ERROR(tokenizer_->Decode(TextIds(), &text));
        json["text"] = text;
      }
      json["finish_reason"] = ended_ ? "end" : "length";
      json["prompt_seconds"] = prompt_seconds_;
      json["tokens_per_second"] = rate;
      std::cout << json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace)
                << "\n";
    }
    std::cerr << absl::StrFormat("nibble-model: %d tokens after a prompt of %d, %.1f tokens/s\n",
                                 generated.size(), prompt_size(), rate);
    return absl::OkStatus();
  }

  const GenerateOptions& options_;
  data::Tokenizer* const tokenizer_;  // null: ids only
  std::vector<int32_t> ids_;
  int64_t prompt_size_ = 0;
  bool ended_ = false;
  double prompt_seconds_ = 0;
  double seconds_ = 0;
};

}  // namespace

absl::Status RunGenerate(const GenerateOptions& options) {
  NIBBLE_ASSIGN_OR_RETURN(const OpenedCheckpoint checkpoint,
                          OpenDescribedCheckpoint(options.run.checkpoint));
  absl::StatusOr<std::unique_ptr<data::Tokenizer>> tokenizer =
      TokenizerOf(checkpoint, options.run.tokenizer);
  // Ids go in and out without a tokenizer.
  const bool needed =
      options.prompt_ids.empty() || options.output == "text" || !options.run.tokenizer.empty();
  if (!tokenizer.ok() && (needed || !absl::IsNotFound(tokenizer.status()))) {
    return tokenizer.status();
  }
  return Generation(options, tokenizer.ok() ? tokenizer->get() : nullptr).Run(checkpoint);
}

}  // namespace nibble::worker
