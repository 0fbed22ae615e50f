#include "worker/data/data_source.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "worker/data/mixture_plan.h"
#include "worker/data/sequence_reader.h"
#include "worker/data/shuffle.h"
#include "worker/data/token_shards.h"

namespace nibble::data {
namespace {

// Sources read for one split, and which phases use them with what weight.
struct OpenedSources {
  std::vector<SequenceReader> readers;
  std::vector<std::string> paths;
  std::vector<MixturePhase> phases;
};

class MixedDataSource : public DataSource {
 public:
  MixedDataSource(OpenedSources sources, Split split, const DataOptions& options)
      : sources_(std::move(sources)),
        options_(options),
        plan_(sources_.phases, sources_.readers.size(), options.samples) {
    for (const SequenceReader& reader : sources_.readers) {
      const TokenStream& stream = reader.stream();
      vocab_size_ = std::max<int64_t>(
          vocab_size_, stream.vocab_size() > 0 ? stream.vocab_size() : options.vocab_size);
      sequences_ += reader.sequences();
    }
    if (split == Split::kValidation) sequences_ = SequencesWithoutRepeat();
    bytes_per_token_ = MeanBytesPerToken();
  }

  int64_t vocab_size() const override { return vocab_size_; }
  int64_t sequence_length() const override { return options_.sequence_length; }
  int64_t sequences() const override { return sequences_; }
  double bytes_per_token() const override { return bytes_per_token_; }

  absl::Status ReadShuffled(uint64_t seed, int64_t position, int32_t* inputs,
                            int32_t* targets) const override {
    const MixturePlan::Sample sample = plan_.Locate(position);
    const SequenceReader& reader = sources_.readers[sample.source];
    const int64_t count = reader.sequences();
    const ShuffleKey key = {.seed = seed, .epoch = static_cast<uint64_t>(sample.index / count)};
    return Named(sample.source,
                 reader.Read(PermutedIndex(sample.index % count, count, key), inputs, targets));
  }

  absl::Status ReadInOrder(int64_t index, int32_t* inputs, int32_t* targets) const override {
    NIBBLE_CHECK(index >= 0 && index < sequences_);
    const MixturePlan::Sample sample = plan_.Locate(index);
    const SequenceReader& reader = sources_.readers[sample.source];
    return Named(sample.source, reader.Read(sample.index % reader.sequences(), inputs, targets));
  }

  std::vector<SourceProgress> Progress(int64_t position) const override {
    std::vector<SourceProgress> progress;
    const std::vector<int64_t> counts = plan_.Counts(position);
    for (size_t i = 0; i < counts.size(); ++i) {
      progress.push_back({.path = sources_.paths[i],
                          .epochs = static_cast<double>(counts[i]) /
                                    static_cast<double>(sources_.readers[i].sequences()),
                          .tokens = counts[i] * options_.sequence_length});
    }
    return progress;
  }

 private:
  absl::Status Named(size_t source, const absl::Status& status) const {
    if (status.ok()) return status;
    return absl::Status(status.code(),
                        absl::StrCat(sources_.paths[source], ": ", status.message()));
  }

  int64_t SequencesWithoutRepeat() const {
    int64_t fits = 0;
    int64_t too_many = sequences_ + 1;
    while (too_many - fits > 1) {
      const int64_t middle = fits + (too_many - fits) / 2;
      const std::vector<int64_t> counts = plan_.Counts(middle);
      bool all_fit = true;
      for (size_t i = 0; i < counts.size(); ++i) {
        all_fit = all_fit && counts[i] <= sources_.readers[i].sequences();
      }
      (all_fit ? fits : too_many) = middle;
    }
    return fits;
  }

  // By the weights of the last phase.
  double MeanBytesPerToken() const {
    double bytes = 0;
    double weights = 0;
    for (const MixtureShare& share : sources_.phases.back().shares) {
      const double own = sources_.readers[share.source].stream().bytes_per_token();
      if (own == 0) return 0;
      bytes += share.weight * own;
      weights += share.weight;
    }
    return bytes / weights;
  }

  const OpenedSources sources_;
  const DataOptions options_;
  const MixturePlan plan_;
  int64_t vocab_size_ = 0;
  int64_t sequences_ = 0;
  double bytes_per_token_ = 0;
};

class Opener {
 public:
  Opener(const DataConfig& config, Split split, const DataOptions& options)
      : config_(config), split_(split), options_(options) {}

  absl::StatusOr<std::unique_ptr<DataSource>> Open() {
    const bool train = split_ == Split::kTrain;
    for (const PhaseConfig& phase : config_.phases) {
      if (!train && &phase != &config_.phases.back()) continue;
      MixturePhase mixture;
      mixture.share = phase.share;
      for (const SourceConfig& source : phase.sources) {
        const absl::Status status = Add(source, &mixture);
        if (!train && absl::IsNotFound(status)) {
          if (missing_.ok()) missing_ = status;
          continue;
        }
        NIBBLE_RETURN_IF_ERROR(status);
      }
      if (mixture.shares.empty()) return missing_;
      opened_.phases.push_back(std::move(mixture));
    }
    return std::unique_ptr<DataSource>(
        std::make_unique<MixedDataSource>(std::move(opened_), split_, options_));
  }

 private:
  // A source that several phases use is opened once, and goes on where the last one left it.
  absl::Status Add(const SourceConfig& source, MixturePhase* mixture) {
    SourceConfig same = source;
    same.weight = 1;
    const size_t index =
        static_cast<size_t>(std::find(known_.begin(), known_.end(), same) - known_.begin());
    if (index == known_.size()) {
      NIBBLE_ASSIGN_OR_RETURN(TokenStream stream,
                              TokenStream::Open(source, split_, options_.vocab_size));
      const std::string name = absl::StrCat(
          source.path, ": the ", split_ == Split::kTrain ? "train" : "validation", " split");
      NIBBLE_ASSIGN_OR_RETURN(SequenceReader reader,
                              SequenceReader::Make(std::move(stream), name,
                                                   options_.sequence_length, config_.documents));
      opened_.readers.push_back(std::move(reader));
      opened_.paths.push_back(source.path);
      known_.push_back(std::move(same));
    }
    mixture->shares.push_back({index, source.weight});
    return absl::OkStatus();
  }

  const DataConfig& config_;
  const Split split_;
  const DataOptions& options_;
  std::vector<SourceConfig> known_;
  OpenedSources opened_;
  absl::Status missing_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<DataSource>> DataSource::Open(const DataConfig& config, Split split,
                                                             const DataOptions& options) {
  NIBBLE_CHECK(options.sequence_length >= 1 && !config.phases.empty());
  return Opener(config, split, options).Open();
}

absl::StatusOr<std::unique_ptr<DataSource>> DataSource::Open(const std::string& directory,
                                                             Split split, int64_t sequence_length) {
  DataConfig config;
  config.phases.resize(1);
  SourceConfig& source = config.phases[0].sources.emplace_back();
  source.path = directory;
  source.format = TokenFormat::kNibble;
  return Open(config, split, {.sequence_length = sequence_length, .vocab_size = kMaxVocabSize});
}

}  // namespace nibble::data
