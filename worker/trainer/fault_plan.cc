#include "worker/trainer/fault_plan.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <limits>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/files.h"

namespace nibble::trainer {
namespace {

constexpr absl::string_view kKinds[] = {"nan_loss", "nan_gradient", "loss_spike", "gradient_spike",
                                        "flaky",    "hang",         "crash",      "stop"};
constexpr double kSpike = 1000;

// True for the first process that asks.
bool First(const std::string& marks, const std::string& name) {
  const int fd = open(JoinPath(marks, name).c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0) return false;
  close(fd);
  return true;
}

}  // namespace

absl::StatusOr<FaultPlan> FaultPlan::Parse(absl::string_view text) {
  FaultPlan plan;
  for (const absl::string_view item : absl::StrSplit(text, ',', absl::SkipEmpty())) {
    const std::pair<absl::string_view, absl::string_view> parts =
        absl::StrSplit(item, absl::MaxSplits(':', 1));
    Fault fault;
    fault.kind = std::string(parts.first);
    if (std::find(std::begin(kKinds), std::end(kKinds), parts.first) == std::end(kKinds) ||
        !absl::SimpleAtoi(parts.second, &fault.at)) {
      return absl::InvalidArgumentError(absl::StrCat("no such planted fault: ", item));
    }
    plan.faults_.push_back(std::move(fault));
  }
  return plan;
}

void FaultPlan::BeforeStep(int64_t step, const std::string& marks) const {
  for (const Fault& fault : faults_) {
    if (fault.at != step) continue;
    const bool known = fault.kind == "hang" || fault.kind == "crash" || fault.kind == "stop";
    if (!known || !First(marks, absl::StrCat("planted-", fault.kind, "-", step))) continue;
    if (fault.kind == "crash") abort();
    if (fault.kind == "stop") raise(SIGSTOP);
    while (fault.kind == "hang") pause();
  }
}

void FaultPlan::AfterGradients(int64_t batch, int times, double* loss,
                               double* gradient_norm) const {
  for (const Fault& fault : faults_) {
    if (fault.at != batch) continue;
    if (fault.kind == "nan_loss" || (fault.kind == "flaky" && times == 1)) {
      *loss = std::numeric_limits<double>::quiet_NaN();
    }
    if (fault.kind == "nan_gradient") *gradient_norm = std::numeric_limits<double>::quiet_NaN();
    if (fault.kind == "loss_spike") *loss *= kSpike;
    if (fault.kind == "gradient_spike") *gradient_norm *= kSpike;
  }
}

}  // namespace nibble::trainer
