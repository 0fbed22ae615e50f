#include "worker/trainer/efficiency.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "base/clock.h"
#include "base/files.h"
#include "base/status_macros.h"

namespace nibble::trainer {
namespace {

using kernels::DType;
using kernels::Format;
using kernels::Matrix;
using kernels::OperandFormat;

constexpr double kSecondsBeforeMeasuring = 5;
// Of a square product: large enough for the hardware's rate, small enough to be quick (2 GFLOP).
constexpr int64_t kPeakSize = 1024;
constexpr int kPeakRuns = 6;  // the first warms up
constexpr int64_t kMaxStatusBytes = 1 << 16;

absl::StatusOr<double> ProductFlops(kernels::Backend& backend, DType dtype) {
  OperandFormat format;
  format.format = dtype == DType::kF32 ? Format::kF32 : Format::kBF16;
  const int64_t bytes = kPeakSize * kPeakSize * 4;
  std::vector<std::unique_ptr<kernels::DeviceBuffer>> buffers(5);
  for (auto& buffer : buffers) {
    NIBBLE_ASSIGN_OR_RETURN(buffer, backend.Allocate(bytes + 4096));
  }
  std::vector<float> ones(kPeakSize * kPeakSize, 1.0f);
  backend.CopyToDevice(buffers[0]->data(), ones.data(), bytes);
  kernels::Operand sides[2];
  for (int side = 0; side < 2; ++side) {
    Matrix source{buffers[0]->data(), DType::kF32, kPeakSize, kPeakSize};
    if (dtype == DType::kBF16) {
      const Matrix narrow{buffers[1 + side]->data(), DType::kBF16, kPeakSize, kPeakSize};
      backend.Cast(source, narrow);
      source = narrow;
    }
    kernels::OperandRequest request;
    request.source = source;
    request.format = format;
    sides[side] = backend.PrepareOperand(request, buffers[3]->data());
  }
  double best = 0;
  for (int run = 0; run < kPeakRuns; ++run) {
    const int64_t start = RealClock().MonotonicNanos();
    backend.Multiply(sides[0], sides[1],
                     Matrix{buffers[4]->data(), DType::kF32, kPeakSize, kPeakSize},
                     /*accumulate=*/false);
    NIBBLE_RETURN_IF_ERROR(backend.Synchronize());
    const double seconds = static_cast<double>(RealClock().MonotonicNanos() - start) * 1e-9;
    constexpr double kFlops = 2.0 * kPeakSize * kPeakSize * kPeakSize;
    if (run > 0 && seconds > 0) best = std::max(best, kFlops / seconds);
  }
  return best;
}

double BytesOfScales(const OperandFormat& format) {
  const int block = kernels::BlockSizeOf(format.format);
  if (block == 0) return 0;  // one a tensor
  // FP8 block-wise scales are FP32, the others one byte.
  const double bytes = format.format == Format::kFp8Block ? 4 : 1;
  return bytes / (static_cast<double>(block) * format.block_rows);
}

double BytesPerValue(const OperandFormat& format) {
  switch (format.format) {
    case Format::kF32:
      return 4;
    case Format::kBF16:
      return 2;
    case Format::kNvfp4:
    case Format::kMxfp4:
      return 0.5 + BytesOfScales(format);
    case Format::kMxfp8:
    case Format::kFp8:
    case Format::kFp8E5m2:
    case Format::kFp8Block:
      return 1 + BytesOfScales(format);
  }
  return 4;
}

}  // namespace

absl::StatusOr<double> MeasurePeakFlops(kernels::Backend& backend) {
  NIBBLE_ASSIGN_OR_RETURN(const double fp32, ProductFlops(backend, DType::kF32));
  NIBBLE_ASSIGN_OR_RETURN(const double bf16, ProductFlops(backend, DType::kBF16));
  return std::max(fp32, bf16);
}

double WeightBytesPerParameter(const TrainingConfig& config) {
  if (config.linears.empty()) return 4;
  double bytes = 0;
  for (const LinearPrecision& linear : config.linears) {
    bytes += BytesPerValue(linear.format.fprop.second);
  }
  return bytes / static_cast<double>(config.linears.size());
}

int64_t PeakMemoryBytes() {
  const absl::StatusOr<std::string> status = ReadFile("/proc/self/status", kMaxStatusBytes);
  if (!status.ok()) return 0;
  for (absl::string_view line : absl::StrSplit(*status, '\n')) {
    if (!absl::ConsumePrefix(&line, "VmHWM:") || !absl::ConsumeSuffix(&line, "kB")) continue;
    int64_t kibibytes = 0;
    if (absl::SimpleAtoi(absl::StripAsciiWhitespace(line), &kibibytes)) return kibibytes * 1024;
  }
  return 0;
}

absl::Status EfficiencyMeter::AddStep(double seconds, int64_t tokens) {
  latency_.Add(seconds);
  seconds_ += seconds;
  tokens_ += tokens;
  last_tokens_per_second_ = seconds > 0 ? static_cast<double>(tokens) / seconds : 0;
  joules_before_ = joules_.has_value() ? joules_ : std::optional<double>(0);
  joules_ = energy_.Joules();
  if (peak_flops_ == 0 && seconds_ >= kSecondsBeforeMeasuring) {
    NIBBLE_ASSIGN_OR_RETURN(peak_flops_, MeasurePeakFlops(backend_));
  }
  return absl::OkStatus();
}

void EfficiencyMeter::AddUtilisation(double tokens_per_second,
                                     std::map<std::string, double>* values) const {
  if (peak_flops_ <= 0 || config_.flops_per_token <= 0) return;
  (*values)["model_flops_utilization"] = tokens_per_second * config_.flops_per_token / peak_flops_;
}

std::map<std::string, double> EfficiencyMeter::OfStep() {
  std::map<std::string, double> values;
  values["peak_memory_bytes"] = static_cast<double>(PeakMemoryBytes());
  AddUtilisation(last_tokens_per_second_, &values);
  if (joules_.has_value()) values["energy_joules"] = *joules_ - *joules_before_;
  return values;
}

std::map<std::string, double> EfficiencyMeter::OfRun() {
  std::map<std::string, double> values;
  values["peak_memory_bytes"] = static_cast<double>(PeakMemoryBytes());
  values["planned_memory_bytes"] = static_cast<double>(memory_.total_bytes);
  values["optimizer_memory_bytes"] = static_cast<double>(memory_.optimizer_bytes);
  values["weight_bytes_per_parameter"] = WeightBytesPerParameter(config_);
  if (memory_.parameters > 0) {
    values["planned_bytes_per_parameter"] =
        static_cast<double>(memory_.total_bytes) / static_cast<double>(memory_.parameters);
  }
  if (latency_.count() == 0) return values;
  values["step_seconds_p50"] = latency_.Quantile(0.50);
  values["step_seconds_p95"] = latency_.Quantile(0.95);
  values["step_seconds_p99"] = latency_.Quantile(0.99);
  if (seconds_ > 0) {
    const double tokens_per_second = static_cast<double>(tokens_) / seconds_;
    values["tokens_per_second"] = tokens_per_second;
    AddUtilisation(tokens_per_second, &values);
  }
  if (peak_flops_ > 0) values["measured_peak_flops"] = peak_flops_;
  if (joules_.has_value()) {
    values["energy_joules"] = *joules_;
    if (*joules_ > 0) values["tokens_per_joule"] = static_cast<double>(tokens_) / *joules_;
  }
  return values;
}

}  // namespace nibble::trainer
