// How likely a model finds a text: log-probabilities of tokens after others.
#ifndef WORKER_EVALUATION_LIKELIHOOD_H_
#define WORKER_EVALUATION_LIKELIHOOD_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/data/tokenizer.h"
#include "worker/inference/decoder.h"

namespace nibble::evaluation {

struct Likelihood {
  double log_probability = 0;  // nats, summed over the tokens
  bool is_greedy = true;       // every token is the most likely one at its place
  int64_t tokens = 0;
};

// Not thread-safe.
class LikelihoodScorer {
 public:
  // All outlive it. A sequence is at most decoder.capacity() tokens.
  LikelihoodScorer(inference::Decoder& decoder, data::Tokenizer& tokenizer)
      : decoder_(decoder), tokenizer_(tokenizer), logits_() {}

  // Of `continuation` after `context`, as lm-evaluation-harness takes it: white space at the
  // context's end belongs to the continuation; both are encoded together, and the continuation's
  // tokens are those beyond the context's own number. The tokenizer's first token stands before the
  // context, or before an empty one its separator. What is longer than the decoder takes loses
  // tokens from its front. Empty continuations are INVALID_ARGUMENT.
  absl::StatusOr<Likelihood> ScoreContinuation(const std::string& context,
                                               const std::string& continuation);

  // Of a whole document, in windows that do not overlap: every token is predicted once, the first
  // from the separator (or first token), each window's first from the last token before it; the
  // last window is as long as the others and predicts only what is left. `bytes`: of the text that
  // the tokens stand for.
  absl::StatusOr<Likelihood> ScoreDocument(const std::string& text, int64_t* bytes);

  // Of the beginning of a document: its first capacity tokens, the start token counted, without
  // which nothing is predicted. `bytes`: of the text of the predicted tokens.
  absl::StatusOr<Likelihood> ScoreSample(const std::string& text, int64_t* bytes);

  // Of tokens[first..) after those before. REQUIRES: 1 <= first < tokens.size() <= capacity + 1.
  absl::StatusOr<Likelihood> ScoreTokens(const std::vector<int32_t>& tokens, int64_t first);

 private:
  // What a document begins after.
  int32_t StartToken() const;
  // Adds what the row of logits says of `token`.
  void Add(const float* logits, int32_t token, Likelihood* sum) const;

  inference::Decoder& decoder_;
  data::Tokenizer& tokenizer_;
  std::vector<int32_t> held_;  // what the decoder has appended
  std::vector<float> logits_;
};

}  // namespace nibble::evaluation

#endif  // WORKER_EVALUATION_LIKELIHOOD_H_
