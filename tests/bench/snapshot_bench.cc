// What a snapshot costs the step that follows it: pairs of steps of one llama, one with a snapshot
// begun before it and one without, in turn.
//   snapshot_bench [WIDTH [BLOCKS [VOCABULARY [SEQUENCES [PAIRS]]]]]
// Default: 50 million parameters, 16 sequences of 256 tokens a step, 9 pairs. The overhead is the
// median difference of the pairs, as a share of the time between two snapshots (the first step
// boundary after 10 steps or 10 s).
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/check.h"
#include "kernels/backend.h"
#include "worker/collective/communicator.h"
#include "worker/data/data_source.h"
#include "worker/trainer/trainer.h"

namespace nibble::trainer {
namespace {

constexpr int64_t kSequenceLength = 256;

// Any tokens will do.
class Noise : public data::DataSource {
 public:
  explicit Noise(int64_t vocab_size) : vocab_size_(vocab_size) {}
  int64_t vocab_size() const override { return vocab_size_; }
  int64_t sequence_length() const override { return kSequenceLength; }
  int64_t sequences() const override { return 1; }
  double bytes_per_token() const override { return 1; }
  absl::Status ReadShuffled(uint64_t, int64_t position, int32_t* inputs,
                            int32_t* targets) const override {
    uint32_t state = static_cast<uint32_t>(position) * 2654435761u + 1;
    for (int64_t i = 0; i < kSequenceLength; ++i) {
      state = state * 1664525u + 1013904223u;
      inputs[i] = targets[i] = static_cast<int32_t>((state >> 8) % vocab_size_);
    }
    return absl::OkStatus();
  }
  absl::Status ReadInOrder(int64_t index, int32_t* inputs, int32_t* targets) const override {
    return ReadShuffled(0, index, inputs, targets);
  }

 private:
  const int64_t vocab_size_;
};

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  return values.size() % 2 != 0 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

struct Sizes {
  int64_t width = 512, blocks = 8, vocabulary = 24576, sequences = 16, pairs = 9;
};

TrainingConfig Config(const Sizes& sizes) {
  TrainingConfig config;
  config.model.width = sizes.width;
  config.model.blocks = sizes.blocks;
  config.model.vocab_size = sizes.vocabulary;
  config.model.heads = config.model.kv_heads = sizes.width / 64;
  config.model.head_size = 64;
  config.model.mlp_width = sizes.width * 8 / 3 / 64 * 64;
  config.steps = 1000;
  config.sequence_length = kSequenceLength;
  config.batch_size = sizes.sequences;
  config.micro_batch_size = std::min<int64_t>(sizes.sequences, 8);
  config.optimizer.learning_rate = 1e-4;
  config.config_digest = "bench";
  kernels::LinearFormat format;
  for (auto* product : {&format.fprop, &format.dgrad, &format.wgrad}) {
    product->first.format = product->second.format = kernels::Format::kBF16;
  }
  for (int64_t i = 0; i < 4 * sizes.blocks; ++i) config.linears.push_back({"", format});
  return config;
}

double TimeStep(Trainer& trainer, bool with_snapshot) {
  const auto before = std::chrono::steady_clock::now();
  if (with_snapshot) NIBBLE_CHECK(trainer.StartSnapshot().ok());
  NIBBLE_CHECK(trainer.Step().ok());
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - before).count();
}

int Main(int argc, char** argv) {
  Sizes sizes;
  int64_t* const fields[] = {&sizes.width, &sizes.blocks, &sizes.vocabulary, &sizes.sequences,
                             &sizes.pairs};
  for (int i = 1; i < argc && i <= 5; ++i) *fields[i - 1] = std::atoll(argv[i]);
  const TrainingConfig config = Config(sizes);
  const auto backend = *kernels::CreateBackend("cpu", {});
  const auto communicator = collective::SingleProcessCommunicator(*backend);
  const auto memory = *snapshot::TrainerMemory::Create();
  const Noise data(sizes.vocabulary);
  const auto trainer =
      *Trainer::Create(config, {backend.get(), communicator.get(), &data, nullptr, memory.get()});
  NIBBLE_CHECK(trainer->Initialise().ok() && trainer->PrepareSnapshots().ok());
  for (const bool with_snapshot : {true, false}) TimeStep(*trainer, with_snapshot);
  std::vector<double> plain, differences;
  for (int64_t pair = 0; pair < sizes.pairs; ++pair) {
    double seconds[2];
    for (const bool first : {true, false}) {
      const bool with_snapshot = first == (pair % 2 == 0);
      seconds[with_snapshot ? 1 : 0] = TimeStep(*trainer, with_snapshot);
    }
    plain.push_back(seconds[0]);
    differences.push_back(seconds[1] - seconds[0]);
  }
  const double step = Median(plain);
  const double cost = Median(differences);
  const double interval = step * std::min(10.0, std::ceil(10 / step));
  std::printf(
      "%.1f M parameters, %lld tokens a step: %.3f s a step, %.3f s more with a snapshot of "
      "%.0f MB, one every %.1f s: %.2f %%\n",
      trainer->parameters().parameter_count() * 1e-6,
      static_cast<long long>(sizes.sequences * kSequenceLength), step, cost,
      trainer->parameters().parameter_count() * 12e-6, interval, 100 * cost / interval);
  return 0;
}

}  // namespace
}  // namespace nibble::trainer

int main(int argc, char** argv) { return nibble::trainer::Main(argc, argv); }
