// The scan of a Mamba-2 layer, a chunk of tokens at a time as matrix products (Dao & Gu,
// arXiv 2405.21060, section 6); definition in kernels/mamba_args.h.
//
// With s_t the sum of log a up to token t of the chunk, h the state before it, q its last token:
//   y_t = sum over j <= t of exp(s_t - s_j) dt_j (C_t . B_j) x_j  +  exp(s_t) h C_t  +  d x_t
//   h' = exp(s_q) h + sum over j of exp(s_q - s_j) dt_j x_j B_j^T
// All exponents are at most 0. A tile is one head of one sequence, its chunks one after the other.
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/lanes.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/scan_chunk.h"

namespace nibble::kernels::cpu::NIBBLE_ISA {
namespace {

struct ForwardMemory {
  ChunkMemory chunk;
  float* scores;   // [chunk_size, chunk_size]
  float* out;      // [chunk_size, head_size]
  float* carried;  // [chunk_size, head_size]
  float* state;    // [head_size, state_size]

  static NIBBLE_INLINE int64_t Floats(const MambaShape& shape) {
    return ChunkMemory::Floats(shape) +
           shape.chunk_size * (shape.chunk_size + 2 * shape.head_size) +
           shape.head_size * shape.state_size;
  }
  NIBBLE_INLINE ForwardMemory(float* at, const MambaShape& shape) : chunk(at, shape) {
    scores = at + ChunkMemory::Floats(shape);
    out = scores + shape.chunk_size * shape.chunk_size;
    carried = out + shape.chunk_size * shape.head_size;
    state = carried + shape.chunk_size * shape.head_size;
  }
};

void CopyFloats(const float* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = from[i];
}

// scores[t, j] *= exp(s_t - s_j) dt_j up to the diagonal, zero above it.
void WeighScores(const ChunkMemory& chunk, int64_t tokens, float* scores) {
  for (int64_t t = 0; t < tokens; ++t) {
    float* row = scores + t * tokens;
    ForLanes(0, t + 1, [&](int64_t j, int64_t count) NIBBLE_LAMBDA {
      const F32x16 decay =
          Exp(Set1(chunk.log_decay[t]) - LoadLanes<false>(chunk.log_decay, j, count));
      const F32x16 weighed =
          LoadLanes<false>(row, j, count) * decay * LoadLanes<false>(chunk.dt, j, count);
      StoreLanes<false>(row, j, weighed, count);
    });
    for (int64_t j = t + 1; j < tokens; ++j) row[j] = 0;
  }
}

template <bool kBf16>
void WriteOutput(const ScanArgs& args, const ScanHead& head, int64_t first, int64_t tokens,
                 const ForwardMemory& m, bool carried) {
  const int64_t size = args.shape.head_size;
  const F32x16 skip = Set1(args.d[head.head]);
  for (int64_t t = 0; t < tokens; ++t) {
    const F32x16 decay = carried ? Exp(Set1(m.chunk.log_decay[t])) : Zero();
    ForLanes(0, size, [&](int64_t i, int64_t count) NIBBLE_LAMBDA {
      F32x16 y = LoadLanes<false>(m.out, t * size + i, count) +
                 skip * LoadLanes<false>(m.chunk.x, t * size + i, count);
      if (carried) y = y + decay * LoadLanes<false>(m.carried, t * size + i, count);
      StoreLanes<kBf16>(args.out.data,
                        (head.first_row + first + t) * args.out.cols + head.x_column() + i, y,
                        count);
    });
  }
}

void ForwardChunk(const ScanArgs& args, const ScanHead& head, int64_t first, int64_t tokens,
                  const ForwardMemory& m) {
  const int64_t size = args.shape.head_size, state = args.shape.state_size;
  LoadChunk(head, first, tokens, m.chunk);
  Sgemm(false, true, tokens, tokens, state, 1, m.chunk.c, state, m.chunk.b, state, 0, m.scores,
        tokens);
  WeighScores(m.chunk, tokens, m.scores);
  Sgemm(false, false, tokens, size, tokens, 1, m.scores, tokens, m.chunk.x, size, 0, m.out, size);
  const bool carried = first > 0 || args.state != nullptr;
  if (carried) {
    Sgemm(false, true, tokens, size, state, 1, m.chunk.c, state, m.state, state, 0, m.carried,
          size);
  }
  if (args.out.dtype == DType::kBF16) {
    WriteOutput<true>(args, head, first, tokens, m, carried);
  } else {
    WriteOutput<false>(args, head, first, tokens, m, carried);
  }
  AdvanceState(args.shape, carried, tokens, m.chunk, m.state, m.state);
}

}  // namespace

void ScanForward(OpContext& context, const ScanArgs& args) {
  const MambaShape& shape = args.shape;
  ParallelFor(context.pool, shape.sequences * shape.heads, [&](int64_t tile, int thread) {
    const ForwardMemory m(
        static_cast<float*>(context.scratch.ForThread(thread, ForwardMemory::Floats(shape) * 4)),
        shape);
    const ScanHead head(shape, args.xbc, args.projected, tile / shape.heads, tile % shape.heads,
                        args.dt_bias, args.a_log);
    const int64_t size = shape.head_size * shape.state_size;
    if (args.state != nullptr) CopyFloats(args.state + tile * size, size, m.state);
    for (int64_t first = 0; first < shape.sequence_length; first += shape.chunk_size) {
      ForwardChunk(args, head, first, Smaller(shape.chunk_size, shape.sequence_length - first), m);
    }
    if (args.state != nullptr) CopyFloats(m.state, size, args.state + tile * size);
  });
}

}  // namespace nibble::kernels::cpu::NIBBLE_ISA
