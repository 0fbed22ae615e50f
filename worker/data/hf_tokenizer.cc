// Hugging Face's tokenizer.json, as far as it is a byte-level byte-pair encoding with GPT-2's or
// Llama 3's pre-tokenizer. Whatever else it asks for is refused by name: ids that are nearly right
// are wrong.
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/files.h"
#include "base/log.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "worker/data/bpe_tokenizer.h"
#include "worker/data/byte_alphabet.h"
#include "worker/data/tokenizer_json.h"

namespace nibble::data {
namespace {

constexpr int64_t kMaxFileBytes = int64_t{64} << 20;
constexpr int64_t kMaxVocabulary = int64_t{1} << 20;

// What Llama 3 (and tiktoken's cl100k_base) splits by, as the file writes it.
constexpr absl::string_view kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

absl::string_view Get(const TokenizerJson& json, const std::string& path) {
  const auto found = json.settings.find(path);
  return found == json.settings.end() ? absl::string_view() : found->second;
}

bool Has(const TokenizerJson& json, const std::string& prefix) {
  const auto found = json.settings.lower_bound(prefix);
  return found != json.settings.end() && absl::StartsWith(found->first, prefix);
}

absl::Status Unsupported(absl::string_view what, absl::string_view value) {
  return absl::InvalidArgumentError(
      absl::StrCat(what, " is \"", EscapeControlCharacters(value.substr(0, 64)),
                   "\"; read are byte-level BPE with the pre-tokenizer of GPT-2 or of Llama 3"));
}

absl::Status CheckModel(const TokenizerJson& json) {
  const absl::string_view type = Get(json, "model.type");
  if (!type.empty() && type != "BPE") return Unsupported("model.type", type);
  // What changes ids, where it has a value.
  for (const char* name : {"dropout", "continuing_subword_prefix", "end_of_word_suffix"}) {
    const absl::string_view value = Get(json, absl::StrCat("model.", name));
    if (!value.empty()) return Unsupported(absl::StrCat("model.", name), value);
  }
  if (Get(json, "model.byte_fallback") == "true") return Unsupported("model.byte_fallback", "true");
  if (Has(json, "normalizer.")) return Unsupported("normalizer.type", Get(json, "normalizer.type"));
  return absl::OkStatus();
}

absl::Status CheckByteLevel(const TokenizerJson& json, const std::string& path, bool splits) {
  const absl::string_view type = Get(json, path + ".type");
  if (type != "ByteLevel") return Unsupported(path + ".type", type);
  if (Get(json, path + ".add_prefix_space") == "true") {
    return Unsupported(path + ".add_prefix_space", "true");
  }
  const bool regex = Get(json, path + ".use_regex") != "false";
  if (regex != splits) return Unsupported(path + ".use_regex", regex ? "true" : "false");
  return absl::OkStatus();
}

absl::StatusOr<PretokenizerKind> FindPretokenizer(const TokenizerJson& json) {
  const std::string path = "pre_tokenizer";
  if (Get(json, path + ".type") != "Sequence") {
    NIBBLE_RETURN_IF_ERROR(CheckByteLevel(json, path, /*splits=*/true));
    return PretokenizerKind::kGpt2;
  }
  const std::string split = path + ".pretokenizers.0", bytes = path + ".pretokenizers.1";
  if (Get(json, split + ".type") != "Split") {
    return Unsupported(split + ".type", Get(json, split + ".type"));
  }
  if (Get(json, split + ".pattern.Regex") != kLlama3Pattern) {
    return Unsupported(split + ".pattern.Regex", Get(json, split + ".pattern.Regex"));
  }
  if (Get(json, split + ".behavior") != "Isolated" || Get(json, split + ".invert") == "true") {
    return Unsupported(split + ".behavior", Get(json, split + ".behavior"));
  }
  NIBBLE_RETURN_IF_ERROR(CheckByteLevel(json, bytes, /*splits=*/false));
  if (Has(json, path + ".pretokenizers.2.")) return Unsupported(path, "a longer sequence");
  return PretokenizerKind::kLlama3;
}

// Puts `bytes` at `id` of the growing list.
absl::Status Place(int64_t id, std::string bytes, std::vector<std::string>* tokens) {
  if (id < 0 || id >= kMaxVocabulary) {
    return absl::ResourceExhaustedError(
        absl::StrCat("has the id ", id, "; allowed: below ", kMaxVocabulary));
  }
  const auto index = static_cast<size_t>(id);
  if (index >= tokens->size()) tokens->resize(index + 1);
  if (!(*tokens)[index].empty() && (*tokens)[index] != bytes) {
    return absl::InvalidArgumentError(absl::StrCat("the id ", id, " comes twice"));
  }
  (*tokens)[index] = std::move(bytes);
  return absl::OkStatus();
}

class Builder {
 public:
  explicit Builder(const TokenizerJson& json) : json_(json) {}

  absl::StatusOr<BpeModel> Build() {
    NIBBLE_RETURN_IF_ERROR(CheckModel(json_));
    NIBBLE_ASSIGN_OR_RETURN(model_.pretokenizer, FindPretokenizer(json_));
    NIBBLE_RETURN_IF_ERROR(AddVocabulary());
    NIBBLE_RETURN_IF_ERROR(AddMerges());
    NIBBLE_RETURN_IF_ERROR(AddSpecialTokens());
    for (size_t id = 0; id < model_.tokens.size(); ++id) {
      if (!model_.tokens[id].empty()) continue;
      return absl::InvalidArgumentError(absl::StrCat("has no token of id ", id, " among ",
                                                     model_.tokens.size(), "; required: every id"));
    }
    NIBBLE_RETURN_IF_ERROR(FindEnds());
    model_.whole_pieces = Get(json_, "model.ignore_merges") == "true";
    model_.kind = "huggingface";
    model_.digest = Digest();
    return std::move(model_);
  }

 private:
  absl::Status AddVocabulary() {
    const ByteAlphabet alphabet;
    for (const auto& [text, id] : json_.vocabulary) {
      std::string bytes;
      // A special token may be in the vocabulary under its own text, which need not be in the
      // alphabet.
      if (!alphabet.ToBytes(text, &bytes)) bytes = text;
      if (bytes.empty()) return absl::InvalidArgumentError("has an empty token");
      NIBBLE_RETURN_IF_ERROR(Place(id, std::move(bytes), &model_.tokens));
    }
    for (int byte = 0; byte < 256; ++byte) {
      const std::string one(1, static_cast<char>(byte));
      const auto found = json_.vocabulary.find(alphabet.ToText(one));
      if (found == json_.vocabulary.end()) {
        return absl::InvalidArgumentError(absl::StrCat("has no token for the single byte ", byte));
      }
      model_.byte_ids[byte] = found->second;
    }
    return absl::OkStatus();
  }

  absl::Status AddMerges() {
    model_.merges = MergeTable(json_.merges.size());
    uint32_t rank = 0;
    for (const auto& [left, right] : json_.merges) {
      const auto a = json_.vocabulary.find(left), b = json_.vocabulary.find(right);
      const auto whole = json_.vocabulary.find(left + right);
      if (a == json_.vocabulary.end() || b == json_.vocabulary.end() ||
          whole == json_.vocabulary.end()) {
        return absl::InvalidArgumentError(
            absl::StrCat("merge number ", rank + 1, " names a token that is not in model.vocab"));
      }
      sha_merges_.push_back({a->second, b->second, whole->second});
      if (!model_.merges.Insert(a->second, b->second, {rank++, whole->second})) {
        return absl::InvalidArgumentError(absl::StrCat("merge number ", rank, " comes twice"));
      }
    }
    return absl::OkStatus();
  }

  absl::Status AddSpecialTokens() {
    for (int i = 0;; ++i) {
      const std::string path = absl::StrCat("added_tokens.", i);
      if (!Has(json_, path + ".")) return absl::OkStatus();
      const absl::string_view content = Get(json_, path + ".content");
      int64_t id = -1;
      if (content.empty() || !absl::SimpleAtoi(Get(json_, path + ".id"), &id)) {
        return absl::InvalidArgumentError(absl::StrCat(path, " has no content or no id"));
      }
      // Others are cut out of every text before it is split.
      if (Get(json_, path + ".special") != "true") return Unsupported(path + ".special", "false");
      NIBBLE_RETURN_IF_ERROR(Place(id, std::string(content), &model_.tokens));
      special_.emplace_back(content, static_cast<int32_t>(id));
    }
  }

  int32_t SpecialId(absl::string_view content) const {
    for (const auto& [text, id] : special_) {
      if (text == content) return id;
    }
    return -1;
  }

  absl::Status FindEnds() {
    for (const absl::string_view name : {kSeparatorToken, absl::string_view("<|end_of_text|>"),
                                         absl::string_view("</s>"), absl::string_view("<eos>")}) {
      if (model_.separator < 0) model_.separator = SpecialId(name);
    }
    if (model_.separator < 0) {
      return absl::InvalidArgumentError(
          "has no special token that ends a text: <|endoftext|>, <|end_of_text|>, </s> or <eos>");
    }
    // What the file puts before a text.
    for (const char* path :
         {"post_processor", "post_processor.processors.0", "post_processor.processors.1"}) {
      const absl::string_view first = Get(json_, absl::StrCat(path, ".single.0.SpecialToken.id"));
      if (!first.empty()) model_.bos = SpecialId(first);
    }
    return absl::OkStatus();
  }

  std::string Digest() const {
    Sha256 sha;
    sha.Update("huggingface");
    const uint8_t form[] = {static_cast<uint8_t>(model_.pretokenizer), model_.whole_pieces};
    sha.Update(form, sizeof(form));
    for (const std::string& token : model_.tokens) {
      const auto size = static_cast<uint32_t>(token.size());
      sha.Update(&size, sizeof(size));
      sha.Update(token);
    }
    for (const MergeIds& ids : sha_merges_) sha.Update(&ids, sizeof(ids));
    return sha.HexDigest();
  }

  struct MergeIds {
    int32_t left, right, merged;
  };
  const TokenizerJson& json_;
  BpeModel model_;
  std::vector<MergeIds> sha_merges_;
  std::vector<std::pair<std::string, int32_t>> special_;
};

absl::StatusOr<BpeModel> ReadModel(const std::string& text) {
  NIBBLE_ASSIGN_OR_RETURN(const TokenizerJson json, ParseTokenizerJson(text));
  return Builder(json).Build();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadHuggingFaceTokenizer(const std::string& path) {
  NIBBLE_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxFileBytes));
  absl::StatusOr<BpeModel> model = ReadModel(text);
  if (model.ok()) return MakeBpeTokenizer(*std::move(model));
  return absl::Status(model.status().code(), absl::StrCat(path, ": ", model.status().message()));
}

}  // namespace nibble::data
