// Dimensions of a model of the family "llama": RMSNorm, RoPE, SwiGLU, grouped-query attention, no
// biases.
#ifndef WORKER_MODEL_LLAMA_CONFIG_H_
#define WORKER_MODEL_LLAMA_CONFIG_H_

#include <cstdint>

namespace nibble::model {

struct LlamaConfig {
  int64_t vocab_size = 0;
  int64_t width = 0;
  int64_t blocks = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;   // divides heads
  int64_t head_size = 0;  // even
  int64_t mlp_width = 0;
  double rope_theta = 10000;
  double norm_epsilon = 1e-5;
  bool tied_embeddings = false;
  double init_std = 0.02;

  int64_t qkv_width() const { return (heads + 2 * kv_heads) * head_size; }
  int64_t attention_width() const { return heads * head_size; }
};

}  // namespace nibble::model

#endif  // WORKER_MODEL_LLAMA_CONFIG_H_
