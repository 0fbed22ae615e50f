// Everything a training run depends on, as plain values: the resolved spec without protobuf.
#ifndef WORKER_TRAINER_TRAINING_CONFIG_H_
#define WORKER_TRAINER_TRAINING_CONFIG_H_

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/operand_format.h"

namespace nibble::trainer {

struct LlamaConfig {
  int64_t vocab_size = 0;
  int64_t width = 0;
  int64_t blocks = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_size = 0;
  int64_t mlp_width = 0;
  double rope_theta = 10000;
  double norm_epsilon = 1e-5;
  bool tied_embeddings = false;
  double init_std = 0.02;
};

// Formats of one linear layer, in forward order: qkv, output, gate_up, down of block 0, block 1,
// ...
struct LinearPrecision {
  std::string layer;  // "blocks.0.attention.qkv"
  kernels::LinearFormat format;
};

enum class ScheduleKind { kConstant, kCosine, kWsd };

struct ScheduleConfig {
  ScheduleKind kind = ScheduleKind::kCosine;
  int64_t warmup_steps = 0;
  double decay_fraction = 0.2;  // kWsd
  double final_fraction = 0.1;
};

struct AdamWConfig {
  double learning_rate = 1e-3;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  double weight_decay = 0.1;
  double gradient_clip = 1.0;  // 0: off
};

struct TrainingConfig {
  uint64_t seed = 0;
  LlamaConfig model;
  // Activations between operators: BF16, or FP32 where the recipe is fp32.
  bool fp32_activations = false;
  std::vector<LinearPrecision> linears;  // 4 * model.blocks
  std::string data_directory;            // absolute
  int64_t steps = 0;
  int64_t sequence_length = 0;
  int64_t batch_size = 0;        // sequences a step
  int64_t micro_batch_size = 0;  // divides batch_size
  int64_t validation_interval = 0;
  int64_t validation_sequences = 0;  // 0: all
  AdamWConfig optimizer;
  ScheduleConfig schedule;
  int64_t checkpoint_interval = 0;  // 0: only at the end and on pause
  std::string output_directory;     // absolute; checkpoints in <output_directory>/step-<N>
  std::string resume_from;          // checkpoint directory, empty for none
  std::string resume_digest;        // expected SHA-256 of its manifest.json; empty: unchecked
  std::string init_from;            // checkpoint directory: weights only
  std::string backend = "cpu";      // "cpu" or "reference"
  int threads = 0;                  // 0: all processors
  // SHA-256 of the resolved spec without name, labels, priority, resources and restart: a
  // checkpoint of another configuration is refused on resume.
  std::string config_digest;
};

}  // namespace nibble::trainer

#endif  // WORKER_TRAINER_TRAINING_CONFIG_H_
