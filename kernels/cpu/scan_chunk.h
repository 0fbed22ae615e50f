// What both directions of the chunked scan share. The same rules as for simd.h.
#ifndef KERNELS_CPU_SCAN_CHUNK_H_
#define KERNELS_CPU_SCAN_CHUNK_H_

#include <math.h>

#include <cstdint>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/lanes.h"
#include "kernels/mamba_args.h"

namespace nibble::kernels::cpu {
namespace NIBBLE_ISA {

// One head of one sequence.
struct ScanHead {
  const MambaShape& shape;
  const Matrix& xbc;
  const Matrix& projected;
  int64_t sequence;
  int64_t head;
  int64_t first_row;
  float dt_bias;
  float a;  // exp(a_log)

  NIBBLE_INLINE ScanHead(const MambaShape& shape_in, const Matrix& xbc_in,
                         const Matrix& projected_in, int64_t sequence_in, int64_t head_in,
                         const float* dt_biases, const float* a_logs)
      : shape(shape_in),
        xbc(xbc_in),
        projected(projected_in),
        sequence(sequence_in),
        head(head_in),
        first_row(sequence_in * shape_in.sequence_length),
        dt_bias(dt_biases[head_in]),
        a(static_cast<float>(exp(static_cast<double>(a_logs[head_in])))) {}

  NIBBLE_INLINE int64_t group() const { return head / (shape.heads / shape.groups); }
  NIBBLE_INLINE int64_t x_column() const { return head * shape.head_size; }
  NIBBLE_INLINE int64_t b_column() const { return shape.inner() + group() * shape.state_size; }
  NIBBLE_INLINE int64_t c_column() const { return b_column() + shape.groups * shape.state_size; }
};

// A chunk in FP32.
struct ChunkMemory {
  float* x;          // [chunk_size, head_size]
  float* scaled;     // [chunk_size, head_size]: of AdvanceState
  float* b;          // [chunk_size, state_size]
  float* c;          // [chunk_size, state_size]
  float* raw;        // [chunk_size]: dt before softplus
  float* dt;         // [chunk_size]
  float* log_decay;  // [chunk_size]: s

  static NIBBLE_INLINE int64_t Floats(const MambaShape& shape) {
    return shape.chunk_size * (2 * shape.head_size + 2 * shape.state_size + 3);
  }
  NIBBLE_INLINE ChunkMemory(float* at, const MambaShape& shape) {
    x = at;
    scaled = x + shape.chunk_size * shape.head_size;
    b = scaled + shape.chunk_size * shape.head_size;
    c = b + shape.chunk_size * shape.state_size;
    raw = c + shape.chunk_size * shape.state_size;
    dt = raw + shape.chunk_size;
    log_decay = dt + shape.chunk_size;
  }
};

// Tokens [first, first + tokens) of the sequence. In doubles where a sum or a logarithm is taken:
// there are only a few a token.
NIBBLE_SIMD void LoadChunk(const ScanHead& head, int64_t first, int64_t tokens,
                           const ChunkMemory& chunk) {
  const MambaShape& shape = head.shape;
  const int64_t row = head.first_row + first;
  const auto widen = [&](int64_t column, int64_t cols, float* to) {
    WidenRows({head.xbc.data, head.xbc.dtype, head.xbc.cols, row, column, tokens, cols}, to);
  };
  widen(head.x_column(), shape.head_size, chunk.x);
  widen(head.b_column(), shape.state_size, chunk.b);
  widen(head.c_column(), shape.state_size, chunk.c);
  WidenRows({head.projected.data, head.projected.dtype, head.projected.cols, row,
             shape.dt_column() + head.head, tokens, 1},
            chunk.raw);
  double sum = 0;
  for (int64_t t = 0; t < tokens; ++t) {
    chunk.raw[t] += head.dt_bias;
    const double raw = chunk.raw[t];
    chunk.dt[t] = static_cast<float>(raw > 30 ? raw : log1p(exp(raw)));
    sum -= static_cast<double>(head.a) * chunk.dt[t];
    chunk.log_decay[t] = static_cast<float>(sum);
  }
}

// `after` [head_size, state_size] = the state after the chunk from that before it; they may be the
// same. `carried`: there is one before it, otherwise `before` is not read.
NIBBLE_SIMD void AdvanceState(const MambaShape& shape, bool carried, int64_t tokens,
                              const ChunkMemory& chunk, const float* before, float* after) {
  const int64_t size = shape.head_size, state = shape.state_size;
  const float last = chunk.log_decay[tokens - 1];
  for (int64_t t = 0; t < tokens; ++t) {
    const F32x16 factor = Exp(Set1(last - chunk.log_decay[t])) * Set1(chunk.dt[t]);
    ForLanes(t * size, (t + 1) * size, [&](int64_t i, int64_t count) NIBBLE_LAMBDA {
      StoreLanes<false>(chunk.scaled, i, factor * LoadLanes<false>(chunk.x, i, count), count);
    });
  }
  if (carried) {
    const F32x16 decay = Exp(Set1(last));
    ForLanes(0, size * state, [&](int64_t i, int64_t count) NIBBLE_LAMBDA {
      StoreLanes<false>(after, i, decay * LoadLanes<false>(before, i, count), count);
    });
  }
  Sgemm(true, false, size, state, tokens, 1, chunk.scaled, size, chunk.b, state,
        carried ? 1.0f : 0.0f, after, state);
}

}  // namespace NIBBLE_ISA
}  // namespace nibble::kernels::cpu

#endif  // KERNELS_CPU_SCAN_CHUNK_H_
