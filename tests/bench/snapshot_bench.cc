// What keeping the state costs training, in pairs of a llama with and without it, in turn.
//   snapshot_bench [WIDTH [BLOCKS [VOCABULARY [SEQUENCES [PAIRS [STEPS]]]]]]
// Default: 50 million parameters, 16 sequences of 256 tokens a step, 9 pairs, STEPS 0.
//
// STEPS 0: snapshots. A pair is two steps, one with a snapshot begun before it. The overhead is the
// median difference, as a share of the time between two snapshots (the first step boundary after 10
// steps or 10 s).
//
// STEPS 50: checkpoints. A pair is twice 50 steps, one time with a checkpoint that is begun before
// the first and written, synced and verified behind them, as a run does it; what is not done by
// then is waited for. The figure is the median ratio of the times.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/files.h"
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
  int64_t width = 512, blocks = 8, vocabulary = 24576, sequences = 16, pairs = 9, steps = 0;
};

TrainingConfig Config(const Sizes& sizes) {
  TrainingConfig config;
  config.model.width = sizes.width;
  config.model.blocks = sizes.blocks;
  config.model.vocab_size = sizes.vocabulary;
  config.model.heads = config.model.kv_heads = sizes.width / 64;
  config.model.head_size = 64;
  config.model.mlp_width = sizes.width * 8 / 3 / 64 * 64;
  config.steps = 1'000'000;
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

double TimeSteps(Trainer& trainer, int64_t steps, bool with_checkpoint) {
  const auto before = std::chrono::steady_clock::now();
  if (with_checkpoint) NIBBLE_CHECK(trainer.StartSave().ok());
  for (int64_t step = 0; step < steps; ++step) {
    NIBBLE_CHECK(trainer.Step().ok());
    if (trainer.SaveUnderWay() && trainer.SaveWritten()) NIBBLE_CHECK(trainer.FinishSave().ok());
  }
  if (trainer.SaveUnderWay()) NIBBLE_CHECK(trainer.FinishSave().ok());
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - before).count();
}

void MeasureCheckpoints(const Sizes& sizes, Trainer& trainer) {
  NIBBLE_CHECK(trainer.PrepareSaves().ok());
  TimeSteps(trainer, /*steps=*/2, /*with_checkpoint=*/true);
  std::vector<double> plain, ratios;
  for (int64_t pair = 0; pair < sizes.pairs; ++pair) {
    double seconds[2];
    for (const bool first : {true, false}) {
      const bool with_checkpoint = first == (pair % 2 == 0);
      seconds[with_checkpoint ? 1 : 0] = TimeSteps(trainer, sizes.steps, with_checkpoint);
    }
    plain.push_back(seconds[0]);
    ratios.push_back(seconds[0] / seconds[1]);
  }
  std::printf(
      "%.1f M parameters, %lld tokens a step: %.3f s a step, with a checkpoint of %.0f MB every "
      "%lld steps %.4f of the throughput without (%.4f to %.4f)\n",
      trainer.parameters().parameter_count() * 1e-6,
      static_cast<long long>(sizes.sequences * kSequenceLength), Median(plain) / sizes.steps,
      trainer.parameters().parameter_count() * 12e-6, static_cast<long long>(sizes.steps),
      Median(ratios), *std::min_element(ratios.begin(), ratios.end()),
      *std::max_element(ratios.begin(), ratios.end()));
}

void MeasureSnapshots(const Sizes& sizes, Trainer& trainer) {
  NIBBLE_CHECK(trainer.PrepareSnapshots().ok());
  for (const bool with_snapshot : {true, false}) TimeStep(trainer, with_snapshot);
  std::vector<double> plain, differences;
  for (int64_t pair = 0; pair < sizes.pairs; ++pair) {
    double seconds[2];
    for (const bool first : {true, false}) {
      const bool with_snapshot = first == (pair % 2 == 0);
      seconds[with_snapshot ? 1 : 0] = TimeStep(trainer, with_snapshot);
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
      trainer.parameters().parameter_count() * 1e-6,
      static_cast<long long>(sizes.sequences * kSequenceLength), step, cost,
      trainer.parameters().parameter_count() * 12e-6, interval, 100 * cost / interval);
}

int Main(int argc, char** argv) {
  Sizes sizes;
  int64_t* const fields[] = {&sizes.width,     &sizes.blocks, &sizes.vocabulary,
                             &sizes.sequences, &sizes.pairs,  &sizes.steps};
  for (int i = 1; i < argc && i <= 6; ++i) *fields[i - 1] = std::atoll(argv[i]);
  const auto directory = *TemporaryDirectory::Make();
  TrainingConfig config = Config(sizes);
  config.output_directory = directory.path();
  const auto backend = *kernels::CreateBackend("cpu", {});
  const auto communicator = collective::SingleProcessCommunicator(*backend);
  const auto memory = *snapshot::TrainerMemory::Create();
  const Noise data(sizes.vocabulary);
  const auto trainer =
      *Trainer::Create(config, {backend.get(), communicator.get(), &data, nullptr, memory.get()});
  NIBBLE_CHECK(trainer->Initialise().ok());
  if (sizes.steps > 0) {
    MeasureCheckpoints(sizes, *trainer);
  } else {
    MeasureSnapshots(sizes, *trainer);
  }
  return 0;
}

}  // namespace
}  // namespace nibble::trainer

int main(int argc, char** argv) { return nibble::trainer::Main(argc, argv); }
