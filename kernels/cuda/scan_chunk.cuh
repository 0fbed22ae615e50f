// What both directions of the chunked Mamba-2 scan share (Dao & Gu, arXiv 2405.21060, section 6).
//
// The sequence is cut into chunks; with s_t the sum of the logarithms of the decays up to t in the
// chunk, h the state before it and q its last token:
//   state after  = exp(s_q) h + sum_j exp(s_q - s_j) dt_j x_j B_j^T
//   y_t          = sum_{j <= t} exp(s_t - s_j) dt_j (C_t . B_j) x_j + exp(s_t) h C_t + d x_t
// Chunks are independent but for the states, which one pass over [head_size, state_size] elements
// takes from chunk to chunk. Products are FP32 with fused multiply-adds, k ascending; dt and s are
// summed in FP64. A block's memory bounds the chunk; its length depends on the shape alone.
#ifndef KERNELS_CUDA_SCAN_CHUNK_CUH_
#define KERNELS_CUDA_SCAN_CHUNK_CUH_

#include "kernels/cuda/ops.h"
#include "kernels/cuda/simt.cuh"

namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET {

constexpr int64_t kScanSharedBytes = 96 * 1024;  // fits every architecture built for

// Rows are one float longer than their content: columns then lie in different banks.
struct ScanLayout {
  int length;  // of a chunk, tokens
  int head_size;
  int state_size;
  int64_t chunks;  // of a sequence

  NIBBLE_DEVICE int x_stride() const { return head_size + 1; }
  NIBBLE_DEVICE int b_stride() const { return state_size + 1; }
  NIBBLE_DEVICE int m_stride() const { return length + 1; }
};

inline int64_t ScanBytes(const MambaShape& shape, int64_t length) {
  const int64_t floats =
      length * (3 * (shape.head_size + 1) + 2 * (shape.state_size + 1) + 2 * (length + 1) + 8);
  return (floats + 64) * 4;
}

inline ScanLayout ScanLayoutOf(const MambaShape& shape) {
  int64_t length = 64;
  while (length > 8 && ScanBytes(shape, length) > kScanSharedBytes) length /= 2;
  return ScanLayout{static_cast<int>(length), static_cast<int>(shape.head_size),
                    static_cast<int>(shape.state_size), CeilDiv(shape.sequence_length, length)};
}

struct ScanMemory {
  double* sums;      // [2 length]: FP64 work of one thread
  float* x;          // [length, head_size]
  float* dy;         // likewise
  float* terms;      // likewise
  float* b;          // [length, state_size]
  float* c;          // likewise
  float* m;          // [length, length]
  float* g;          // likewise
  float* raw;        // [length]: dt before softplus
  float* dt;         // [length]
  float* log_decay;  // [length]: s
  float* work;       // [length]

  NIBBLE_DEVICE explicit ScanMemory(const ScanLayout& layout) {
    sums = DynamicShared<double>();
    x = reinterpret_cast<float*>(sums + 2 * layout.length);
    dy = x + layout.length * layout.x_stride();
    terms = dy + layout.length * layout.x_stride();
    b = terms + layout.length * layout.x_stride();
    c = b + layout.length * layout.b_stride();
    m = c + layout.length * layout.b_stride();
    g = m + layout.length * layout.m_stride();
    raw = g + layout.length * layout.m_stride();
    dt = raw + layout.length;
    log_decay = dt + layout.length;
    work = log_decay + layout.length;
  }
};

// Where a block works.
struct ScanPlace {
  int64_t sequence, head, group, chunk;
  int64_t first_row;  // of the chunk in the matrices
  int tokens;         // of the chunk

  NIBBLE_DEVICE ScanPlace(const MambaShape& shape, const ScanLayout& layout, int64_t sequence_in,
                          int64_t head_in, int64_t chunk_in)
      : sequence(sequence_in),
        head(head_in),
        group(head_in / (shape.heads / shape.groups)),
        chunk(chunk_in),
        first_row(sequence_in * shape.sequence_length + chunk_in * layout.length) {
    const int64_t left = shape.sequence_length - chunk * layout.length;
    tokens = left < layout.length ? static_cast<int>(left) : layout.length;
  }
  // Of the state [head_size, state_size] before the chunk.
  NIBBLE_DEVICE int64_t StateOffset(const MambaShape& shape, const ScanLayout& layout) const {
    return ((sequence * shape.heads + head) * layout.chunks + chunk) * shape.head_size *
           shape.state_size;
  }
  NIBBLE_DEVICE int64_t DecayOffset(const MambaShape& shape, const ScanLayout& layout) const {
    return (sequence * shape.heads + head) * layout.chunks + chunk;
  }
  NIBBLE_DEVICE int64_t BColumn(const MambaShape& shape) const {
    return shape.inner() + group * shape.state_size;
  }
  NIBBLE_DEVICE int64_t CColumn(const MambaShape& shape) const {
    return BColumn(shape) + shape.groups * shape.state_size;
  }
};

// Columns [column, column + cols) of the chunk's rows, zeros beyond its tokens.
template <class T>
NIBBLE_DEVICE void LoadColumns(const T* matrix, int64_t width, const ScanPlace& at, int length,
                               int64_t column, int cols, int stride, float* to) {
  for (int i = static_cast<int>(threadIdx.x); i < length * cols; i += kThreads) {
    const int t = i / cols, c = i % cols;
    to[t * stride + c] =
        t < at.tokens ? ToFloat(matrix[(at.first_row + t) * width + column + c]) : 0.0f;
  }
}

// dt and s of the chunk. Begins and ends with a barrier.
template <class T>
NIBBLE_DEVICE void LoadDecays(const MambaShape& shape, const ScanLayout& layout,
                              const ScanMemory& memory, const ScanPlace& at, const T* projected,
                              const float* dt_bias, const float* a_log) {
  __syncthreads();
  for (int t = static_cast<int>(threadIdx.x); t < layout.length; t += kThreads) {
    double dt = 0;
    if (t < at.tokens) {
      memory.raw[t] = ToFloat(projected[(at.first_row + t) * shape.projected_width() +
                                        shape.dt_column() + at.head]) +
                      dt_bias[at.head];
      const double raw = static_cast<double>(memory.raw[t]);
      dt = raw > 30 ? raw : log1p(exp(raw));
    }
    memory.dt[t] = static_cast<float>(dt);
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    const double a =
        static_cast<double>(static_cast<float>(exp(static_cast<double>(a_log[at.head]))));
    double sum = 0;
    for (int t = 0; t < layout.length; ++t) {
      sum -= a * static_cast<double>(memory.dt[t]);
      memory.log_decay[t] = static_cast<float>(sum);
    }
  }
  __syncthreads();
}

// store(i, j, sum over k < depth of a(i, k) b(k, j)) for i < rows, j < cols; a thread takes 4x4
// tiles. No barrier.
template <class A, class B, class S>
NIBBLE_DEVICE void BlockProduct(int rows, int cols, int depth, const A& a, const B& b,
                                const S& store) {
  const int down = (rows + 3) / 4, across = (cols + 3) / 4;
  for (int tile = static_cast<int>(threadIdx.x); tile < down * across; tile += kThreads) {
    const int i0 = tile / across * 4, j0 = tile % across * 4;
    float sums[4][4] = {};
    for (int k = 0; k < depth; ++k) {
      float left[4], right[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) left[i] = a(i0 + i < rows ? i0 + i : rows - 1, k);
#pragma unroll
      for (int j = 0; j < 4; ++j) right[j] = b(k, j0 + j < cols ? j0 + j : cols - 1);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[i][j] = fmaf(left[i], right[j], sums[i][j]);
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (i0 + i < rows && j0 + j < cols) store(i0 + i, j0 + j, sums[i][j]);
      }
    }
  }
}

// The states before every chunk into `states` [sequences, heads, chunks, head_size, state_size];
// `decays` [sequences, heads, chunks]: exp(s_q).
struct ScanInputs {
  MambaShape shape;
  Matrix xbc;
  Matrix projected;
  const float* dt_bias;
  const float* a_log;
};
// `kept`: ScanArgs::state, or null.
void ComputeScanStates(Stream stream, const ScanInputs& inputs, float* states, float* decays,
                       float* kept);

}  // namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET

#endif  // KERNELS_CUDA_SCAN_CHUNK_CUH_
