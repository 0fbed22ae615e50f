// Times every operator of a backend at the shapes of a small model (vocabulary 256, d 256, batch 8,
// T 256) and of one with a large vocabulary (50,257, batch 4):
//   ops_bench [--backend=cpu] [--threads=N] [--filter=SUBSTRING]
// prints the median time and the least processor time of all threads together (which other load
// disturbs least), and for the latter the GB/s of the bytes that an operator must move or the
// GFLOP/s of what it must compute: figures of one thread.
#include <time.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "kernels/backend.h"

namespace nibble::kernels {
namespace {

double ProcessorMilliseconds() {
  timespec time;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) * 1e3 + static_cast<double>(time.tv_nsec) * 1e-6;
}

struct Bench {
  std::unique_ptr<Backend> backend;
  std::string filter;
  std::vector<std::unique_ptr<DeviceBuffer>> buffers;

  // Filled with small values of both signs.
  Matrix Make(DType dtype, int64_t rows, int64_t cols) {
    Matrix matrix{nullptr, dtype, rows, cols};
    buffers.push_back(*backend->Allocate(matrix.bytes()));
    matrix.data = buffers.back()->data();
    std::vector<char> host(matrix.bytes());
    uint32_t state = 1;
    for (int64_t i = 0; i < matrix.size(); ++i) {
      state = state * 1664525 + 1013904223;
      const float value = static_cast<float>(static_cast<int32_t>(state)) * 0x1p-31f;
      const auto* bits = reinterpret_cast<const char*>(&value);
      if (dtype == DType::kF32) std::copy(bits, bits + 4, host.data() + 4 * i);
      if (dtype == DType::kBF16) std::copy(bits + 2, bits + 4, host.data() + 2 * i);
    }
    backend->CopyToDevice(matrix.data, host.data(), matrix.bytes());
    return matrix;
  }
  float* Floats(int64_t size) { return static_cast<float*>(Make(DType::kF32, 1, size).data); }
  const int32_t* Tokens(int64_t size, int32_t vocabulary) {
    Matrix matrix = Make(DType::kI32, 1, size);
    std::vector<int32_t> host(size);
    for (int64_t i = 0; i < size; ++i) host[i] = static_cast<int32_t>(i * 7919 % vocabulary);
    backend->CopyToDevice(matrix.data, host.data(), matrix.bytes());
    return static_cast<int32_t*>(matrix.data);
  }

  void Time(const std::string& name, double bytes, double flops,
            const std::function<void()>& operation) {
    if (name.find(filter) == std::string::npos) return;
    std::vector<double> milliseconds;
    std::vector<double> processor;
    const auto start = std::chrono::steady_clock::now();
    for (int run = 0; run < 200; ++run) {
      const auto before = std::chrono::steady_clock::now();
      const double processor_before = ProcessorMilliseconds();
      operation();
      if (!backend->Synchronize().ok()) std::abort();
      const auto after = std::chrono::steady_clock::now();
      if (run > 0) {
        milliseconds.push_back(std::chrono::duration<double, std::milli>(after - before).count());
        processor.push_back(ProcessorMilliseconds() - processor_before);
      }
      if (run >= 5 && after - start > std::chrono::seconds(2)) break;
    }
    std::sort(milliseconds.begin(), milliseconds.end());
    const double best = *std::min_element(processor.begin(), processor.end());
    std::printf("%-24s median %9.3f ms, processor %9.3f ms", name.c_str(),
                milliseconds[milliseconds.size() / 2], best);
    if (bytes > 0) std::printf(" %8.2f GB/s", bytes / best * 1e-6);
    if (flops > 0) std::printf(" %8.2f GFLOP/s", flops / best * 1e-6);
    std::printf("\n");
    std::fflush(stdout);
  }
};

struct Model {
  const char* name;
  int64_t sequences, length, width, heads, feed_forward;
  int32_t vocabulary;
  int64_t parameters;

  int64_t tokens() const { return sequences * length; }
};

void TimeRows(Bench& bench, const Model& m, const std::string& prefix) {
  const DType bf16 = DType::kBF16;
  const int64_t n = m.tokens();
  const Matrix a = bench.Make(bf16, n, m.width), b = bench.Make(bf16, n, m.width);
  const Matrix c = bench.Make(bf16, n, m.width), d = bench.Make(bf16, n, m.width);
  float* weight = bench.Floats(m.width);
  float* d_weight = bench.Floats(m.width);
  float* reciprocal = bench.Floats(n);
  const auto size = static_cast<double>(n * m.width);
  Backend& backend = *bench.backend;
  bench.Time(prefix + "rms_norm_forward", 8 * size, 0, [&] {
    backend.RmsNormForward({a, b, c, weight, d, reciprocal, 1e-5f});
  });
  bench.Time(prefix + "rms_norm_backward", 8 * size, 0, [&] {
    backend.RmsNormBackward({a, b, weight, reciprocal, d, d_weight});
  });
  bench.Time(prefix + "add_in_place", 6 * size, 0, [&] { backend.AddInPlace(a, b); });
  const Matrix gate_up = bench.Make(bf16, n, 2 * m.feed_forward);
  const Matrix d_gate_up = bench.Make(bf16, n, 2 * m.feed_forward);
  const Matrix gated = bench.Make(bf16, n, m.feed_forward);
  const auto gates = static_cast<double>(n * m.feed_forward);
  bench.Time(prefix + "swiglu_forward", 6 * gates, 0,
             [&] { backend.SwiGluForward(gate_up, gated); });
  bench.Time(prefix + "swiglu_backward", 10 * gates, 0,
             [&] { backend.SwiGluBackward(gated, gate_up, d_gate_up); });
  const Matrix table = bench.Make(bf16, m.vocabulary, m.width);
  const Matrix d_table = bench.Make(DType::kF32, m.vocabulary, m.width);
  const int32_t* tokens = bench.Tokens(n, m.vocabulary);
  bench.Time(prefix + "embedding_forward", 4 * size, 0,
             [&] { backend.EmbeddingForward(tokens, table, a); });
  bench.Time(prefix + "embedding_backward", 10 * size, 0,
             [&] { backend.EmbeddingBackward(tokens, a, d_table); });
}

void TimeAttention(Bench& bench, const Model& m, const std::string& prefix) {
  AttentionShape shape;
  shape.sequences = m.sequences;
  shape.sequence_length = m.length;
  shape.heads = shape.kv_heads = m.heads;
  shape.head_size = m.width / m.heads;
  const DType bf16 = DType::kBF16;
  const Matrix qkv = bench.Make(bf16, m.tokens(), shape.qkv_width());
  const Matrix d_qkv = bench.Make(bf16, m.tokens(), shape.qkv_width());
  const Matrix out = bench.Make(bf16, m.tokens(), m.width);
  const Matrix d_out = bench.Make(bf16, m.tokens(), m.width);
  float* log_sum_exp = bench.Floats(m.tokens() * m.heads);
  float* cos_sin = bench.Floats(m.length * shape.head_size);
  Backend& backend = *bench.backend;
  const double rotated = 8.0 * static_cast<double>(m.tokens() * m.width);
  bench.Time(prefix + "rope", rotated, 0, [&] { backend.Rope({shape, qkv, cos_sin, false}); });
  // Half of the square: 2 products forward, 5 backward.
  const double product = static_cast<double>(m.tokens() * m.length * m.width);
  bench.Time(prefix + "attention_forward", 0, 2 * product, [&] {
    backend.AttentionForward({shape, qkv, out, log_sum_exp});
  });
  bench.Time(prefix + "attention_backward", 0, 5 * product, [&] {
    backend.AttentionBackward({shape, d_out, qkv, out, log_sum_exp, d_qkv});
  });
}

void TimeHeadAndUpdate(Bench& bench, const Model& m, const std::string& prefix) {
  const DType bf16 = DType::kBF16;
  const Matrix weight = bench.Make(bf16, m.vocabulary, m.width);
  LmHeadArgs args{};
  args.x = bench.Make(bf16, m.tokens(), m.width);
  args.weight = {weight.data, nullptr, {}, bf16, weight.rows, weight.cols, false};
  args.targets = bench.Tokens(m.tokens(), m.vocabulary);
  args.losses = bench.Floats(m.tokens());
  Backend& backend = *bench.backend;
  const double product = 2.0 * static_cast<double>(m.tokens() * m.width) * m.vocabulary;
  bench.Time(prefix + "lm_head_forward", 0, product, [&] { backend.LmHead(args); });
  args.d_x = bench.Make(bf16, m.tokens(), m.width);
  args.d_weight = bench.Floats(weight.size());
  bench.Time(prefix + "lm_head", 0, 3 * product, [&] { backend.LmHead(args); });

  const int64_t size = m.parameters;
  AdamWArgs update{};
  update.size = size;
  update.parameters = bench.Floats(size);
  update.gradients = bench.Floats(size);
  update.first_moment = bench.Floats(size);
  update.second_moment = bench.Floats(size);
  update.bf16_parameters = bench.Make(bf16, 1, size).data;
  float* norm = bench.Floats(1);
  update.gradient_norm = norm;
  update.max_gradient_norm = 1;
  update.learning_rate = 1e-6f;
  update.beta1 = 0.9f;
  update.beta2 = 0.95f;
  update.epsilon = 1e-8f;
  bench.Time(prefix + "norm", 4.0 * static_cast<double>(size), 0,
             [&] { backend.Norm(update.gradients, size, norm); });
  bench.Time(prefix + "adamw", 30.0 * static_cast<double>(size), 0, [&] { backend.AdamW(update); });
  const Matrix wide{update.parameters, DType::kF32, 1, size};
  const Matrix narrow{update.bf16_parameters, bf16, 1, size};
  bench.Time(prefix + "cast", 6.0 * static_cast<double>(size), 0,
             [&] { backend.Cast(wide, narrow); });
}

int Main(int argc, char** argv) {
  std::string name = "cpu";
  BackendOptions options;
  Bench bench;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag.rfind("--backend=", 0) == 0) {
      name = flag.substr(10);
    } else if (flag.rfind("--threads=", 0) == 0) {
      options.threads = std::stoi(flag.substr(10));
    } else if (flag.rfind("--filter=", 0) == 0) {
      bench.filter = flag.substr(9);
    } else {
      std::fprintf(stderr, "usage: ops_bench [--backend=cpu] [--threads=N] [--filter=SUBSTRING]\n");
      return 2;
    }
  }
  auto backend = CreateBackend(name, options);
  if (!backend.ok()) {
    std::fprintf(stderr, "%s\n", backend.status().ToString().c_str());
    return 1;
  }
  bench.backend = *std::move(backend);
  const Model models[] = {{"small ", 8, 256, 256, 4, 768, 256, 3500000},
                          {"50k ", 4, 256, 256, 4, 768, 50257, 16000000}};
  for (const Model& model : models) {
    TimeRows(bench, model, model.name);
    TimeAttention(bench, model, model.name);
    TimeHeadAndUpdate(bench, model, model.name);
    bench.buffers.clear();
  }
  return 0;
}

}  // namespace
}  // namespace nibble::kernels

int main(int argc, char** argv) { return nibble::kernels::Main(argc, argv); }
