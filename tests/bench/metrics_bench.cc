// What reporting a step costs the trainer: OnStep with 50 values over a socket whose other end is
// read and parsed as a worker does, beside the same step with nothing to report. One line a step
// time: the share of the time that is left for training, 1 - cost / step time.
//
//   metrics_bench [STEPS]
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "nibble/v1/trainer_link.pb.h"
#include "worker/link/frame.h"
#include "worker/link/link_observer.h"

namespace nibble {
namespace {

constexpr int kValues = 50;
constexpr int kStepMs[] = {5, 20, 100};

using Clock = std::chrono::steady_clock;

trainer::StepReport Report() {
  trainer::StepReport report;
  report.loss = 2.5;
  report.learning_rate = 1e-3;
  report.grad_norm = 0.5;
  report.step_seconds = 0.1;
  // loss, learning_rate, grad_norm, step_seconds, tokens and tokens_per_second are six more.
  for (int i = 0; i < kValues - 6; ++i) {
    report.health[absl::StrCat("health/attention/fprop/weight/measure_", i)] = 1.0 / (i + 1);
  }
  return report;
}

// Microseconds that the trainer's thread spends in OnStep, sorted. It sleeps between steps, so that
// each finds its data gone from the caches as after a step of training.
std::vector<double> Measure(int steps) {
  int ends[2];
  NIBBLE_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
  std::thread worker([fd = ends[0]] {
    v1::TrainerReport report;
    while (true) {
      const auto read = link::ReadFrame(fd, &report);
      if (!read.ok() || !*read) return;
    }
  });
  std::vector<double> micros;
  {
    auto observer = link::LinkObserver::Connect(ends[1]);
    NIBBLE_CHECK(observer.ok());
    trainer::StepReport report = Report();
    std::vector<char> swept(8 << 20);
    for (int step = 1; step <= steps; ++step) {
      for (size_t i = 0; i < swept.size(); i += 64) ++swept[i];
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      report.step = step;
      report.tokens = step * int64_t{4096};
      const auto start = Clock::now();
      NIBBLE_CHECK((*observer)->OnStep(report).ok());
      micros.push_back(std::chrono::duration<double, std::micro>(Clock::now() - start).count());
    }
  }
  worker.join();
  close(ends[0]);
  std::sort(micros.begin(), micros.end());
  return micros;
}

int Main(int argc, char** argv) {
  const int steps = argc > 1 ? std::atoi(argv[1]) : 3000;
  if (steps < 1) return 2;
  const std::vector<double> micros = Measure(steps);
  double sum = 0;
  for (const double m : micros) sum += m;
  const double mean = sum / static_cast<double>(micros.size());
  std::printf("%d values a step: median %.1f us, mean %.1f us, p99 %.1f us\n", kValues,
              micros[micros.size() / 2], mean, micros[micros.size() * 99 / 100]);
  for (const int ms : kStepMs) {
    std::printf("steps of %3d ms: %.5f of metrics off\n", ms, 1 - mean / (ms * 1e3));
  }
  return 0;
}

}  // namespace
}  // namespace nibble

int main(int argc, char** argv) { return nibble::Main(argc, argv); }
