#include "worker/data/bpe_files.h"

#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/files.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"
#include "worker/data/byte_alphabet.h"

namespace nibble::data {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMaxFileBytes = int64_t{64} << 20;
constexpr int64_t kMaxVocabulary = int64_t{1} << 20;

std::string Quote(absl::string_view text) {
  return absl::StrCat("\"", EscapeControlCharacters(text.substr(0, 64)), "\"");
}

// Hears vocab.json as it is parsed; nothing but its entries is kept.
class VocabularySax : public nlohmann::json_sax<Json> {
 public:
  VocabularySax(const ByteAlphabet& alphabet, absl::flat_hash_map<std::string, int32_t>* ids)
      : alphabet_(alphabet), ids_(ids) {}

  bool null() override { return Fail("null"); }
  bool boolean(bool) override { return Fail("a bool"); }
  bool number_integer(number_integer_t) override { return Fail("a negative number"); }
  bool number_float(number_float_t, const string_t&) override { return Fail("a fraction"); }
  bool string(string_t&) override { return Fail("a string"); }
  bool binary(binary_t&) override { return Fail("binary"); }
  bool start_array(std::size_t) override { return Fail("an array"); }
  bool end_array() override { return true; }
  bool start_object(std::size_t) override { return depth_++ == 0 || Fail("an object"); }
  bool end_object() override { return true; }
  bool key(string_t& text) override {
    key_ = text;
    return true;
  }
  bool number_unsigned(number_unsigned_t id) override {
    if (depth_ == 0) return Fail("a number");
    if (id >= kMaxVocabulary || static_cast<int64_t>(ids_->size()) >= kMaxVocabulary) {
      status_ = absl::ResourceExhaustedError(
          absl::StrCat("token ", Quote(key_), " has id ", id, "; allowed: below ", kMaxVocabulary));
      return false;
    }
    std::string bytes;
    if (!alphabet_.ToBytes(key_, &bytes) || bytes.empty()) {
      status_ = absl::InvalidArgumentError(
          absl::StrCat("token ", Quote(key_), " is not in the byte-level alphabet"));
      return false;
    }
    if (!ids_->try_emplace(std::move(bytes), static_cast<int32_t>(id)).second) {
      status_ = absl::InvalidArgumentError(absl::StrCat("token ", Quote(key_), " comes twice"));
      return false;
    }
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const Json::exception&) override {
    status_ = absl::InvalidArgumentError(absl::StrCat("not JSON at byte ", position));
    return false;
  }

  const absl::Status& status() const { return status_; }

 private:
  bool Fail(absl::string_view what) {
    status_ = absl::InvalidArgumentError(
        absl::StrCat("holds ", what, depth_ > 0 ? absl::StrCat(" for token ", Quote(key_)) : "",
                     "; required: an object of tokens to ids"));
    return false;
  }

  const ByteAlphabet& alphabet_;
  absl::flat_hash_map<std::string, int32_t>* ids_;
  std::string key_;
  int depth_ = 0;
  absl::Status status_;
};

using TokenIds = absl::flat_hash_map<std::string, int32_t>;

absl::Status ParseVocabulary(const std::string& json, const ByteAlphabet& alphabet, TokenIds* ids) {
  VocabularySax sax(alphabet, ids);
  bool parsed = false;
  try {
    parsed = Json::sax_parse(json, &sax);
  } catch (const std::exception& e) {
    return absl::InvalidArgumentError(e.what());
  }
  if (parsed) return absl::OkStatus();
  return sax.status().ok() ? absl::InvalidArgumentError("not JSON") : sax.status();
}

absl::Status IndexTokens(const TokenIds& ids, BpeVocabulary* vocabulary) {
  const auto count = static_cast<int32_t>(ids.size());
  vocabulary->tokens.resize(count);
  for (const auto& [bytes, id] : ids) {
    if (id >= count) {
      return absl::InvalidArgumentError(absl::StrCat("has ", count, " tokens and the id ", id,
                                                     "; required: ids 0 to ", count - 1));
    }
    if (!vocabulary->tokens[id].empty()) {
      return absl::InvalidArgumentError(absl::StrCat("the id ", id, " comes twice"));
    }
    vocabulary->tokens[id] = bytes;
  }
  for (int byte = 0; byte < 256; ++byte) {
    const auto it = ids.find(std::string(1, static_cast<char>(byte)));
    if (it == ids.end()) {
      return absl::InvalidArgumentError(absl::StrCat("has no token for the single byte ", byte));
    }
    vocabulary->byte_ids[byte] = it->second;
  }
  const auto separator = ids.find(std::string(kSeparatorToken));
  if (separator == ids.end()) {
    return absl::InvalidArgumentError(absl::StrCat("has no token ", kSeparatorToken));
  }
  vocabulary->separator = separator->second;
  return absl::OkStatus();
}

absl::Status ParseMerges(absl::string_view text, const ByteAlphabet& alphabet, const TokenIds& ids,
                         BpeVocabulary* vocabulary) {
  int64_t line_number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++line_number;
    if (absl::EndsWith(line, "\r")) line.remove_suffix(1);
    if (line.empty() || (line_number == 1 && absl::StartsWith(line, "#version"))) continue;
    const auto error = [&](absl::string_view what) {
      return absl::InvalidArgumentError(absl::StrCat("line ", line_number, ": ", what));
    };
    if (static_cast<int64_t>(vocabulary->merges.size()) >= kMaxVocabulary) {
      return absl::ResourceExhaustedError(absl::StrCat("over ", kMaxVocabulary, " merges"));
    }
    const size_t space = line.find(' ');
    std::string left;
    std::string right;
    if (space == absl::string_view::npos || !alphabet.ToBytes(line.substr(0, space), &left) ||
        !alphabet.ToBytes(line.substr(space + 1), &right)) {
      return error(absl::StrCat(Quote(line), " is not two tokens with a space between"));
    }
    const auto left_id = ids.find(left);
    const auto right_id = ids.find(right);
    const auto merged_id = ids.find(left + right);
    if (left_id == ids.end() || right_id == ids.end() || merged_id == ids.end()) {
      return error(absl::StrCat("merge ", Quote(line), " names a token that is not in vocab.json"));
    }
    if (merged_id->second == vocabulary->separator) return error("merges to the separator");
    vocabulary->merges.push_back({left_id->second, right_id->second, merged_id->second});
  }
  return absl::OkStatus();
}

absl::Status WithPath(const absl::Status& status, const std::string& path) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
}

}  // namespace

absl::StatusOr<BpeVocabulary> ReadBpeFiles(const BpeFiles& files) {
  const ByteAlphabet alphabet;
  BpeVocabulary vocabulary;
  TokenIds ids;
  {
    NIBBLE_ASSIGN_OR_RETURN(const std::string json, ReadFile(files.vocab, kMaxFileBytes));
    NIBBLE_RETURN_IF_ERROR(WithPath(ParseVocabulary(json, alphabet, &ids), files.vocab));
  }
  NIBBLE_RETURN_IF_ERROR(WithPath(IndexTokens(ids, &vocabulary), files.vocab));
  NIBBLE_ASSIGN_OR_RETURN(const std::string merges, ReadFile(files.merges, kMaxFileBytes));
  NIBBLE_RETURN_IF_ERROR(WithPath(ParseMerges(merges, alphabet, ids, &vocabulary), files.merges));
  return vocabulary;
}

}  // namespace nibble::data
