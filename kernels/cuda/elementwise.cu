// Element-by-element operators: sums, casts, activations, SwiGLU, rotary embedding, table rows.
//
// Bytes an element: what the operator reads and writes, once. Each thread takes eight elements in
// 16-byte accesses where pointers allow it, else the same eight one by one. Arithmetic in FP32, one
// rounding to the stored type.
#include "kernels/cuda/ops.h"
#include "kernels/cuda/simt.cuh"

namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET {
namespace {

constexpr int kVector = 8;
constexpr float kSqrtHalf = 0.70710678118654752f;
constexpr float kSqrtTwoOverPi = 0.79788456080286536f;
constexpr float kInverseSqrtTwoPi = 0.39894228040143268f;
constexpr float kCubic = 0.044715f;

template <class T>
NIBBLE_DEVICE void LoadUpTo8(const T* from, int count, bool aligned, float* x) {
  if (aligned && count == kVector) {
    Load8(from, x);
    return;
  }
#pragma unroll
  for (int i = 0; i < kVector; ++i) x[i] = i < count ? ToFloat(from[i]) : 0.0f;
}
template <class T>
NIBBLE_DEVICE void StoreUpTo8(T* to, int count, bool aligned, const float* x) {
  if (aligned && count == kVector) {
    Store8(to, x);
    return;
  }
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    if (i < count) Put(to + i, x[i]);
  }
}

NIBBLE_DEVICE int CountAt(int64_t first, int64_t size) {
  const int64_t left = size - first;
  return left < kVector ? static_cast<int>(left) : kVector;
}

template <class To, class From>
NIBBLE_GLOBAL void CastKernel(const From* from, To* to, int64_t size) {
  const int64_t first = GlobalThread() * kVector;
  if (first >= size) return;
  float x[kVector];
  LoadUpTo8(from + first, CountAt(first, size), IsAligned16(from), x);
  StoreUpTo8(to + first, CountAt(first, size), IsAligned16(to), x);
}

template <class T>
NIBBLE_GLOBAL void AddKernel(T* out, const T* in, int64_t size) {
  const int64_t first = GlobalThread() * kVector;
  if (first >= size) return;
  const int count = CountAt(first, size);
  float x[kVector], y[kVector];
  LoadUpTo8(out + first, count, IsAligned16(out), x);
  LoadUpTo8(in + first, count, IsAligned16(in), y);
#pragma unroll
  for (int i = 0; i < kVector; ++i) x[i] += y[i];
  StoreUpTo8(out + first, count, IsAligned16(out), x);
}

NIBBLE_DEVICE float Normal(float x) { return 0.5f * erfcf(-x * kSqrtHalf); }

NIBBLE_DEVICE float Activate(Activation activation, float x) {
  switch (activation) {
    case Activation::kSquaredRelu:
      return x > 0 ? x * x : 0.0f;
    case Activation::kGelu:
      return x * Normal(x);
    case Activation::kGeluTanh:
      return 0.5f * x * (1.0f + tanhf(kSqrtTwoOverPi * (x + kCubic * x * x * x)));
  }
  return 0;
}

NIBBLE_DEVICE float Slope(Activation activation, float x) {
  switch (activation) {
    case Activation::kSquaredRelu:
      return x > 0 ? 2 * x : 0.0f;
    case Activation::kGelu:
      return Normal(x) + x * kInverseSqrtTwoPi * expf(-0.5f * x * x);
    case Activation::kGeluTanh: {
      const float t = tanhf(kSqrtTwoOverPi * (x + kCubic * x * x * x));
      const float inner = kSqrtTwoOverPi * (1.0f + 3.0f * kCubic * x * x);
      return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * inner;
    }
  }
  return 0;
}

template <class T>
NIBBLE_GLOBAL void ActivationForwardKernel(Activation activation, const T* in, T* out,
                                           int64_t size) {
  const int64_t first = GlobalThread() * kVector;
  if (first >= size) return;
  const int count = CountAt(first, size);
  float x[kVector];
  LoadUpTo8(in + first, count, IsAligned16(in), x);
#pragma unroll
  for (int i = 0; i < kVector; ++i) x[i] = Activate(activation, x[i]);
  StoreUpTo8(out + first, count, IsAligned16(out), x);
}

template <class T>
NIBBLE_GLOBAL void ActivationBackwardKernel(Activation activation, const T* d_out, const T* in,
                                            T* d_in, int64_t size) {
  const int64_t first = GlobalThread() * kVector;
  if (first >= size) return;
  const int count = CountAt(first, size);
  float x[kVector], dy[kVector];
  LoadUpTo8(in + first, count, IsAligned16(in), x);
  LoadUpTo8(d_out + first, count, IsAligned16(d_out), dy);
#pragma unroll
  for (int i = 0; i < kVector; ++i) x[i] = dy[i] * Slope(activation, x[i]);
  StoreUpTo8(d_in + first, count, IsAligned16(d_in), x);
}

// s(g) = 1 / (1 + exp(-g)).
NIBBLE_DEVICE float Sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// A thread takes eight columns of one row: gate_up [N, 2F] is [gate | up].
template <class T>
NIBBLE_GLOBAL void SwiGluForwardKernel(const T* gate_up, T* out, int64_t rows, int64_t cols) {
  const int64_t across = (cols + kVector - 1) / kVector;
  const int64_t index = GlobalThread();
  if (index >= rows * across) return;
  const int64_t row = index / across, col = index % across * kVector;
  const int count = CountAt(col, cols);
  const T* gates = gate_up + row * 2 * cols + col;
  T* to = out + row * cols + col;
  float gate[kVector], up[kVector];
  LoadUpTo8(gates, count, IsAligned16(gates), gate);
  LoadUpTo8(gates + cols, count, IsAligned16(gates + cols), up);
#pragma unroll
  for (int i = 0; i < kVector; ++i) gate[i] = gate[i] * Sigmoid(gate[i]) * up[i];
  StoreUpTo8(to, count, IsAligned16(to), gate);
}

template <class T>
NIBBLE_GLOBAL void SwiGluBackwardKernel(const T* d_out, const T* gate_up, T* d_gate_up,
                                        int64_t rows, int64_t cols) {
  const int64_t across = (cols + kVector - 1) / kVector;
  const int64_t index = GlobalThread();
  if (index >= rows * across) return;
  const int64_t row = index / across, col = index % across * kVector;
  const int count = CountAt(col, cols);
  const T* gates = gate_up + row * 2 * cols + col;
  const T* dys = d_out + row * cols + col;
  T* to = d_gate_up + row * 2 * cols + col;
  float gate[kVector], up[kVector], dy[kVector], d_gate[kVector], d_up[kVector];
  LoadUpTo8(gates, count, IsAligned16(gates), gate);
  LoadUpTo8(gates + cols, count, IsAligned16(gates + cols), up);
  LoadUpTo8(dys, count, IsAligned16(dys), dy);
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    const float s = Sigmoid(gate[i]);
    d_gate[i] = dy[i] * up[i] * s * (1.0f + gate[i] * (1.0f - s));
    d_up[i] = dy[i] * gate[i] * s;
  }
  StoreUpTo8(to, count, IsAligned16(to), d_gate);
  StoreUpTo8(to + cols, count, IsAligned16(to + cols), d_up);
}

// A thread takes one pair of one head. Four products and two sums, nothing fused: the bits of every
// backend.
template <class T>
NIBBLE_GLOBAL void RopeKernel(AttentionShape shape, T* qkv, const float* cos_sin, bool inverse) {
  const int64_t half = shape.head_size / 2;
  const int64_t rotated = shape.heads + shape.kv_heads;
  const int64_t index = GlobalThread();
  if (index >= shape.tokens() * rotated * half) return;
  const int64_t i = index % half, head = index / half % rotated, n = index / half / rotated;
  const float* angle = cos_sin + (n % shape.sequence_length * half + i) * 2;
  const float cosine = angle[0];
  const float sine = inverse ? -angle[1] : angle[1];
  T* low = qkv + n * shape.qkv_width() + head * shape.head_size + i;
  const float a = ToFloat(low[0]), b = ToFloat(low[half]);
  Put(low, a * cosine - b * sine);
  Put(low + half, b * cosine + a * sine);
}

template <class T>
NIBBLE_GLOBAL void AddRowsKernel(T* out, const float* table, int64_t rows, int64_t cols,
                                 int64_t period) {
  const int64_t index = GlobalThread();
  if (index >= rows * cols) return;
  const int64_t row = index / cols, col = index % cols;
  Put(out + index, ToFloat(out[index]) + table[row % period * cols + col]);
}

// A thread adds up one column over every period-th row of one part; parts are then added in order.
// partial [parts, period, cols].
template <class T>
NIBBLE_GLOBAL void SumRowsKernel(const T* d_out, float* partial, int64_t rows, int64_t cols,
                                 int64_t period, int64_t repeats_per_part) {
  const int64_t index = GlobalThread();
  if (index >= period * cols) return;
  const int64_t position = index / cols, col = index % cols;
  const int64_t repeats = (rows - position + period - 1) / period;
  const int64_t begin = static_cast<int64_t>(blockIdx.y) * repeats_per_part;
  const int64_t end = begin + repeats_per_part < repeats ? begin + repeats_per_part : repeats;
  float sum = 0;
  for (int64_t r = begin; r < end; ++r) sum += ToFloat(d_out[(r * period + position) * cols + col]);
  partial[static_cast<int64_t>(blockIdx.y) * period * cols + index] = sum;
}

NIBBLE_GLOBAL void AddPartialsKernel(const float* partial, float* out, int64_t size,
                                     int64_t parts) {
  const int64_t index = GlobalThread();
  if (index >= size) return;
  double sum = 0;
  for (int64_t p = 0; p < parts; ++p) sum += static_cast<double>(partial[p * size + index]);
  out[index] = static_cast<float>(static_cast<double>(out[index]) + sum);
}

int64_t Blocks(int64_t threads) { return CeilDiv(threads, kThreads); }

constexpr int64_t kRepeatsPerPart = 64;
int64_t SumParts(int64_t rows, int64_t period) {
  return CeilDiv(CeilDiv(rows, period), kRepeatsPerPart);
}

template <class T>
T* As(const Matrix& matrix) {
  return static_cast<T*>(matrix.data);
}

}  // namespace

void Cast(Stream stream, const Matrix& from, const Matrix& to) {
  const dim3 grid(Blocks(CeilDiv(from.size(), kVector)));
  const bool from_bf16 = from.dtype == DType::kBF16, to_bf16 = to.dtype == DType::kBF16;
  if (from_bf16 && to_bf16) {
    Launch(grid, kThreads, 0, stream, CastKernel<uint16_t, uint16_t>, As<uint16_t>(from),
           As<uint16_t>(to), from.size());
  } else if (from_bf16) {
    Launch(grid, kThreads, 0, stream, CastKernel<float, uint16_t>, As<uint16_t>(from),
           As<float>(to), from.size());
  } else if (to_bf16) {
    Launch(grid, kThreads, 0, stream, CastKernel<uint16_t, float>, As<float>(from),
           As<uint16_t>(to), from.size());
  } else {
    Launch(grid, kThreads, 0, stream, CastKernel<float, float>, As<float>(from), As<float>(to),
           from.size());
  }
}

void AddInPlace(Stream stream, const Matrix& out, const Matrix& in) {
  WithType(out.dtype, [&](auto type) {
    using T = decltype(type);
    Launch(dim3(Blocks(CeilDiv(out.size(), kVector))), kThreads, 0, stream, AddKernel<T>,
           As<T>(out), As<T>(in), out.size());
  });
}

void ActivationForward(Stream stream, Activation activation, const Matrix& in, const Matrix& out) {
  WithType(out.dtype, [&](auto type) {
    using T = decltype(type);
    Launch(dim3(Blocks(CeilDiv(out.size(), kVector))), kThreads, 0, stream,
           ActivationForwardKernel<T>, activation, As<T>(in), As<T>(out), out.size());
  });
}

void ActivationBackward(Stream stream, Activation activation, const Matrix& d_out, const Matrix& in,
                        const Matrix& d_in) {
  WithType(in.dtype, [&](auto type) {
    using T = decltype(type);
    Launch(dim3(Blocks(CeilDiv(in.size(), kVector))), kThreads, 0, stream,
           ActivationBackwardKernel<T>, activation, As<T>(d_out), As<T>(in), As<T>(d_in),
           in.size());
  });
}

void SwiGluForward(Stream stream, const Matrix& gate_up, const Matrix& out) {
  WithType(out.dtype, [&](auto type) {
    using T = decltype(type);
    Launch(dim3(Blocks(out.rows * CeilDiv(out.cols, kVector))), kThreads, 0, stream,
           SwiGluForwardKernel<T>, As<T>(gate_up), As<T>(out), out.rows, out.cols);
  });
}

void SwiGluBackward(Stream stream, const Matrix& d_out, const Matrix& gate_up,
                    const Matrix& d_gate_up) {
  WithType(d_out.dtype, [&](auto type) {
    using T = decltype(type);
    Launch(dim3(Blocks(d_out.rows * CeilDiv(d_out.cols, kVector))), kThreads, 0, stream,
           SwiGluBackwardKernel<T>, As<T>(d_out), As<T>(gate_up), As<T>(d_gate_up), d_out.rows,
           d_out.cols);
  });
}

void Rope(Stream stream, const RopeArgs& args) {
  const AttentionShape& shape = args.shape;
  const int64_t pairs = shape.tokens() * (shape.heads + shape.kv_heads) * (shape.head_size / 2);
  WithType(args.qkv.dtype, [&](auto type) {
    using T = decltype(type);
    Launch(dim3(Blocks(pairs)), kThreads, 0, stream, RopeKernel<T>, shape, As<T>(args.qkv),
           args.cos_sin, args.inverse);
  });
}

void AddRows(Stream stream, const Matrix& out, const float* table, int64_t period) {
  WithType(out.dtype, [&](auto type) {
    using T = decltype(type);
    Launch(dim3(Blocks(out.size())), kThreads, 0, stream, AddRowsKernel<T>, As<T>(out), table,
           out.rows, out.cols, period);
  });
}

int64_t AddRowsScratchBytes(const Matrix& d_out, int64_t period) {
  return SumParts(d_out.rows, period) * period * d_out.cols * 4;
}

void AddRowsBackward(Stream stream, const Matrix& d_out, float* d_table, int64_t period,
                     void* scratch) {
  const int64_t size = period * d_out.cols;
  const int64_t parts = SumParts(d_out.rows, period);
  float* partial = static_cast<float*>(scratch);
  WithType(d_out.dtype, [&](auto type) {
    using T = decltype(type);
    Launch(dim3(Blocks(size), parts), kThreads, 0, stream, SumRowsKernel<T>, As<T>(d_out), partial,
           d_out.rows, d_out.cols, period, kRepeatsPerPart);
  });
  AddPartials(stream, partial, d_table, size, parts);
}

void AddPartials(Stream stream, const float* partial, float* out, int64_t size, int64_t parts) {
  Launch(dim3(Blocks(size)), kThreads, 0, stream, AddPartialsKernel, partial, out, size, parts);
}

}  // namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET
