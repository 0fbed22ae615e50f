// Everything a training run depends on, as plain values: the resolved spec without protobuf.
#ifndef WORKER_TRAINER_TRAINING_CONFIG_H_
#define WORKER_TRAINER_TRAINING_CONFIG_H_

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/operand_format.h"
#include "worker/data/data_config.h"
#include "worker/model/model_config.h"
#include "worker/optimizer/optimizer_config.h"

namespace nibble::trainer {

using ModelConfig = model::ModelConfig;

// Formats of one linear layer.
struct LinearPrecision {
  std::string layer;  // "blocks.0.attention.qkv"
  kernels::LinearFormat format;
};

using ScheduleKind = optimizer::ScheduleKind;
using ScheduleConfig = optimizer::ScheduleConfig;
using AdamWConfig = optimizer::AdamWConfig;

struct TrainingConfig {
  uint64_t seed = 0;
  ModelConfig model;
  // Activations between operators: BF16, or FP32 where the recipe is fp32.
  bool fp32_activations = false;
  std::vector<LinearPrecision> linears;  // as model::LinearsOf(model)
  data::DataConfig data;
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
