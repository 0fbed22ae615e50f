// Gradient of the chunked scan; forward in scan.cc, the same gradient token by token in
// kernels/reference/scan.cc.
//
// States before each chunk are computed again first; then the chunks from the last to the first,
// with G the gradient of the state after a chunk, h the state before it, q its last token and
// E_tj = exp(s_t - s_j) for j <= t:
//   dx_j = sum_t E_tj dt_j (C_t . B_j) dy_t + exp(s_q - s_j) dt_j G B_j + d dy_j
//   dC_t = sum_j E_tj dt_j (dy_t . x_j) B_j + exp(s_t) h^T dy_t
//   dB_j = sum_t E_tj dt_j (dy_t . x_j) C_t + exp(s_q - s_j) dt_j G^T x_j
//   G <- exp(s_q) G + sum_t exp(s_t) dy_t C_t^T
// and, with M_tj = E_tj (C_t . B_j) (dy_t . x_j), u_j = exp(s_q - s_j) x_j^T G B_j:
//   d dt_j = sum_t M_tj + u_j                                   (s held fixed)
//   d s_t = sum_j M_tj dt_j + exp(s_t) dy_t^T h C_t - dt_t (sum_u M_ut + u_t)
//   d s_q += exp(s_q) <G, h> + sum_j dt_j u_j
// log a_t = -A dt_t is in every s from t on. A tile is one group of one sequence: its heads are
// added to dB and dC in order.
#include <math.h>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/lanes.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/scan_chunk.h"

namespace nibble::kernels::cpu::NIBBLE_ISA {
namespace {

constexpr int64_t kParameters = 3;  // dt_bias, a_log, d: partial sums of a head of a sequence

int64_t Chunks(const MambaShape& shape) {
  return TileCount(shape.sequence_length, shape.chunk_size);
}

struct BackwardMemory {
  ChunkMemory chunk;
  float* dy;            // [chunk_size, head_size]
  float* dy_scaled;     // likewise: exp(s_t) dy_t
  float* dx;            // likewise
  float* state_terms;   // [chunk_size, state_size], or [chunk_size, head_size]
  float* cb;            // [chunk_size, chunk_size]: C_t . B_j, then the factor of dy_t in dx_j
  float* dyx;           // likewise: dy_t . x_j, then the factor of B_j in dC_t
  double* d_dt;         // [chunk_size]
  double* d_log_decay;  // [chunk_size]: d s
  float* d_state;       // [head_size, state_size]: G
  float* states;        // [chunks, head_size, state_size]: before each chunk
  float* d_b;           // [sequence_length, state_size], over the group's heads
  float* d_c;           // likewise

  static NIBBLE_INLINE int64_t Floats(const MambaShape& shape) {
    const int64_t q = shape.chunk_size, largest = Larger(shape.state_size, shape.head_size);
    // One more for the alignment of the doubles.
    return ChunkMemory::Floats(shape) + q * (3 * shape.head_size + largest + 2 * q + 4) + 1 +
           (Chunks(shape) + 1) * shape.head_size * shape.state_size +
           2 * shape.sequence_length * shape.state_size;
  }
  NIBBLE_INLINE BackwardMemory(float* at, const MambaShape& shape) : chunk(at, shape) {
    const int64_t q = shape.chunk_size, state = shape.head_size * shape.state_size;
    float* next = at + ChunkMemory::Floats(shape);
    const auto take = [&](int64_t floats) {
      float* taken = next;
      next += floats;
      return taken;
    };
    if ((next - at) % 2 != 0) take(1);
    d_dt = reinterpret_cast<double*>(take(2 * q));
    d_log_decay = reinterpret_cast<double*>(take(2 * q));
    dy = take(q * shape.head_size);
    dy_scaled = take(q * shape.head_size);
    dx = take(q * shape.head_size);
    state_terms = take(q * Larger(shape.state_size, shape.head_size));
    cb = take(q * q);
    dyx = take(q * q);
    d_state = take(state);
    states = take(Chunks(shape) * state);
    d_b = take(shape.sequence_length * shape.state_size);
    d_c = take(shape.sequence_length * shape.state_size);
  }
};

struct Chunk {
  const ScanBackwardArgs& args;
  const ScanHead& head;
  const BackwardMemory& m;
  int64_t first, tokens;
  const float* before;  // the state before it
  bool last;            // nothing comes after it: G is zero

  NIBBLE_INLINE int64_t size() const { return args.shape.head_size; }
  NIBBLE_INLINE int64_t state() const { return args.shape.state_size; }
};

NIBBLE_SIMD float Dot(const float* a, const float* b, int64_t size) {
  F32x16 sum = Zero();
  ForLanes(0, size, [&](int64_t i, int64_t count) NIBBLE_LAMBDA {
    sum = sum + LoadLanes<false>(a, i, count) * LoadLanes<false>(b, i, count);
  });
  return ReduceAdd(sum);
}

NIBBLE_SIMD float ExpOf(float x) {
  float lanes[kLanes];
  Store(lanes, Exp(Set1(x)));
  return lanes[0];
}

// to [size] += factor * from.
NIBBLE_SIMD void AddScaled(float factor, const float* from, int64_t size, float* to) {
  ForLanes(0, size, [&](int64_t i, int64_t count) NIBBLE_LAMBDA {
    StoreLanes<false>(
        to, i, LoadLanes<false>(to, i, count) + Set1(factor) * LoadLanes<false>(from, i, count),
        count);
  });
}

// cb and dyx become their factors; M's sums go into d_dt and d_log_decay.
void WeighPairs(const Chunk& chunk) {
  const BackwardMemory& m = chunk.m;
  const int64_t q = chunk.tokens;
  for (int64_t j = 0; j < q; ++j) m.d_dt[j] = m.d_log_decay[j] = 0;
  for (int64_t t = 0; t < q; ++t) {
    float* cb = m.cb + t * q;
    float* dyx = m.dyx + t * q;
    double row_sum = 0;
    ForLanes(0, t + 1, [&](int64_t j, int64_t count) NIBBLE_LAMBDA {
      const F32x16 decay =
          Exp(Set1(m.chunk.log_decay[t]) - LoadLanes<false>(m.chunk.log_decay, j, count));
      const F32x16 dt = LoadLanes<false>(m.chunk.dt, j, count);
      const F32x16 decayed = LoadLanes<false>(cb, j, count) * decay;
      const F32x16 pair = LoadLanes<false>(dyx, j, count);
      StoreLanes<false>(cb, j, decayed * dt, count);
      StoreLanes<false>(dyx, j, pair * decay * dt, count);
      float product[kLanes];
      Store(product, decayed * pair);
      for (int64_t i = 0; i < count; ++i) {
        m.d_dt[j + i] += product[i];
        row_sum += static_cast<double>(product[i]) * m.chunk.dt[j + i];
      }
    });
    m.d_log_decay[t] += row_sum;
    for (int64_t j = t + 1; j < q; ++j) cb[j] = dyx[j] = 0;
  }
  for (int64_t j = 0; j < q; ++j) m.d_log_decay[j] -= m.d_dt[j] * m.chunk.dt[j];
}

// Pairs of tokens of the chunk.
void BackwardInside(const Chunk& chunk) {
  const BackwardMemory& m = chunk.m;
  const int64_t q = chunk.tokens, size = chunk.size(), state = chunk.state();
  Sgemm(false, true, q, q, state, 1, m.chunk.c, state, m.chunk.b, state, 0, m.cb, q);
  Sgemm(false, true, q, q, size, 1, m.dy, size, m.chunk.x, size, 0, m.dyx, q);
  WeighPairs(chunk);
  Sgemm(true, false, q, size, q, 1, m.cb, q, m.dy, size, 0, m.dx, size);
  float* d_b = m.d_b + chunk.first * state;
  float* d_c = m.d_c + chunk.first * state;
  Sgemm(false, false, q, state, q, 1, m.dyx, q, m.chunk.b, state, 1, d_c, state);
  Sgemm(true, false, q, state, q, 1, m.dyx, q, m.chunk.c, state, 1, d_b, state);
}

// Through the state before the chunk.
void BackwardCarried(const Chunk& chunk) {
  if (chunk.first == 0) return;
  const BackwardMemory& m = chunk.m;
  const int64_t q = chunk.tokens, size = chunk.size(), state = chunk.state();
  Sgemm(false, false, q, state, size, 1, m.dy, size, chunk.before, state, 0, m.state_terms, state);
  for (int64_t t = 0; t < q; ++t) {
    const float decay = ExpOf(m.chunk.log_decay[t]);
    const float* terms = m.state_terms + t * state;
    AddScaled(decay, terms, state, m.d_c + (chunk.first + t) * state);
    m.d_log_decay[t] += static_cast<double>(decay) * Dot(m.chunk.c + t * state, terms, state);
  }
}

// Through the state after the chunk.
void BackwardLeft(const Chunk& chunk) {
  if (chunk.last) return;
  const BackwardMemory& m = chunk.m;
  const int64_t q = chunk.tokens, size = chunk.size(), state = chunk.state();
  const float s_q = m.chunk.log_decay[q - 1];
  double sum = 0;
  Sgemm(false, true, q, size, state, 1, m.chunk.b, state, m.d_state, state, 0, m.state_terms, size);
  for (int64_t j = 0; j < q; ++j) {
    const float decay = ExpOf(s_q - m.chunk.log_decay[j]);
    const float* terms = m.state_terms + j * size;
    AddScaled(decay * m.chunk.dt[j], terms, size, m.dx + j * size);
    const double u = static_cast<double>(decay) * Dot(m.chunk.x + j * size, terms, size);
    m.d_dt[j] += u;
    m.d_log_decay[j] -= u * m.chunk.dt[j];
    sum += u * m.chunk.dt[j];
  }
  if (chunk.first > 0) {
    sum += static_cast<double>(ExpOf(s_q)) * Dot(m.d_state, chunk.before, size * state);
  }
  m.d_log_decay[q - 1] += sum;
  Sgemm(false, false, q, state, size, 1, m.chunk.x, size, m.d_state, state, 0, m.state_terms,
        state);
  for (int64_t j = 0; j < q; ++j) {
    AddScaled(ExpOf(s_q - m.chunk.log_decay[j]) * m.chunk.dt[j], m.state_terms + j * state, state,
              m.d_b + (chunk.first + j) * state);
  }
}

// G of the chunk before.
void AdvanceStateGradient(const Chunk& chunk) {
  const BackwardMemory& m = chunk.m;
  const int64_t q = chunk.tokens, size = chunk.size(), state = chunk.state();
  for (int64_t t = 0; t < q; ++t) {
    const F32x16 decay = Exp(Set1(m.chunk.log_decay[t]));
    ForLanes(t * size, (t + 1) * size, [&](int64_t i, int64_t count) NIBBLE_LAMBDA {
      StoreLanes<false>(m.dy_scaled, i, decay * LoadLanes<false>(m.dy, i, count), count);
    });
  }
  if (!chunk.last) {
    const F32x16 decay = Exp(Set1(m.chunk.log_decay[q - 1]));
    ForLanes(0, size * state, [&](int64_t i, int64_t count) NIBBLE_LAMBDA {
      StoreLanes<false>(m.d_state, i, decay * LoadLanes<false>(m.d_state, i, count), count);
    });
  }
  Sgemm(true, false, size, state, q, 1, m.dy_scaled, size, m.chunk.c, state,
        chunk.last ? 0.0f : 1.0f, m.d_state, state);
}

// d_log_decay and d_dt to the raw dt, and to the head's parameters.
template <bool kBf16>
void WriteTokens(const Chunk& chunk, double* parameters) {
  const BackwardMemory& m = chunk.m;
  const MambaShape& shape = chunk.args.shape;
  double d_log_a = 0;
  for (int64_t t = chunk.tokens - 1; t >= 0; --t) {
    d_log_a += m.d_log_decay[t];
    const double log_a = -static_cast<double>(chunk.head.a) * m.chunk.dt[t];
    const double d_dt = m.d_dt[t] - chunk.head.a * d_log_a;
    const double d_raw = d_dt / (1 + exp(-static_cast<double>(m.chunk.raw[t])));
    parameters[0] += d_raw;
    parameters[1] += log_a * d_log_a;
    const int64_t row = chunk.head.first_row + chunk.first + t;
    StoreLanes<kBf16>(chunk.args.d_projected.data,
                      row * chunk.args.d_projected.cols + shape.dt_column() + chunk.head.head,
                      Set1(static_cast<float>(d_raw)), 1);
    const float* dy = m.dy + t * chunk.size();
    parameters[2] += Dot(dy, m.chunk.x + t * chunk.size(), chunk.size());
    float* dx = m.dx + t * chunk.size();
    AddScaled(chunk.args.d[chunk.head.head], dy, chunk.size(), dx);
    ForLanes(0, chunk.size(), [&](int64_t i, int64_t count) NIBBLE_LAMBDA {
      StoreLanes<kBf16>(chunk.args.d_xbc.data,
                        row * chunk.args.d_xbc.cols + chunk.head.x_column() + i,
                        LoadLanes<false>(dx, i, count), count);
    });
  }
}

void BackwardHead(const ScanBackwardArgs& args, const ScanHead& head, const BackwardMemory& m,
                  double* parameters) {
  const MambaShape& shape = args.shape;
  const int64_t chunks = Chunks(shape), state = shape.head_size * shape.state_size;
  const auto tokens_of = [&](int64_t i) {
    return Smaller(shape.chunk_size, shape.sequence_length - i * shape.chunk_size);
  };
  for (int64_t i = 0; i + 1 < chunks; ++i) {
    LoadChunk(head, i * shape.chunk_size, tokens_of(i), m.chunk);
    AdvanceState(shape, /*carried=*/i > 0, tokens_of(i), m.chunk, m.states + i * state,
                 m.states + (i + 1) * state);
  }
  for (int64_t i = chunks - 1; i >= 0; --i) {
    const Chunk chunk{
        args, head, m, i * shape.chunk_size, tokens_of(i), m.states + i * state, i == chunks - 1};
    LoadChunk(head, chunk.first, chunk.tokens, m.chunk);
    WidenRows({args.d_out.data, args.d_out.dtype, args.d_out.cols, head.first_row + chunk.first,
               head.x_column(), chunk.tokens, shape.head_size},
              m.dy);
    BackwardInside(chunk);
    BackwardCarried(chunk);
    BackwardLeft(chunk);
    AdvanceStateGradient(chunk);
    if (args.d_xbc.dtype == DType::kBF16) {
      WriteTokens<true>(chunk, parameters);
    } else {
      WriteTokens<false>(chunk, parameters);
    }
  }
}

template <bool kBf16>
void WriteGroup(const ScanBackwardArgs& args, const ScanHead& head, const BackwardMemory& m) {
  const int64_t state = args.shape.state_size;
  for (int64_t t = 0; t < args.shape.sequence_length; ++t) {
    const int64_t at = (head.first_row + t) * args.d_xbc.cols;
    ForLanes(0, state, [&](int64_t j, int64_t count) NIBBLE_LAMBDA {
      StoreLanes<kBf16>(args.d_xbc.data, at + head.b_column() + j,
                        LoadLanes<false>(m.d_b, t * state + j, count), count);
      StoreLanes<kBf16>(args.d_xbc.data, at + head.c_column() + j,
                        LoadLanes<false>(m.d_c, t * state + j, count), count);
    });
  }
}

}  // namespace

void ScanBackward(OpContext& context, const ScanBackwardArgs& args) {
  const MambaShape& shape = args.shape;
  const int64_t heads = shape.heads / shape.groups;
  double* partial =
      static_cast<double*>(context.scratch.Shared(shape.sequences * shape.heads * kParameters * 8));
  ParallelFor(context.pool, shape.sequences * shape.groups, [&](int64_t tile, int thread) {
    const int64_t sequence = tile / shape.groups, first_head = tile % shape.groups * heads;
    const BackwardMemory m(
        static_cast<float*>(context.scratch.ForThread(thread, BackwardMemory::Floats(shape) * 4)),
        shape);
    __builtin_memset(m.d_b, 0, 2 * shape.sequence_length * shape.state_size * 4);
    for (int64_t h = first_head; h < first_head + heads; ++h) {
      double* parameters = partial + (sequence * shape.heads + h) * kParameters;
      for (int64_t i = 0; i < kParameters; ++i) parameters[i] = 0;
      const ScanHead head(shape, args.xbc, args.projected, sequence, h, args.dt_bias, args.a_log);
      BackwardHead(args, head, m, parameters);
    }
    const ScanHead head(shape, args.xbc, args.projected, sequence, first_head, args.dt_bias,
                        args.a_log);
    if (args.d_xbc.dtype == DType::kBF16) {
      WriteGroup<true>(args, head, m);
    } else {
      WriteGroup<false>(args, head, m);
    }
  });
  for (int64_t h = 0; h < shape.heads; ++h) {
    double sums[kParameters] = {};
    for (int64_t s = 0; s < shape.sequences; ++s) {
      for (int64_t i = 0; i < kParameters; ++i) {
        sums[i] += partial[(s * shape.heads + h) * kParameters + i];
      }
    }
    args.d_dt_bias[h] += static_cast<float>(sums[0]);
    args.d_a_log[h] += static_cast<float>(sums[1]);
    args.d_d[h] += static_cast<float>(sums[2]);
  }
}

}  // namespace nibble::kernels::cpu::NIBBLE_ISA
