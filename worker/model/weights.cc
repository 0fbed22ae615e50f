#include "worker/model/weights.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/status_macros.h"
#include "kernels/nvfp4/philox.h"

namespace nibble::model {
namespace {

using kernels::DType;
using kernels::Matrix;

constexpr uint32_t kInitialisationStep = 0xffffffff;
constexpr double kTwoToMinus32 = 1.0 / 4294967296.0;
constexpr double kPi = 3.14159265358979323846;

PhiloxResult BitsOfBlock(uint64_t seed, int index, uint64_t block) {
  return Philox4x32(static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32),
                    static_cast<uint32_t>(index), kInitialisationStep, static_cast<uint32_t>(seed),
                    static_cast<uint32_t>(seed >> 32));
}

// Four standard normal values.
void NormalsOfBlock(uint64_t seed, int index, uint64_t block, double out[4]) {
  const PhiloxResult bits = BitsOfBlock(seed, index, block);
  for (int pair = 0; pair < 2; ++pair) {
    const double u =
        (bits.v[2 * pair] + 1.0) * kTwoToMinus32;  // in (0, 1]: the logarithm is finite
    const double angle = 2 * kPi * (bits.v[2 * pair + 1] * kTwoToMinus32);
    const double radius = std::sqrt(-2 * std::log(u));
    out[2 * pair] = radius * std::cos(angle);
    out[2 * pair + 1] = radius * std::sin(angle);
  }
}

// The value that a `u` uniform in (0, 1) stands for.
double ValueOfUniform(const InitialDistribution& initial, double u) {
  switch (initial.kind) {
    case InitialDistribution::kUniform:
      return initial.value * (2 * u - 1);
    case InitialDistribution::kLogOfRate:
      return std::log(1 + 15 * u);
    case InitialDistribution::kTimeStepBias: {
      const double dt = std::exp(std::log(1e-3) + u * (std::log(1e-1) - std::log(1e-3)));
      return dt + std::log(-std::expm1(-dt));  // softplus of it is dt
    }
    case InitialDistribution::kConstant:
    case InitialDistribution::kNormal:
      break;
  }
  return initial.value;
}

}  // namespace

float InitialValue(uint64_t seed, int index, int64_t element, double std) {
  double normals[4];
  NormalsOfBlock(seed, index, static_cast<uint64_t>(element) / 4, normals);
  return static_cast<float>(normals[element % 4] * std);
}

void FillInitialValues(uint64_t seed, int index, const InitialDistribution& initial, int64_t first,
                       int64_t count, float* out) {
  NIBBLE_CHECK(first % 4 == 0);
  double values[4];
  for (int64_t i = 0; i < count; ++i) {
    const uint64_t block = static_cast<uint64_t>(first + i) / 4;
    if (i % 4 == 0 && initial.kind == InitialDistribution::kNormal) {
      NormalsOfBlock(seed, index, block, values);
      for (double& value : values) value *= initial.value;
    } else if (i % 4 == 0) {
      const PhiloxResult bits = BitsOfBlock(seed, index, block);
      for (int j = 0; j < 4; ++j) {
        values[j] = ValueOfUniform(initial, (bits.v[j] + 0.5) * kTwoToMinus32);
      }
    }
    out[i] = static_cast<float>(values[i % 4]);
  }
}

absl::StatusOr<std::unique_ptr<Weights>> Weights::Create(const ParameterTable& table,
                                                         bool bf16_copy,
                                                         kernels::Backend& backend,
                                                         WeightsUse use) {
  std::unique_ptr<Weights> weights(new Weights(table, backend));
  const int64_t size = table.flat_size();
  NIBBLE_ASSIGN_OR_RETURN(weights->master_, backend.Allocate(size * 4));
  if (use == WeightsUse::kTraining) {
    NIBBLE_ASSIGN_OR_RETURN(weights->gradients_, backend.Allocate(size * 4));
  }
  if (bf16_copy) {
    NIBBLE_ASSIGN_OR_RETURN(weights->bf16_, backend.Allocate(size * 2));
  }
  return weights;
}

absl::Status Weights::Initialise(uint64_t seed) {
  std::vector<float> staging;
  for (size_t index = 0; index < table_.parameters().size(); ++index) {
    const Parameter& parameter = table_[static_cast<int>(index)];
    for (int64_t first = 0; first < parameter.size; first += kStagingElements) {
      const int64_t count = std::min(kStagingElements, parameter.size - first);
      staging.resize(count);
      FillInitialValues(seed, static_cast<int>(index), parameter.initial, first, count,
                        staging.data());
      backend_.CopyToDevice(MasterOf(static_cast<int>(index)) + first, staging.data(), count * 4);
    }
  }
  RefreshBf16();
  return backend_.Synchronize();
}

void Weights::RefreshBf16() {
  if (!bf16_) return;
  const int64_t size = table_.flat_size();
  backend_.Cast(Matrix{master(), DType::kF32, 1, size}, Matrix{bf16(), DType::kBF16, 1, size});
}

Matrix Weights::MatrixOf(int index, DType dtype) const {
  const Parameter& parameter = table_[index];
  NIBBLE_CHECK(parameter.shape.size() == 2);
  void* data = MasterOf(index);
  if (dtype == DType::kBF16) {
    NIBBLE_CHECK(bf16_ != nullptr);
    data = static_cast<char*>(bf16()) + parameter.offset * 2;
  }
  return Matrix{data, dtype, parameter.shape[0], parameter.shape[1]};
}

}  // namespace nibble::model
