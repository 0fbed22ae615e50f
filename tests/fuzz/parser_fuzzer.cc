// libFuzzer's entry points. One program for all parsers, so that the build stays small:
// NIBBLE_FUZZ_TARGET names one of them. NIBBLE_FUZZ_SEEDS=DIRECTORY writes its seeds there and
// exits; NIBBLE_FUZZ_TARGET=list prints the names.
#include <google/protobuf/stubs/logging.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "tests/fuzz/fuzz_target.h"

namespace {
const nibble::fuzz::FuzzTarget* target = nullptr;
}

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  nibble::SetLogLevel(nibble::LogLevel::kError);
  google::protobuf::SetLogHandler(nullptr);
  const char* name = std::getenv("NIBBLE_FUZZ_TARGET");
  if (name != nullptr && absl::string_view(name) == "list") {
    for (const auto& each : nibble::fuzz::AllTargets()) std::printf("%s\n", each.name);
    std::exit(0);
  }
  target = name == nullptr ? nullptr : nibble::fuzz::FindTarget(name);
  if (target == nullptr) {
    std::fprintf(stderr, "NIBBLE_FUZZ_TARGET is no parser; NIBBLE_FUZZ_TARGET=list prints them\n");
    std::exit(2);
  }
  const char* directory = std::getenv("NIBBLE_FUZZ_SEEDS");
  if (directory == nullptr) return 0;
  int number = 0;
  for (const std::string& seed : target->seeds()) {
    std::ofstream file(absl::StrCat(directory, "/seed-", number++), std::ios::binary);
    file.write(seed.data(), static_cast<std::streamsize>(seed.size()));
  }
  std::exit(0);
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  target->run({reinterpret_cast<const char*>(data), size});
  return 0;
}
