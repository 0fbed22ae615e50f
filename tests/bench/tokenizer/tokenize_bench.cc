// Encodes a file and prints one JSON line: ids, text bytes and the seconds of every repetition.
//   tokenize_bench VOCAB.json MERGES.txt TEXT [REPETITIONS [IDS_OUT]]
// IDS_OUT receives the ids as little-endian uint32. Used by tokenizer_bench.py.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/files.h"
#include "worker/data/tokenizer.h"

namespace nibble::data {
namespace {

constexpr int64_t kMaxTextBytes = int64_t{1} << 30;

int Run(int argc, char** argv) {
  if (argc < 4) {
    std::fprintf(stderr, "usage: %s VOCAB.json MERGES.txt TEXT [REPETITIONS [IDS_OUT]]\n", argv[0]);
    return 2;
  }
  auto tokenizer = LoadBpeTokenizer({.vocab = argv[1], .merges = argv[2]});
  const auto text = ReadFile(argv[3], kMaxTextBytes);
  if (!tokenizer.ok() || !text.ok()) {
    const absl::Status& status = tokenizer.ok() ? text.status() : tokenizer.status();
    std::fprintf(stderr, "%s\n", status.ToString().c_str());
    return 1;
  }
  const int repetitions = argc > 4 ? std::max(1, std::atoi(argv[4])) : 1;
  std::vector<int32_t> ids;
  std::string seconds;
  for (int i = 0; i < repetitions; ++i) {
    ids.clear();
    const auto start = std::chrono::steady_clock::now();
    (*tokenizer)->EncodeAll(*text, &ids);
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    seconds += (i > 0 ? ", " : "") + std::to_string(elapsed.count());
  }
  std::printf("{\"ids\": %zu, \"bytes\": %zu, \"seconds\": [%s]}\n", ids.size(), text->size(),
              seconds.c_str());
  if (argc > 5) {
    const absl::string_view bytes(reinterpret_cast<const char*>(ids.data()), ids.size() * 4);
    const absl::Status written = WriteFileDurably(argv[5], bytes);
    if (!written.ok()) {
      std::fprintf(stderr, "%s\n", written.ToString().c_str());
      return 1;
    }
  }
  return 0;
}

}  // namespace
}  // namespace nibble::data

int main(int argc, char** argv) { return nibble::data::Run(argc, argv); }
