#include "worker/evaluation/likelihood.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace nibble::evaluation {
namespace {

// Rows of logits held on the host at a time.
constexpr int64_t kRows = 128;

}  // namespace

int32_t LikelihoodScorer::StartToken() const {
  return tokenizer_.bos_id() >= 0 ? tokenizer_.bos_id() : tokenizer_.separator();
}

void LikelihoodScorer::Add(const float* logits, int32_t token, Likelihood* sum) const {
  const int64_t size = decoder_.vocab_size();
  const float* best = std::max_element(logits, logits + size);
  double total = 0;
  for (int64_t i = 0; i < size; ++i) total += std::exp(static_cast<double>(logits[i]) - *best);
  sum->log_probability += static_cast<double>(logits[token]) - *best - std::log(total);
  sum->is_greedy = sum->is_greedy && best - logits == token;
  ++sum->tokens;
}

absl::StatusOr<Likelihood> LikelihoodScorer::ScoreTokens(const std::vector<int32_t>& tokens,
                                                         int64_t first) {
  const int64_t size = static_cast<int64_t>(tokens.size());
  NIBBLE_CHECK(1 <= first && first < size && size <= decoder_.capacity() + 1);
  // What the decoder holds of this text already is kept: the choices of an item share a context.
  const int64_t held = static_cast<int64_t>(held_.size());
  int64_t at = 0;
  while (at < std::min(held, first - 1) && held_[at] == tokens[at]) ++at;
  decoder_.Truncate(at);
  held_.resize(at);
  Likelihood sum;
  // The last token is predicted, never appended.
  while (at < size - 1) {
    const bool before = at < first - 1;
    const int64_t count = before ? first - 1 - at : std::min(kRows, size - 1 - at);
    if (!before) logits_.resize(count * decoder_.vocab_size());
    NIBBLE_RETURN_IF_ERROR(
        decoder_.Append(tokens.data() + at, count, before ? 0 : count, logits_.data()));
    held_.insert(held_.end(), tokens.begin() + at, tokens.begin() + at + count);
    for (int64_t i = 0; !before && i < count; ++i) {
      Add(logits_.data() + i * decoder_.vocab_size(), tokens[at + i + 1], &sum);
    }
    at += count;
  }
  return sum;
}

absl::StatusOr<Likelihood> LikelihoodScorer::ScoreContinuation(const std::string& context,
                                                               const std::string& continuation) {
  const std::string whole_text = context + continuation;
  const std::string kept(absl::StripTrailingAsciiWhitespace(context));
  std::vector<int32_t> own, whole;
  if (!kept.empty()) tokenizer_.EncodeAll(kept, &own);
  tokenizer_.EncodeAll(whole_text, &whole);
  if (whole.empty() || continuation.empty()) {
    return absl::InvalidArgumentError("an empty continuation has no likelihood");
  }
  std::vector<int32_t> tokens;
  if (tokenizer_.bos_id() >= 0 || own.empty()) tokens.push_back(StartToken());
  // At least one token is the continuation's, even where the tokenizer merged all into the context.
  const int64_t shared =
      std::min(static_cast<int64_t>(own.size()), static_cast<int64_t>(whole.size()) - 1);
  int64_t first = static_cast<int64_t>(tokens.size()) + shared;
  tokens.insert(tokens.end(), whole.begin(), whole.end());
  const int64_t longest = decoder_.capacity() + 1;
  const int64_t surplus = std::max<int64_t>(0, static_cast<int64_t>(tokens.size()) - longest);
  tokens.erase(tokens.begin(), tokens.begin() + surplus);
  // A continuation longer than the window is predicted as far as it fits.
  first = std::max<int64_t>(1, first - surplus);
  return ScoreTokens(tokens, first);
}

absl::StatusOr<Likelihood> LikelihoodScorer::ScoreDocument(const std::string& text,
                                                           int64_t* bytes) {
  std::vector<int32_t> ids{StartToken()};
  NIBBLE_ASSIGN_OR_RETURN(*bytes, tokenizer_.Encode(text, [&](const int32_t* more, int64_t count) {
    ids.insert(ids.end(), more, more + count);
    return absl::OkStatus();
  }));
  const int64_t size = static_cast<int64_t>(ids.size()), window = decoder_.capacity();
  Likelihood sum;
  for (int64_t done = 1; done < size;) {
    const int64_t end = std::min(done + window, size);
    const int64_t begin = std::max<int64_t>(0, end - window - 1);
    NIBBLE_ASSIGN_OR_RETURN(
        const Likelihood part,
        ScoreTokens(std::vector<int32_t>(ids.begin() + begin, ids.begin() + end), done - begin));
    sum.log_probability += part.log_probability;
    sum.is_greedy = sum.is_greedy && part.is_greedy;
    sum.tokens += part.tokens;
    done = end;
  }
  return sum;
}

absl::StatusOr<Likelihood> LikelihoodScorer::ScoreSample(const std::string& text, int64_t* bytes) {
  const int64_t window = decoder_.capacity();
  std::vector<int32_t> ids{StartToken()};
  const absl::Status full = absl::CancelledError();
  const auto encoded = tokenizer_.Encode(text, [&](const int32_t* more, int64_t count) {
    const int64_t room = window - static_cast<int64_t>(ids.size());
    ids.insert(ids.end(), more, more + std::min(room, count));
    return count < room ? absl::OkStatus() : full;
  });
  if (!encoded.ok() && encoded.status() != full) return encoded.status();
  *bytes = 0;
  if (ids.size() < 2) return Likelihood();
  std::string decoded;
  NIBBLE_RETURN_IF_ERROR(
      tokenizer_.Decode(std::vector<int32_t>(ids.begin() + 1, ids.end()), &decoded));
  *bytes = static_cast<int64_t>(decoded.size());
  return ScoreTokens(ids, 1);
}

}  // namespace nibble::evaluation
