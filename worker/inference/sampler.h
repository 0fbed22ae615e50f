// Chooses the next token from logits.
#ifndef WORKER_INFERENCE_SAMPLER_H_
#define WORKER_INFERENCE_SAMPLER_H_

#include <cstdint>
#include <vector>

namespace nibble::inference {

struct SamplingOptions {
  // Divides the logits. 0: always the token of the largest logit, the smaller id of equals.
  double temperature = 1;
  // Only the k tokens of the largest logits; 0: all.
  int64_t top_k = 0;
  // Of those, only the most probable that together have at least this share; 1: all.
  double top_p = 1;
  uint64_t seed = 0;
};

// Token number `position` of a text: a pure function of its arguments. The one random number it
// takes is u = (w + 1/2) 2^-32 with w the first word of Philox4x32-10, key = seed, counter = (low,
// high 32 bits of position, 0, 0xfffffffe): a step that no training run reaches. Tokens are in
// order of falling logit, equals of rising id; the chosen one is the first whose cumulated
// probability exceeds u. Logits that are NaN count as minus infinity. REQUIRES: not empty;
// temperature >= 0, top_k >= 0, 0 < top_p <= 1.
int32_t SampleToken(const std::vector<float>& logits, const SamplingOptions& options,
                    int64_t position);

}  // namespace nibble::inference

#endif  // WORKER_INFERENCE_SAMPLER_H_
