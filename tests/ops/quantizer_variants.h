// The backends, instruction sets and numbers of threads that every quantiser test runs on, and the
// golden vectors' way of writing numbers.
#ifndef TESTS_OPS_QUANTIZER_VARIANTS_H_
#define TESTS_OPS_QUANTIZER_VARIANTS_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cpu/isa.h"
#include "kernels/op_engine.h"
#include "tests/ops/operator_harness.h"

namespace nibble::kernels {

struct Variant {
  std::string backend;
  std::string isa;  // of "cpu"
  int threads;
};

inline std::vector<Variant> Variants() {
  std::vector<Variant> result = {{"reference", "", 1}};
  for (cpu::Isa isa : {cpu::Isa::kBaseline, cpu::Isa::kAvx2, cpu::Isa::kAvx512}) {
    if (isa > cpu::DetectIsa()) continue;
    for (int threads : {1, 3}) result.push_back({"cpu", std::string(cpu::NameOf(isa)), threads});
  }
  if (CanEmulateCuda()) result.push_back({kEmulatedCuda, "", 1});
  return result;
}

inline std::string VariantName(const testing::TestParamInfo<Variant>& info) {
  return info.param.backend + info.param.isa + std::to_string(info.param.threads);
}

struct VariantParts {
  explicit VariantParts(const Variant& variant) {
    setenv("NIBBLE_CPU_ISA", variant.isa.c_str(), 1);
    engine = MakeEngine(variant.backend, variant.threads);
    backend = MakeBackend(variant.backend, variant.threads);
    unsetenv("NIBBLE_CPU_ISA");
  }
  std::unique_ptr<OpEngine> engine;
  std::unique_ptr<Backend> backend;
};

constexpr char kGoldenPath[] = "../shared/golden/nvfp4.json";

inline std::vector<uint8_t> FromHex(const std::string& hex) {
  std::vector<uint8_t> bytes(hex.size() / 2);
  for (size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = static_cast<uint8_t>(std::stoi(hex.substr(2 * i, 2), nullptr, 16));
  }
  return bytes;
}
inline std::vector<float> FloatsFromHex(const std::string& hex) {
  const std::vector<uint8_t> bytes = FromHex(hex);
  std::vector<float> values(bytes.size() / 4);
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

}  // namespace nibble::kernels

#endif  // TESTS_OPS_QUANTIZER_VARIANTS_H_
