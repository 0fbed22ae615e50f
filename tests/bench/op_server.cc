// Runs one operation of the CPU backend whenever it is told to, so that a script can interleave it
// with a peer's: reads lines "run" from standard input and answers each with the seconds it took.
//   op_server cross_entropy ROWS FEATURES VOCABULARY bf16|fp32 THREADS
//   op_server products      ROWS FEATURES VOCABULARY bf16|fp32 THREADS
//   op_server adamw         SIZE bf16|fp32 THREADS
//   op_server clip_adamw    SIZE bf16|fp32 THREADS
// cross_entropy is the output head, loss and backward: products and cross-entropy; products is the
// three products of the same head alone. clip_adamw takes the gradient's norm first and clips by
// it. bf16: with BF16 activations, or with the BF16 copy of the parameters written too.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <iostream>
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
    return arrays.backend->PrepareOperand(request, nullptr);
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

[[noreturn]] void Usage() {
  std::fprintf(
      stderr,
      "usage: op_server cross_entropy|products ROWS FEATURES VOCABULARY bf16|fp32 THREADS\n"
      "       op_server adamw|clip_adamw SIZE bf16|fp32 THREADS\n");
  std::exit(2);
}

int Main(const std::vector<std::string>& words) {
  const bool head = !words.empty() && (words[0] == "cross_entropy" || words[0] == "products");
  if (words.size() != (head ? 6u : 4u)) Usage();
  const bool bf16 = words[words.size() - 2] == "bf16";
  Arrays arrays;
  BackendOptions options;
  options.threads = std::atoi(words.back().c_str());
  arrays.backend = *CreateBackend("cpu", options);
  Operation operation;
  if (head) {
    const HeadShape shape{std::atoll(words[1].c_str()), std::atoll(words[2].c_str()),
                          std::atoll(words[3].c_str()), bf16 ? DType::kBF16 : DType::kF32};
    operation = words[0] == "products" ? Products(arrays, shape) : CrossEntropy(arrays, shape);
  } else {
    operation = Update(arrays, std::atoll(words[1].c_str()), bf16, words[0] == "clip_adamw");
  }
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
