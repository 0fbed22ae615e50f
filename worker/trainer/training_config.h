// Everything a training run depends on, as plain values: the resolved spec without protobuf.
#ifndef WORKER_TRAINER_TRAINING_CONFIG_H_
#define WORKER_TRAINER_TRAINING_CONFIG_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "kernels/operand_format.h"
#include "worker/data/data_config.h"
#include "worker/model/loss_config.h"
#include "worker/model/model_config.h"
#include "worker/model/precision_policy.h"
#include "worker/optimizer/optimizer_config.h"
#include "worker/trainer/fault_plan.h"
#include "worker/trainer/guard.h"
#include "worker/trainer/sample_weights.h"

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

// Measurements of quantisation_health.h; they change nothing of the training.
struct HealthConfig {
  int64_t interval = 0;  // steps; 0: none
  // Also the loss of the step's batch without quantisation, at the same weights.
  bool shadow = false;
};

// A committed checkpoint.
struct ResumePoint {
  std::string path;
  std::string digest;  // expected SHA-256 of its manifest.json
  int64_t step = 0;
};

struct EvaluationTaskConfig {
  std::string task;   // one of evaluation::AllTasks
  std::string path;   // absolute
  std::string name;   // of its metrics
  int64_t limit = 0;  // items; 0: all
};

// Scores on tasks (task_evaluator.h); they change nothing of the training.
struct EvaluationConfig {
  std::vector<EvaluationTaskConfig> tasks;
  int64_t interval = 0;   // steps; 0: only at the end
  std::string tokenizer;  // as data::LoadTokenizer takes it; empty: tokenizer_path.h says which
  int64_t context = 0;    // tokens
  double forward_flops_per_token = 0;  // mean over the positions of `context` tokens
};

struct TrainingConfig {
  uint64_t seed = 0;
  ModelConfig model;
  // Activations between operators: BF16, or FP32 where the recipe is fp32.
  bool fp32_activations = false;
  std::vector<LinearPrecision> linears;  // as model::LinearsOf(model), from step 0 on
  // Later formats of the same layers, all of them; steps count from 0 and rise.
  std::vector<model::PrecisionPhase> later_precision;
  data::DataConfig data;
  int64_t steps = 0;  // 0: score the weights of init_from, train nothing
  int64_t sequence_length = 0;
  int64_t batch_size = 0;        // sequences a step
  int64_t micro_batch_size = 0;  // divides batch_size
  int64_t validation_interval = 0;
  int64_t validation_sequences = 0;  // 0: all
  AdamWConfig optimizer;
  ScheduleConfig schedule;
  HealthConfig health;
  EvaluationConfig evaluation;
  model::LossConfig loss;
  SampleWeightConfig sample_weights;
  SafetyConfig safety;
  FaultPlan faults;  // planted by tests
  // Forward and backward, as users count them; for reports only.
  double flops_per_token = 0;
  int64_t checkpoint_interval = 0;  // 0: only at the end and on pause
  // A snapshot at the first step so many steps or seconds after the last one; steps 0: none.
  int64_t snapshot_steps = 0;
  double snapshot_seconds = 10;
  std::string output_directory;  // absolute; checkpoints in <output_directory>/step-<N>
  std::string resume_from;       // checkpoint directory, empty for none
  std::string resume_digest;     // expected SHA-256 of its manifest.json; empty: unchecked
  int64_t resume_step = 0;       // of resume_from
  // Older ones, newest first, for where resume_from does not verify.
  std::vector<ResumePoint> fallbacks;
  std::string init_from;        // checkpoint directory: weights only
  std::string backend = "cpu";  // "cpu", "cuda" or "reference"
  int threads = 0;              // 0: all processors
  // spec::ConfigDigest of the job: a checkpoint of another configuration is refused on resume.
  std::string config_digest;
  // Text of model.yaml, which every checkpoint carries (docs/formats/checkpoint.md); empty: none.
  std::string model_description;
};

// `linears` and `later_precision` by layer and step.
inline model::PrecisionPolicy PrecisionOf(const TrainingConfig& config) {
  std::vector<model::PrecisionPhase> phases(1);
  for (const LinearPrecision& linear : config.linears) phases[0].linears.push_back(linear.format);
  phases.insert(phases.end(), config.later_precision.begin(), config.later_precision.end());
  model::PrecisionPolicy policy(std::move(phases));
  if (config.safety.recovery_steps > 0) policy.AllowRaising(kernels::LinearFormat());  // BF16
  return policy;
}

}  // namespace nibble::trainer

#endif  // WORKER_TRAINER_TRAINING_CONFIG_H_
