// Runs one operation of the CPU backend whenever it is told to, so that a script can interleave it
// with a peer's: reads lines "run" from standard input and answers each with the seconds it took.
//   op_server cross_entropy ROWS FEATURES VOCABULARY bf16|fp32 THREADS
//   op_server products      ROWS FEATURES VOCABULARY bf16|fp32 THREADS
//   op_server adamw         SIZE bf16|fp32 THREADS
//   op_server clip_adamw    SIZE bf16|fp32 THREADS
//   op_server quantize      ROWS COLS nearest|stochastic|tiles THREADS
// cross_entropy is the output head, loss and backward: products and cross-entropy; products is the
// three products of the same head alone. clip_adamw takes the gradient's norm first and clips by
// it. bf16: with BF16 activations, or with the BF16 copy of the parameters written too. quantize
// takes FP32 values to NVFP4 and back: 1x16 blocks to nearest or stochastically, or 16x16 tiles.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.h"

namespace nibble::kernels {
namespace {

struct Arrays {
  std::unique_ptr<Backend> backend;
  std::vector<std::unique_ptr<DeviceBuffer>> buffers;

  Matrix Make(DType dtype, int64_t rows, int64_t cols, float scale) {
    Matrix matrix{nullptr, dtype, rows, cols};
    buffers.push_back(*backend->Allocate(matrix.bytes()));
    matrix.data = buffers.back()->data();
    const auto wide = *backend->Allocate(matrix.size() * 4);
    std::vector<float> values(matrix.size());
    uint32_t state = 1;
    for (float& value : values) {
      state = state * 1664525 + 1013904223;
      value = scale * static_cast<float>(static_cast<int32_t>(state)) * 0x1p-31f;
    }
    backend->CopyToDevice(wide->data(), values.data(), matrix.size() * 4);
    backend->Cast(Matrix{wide->data(), DType::kF32, rows, cols}, matrix);
    return matrix;
  }
  float* Floats(int64_t size, float scale) {
    return static_cast<float*>(Make(DType::kF32, 1, size, scale).data);
  }
  // For PrepareOperand.
  void* Storage(const OperandRequest& request) {
    const Matrix& source = request.source;
    buffers.push_back(*backend->Allocate(
        backend->OperandBytes(request.format, source.dtype, source.rows, source.cols)));
    return buffers.back()->data();
  }
};

using Operation = std::function<void()>;

struct HeadShape {
  int64_t rows, features, vocabulary;
  DType dtype;
};

Operation CrossEntropy(Arrays& arrays, const HeadShape& shape) {
  const Matrix weight = arrays.Make(shape.dtype, shape.vocabulary, shape.features, 0.05f);
  LmHeadArgs args{};
  args.x = arrays.Make(shape.dtype, shape.rows, shape.features, 1);
  args.weight = {weight.data, nullptr, {}, shape.dtype, weight.rows, weight.cols, false};
  std::vector<int32_t> targets(shape.rows);
  for (int64_t i = 0; i < shape.rows; ++i) {
    targets[i] = static_cast<int32_t>(i * 7919 % shape.vocabulary);
  }
  const Matrix on_device = arrays.Make(DType::kF32, 1, shape.rows, 0);
  arrays.backend->CopyToDevice(on_device.data, targets.data(), shape.rows * 4);
  args.targets = static_cast<const int32_t*>(on_device.data);
  args.losses = arrays.Floats(shape.rows, 0);
  args.loss_scale = 1.0f / static_cast<float>(shape.rows);
  args.d_x = arrays.Make(shape.dtype, shape.rows, shape.features, 0);
  args.d_weight = arrays.Floats(weight.size(), 0);
  return [&arrays, args] { arrays.backend->LmHead(args); };
}

Operation Products(Arrays& arrays, const HeadShape& shape) {
  OperandFormat format;
  format.format = shape.dtype == DType::kF32 ? Format::kF32 : Format::kBF16;
  const auto operand = [&](int64_t rows, int64_t cols) {
    OperandRequest request;
    request.source = arrays.Make(shape.dtype, rows, cols, 0.05f);
    request.format = format;
    return arrays.backend->PrepareOperand(request, arrays.Storage(request));
  };
  const Operand x = operand(shape.rows, shape.features);
  const Operand weight = operand(shape.vocabulary, shape.features);
  const Operand gradient = operand(shape.rows, shape.vocabulary);
  const Matrix logits = arrays.Make(DType::kF32, shape.rows, shape.vocabulary, 0);
  const Matrix d_x = arrays.Make(shape.dtype, shape.rows, shape.features, 0);
  const Matrix d_weight = arrays.Make(DType::kF32, shape.vocabulary, shape.features, 0);
  return [&arrays, x, weight, gradient, logits, d_x, d_weight] {
    Backend& backend = *arrays.backend;
    backend.Multiply(x, weight, logits, false);
    backend.Multiply(gradient, backend.Transposed(weight), d_x, false);
    backend.Multiply(backend.Transposed(gradient), backend.Transposed(x), d_weight, true);
  };
}

Operation Update(Arrays& arrays, int64_t size, bool bf16, bool clip) {
  AdamWArgs args{};
  args.size = size;
  args.parameters = arrays.Floats(size, 1);
  args.gradients = arrays.Floats(size, 1);
  args.first_moment = arrays.Floats(size, 0.1f);
  args.second_moment = arrays.Floats(size, 0);
  args.bf16_parameters = bf16 ? arrays.Make(DType::kBF16, 1, size, 1).data : nullptr;
  float* norm = arrays.Floats(1, 0);
  args.gradient_norm = norm;
  args.max_gradient_norm = clip ? 1 : 0;
  args.learning_rate = 1e-6f;
  args.beta1 = 0.9f;
  args.beta2 = 0.95f;
  args.epsilon = 1e-8f;
  args.weight_decay = 0.1f;
  return [&arrays, args, norm, clip]() mutable {
    if (clip) arrays.backend->Norm(args.gradients, args.size, norm);
    arrays.backend->AdamW(args);
    args.step += 1;
  };
}

Operation Quantize(Arrays& arrays, int64_t rows, int64_t cols, const std::string& how) {
  OperandRequest request;
  request.source = arrays.Make(DType::kF32, rows, cols, 1);
  request.format.format = Format::kNvfp4;
  request.format.block_rows = how == "tiles" ? 16 : 1;
  if (how == "stochastic") request.format.rounding = Rounding::kStochastic;
  request.key.total_cols = cols;
  void* const storage = arrays.Storage(request);
  return [&arrays, request, storage]() mutable {
    arrays.backend->PrepareOperand(request, storage);
    request.key.step += 1;
  };
}

[[noreturn]] void Usage() {
  std::fprintf(
      stderr,
      "usage: op_server cross_entropy|products ROWS FEATURES VOCABULARY bf16|fp32 THREADS\n"
      "       op_server adamw|clip_adamw SIZE bf16|fp32 THREADS\n"
      "       op_server quantize ROWS COLS nearest|stochastic|tiles THREADS\n");
  std::exit(2);
}

Operation OperationOf(Arrays& arrays, const std::vector<std::string>& words) {
  const auto number = [&](size_t i) { return std::atoll(words[i].c_str()); };
  const bool bf16 = words[words.size() - 2] == "bf16";
  if (words[0] == "quantize") return Quantize(arrays, number(1), number(2), words[3]);
  if (words[0] == "adamw" || words[0] == "clip_adamw") {
    return Update(arrays, number(1), bf16, words[0] == "clip_adamw");
  }
  const HeadShape shape{number(1), number(2), number(3), bf16 ? DType::kBF16 : DType::kF32};
  return words[0] == "products" ? Products(arrays, shape) : CrossEntropy(arrays, shape);
}

int Main(const std::vector<std::string>& words) {
  const std::map<std::string, size_t> arguments = {
      {"cross_entropy", 6}, {"products", 6}, {"adamw", 4}, {"clip_adamw", 4}, {"quantize", 5}};
  const auto expected = words.empty() ? arguments.end() : arguments.find(words[0]);
  if (expected == arguments.end() || expected->second != words.size()) Usage();
  Arrays arrays;
  BackendOptions options;
  options.threads = std::atoi(words.back().c_str());
  arrays.backend = *CreateBackend("cpu", options);
  const Operation operation = OperationOf(arrays, words);
  std::fprintf(stderr, "%s\n", std::string(arrays.backend->description()).c_str());
  for (std::string line; std::getline(std::cin, line);) {
    const auto before = std::chrono::steady_clock::now();
    operation();
    if (!arrays.backend->Synchronize().ok()) return 1;
    const auto after = std::chrono::steady_clock::now();
    std::printf("%.9f\n", std::chrono::duration<double>(after - before).count());
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace
}  // namespace nibble::kernels

int main(int argc, char** argv) {
  return nibble::kernels::Main(std::vector<std::string>(argv + 1, argv + argc));
}
