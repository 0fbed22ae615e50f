// Saves and loads checkpoints of a llama whenever it is told to:
//   checkpoint_server WIDTH BLOCKS VOCABULARY DIRECTORY
// Lines on standard input: "save" (durable, from the state on the device to the renamed directory),
// "stall" (only the time that training would stand still; the save is finished before the next
// line), "load" (open, verify digests, copy to the device). Answers with the seconds and the bytes.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>

#include "base/check.h"
#include "kernels/backend.h"
#include "worker/collective/communicator.h"
#include "worker/data/data_source.h"
#include "worker/trainer/trainer.h"

namespace nibble::trainer {
namespace {

// A trainer needs data to be made; nothing is read here.
class NoData : public data::DataSource {
 public:
  explicit NoData(int64_t vocab_size) : vocab_size_(vocab_size) {}
  int64_t vocab_size() const override { return vocab_size_; }
  int64_t sequence_length() const override { return 16; }
  int64_t sequences() const override { return 1; }
  double bytes_per_token() const override { return 1; }
  absl::Status ReadShuffled(uint64_t, int64_t, int32_t*, int32_t*) const override {
    return absl::UnimplementedError("no data");
  }
  absl::Status ReadInOrder(int64_t, int32_t*, int32_t*) const override {
    return absl::UnimplementedError("no data");
  }

 private:
  const int64_t vocab_size_;
};

TrainingConfig Config(char** argv) {
  TrainingConfig config;
  config.model.width = std::atoll(argv[1]);
  config.model.blocks = std::atoll(argv[2]);
  config.model.vocab_size = std::atoll(argv[3]);
  config.model.heads = config.model.kv_heads = config.model.width / 64;
  config.model.head_size = 64;
  config.model.mlp_width = config.model.width * 8 / 3 / 64 * 64;
  config.steps = 1;
  config.sequence_length = 16;
  config.batch_size = config.micro_batch_size = 1;
  config.output_directory = argv[4];
  config.config_digest = "bench";
  kernels::LinearFormat format;
  for (auto* product : {&format.fprop, &format.dgrad, &format.wgrad}) {
    product->first.format = product->second.format = kernels::Format::kBF16;
  }
  for (int64_t i = 0; i < 4 * config.model.blocks; ++i) config.linears.push_back({"", format});
  return config;
}

int Main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "usage: checkpoint_server WIDTH BLOCKS VOCABULARY DIRECTORY\n");
    return 2;
  }
  const TrainingConfig config = Config(argv);
  const auto backend = *kernels::CreateBackend("cpu", {});
  const auto communicator = collective::SingleProcessCommunicator(*backend);
  const NoData data(config.model.vocab_size);
  const auto trainer =
      *Trainer::Create(config, {backend.get(), communicator.get(), &data, nullptr});
  NIBBLE_CHECK(trainer->Initialise().ok() && trainer->PrepareSaves().ok());
  checkpoint::SavedCheckpoint saved;
  for (std::string line; std::getline(std::cin, line);) {
    const auto before = std::chrono::steady_clock::now();
    auto after = before;
    if (line == "load") {
      NIBBLE_CHECK(trainer->Restore(saved.path, saved.manifest_digest).ok());
      after = std::chrono::steady_clock::now();
    } else {
      NIBBLE_CHECK(trainer->StartSave().ok());
      if (line == "stall") after = std::chrono::steady_clock::now();
      auto finished = trainer->FinishSave();
      NIBBLE_CHECK(finished.ok());
      saved = *finished;
      if (line != "stall") after = std::chrono::steady_clock::now();
    }
    std::printf("%.9f %lld\n", std::chrono::duration<double>(after - before).count(),
                static_cast<long long>(saved.size_bytes));
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace
}  // namespace nibble::trainer

int main(int argc, char** argv) { return nibble::trainer::Main(argc, argv); }
