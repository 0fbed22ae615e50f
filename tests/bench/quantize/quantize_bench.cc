// Speed of the NVFP4 quantiser and of products on the CPU backend, medians of interleaved rounds.
//   quantize_bench [threads]
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/gemm.h"

namespace nibble::kernels {
namespace {

constexpr int kRounds = 9;

// With one thread its processor time, in which other processes' load does not count.
double Seconds(bool one_thread) {
  timespec now = {};
  clock_gettime(one_thread ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &now);
  return now.tv_sec + 1e-9 * now.tv_nsec;
}

struct Benchmark {
  std::string name;
  std::string unit;
  double work;  // in units of 1e9 a run
  std::function<void()> run;
  std::vector<double> rates = {};
};

// The benchmarks take turns, so that a slow spell of the machine hits all of them.
void RunAll(std::vector<Benchmark>& benchmarks, bool one_thread) {
  for (int round = -1; round < kRounds; ++round) {  // round -1 warms up
    for (Benchmark& b : benchmarks) {
      const double start = Seconds(one_thread);
      b.run();
      if (round >= 0) b.rates.push_back(b.work / (Seconds(one_thread) - start));
    }
  }
  for (Benchmark& b : benchmarks) {
    std::sort(b.rates.begin(), b.rates.end());
    std::printf("%-46s %8.2f %s\n", b.name.c_str(), b.rates[b.rates.size() / 2], b.unit.c_str());
  }
}

class Bench {
 public:
  explicit Bench(Backend& backend) : backend_(backend) {}

  Matrix NewMatrix(DType type, int64_t rows, int64_t cols) {
    Matrix m = {nullptr, type, rows, cols};
    m.data = Memory(m.bytes());
    uint32_t state = 1;
    for (int64_t i = 0; i < m.size(); ++i) {
      state = state * 1664525 + 1013904223;
      // A BF16 or FP32 between 1 and 4 in magnitude, either sign.
      const uint16_t high = static_cast<uint16_t>(0x3f80 | (state >> 24) | (state & 0x8000));
      if (type == DType::kBF16) {
        static_cast<uint16_t*>(m.data)[i] = high;
      } else {
        static_cast<uint32_t*>(m.data)[i] = static_cast<uint32_t>(high) << 16;
      }
    }
    return m;
  }

  void AddQuantizer(const std::string& name, Matrix source, bool transpose, OperandFormat format) {
    OperandRequest request = {source, transpose, format, {}};
    request.key.total_cols = transpose ? source.rows : source.cols;
    void* storage = Memory(backend_.OperandBytes(format, source.dtype, source.rows, source.cols));
    benchmarks_.push_back(
        {name, "G elements/s", source.size() * 1e-9 * kRepeats, [this, request, storage] {
           for (int i = 0; i < kRepeats; ++i) {
             backend_.PrepareOperand(request, storage);
           }
         }});
  }

  void AddProduct(const std::string& name, Matrix a, bool transpose_a, Matrix b, bool transpose_b,
                  DType result) {
    const Operand left = Prepared(a, transpose_a);
    const Operand right = Prepared(b, transpose_b);
    const Matrix c = NewMatrix(result, left.rows, right.rows);
    benchmarks_.push_back({name, "GFLOP/s", 2e-9 * left.rows * right.rows * left.cols,
                           [this, left, right, c] { backend_.Multiply(left, right, c, false); }});
  }

  void AddLibrary(const std::string& name, int64_t size) {
    const Matrix a = NewMatrix(DType::kF32, size, size);
    const Matrix b = NewMatrix(DType::kF32, size, size);
    const Matrix c = NewMatrix(DType::kF32, size, size);
    benchmarks_.push_back(
        {name, "GFLOP/s", 2e-9 * size * size * size, [a, b, c, size] {
           cpu::Sgemm(false, true, size, size, size, 1, static_cast<float*>(a.data), size,
                      static_cast<float*>(b.data), size, 0, static_cast<float*>(c.data), size);
         }});
  }

  void Run(bool one_thread) { RunAll(benchmarks_, one_thread); }

 private:
  static constexpr int kRepeats = 4;

  void* Memory(int64_t bytes) {
    auto buffer = backend_.Allocate(bytes);
    if (!buffer.ok()) std::exit(1);
    buffers_.push_back(*std::move(buffer));
    return buffers_.back()->data();
  }
  Operand Prepared(Matrix m, bool transpose) {
    const OperandFormat format = {Format::kBF16, 1, 0, Rounding::kNearest};
    return backend_.PrepareOperand({m, transpose, format, {}},
                                   Memory(backend_.OperandBytes(format, m.dtype, m.rows, m.cols)));
  }

  Backend& backend_;
  std::vector<std::unique_ptr<DeviceBuffer>> buffers_;
  std::vector<Benchmark> benchmarks_;
};

void Main(int threads) {
  auto backend = CreateBackend("cpu", {.threads = threads});
  if (!backend.ok()) {
    std::fprintf(stderr, "%s\n", std::string(backend.status().message()).c_str());
    std::exit(1);
  }
  std::printf("%s\n", std::string((*backend)->description()).c_str());
  Bench bench(**backend);
  for (const int64_t width : {256, 3072}) {
    for (const DType type : {DType::kBF16, DType::kF32}) {
      const Matrix x = bench.NewMatrix(type, 2048, width);
      const std::string shape =
          " 2048x" + std::to_string(width) + (type == DType::kBF16 ? " bf16" : " f32");
      bench.AddQuantizer("nearest 1x16" + shape, x, false, {Format::kNvfp4, 1, 0});
      bench.AddQuantizer("nearest 16x16" + shape, x, false, {Format::kNvfp4, 16, 0});
      bench.AddQuantizer("stochastic 1x16" + shape, x, false,
                         {Format::kNvfp4, 1, 0, Rounding::kStochastic});
      bench.AddQuantizer("Hadamard nearest transposed" + shape, x, true, {Format::kNvfp4, 1, 16});
      bench.AddQuantizer("Hadamard stochastic transposed" + shape, x, true,
                         {Format::kNvfp4, 1, 16, Rounding::kStochastic});
    }
  }
  const Matrix x = bench.NewMatrix(DType::kBF16, 2048, 256);
  const Matrix dy = bench.NewMatrix(DType::kBF16, 2048, 768);
  const Matrix w = bench.NewMatrix(DType::kBF16, 768, 256);
  bench.AddProduct("fprop 2048x768x256 to bf16", x, false, w, false, DType::kBF16);
  bench.AddProduct("dgrad 2048x256x768 to bf16", dy, false, w, true, DType::kBF16);
  bench.AddProduct("wgrad 768x256x2048 to f32", dy, true, x, true, DType::kF32);
  bench.AddLibrary("library, one thread, 2000^3 f32", 2000);
  bench.Run(threads == 1);
}

}  // namespace
}  // namespace nibble::kernels

int main(int argc, char** argv) {
  nibble::kernels::Main(argc > 1 ? std::atoi(argv[1]) : 1);
  return 0;
}
