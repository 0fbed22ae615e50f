// *.tiktoken: a line for every token, its bytes in base64 and its rank, which is its id. Any two
// neighbours whose bytes together are a token may merge, the lowest rank first.
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/files.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "worker/data/bpe_tokenizer.h"
#include "worker/data/token_splits.h"

namespace nibble::data {
namespace {

constexpr int64_t kMaxFileBytes = int64_t{64} << 20;
constexpr int32_t kMaxVocabulary = 1 << 20;

absl::StatusOr<std::vector<std::string>> ParseRanks(absl::string_view file) {
  std::vector<std::string> tokens;
  int64_t lines = 0;
  int64_t line_number = 0;
  for (absl::string_view line : absl::StrSplit(file, '\n')) {
    ++line_number;
    if (absl::EndsWith(line, "\r")) line.remove_suffix(1);
    if (line.empty()) continue;
    const auto error = [&](absl::string_view what) {
      return absl::InvalidArgumentError(absl::StrCat("line ", line_number, ": ", what));
    };
    const size_t space = line.find(' ');
    std::string token;
    int32_t rank;
    if (space == absl::string_view::npos || !absl::Base64Unescape(line.substr(0, space), &token) ||
        token.empty() || !absl::SimpleAtoi(line.substr(space + 1), &rank)) {
      return error("is not a token in base64, a space and a rank");
    }
    if (rank < 0 || rank >= kMaxVocabulary) {
      return error(absl::StrCat("has rank ", rank, "; allowed: 0 to ", kMaxVocabulary - 1));
    }
    const auto index = static_cast<size_t>(rank);
    if (index >= tokens.size()) tokens.resize(index + 1);
    if (!tokens[index].empty()) return error(absl::StrCat("has rank ", rank, " again"));
    tokens[index] = std::move(token);
    ++lines;
  }
  if (static_cast<int64_t>(tokens.size()) != lines || tokens.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("has ", lines, " tokens with ranks up to ",
                                                   static_cast<int64_t>(tokens.size()) - 1,
                                                   "; required: every rank once"));
  }
  return tokens;
}

std::string DigestOf(const std::vector<std::string>& tokens) {
  Sha256 sha;
  sha.Update("tiktoken");
  for (const std::string& token : tokens) {
    const auto size = static_cast<uint32_t>(token.size());
    sha.Update(&size, sizeof(size));
    sha.Update(token);
  }
  return sha.HexDigest();
}

absl::StatusOr<BpeModel> MakeModel(absl::string_view file) {
  BpeModel model;
  NIBBLE_ASSIGN_OR_RETURN(model.tokens, ParseRanks(file));
  const TokenIndex index = IndexTokens(model.tokens);
  if (index.size() != model.tokens.size()) {
    return absl::InvalidArgumentError("a token comes twice");
  }
  for (int byte = 0; byte < 256; ++byte) {
    const auto found = index.find(std::string(1, static_cast<char>(byte)));
    if (found == index.end()) {
      return absl::InvalidArgumentError(absl::StrCat("has no token for the single byte ", byte));
    }
    model.byte_ids[byte] = found->second;
  }
  std::vector<uint32_t> ranks(model.tokens.size());
  for (size_t id = 0; id < ranks.size(); ++id) ranks[id] = static_cast<uint32_t>(id);
  NIBBLE_ASSIGN_OR_RETURN(model.merges, MergesOfAllSplits(index, ranks));
  model.kind = "tiktoken";
  model.digest = DigestOf(model.tokens);
  // Special tokens are not in the file; the first id after it is the separator's, as in GPT-2.
  model.separator = static_cast<int32_t>(model.tokens.size());
  model.tokens.emplace_back(kSeparatorToken);
  return model;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTiktokenTokenizer(const std::string& path) {
  NIBBLE_ASSIGN_OR_RETURN(const std::string file, ReadFile(path, kMaxFileBytes));
  auto model = MakeModel(file);
  if (model.ok()) return MakeBpeTokenizer(*std::move(model));
  return absl::Status(model.status().code(), absl::StrCat(path, ": ", model.status().message()));
}

}  // namespace nibble::data
