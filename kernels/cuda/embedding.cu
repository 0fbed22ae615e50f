// Embedding lookup and its gradient.
//
// Forward: 2 or 4 bytes an element read and written. Backward: d_table[tokens[n]] += d_out[n] with
// n ascending, bit for bit the order of every backend, and no atomics: for each n the next place of
// the same token is found first; then a block a *first* place walks the token's chain and owns its
// row. Reads d_out once, reads and writes only rows that occur.
#include "kernels/cuda/ops.h"
#include "kernels/cuda/simt.cuh"

namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET {
namespace {

constexpr int32_t kNone = -1;

template <class T>
NIBBLE_GLOBAL void LookupKernel(const int32_t* tokens, const T* table, T* out, int64_t cols) {
  const int64_t n = blockIdx.x;
  const T* from = table + static_cast<int64_t>(tokens[n]) * cols;
  for (int64_t c = threadIdx.x; c < cols; c += kThreads) out[n * cols + c] = from[c];
}

// next[n] = the smallest m > n with the same token, or kNone; is_first[n] = no earlier m has it.
// A block looks through all tokens in shared memory, 256 at a time.
NIBBLE_GLOBAL void ChainKernel(const int32_t* tokens, int64_t count, int32_t* next,
                               int32_t* is_first) {
  NIBBLE_SHARED int32_t window[kThreads];
  const int64_t n = GlobalThread();
  const int32_t mine = n < count ? tokens[n] : kNone;
  int32_t found = kNone, first = 1;
  for (int64_t begin = 0; begin < count; begin += kThreads) {
    __syncthreads();
    if (begin + threadIdx.x < count) window[threadIdx.x] = tokens[begin + threadIdx.x];
    __syncthreads();
    const int64_t left = count - begin;
    const int size = left < kThreads ? static_cast<int>(left) : kThreads;
    for (int i = 0; i < size; ++i) {
      if (window[i] != mine) continue;
      const int64_t m = begin + i;
      if (m < n) first = 0;
      if (m > n && found == kNone) found = static_cast<int32_t>(m);
    }
  }
  if (n >= count) return;
  next[n] = found;
  is_first[n] = first;
}

template <class T>
NIBBLE_GLOBAL void ScatterKernel(const int32_t* tokens, const T* d_out, float* d_table,
                                 int64_t cols, const int32_t* next, const int32_t* is_first) {
  const int64_t n = blockIdx.x;
  if (is_first[n] == 0) return;
  float* row = d_table + static_cast<int64_t>(tokens[n]) * cols;
  for (int64_t c = threadIdx.x; c < cols; c += kThreads) {
    float sum = row[c];
    for (int64_t m = n; m != kNone; m = next[m]) sum += ToFloat(d_out[m * cols + c]);
    row[c] = sum;
  }
}

}  // namespace

void EmbeddingForward(Stream stream, const int32_t* tokens, const Matrix& table,
                      const Matrix& out) {
  WithType(out.dtype, [&](auto type) {
    using T = decltype(type);
    Launch(dim3(out.rows), kThreads, 0, stream, LookupKernel<T>, tokens,
           static_cast<const T*>(table.data), static_cast<T*>(out.data), out.cols);
  });
}

int64_t EmbeddingScratchBytes(int64_t tokens) { return tokens * 2 * 4; }

void EmbeddingBackward(Stream stream, const int32_t* tokens, const Matrix& d_out,
                       const Matrix& d_table, void* scratch) {
  int32_t* next = static_cast<int32_t*>(scratch);
  int32_t* is_first = next + d_out.rows;
  Launch(dim3(CeilDiv(d_out.rows, kThreads)), kThreads, 0, stream, ChainKernel, tokens, d_out.rows,
         next, is_first);
  WithType(d_out.dtype, [&](auto type) {
    using T = decltype(type);
    Launch(dim3(d_out.rows), kThreads, 0, stream, ScatterKernel<T>, tokens,
           static_cast<const T*>(d_out.data), static_cast<float*>(d_table.data), d_out.cols,
           static_cast<const int32_t*>(next), static_cast<const int32_t*>(is_first));
  });
}

}  // namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET
