// Operators without products give the same bits on every instruction set of this machine: nothing
// is contracted, and sums run along sixteen lanes whatever the machine's vectors. Seen red
// with one instruction set's copy of rms_norm.cc changed.
#include "kernels/cpu/isa.h"

#include <cstdlib>

#include "gtest/gtest.h"
#include "tests/ops/operator_harness.h"

namespace nibble::kernels {
namespace {

constexpr int64_t kRows = 77;
constexpr int64_t kCols = 45;

struct Data {
  Data(Backend& backend, DType dtype)
      : a(backend, dtype, kRows, kCols, Inputs(1).Normal(dtype, kRows * kCols)),
        b(backend, dtype, kRows, kCols, Inputs(2).Normal(dtype, kRows * kCols)),
        c(backend, dtype, kRows, kCols, Inputs(3).Normal(dtype, kRows * kCols)),
        wide(backend, dtype, kRows, 2 * kCols, Inputs(4).Normal(dtype, kRows * 2 * kCols)),
        d_wide(backend, dtype, kRows, 2 * kCols),
        weight(backend, DType::kF32, 1, kCols, Inputs(5).Normal(DType::kF32, kCols)),
        d_weight(backend, DType::kF32, 1, kCols, Inputs(6).Normal(DType::kF32, kCols)),
        rms(backend, DType::kF32, kRows, 1),
        norm(backend, DType::kF32, 1, 1) {}

  Tensor a, b, c, wide, d_wide, weight, d_weight, rms, norm;
};

Outputs RunAll(Backend& backend, DType dtype) {
  Data data(backend, dtype);
  backend.RmsNormForward({data.a.matrix(), data.b.matrix(), data.a.matrix(), data.weight.f32(),
                          data.c.matrix(), data.rms.f32(), 1e-5f});
  backend.RmsNormBackward({data.c.matrix(), data.a.matrix(), data.weight.f32(), data.rms.f32(),
                           data.b.matrix(), data.d_weight.f32()});
  backend.SwiGluBackward(data.b.matrix(), data.wide.matrix(), data.d_wide.matrix());
  backend.SwiGluForward(data.wide.matrix(), data.c.matrix());
  backend.AddInPlace(data.a.matrix(), data.c.matrix());
  backend.Norm(data.d_weight.f32(), kCols, data.norm.f32());
  Outputs outputs;
  for (const Tensor* tensor :
       {&data.a, &data.b, &data.c, &data.d_wide, &data.d_weight, &data.rms, &data.norm}) {
    outputs.push_back(tensor->Read());
  }
  return outputs;
}

TEST(Isa, OperatorsAgreeBitForBit) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    Outputs first;
    for (const cpu::Isa isa : {cpu::Isa::kBaseline, cpu::Isa::kAvx2, cpu::Isa::kAvx512}) {
      if (isa > cpu::DetectIsa()) continue;
      setenv("NIBBLE_CPU_ISA", std::string(cpu::NameOf(isa)).c_str(), 1);
      auto backend = MakeBackend("cpu");
      unsetenv("NIBBLE_CPU_ISA");
      const Outputs outputs = RunAll(*backend, dtype);
      if (first.empty()) first = outputs;
      for (size_t i = 0; i < first.size(); ++i) ExpectSameBits(outputs[i], first[i]);
    }
  }
}

}  // namespace
}  // namespace nibble::kernels
