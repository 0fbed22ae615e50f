// Small configurations of every recipe, and what is needed to train one without files.
#ifndef TESTS_TRAINING_TRAINING_SETUP_H_
#define TESTS_TRAINING_TRAINING_SETUP_H_

#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "tests/training/memory_data.h"
#include "worker/collective/communicator.h"
#include "worker/trainer/trainer.h"
#include "worker/trainer/training_config.h"

namespace nibble::testing {

enum class Recipe { kFp32, kBf16, kNvfp4, kMxfp4, kMxfp8, kFp8, kFp8Block };

// Formats of one linear layer of a recipe (docs/numerics.md, section 5).
kernels::LinearFormat FormatOf(Recipe recipe);

// Two blocks, grouped heads, all dimensions different: for comparisons value by value. Weights are
// large, so that every path has a gradient that is far from rounding noise.
trainer::TrainingConfig MicroscopicConfig(model::Family family = model::Family::kLlama);

// Three blocks (nemotron_h: four) with dimensions that NVFP4 takes; under kNvfp4 the last block stays
// in BF16.
trainer::TrainingConfig SmallConfig(Recipe recipe, model::Family family = model::Family::kLlama);

// A backend with data and a trainer over them. A failure to make one of them aborts the test.
struct Bench {
  Bench(const trainer::TrainingConfig& config, const std::string& backend_name, int threads = 1,
        int64_t train_sequences = 24);
  trainer::TrainerParts parts() const;
  std::unique_ptr<trainer::Trainer> MakeTrainer() const;  // initialised from the seed

  const trainer::TrainingConfig config;
  std::unique_ptr<kernels::Backend> backend;
  std::unique_ptr<collective::Communicator> communicator;
  MemoryData train;
  MemoryData validation;
};

// Values of a flat device buffer, alignment gaps included.
std::vector<float> ReadDevice(kernels::Backend& backend, const float* device, int64_t size);

}  // namespace nibble::testing

#endif  // TESTS_TRAINING_TRAINING_SETUP_H_
