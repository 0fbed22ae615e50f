// The scan of a Mamba-2 layer, backward. With G the gradient of the state after a chunk, h the
// state before it, q its last token, E_tj = exp(s_t - s_j) for j <= t (scan_chunk.cuh):
//   dx_j = sum_t E_tj dt_j (C_t . B_j) dy_t + exp(s_q - s_j) dt_j G B_j + d dy_j
//   dC_t = sum_j E_tj dt_j (dy_t . x_j) B_j + exp(s_t) h^T dy_t
//   dB_j = sum_t E_tj dt_j (dy_t . x_j) C_t + exp(s_q - s_j) dt_j G^T x_j
//   G <- exp(s_q) G + sum_t exp(s_t) dy_t C_t^T
// and, with M_tj = E_tj (C_t . B_j) (dy_t . x_j), u_j = exp(s_q - s_j) x_j^T G B_j:
//   d dt_j = sum_t M_tj + u_j                                   (s held fixed)
//   d s_t = sum_j M_tj dt_j + exp(s_t) dy_t^T h C_t - dt_t (sum_u M_ut + u_t)
//   d s_q += exp(s_q) <G, h> + sum_j dt_j u_j
//
// Launches: the states again; what each chunk adds to G; the pass over chunks backwards; the
// gradients, a block a chunk of one group, which takes the group's heads in order and so adds them
// to dB and dC (FP32 scratch) without atomics; the heads' parameters, parts in order. FP64 where
// one thread sums over a chunk's tokens.
#include "kernels/cuda/scan_chunk.cuh"

namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET {
namespace {

constexpr int kParameters = 3;  // dt_bias, a_log, d

struct BackwardScratch {
  float* states;       // [sequences, heads, chunks, head_size, state_size]: h
  float* d_states;     // likewise: G
  float* decays;       // [sequences, heads, chunks]
  float* d_bc;         // [tokens, groups, 2, state_size]
  float* d_parameter;  // [sequences * chunks, kParameters, heads]

  static int64_t Floats(const MambaShape& shape, const ScanLayout& layout) {
    const int64_t states = shape.sequences * shape.heads * layout.chunks;
    return 2 * states * shape.head_size * shape.state_size + states +
           shape.tokens() * shape.groups * 2 * shape.state_size +
           shape.sequences * layout.chunks * kParameters * shape.heads;
  }
  BackwardScratch(const MambaShape& shape, const ScanLayout& layout, void* scratch) {
    const int64_t count = shape.sequences * shape.heads * layout.chunks;
    states = static_cast<float*>(scratch);
    d_states = states + count * shape.head_size * shape.state_size;
    decays = d_states + count * shape.head_size * shape.state_size;
    d_bc = decays + count;
    d_parameter = d_bc + shape.tokens() * shape.groups * 2 * shape.state_size;
  }
};

// What a chunk adds to G: sum_t exp(s_t) dy_t C_t^T. grid: [chunks, heads, sequences].
template <class T>
NIBBLE_GLOBAL void ChunkStateGradientKernel(ScanBackwardArgs args, ScanLayout layout,
                                            float* d_states) {
  const MambaShape& shape = args.shape;
  const ScanMemory memory(layout);
  const ScanPlace at(shape, layout, blockIdx.z, blockIdx.y, blockIdx.x);
  LoadColumns(static_cast<const T*>(args.d_out.data), shape.inner(), at, layout.length,
              at.head * shape.head_size, layout.head_size, layout.x_stride(), memory.dy);
  LoadColumns(static_cast<const T*>(args.xbc.data), shape.channels(), at, layout.length,
              at.CColumn(shape), layout.state_size, layout.b_stride(), memory.c);
  LoadDecays(shape, layout, memory, at, static_cast<const T*>(args.projected.data), args.dt_bias,
             args.a_log);
  for (int t = static_cast<int>(threadIdx.x); t < at.tokens; t += kThreads) {
    memory.work[t] = expf(memory.log_decay[t]);
  }
  __syncthreads();
  float* d_state = d_states + at.StateOffset(shape, layout);
  BlockProduct(
      layout.head_size, layout.state_size, at.tokens,
      [&](int i, int t) { return memory.work[t] * memory.dy[t * layout.x_stride() + i]; },
      [&](int t, int j) { return memory.c[t * layout.b_stride() + j]; },
      [&](int i, int j, float sum) { d_state[i * layout.state_size + j] = sum; });
}

// What each chunk adds becomes the gradient of the state after it.
NIBBLE_GLOBAL void StateGradientPassKernel(float* d_states, const float* decays, int64_t chunks,
                                           int64_t elements) {
  const int64_t element = GlobalThread();
  if (element >= elements) return;
  float* state = d_states + static_cast<int64_t>(blockIdx.y) * chunks * elements + element;
  const float* decay = decays + static_cast<int64_t>(blockIdx.y) * chunks;
  float running = 0;
  for (int64_t c = chunks - 1; c >= 0; --c) {
    const float added = state[c * elements];
    state[c * elements] = running;
    running = decay[c] * running + added;
  }
}

// One chunk of one head.
struct HeadWork {
  const MambaShape& shape;
  const ScanLayout& layout;
  const ScanMemory& memory;
  const ScanPlace& at;
  const float* state;    // h
  const float* d_state;  // G
};

// memory.terms = weight_t (state b_t) for the rows b of [tokens, state_size].
template <class W>
NIBBLE_DEVICE void StateTimes(const HeadWork& work, const float* state, const float* b,
                              const W& weight) {
  const ScanLayout& layout = work.layout;
  BlockProduct(
      work.at.tokens, layout.head_size, layout.state_size,
      [&](int t, int k) { return b[t * layout.b_stride() + k]; },
      [&](int k, int i) { return state[i * layout.state_size + k]; },
      [&](int t, int i, float sum) {
        work.memory.terms[t * layout.x_stride() + i] = weight(t) * sum;
      });
}

NIBBLE_DEVICE double RowDot(const float* a, const float* b, int size) {
  double sum = 0;
  for (int i = 0; i < size; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

// dB and dC of the head, added to (first: written into) the group's rows of d_bc.
NIBBLE_DEVICE void AddBcGradients(const HeadWork& work, bool first, float* d_bc) {
  const ScanLayout& layout = work.layout;
  const ScanMemory& memory = work.memory;
  const int tokens = work.at.tokens, state_size = layout.state_size;
  const int64_t row_size = work.shape.groups * 2 * state_size;
  float* rows = d_bc + work.at.first_row * row_size + work.at.group * 2 * state_size;
  const float last = memory.log_decay[tokens - 1];
  // memory.g holds E_tj dt_j (dy_t . x_j). A thread's elements are its own in every product.
  BlockProduct(
      tokens, state_size, tokens, [&](int j, int t) { return memory.g[t * layout.m_stride() + j]; },
      [&](int t, int k) { return memory.c[t * layout.b_stride() + k]; },
      [&](int j, int k, float sum) {
        float* to = rows + j * row_size + k;
        *to = first ? sum : *to + sum;
      });
  BlockProduct(
      tokens, state_size, layout.head_size,
      [&](int j, int i) { return memory.x[j * layout.x_stride() + i]; },
      [&](int i, int k) { return work.d_state[i * state_size + k]; },
      [&](int j, int k, float sum) {
        rows[j * row_size + k] += expf(last - memory.log_decay[j]) * memory.dt[j] * sum;
      });
  BlockProduct(
      tokens, state_size, tokens, [&](int t, int j) { return memory.g[t * layout.m_stride() + j]; },
      [&](int j, int k) { return memory.b[j * layout.b_stride() + k]; },
      [&](int t, int k, float sum) {
        float* to = rows + t * row_size + state_size + k;
        *to = first ? sum : *to + sum;
      });
  BlockProduct(
      tokens, state_size, layout.head_size,
      [&](int t, int i) { return memory.dy[t * layout.x_stride() + i]; },
      [&](int i, int k) { return work.state[i * state_size + k]; },
      [&](int t, int k, float sum) {
        rows[t * row_size + state_size + k] += expf(memory.log_decay[t]) * sum;
      });
}

// Sums over the pairs of the chunk. In: memory.m = C . B, memory.g = dy . x. Out: sums[t] = d s_t
// so far, sums[length + j] = d dt_j; then memory.g = E_tj dt_j (dy_t . x_j). Barriers inside.
NIBBLE_DEVICE void PairSums(const HeadWork& work) {
  const ScanLayout& layout = work.layout;
  const ScanMemory& memory = work.memory;
  const int tokens = work.at.tokens, stride = layout.m_stride();
  const auto pair = [&](int t, int j) {
    return static_cast<double>(expf(memory.log_decay[t] - memory.log_decay[j]) *
                               memory.m[t * stride + j]) *
           static_cast<double>(memory.g[t * stride + j]);
  };
  for (int t = static_cast<int>(threadIdx.x); t < tokens; t += kThreads) {
    double row = 0, column = 0;
    for (int j = 0; j <= t; ++j) row += pair(t, j) * static_cast<double>(memory.dt[j]);
    for (int u = t; u < tokens; ++u) column += pair(u, t);
    memory.sums[t] = row - static_cast<double>(memory.dt[t]) * column;
    memory.sums[layout.length + t] = column;
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < tokens * tokens; i += kThreads) {
    const int t = i / tokens, j = i % tokens;
    const float factor =
        j <= t ? expf(memory.log_decay[t] - memory.log_decay[j]) * memory.dt[j] : 0.0f;
    memory.g[t * stride + j] = j <= t ? memory.g[t * stride + j] * factor : 0.0f;
  }
  __syncthreads();
}

// <G, h>; all threads get it.
NIBBLE_DEVICE float StateDot(const HeadWork& work) {
  float sum = 0;
  const int size = work.layout.head_size * work.layout.state_size;
  for (int i = static_cast<int>(threadIdx.x); i < size; i += kThreads) {
    sum = fmaf(work.d_state[i], work.state[i], sum);
  }
  return BlockSum<kThreads>(sum);
}

// Finishes d dt and d s in one thread, writes dt's gradient and the head's parameter gradients.
template <class T>
NIBBLE_DEVICE void FinishDecays(const HeadWork& work, const ScanBackwardArgs& args, float state_dot,
                                float* d_parameter) {
  const ScanLayout& layout = work.layout;
  const ScanMemory& memory = work.memory;
  const MambaShape& shape = work.shape;
  const ScanPlace& at = work.at;
  const double a =
      static_cast<double>(static_cast<float>(exp(static_cast<double>(args.a_log[at.head]))));
  const int last = at.tokens - 1;
  memory.sums[last] +=
      static_cast<double>(expf(memory.log_decay[last])) * static_cast<double>(state_dot);
  double after = 0, d_bias = 0, d_a_log = 0, d_d = 0;
  T* d_projected = static_cast<T*>(args.d_projected.data);
  for (int t = last; t >= 0; --t) {
    after += memory.sums[t];  // the gradient of log a_t: that of s from t on
    const double dt = static_cast<double>(memory.dt[t]);
    const double d_dt = memory.sums[layout.length + t] - a * after;
    d_a_log -= a * dt * after;
    const double d_raw = d_dt / (1 + exp(-static_cast<double>(memory.raw[t])));
    d_bias += d_raw;
    d_d += RowDot(memory.dy + t * layout.x_stride(), memory.x + t * layout.x_stride(),
                  layout.head_size);
    Put(d_projected + (at.first_row + t) * shape.projected_width() + shape.dt_column() + at.head,
        static_cast<float>(d_raw));
  }
  float* to =
      d_parameter + (at.sequence * layout.chunks + at.chunk) * kParameters * shape.heads + at.head;
  to[0] = static_cast<float>(d_bias);
  to[shape.heads] = static_cast<float>(d_a_log);
  to[2 * shape.heads] = static_cast<float>(d_d);
}

// Everything of one head. memory.b and memory.c are loaded, memory.m = C . B.
template <class T>
NIBBLE_DEVICE void HeadGradient(const HeadWork& work, const ScanBackwardArgs& args, bool first,
                                const BackwardScratch& scratch) {
  const ScanLayout& layout = work.layout;
  const ScanMemory& memory = work.memory;
  const MambaShape& shape = work.shape;
  const ScanPlace& at = work.at;
  const int tokens = at.tokens;
  LoadColumns(static_cast<const T*>(args.xbc.data), shape.channels(), at, layout.length,
              at.head * shape.head_size, layout.head_size, layout.x_stride(), memory.x);
  LoadColumns(static_cast<const T*>(args.d_out.data), shape.inner(), at, layout.length,
              at.head * shape.head_size, layout.head_size, layout.x_stride(), memory.dy);
  LoadDecays(shape, layout, memory, at, static_cast<const T*>(args.projected.data), args.dt_bias,
             args.a_log);
  BlockProduct(
      tokens, tokens, layout.head_size,
      [&](int t, int i) { return memory.dy[t * layout.x_stride() + i]; },
      [&](int i, int j) { return memory.x[j * layout.x_stride() + i]; },
      [&](int t, int j, float sum) { memory.g[t * layout.m_stride() + j] = sum; });
  __syncthreads();
  PairSums(work);
  AddBcGradients(work, first, scratch.d_bc);

  // exp(s_t) dy_t^T h C_t, into d s_t.
  StateTimes(work, work.state, memory.c, [&](int t) { return expf(memory.log_decay[t]); });
  __syncthreads();
  for (int t = static_cast<int>(threadIdx.x); t < tokens; t += kThreads) {
    memory.sums[t] += RowDot(memory.dy + t * layout.x_stride(),
                             memory.terms + t * layout.x_stride(), layout.head_size);
  }
  __syncthreads();
  // exp(s_q - s_j) G B_j, for u_j and for dx_j.
  const float last = memory.log_decay[tokens - 1];
  StateTimes(work, work.d_state, memory.b, [&](int j) { return expf(last - memory.log_decay[j]); });
  __syncthreads();
  for (int j = static_cast<int>(threadIdx.x); j < tokens; j += kThreads) {
    const double u = RowDot(memory.x + j * layout.x_stride(), memory.terms + j * layout.x_stride(),
                            layout.head_size);
    memory.sums[layout.length + j] += u;
    memory.sums[j] -= static_cast<double>(memory.dt[j]) * u;
    memory.work[j] = memory.dt[j] * static_cast<float>(u);
  }
  __syncthreads();
  T* d_x = static_cast<T*>(args.d_xbc.data) + at.first_row * shape.channels() +
           at.head * shape.head_size;
  const float d = args.d[at.head];
  BlockProduct(
      tokens, layout.head_size, tokens,
      [&](int j, int t) {
        return j <= t ? expf(memory.log_decay[t] - memory.log_decay[j]) * memory.dt[j] *
                            memory.m[t * layout.m_stride() + j]
                      : 0.0f;
      },
      [&](int t, int i) { return memory.dy[t * layout.x_stride() + i]; },
      [&](int j, int i, float sum) {
        const int x = j * layout.x_stride() + i;
        Put(d_x + j * shape.channels() + i,
            sum + memory.dt[j] * memory.terms[x] + d * memory.dy[x]);
      });
  const float state_dot = StateDot(work);
  if (threadIdx.x == 0) {
    double later = 0;
    for (int j = 0; j < tokens; ++j) later += static_cast<double>(memory.work[j]);
    memory.sums[tokens - 1] += later;
    FinishDecays<T>(work, args, state_dot, scratch.d_parameter);
  }
  __syncthreads();
}

// grid: [chunks, groups, sequences].
template <class T>
NIBBLE_GLOBAL void GradientKernel(ScanBackwardArgs args, ScanLayout layout,
                                  BackwardScratch scratch) {
  const MambaShape& shape = args.shape;
  const ScanMemory memory(layout);
  const int64_t heads = shape.heads / shape.groups;
  const int64_t first_head = static_cast<int64_t>(blockIdx.y) * heads;
  const ScanPlace group(shape, layout, blockIdx.z, first_head, blockIdx.x);
  const T* xbc = static_cast<const T*>(args.xbc.data);
  LoadColumns(xbc, shape.channels(), group, layout.length, group.BColumn(shape), layout.state_size,
              layout.b_stride(), memory.b);
  LoadColumns(xbc, shape.channels(), group, layout.length, group.CColumn(shape), layout.state_size,
              layout.b_stride(), memory.c);
  __syncthreads();
  BlockProduct(
      group.tokens, group.tokens, layout.state_size,
      [&](int t, int k) { return memory.c[t * layout.b_stride() + k]; },
      [&](int k, int j) { return memory.b[j * layout.b_stride() + k]; },
      [&](int t, int j, float sum) { memory.m[t * layout.m_stride() + j] = sum; });
  for (int64_t head = first_head; head < first_head + heads; ++head) {
    __syncthreads();
    const ScanPlace at(shape, layout, blockIdx.z, head, blockIdx.x);
    const int64_t state = at.StateOffset(shape, layout);
    HeadGradient<T>({shape, layout, memory, at, scratch.states + state, scratch.d_states + state},
                    args, head == first_head, scratch);
  }
  // dB and dC, rounded once. This block's threads have written them.
  T* d_xbc = static_cast<T*>(args.d_xbc.data);
  const int64_t row_size = shape.groups * 2 * layout.state_size;
  for (int i = static_cast<int>(threadIdx.x); i < group.tokens * layout.state_size; i += kThreads) {
    const int t = i / layout.state_size, k = i % layout.state_size;
    const float* from =
        scratch.d_bc + (group.first_row + t) * row_size + group.group * 2 * layout.state_size + k;
    T* row = d_xbc + (group.first_row + t) * shape.channels();
    Put(row + group.BColumn(shape) + k, from[0]);
    Put(row + group.CColumn(shape) + k, from[layout.state_size]);
  }
}

// The heads' parameters: parts in order. grid: one thread a head.
NIBBLE_GLOBAL void ParameterKernel(ScanBackwardArgs args, const float* partial, int64_t parts) {
  const int64_t head = GlobalThread(), heads = args.shape.heads;
  if (head >= heads) return;
  float* outs[kParameters] = {args.d_dt_bias, args.d_a_log, args.d_d};
#pragma unroll
  for (int p = 0; p < kParameters; ++p) {
    double sum = 0;
    for (int64_t i = 0; i < parts; ++i) {
      sum += static_cast<double>(partial[(i * kParameters + p) * heads + head]);
    }
    outs[p][head] = static_cast<float>(static_cast<double>(outs[p][head]) + sum);
  }
}

}  // namespace

int64_t ScanBackwardScratchBytes(const MambaShape& shape) {
  return BackwardScratch::Floats(shape, ScanLayoutOf(shape)) * 4;
}

void ScanBackward(Stream stream, const ScanBackwardArgs& args, void* memory) {
  const MambaShape& shape = args.shape;
  const ScanLayout layout = ScanLayoutOf(shape);
  const BackwardScratch scratch(shape, layout, memory);
  ComputeScanStates(stream, {shape, args.xbc, args.projected, args.dt_bias, args.a_log},
                    scratch.states, scratch.decays, /*kept=*/nullptr);
  const int64_t shared = ScanSharedBytes(shape), elements = shape.head_size * shape.state_size;
  const dim3 of_heads(layout.chunks, shape.heads, shape.sequences);
  const dim3 of_groups(layout.chunks, shape.groups, shape.sequences);
  const dim3 of_states(CeilDiv(elements, kThreads), shape.sequences * shape.heads);
  WithType(args.xbc.dtype, [&](auto type) {
    using T = decltype(type);
    Launch(of_heads, kThreads, shared, stream, ChunkStateGradientKernel<T>, args, layout,
           scratch.d_states);
    Launch(of_states, kThreads, 0, stream, StateGradientPassKernel, scratch.d_states,
           static_cast<const float*>(scratch.decays), layout.chunks, elements);
    Launch(of_groups, kThreads, shared, stream, GradientKernel<T>, args, layout, scratch);
  });
  Launch(dim3(CeilDiv(shape.heads, kThreads)), kThreads, 0, stream, ParameterKernel, args,
         static_cast<const float*>(scratch.d_parameter), shape.sequences * layout.chunks);
}

}  // namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET
