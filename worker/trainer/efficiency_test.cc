#include "worker/trainer/efficiency.h"

#include <sys/stat.h>

#include <cmath>
#include <fstream>
#include <string>
#include <utility>

#include "base/files.h"
#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace nibble::trainer {
namespace {

TEST(LatencyHistogram, QuantilesByNearestRankWithinAPercent) {
  LatencyHistogram histogram;
  EXPECT_EQ(histogram.Quantile(0.5), 0);
  for (int i = 1; i <= 1000; ++i) histogram.Add(i * 1e-3);
  for (const double quantile : {0.001, 0.25, 0.5, 0.95, 0.99, 1.0}) {
    EXPECT_NEAR(histogram.Quantile(quantile) / quantile, 1, 0.0101) << quantile;
  }
  LatencyHistogram extremes;
  extremes.Add(0);
  extremes.Add(-1);
  extremes.Add(1e9);
  EXPECT_NEAR(extremes.Quantile(0.5), 1e-6, 1e-8);
  EXPECT_NEAR(extremes.Quantile(1), 1e5, 1e3);
}

void Write(const std::string& directory, const std::string& name, const std::string& text) {
  ASSERT_THAT(MakeDirectories(directory), IsOk());
  std::ofstream(JoinPath(directory, name)) << text;
}

// Two packages and a part of one. Seen red with the part counted, and without the wrap.
TEST(EnergyMeter, AddsThePackagesAndTheirWraps) {
  ASSERT_OK_AND_ASSIGN(const TemporaryDirectory root, TemporaryDirectory::Make());
  const std::string first = JoinPath(root.path(), "intel-rapl:0");
  const std::string second = JoinPath(root.path(), "intel-rapl:1");
  const std::string part = JoinPath(root.path(), "intel-rapl:0:0");
  for (const std::string& domain : {first, second, part}) {
    Write(domain, "max_energy_range_uj", "10000000\n");
    Write(domain, "energy_uj", "9000000\n");
  }
  EnergyMeter meter(root.path());
  EXPECT_EQ(meter.Joules(), 0.0);
  Write(first, "energy_uj", "9500000\n");
  Write(part, "energy_uj", "9500000\n");
  EXPECT_EQ(meter.Joules(), 0.5);
  Write(second, "energy_uj", "1000000\n");  // 2 J, over the wrap
  EXPECT_EQ(meter.Joules(), 2.5);
  Write(first, "energy_uj", "no number\n");
  EXPECT_EQ(meter.Joules(), std::nullopt);
  EXPECT_EQ(meter.Joules(), std::nullopt);
}

TEST(EnergyMeter, IsSilentWhereThereIsNothingToRead) {
  ASSERT_OK_AND_ASSIGN(const TemporaryDirectory root, TemporaryDirectory::Make());
  EXPECT_EQ(EnergyMeter(root.path()).Joules(), std::nullopt);
  EXPECT_EQ(EnergyMeter(JoinPath(root.path(), "none")).Joules(), std::nullopt);
}

TEST(Efficiency, BytesOfAWeight) {
  TrainingConfig config;
  kernels::LinearFormat format;
  format.fprop.second.format = kernels::Format::kBF16;
  config.linears.push_back({"a", format});
  EXPECT_EQ(WeightBytesPerParameter(config), 2);
  format.fprop.second.format = kernels::Format::kNvfp4;
  format.fprop.second.block_rows = 16;
  config.linears.push_back({"b", format});
  EXPECT_EQ(WeightBytesPerParameter(config), (2 + 0.5 + 1.0 / 256) / 2);
  const std::pair<kernels::Format, double> row_blocks[] = {
      {kernels::Format::kNvfp4, 0.5 + 1.0 / 16},
      {kernels::Format::kMxfp4, 0.5 + 1.0 / 32},
      {kernels::Format::kMxfp8, 1 + 1.0 / 32},
      {kernels::Format::kFp8, 1},
      {kernels::Format::kFp8Block, 1 + 4.0 / 128}};
  for (const auto& [which, bytes] : row_blocks) {
    format.fprop.second.format = which;
    format.fprop.second.block_rows = 1;
    config.linears = {{"c", format}};
    EXPECT_EQ(WeightBytesPerParameter(config), bytes);
  }
}

TEST(Efficiency, TheProcessHasAPeakOfMemory) {
  const int64_t before = PeakMemoryBytes();
  EXPECT_GT(before, 1 << 20);
  std::string block(64 << 20, 'x');
  EXPECT_GE(PeakMemoryBytes(), before + (32 << 20)) << block[12345];
}

// Utilisation only after five seconds of steps, of the peak measured then.
TEST(Efficiency, OfARun) {
  TrainingConfig config;
  config.flops_per_token = 1e6;
  ASSERT_OK_AND_ASSIGN(const auto backend, kernels::CreateBackend("cpu", {}));
  EfficiencyMeter meter(config, *backend, {1000, 100, 50});
  EXPECT_EQ(meter.OfRun().count("step_seconds_p50"), 0);
  ASSERT_THAT(meter.AddStep(2, 100), IsOk());
  EXPECT_EQ(meter.OfStep().count("model_flops_utilization"), 0);
  ASSERT_THAT(meter.AddStep(4, 200), IsOk());
  const auto run = meter.OfRun();
  EXPECT_EQ(run.at("planned_bytes_per_parameter"), 20);
  EXPECT_EQ(run.at("optimizer_memory_bytes"), 100);
  EXPECT_EQ(run.at("tokens_per_second"), 50);
  EXPECT_NEAR(run.at("step_seconds_p50"), 2, 0.03);
  EXPECT_NEAR(run.at("step_seconds_p99"), 4, 0.05);
  const double peak = run.at("measured_peak_flops");
  EXPECT_GT(peak, 1e8);
  EXPECT_DOUBLE_EQ(run.at("model_flops_utilization"), 50 * 1e6 / peak);
  EXPECT_DOUBLE_EQ(meter.OfStep().at("model_flops_utilization"), 50 * 1e6 / peak);
}

}  // namespace
}  // namespace nibble::trainer
