// The scan of a Mamba-2 layer, forward: formulas in scan_chunk.cuh.
//
// Three launches: what each chunk adds to the state (a block a chunk of a head), the pass over
// chunks (a thread an element of the state, in place), the outputs (a block a chunk of a head).
// Reads x, B and C twice; states are FP32 in scratch, written once and read twice.
#include "kernels/cuda/scan_chunk.cuh"

namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET {
namespace {

// grid: [chunks, heads, sequences].
template <class T>
NIBBLE_GLOBAL void ChunkStateKernel(ScanInputs inputs, ScanLayout layout, float* states,
                                    float* decays) {
  const MambaShape& shape = inputs.shape;
  const ScanMemory memory(layout);
  const ScanPlace at(shape, layout, blockIdx.z, blockIdx.y, blockIdx.x);
  const T* xbc = static_cast<const T*>(inputs.xbc.data);
  LoadColumns(xbc, shape.channels(), at, layout.length, at.head * shape.head_size, layout.head_size,
              layout.x_stride(), memory.x);
  LoadColumns(xbc, shape.channels(), at, layout.length, at.BColumn(shape), layout.state_size,
              layout.b_stride(), memory.b);
  LoadDecays(shape, layout, memory, at, static_cast<const T*>(inputs.projected.data),
             inputs.dt_bias, inputs.a_log);
  const float last = memory.log_decay[at.tokens - 1];
  for (int t = static_cast<int>(threadIdx.x); t < at.tokens; t += kThreads) {
    memory.work[t] = expf(last - memory.log_decay[t]) * memory.dt[t];
  }
  __syncthreads();
  float* state = states + at.StateOffset(shape, layout);
  BlockProduct(
      layout.head_size, layout.state_size, at.tokens,
      [&](int i, int t) { return memory.work[t] * memory.x[t * layout.x_stride() + i]; },
      [&](int t, int j) { return memory.b[t * layout.b_stride() + j]; },
      [&](int i, int j, float sum) { state[i * layout.state_size + j] = sum; });
  if (threadIdx.x == 0) decays[at.DecayOffset(shape, layout)] = expf(last);
}

// What each chunk adds becomes the state before it. `kept`, [sequences, heads, elements] or null:
// the states before the first chunk, then those after the last. grid: [elements of a state,
// sequences * heads].
NIBBLE_GLOBAL void StatePassKernel(float* states, const float* decays, int64_t chunks,
                                   int64_t elements, float* kept) {
  const int64_t element = GlobalThread();
  if (element >= elements) return;
  float* state = states + static_cast<int64_t>(blockIdx.y) * chunks * elements + element;
  const float* decay = decays + static_cast<int64_t>(blockIdx.y) * chunks;
  const int64_t at = static_cast<int64_t>(blockIdx.y) * elements + element;
  float running = kept == nullptr ? 0.0f : kept[at];
  for (int64_t c = 0; c < chunks; ++c) {
    const float added = state[c * elements];
    state[c * elements] = running;
    running = decay[c] * running + added;
  }
  if (kept != nullptr) kept[at] = running;
}

// grid: [chunks, heads, sequences].
template <class T>
NIBBLE_GLOBAL void OutputKernel(ScanArgs args, ScanLayout layout, const float* states) {
  const MambaShape& shape = args.shape;
  const ScanMemory memory(layout);
  const ScanPlace at(shape, layout, blockIdx.z, blockIdx.y, blockIdx.x);
  const T* xbc = static_cast<const T*>(args.xbc.data);
  LoadColumns(xbc, shape.channels(), at, layout.length, at.head * shape.head_size, layout.head_size,
              layout.x_stride(), memory.x);
  LoadColumns(xbc, shape.channels(), at, layout.length, at.BColumn(shape), layout.state_size,
              layout.b_stride(), memory.b);
  LoadColumns(xbc, shape.channels(), at, layout.length, at.CColumn(shape), layout.state_size,
              layout.b_stride(), memory.c);
  LoadDecays(shape, layout, memory, at, static_cast<const T*>(args.projected.data), args.dt_bias,
             args.a_log);
  BlockProduct(
      at.tokens, at.tokens, layout.state_size,
      [&](int t, int k) { return memory.c[t * layout.b_stride() + k]; },
      [&](int k, int j) { return memory.b[j * layout.b_stride() + k]; },
      [&](int t, int j, float sum) {
        memory.m[t * layout.m_stride() + j] =
            j <= t ? expf(memory.log_decay[t] - memory.log_decay[j]) * memory.dt[j] * sum : 0.0f;
      });
  const float* state = states + at.StateOffset(shape, layout);
  BlockProduct(
      at.tokens, layout.head_size, layout.state_size,
      [&](int t, int k) { return memory.c[t * layout.b_stride() + k]; },
      [&](int k, int i) { return state[i * layout.state_size + k]; },
      [&](int t, int i, float sum) {
        memory.terms[t * layout.x_stride() + i] = expf(memory.log_decay[t]) * sum;
      });
  __syncthreads();
  T* out =
      static_cast<T*>(args.out.data) + at.first_row * shape.inner() + at.head * shape.head_size;
  const float d = args.d[at.head];
  BlockProduct(
      at.tokens, layout.head_size, at.tokens,
      [&](int t, int j) { return memory.m[t * layout.m_stride() + j]; },
      [&](int j, int i) { return memory.x[j * layout.x_stride() + i]; },
      [&](int t, int i, float sum) {
        const int x = t * layout.x_stride() + i;
        Put(out + t * shape.inner() + i, sum + memory.terms[x] + d * memory.x[x]);
      });
}

int64_t StateFloats(const MambaShape& shape) {
  return shape.sequences * shape.heads * ScanLayoutOf(shape).chunks *
         (shape.head_size * shape.state_size + 1);
}

}  // namespace

void ComputeScanStates(Stream stream, const ScanInputs& inputs, float* states, float* decays,
                       float* kept) {
  const MambaShape& shape = inputs.shape;
  const ScanLayout layout = ScanLayoutOf(shape);
  WithType(inputs.xbc.dtype, [&](auto type) {
    Launch(dim3(layout.chunks, shape.heads, shape.sequences), kThreads, ScanSharedBytes(shape),
           stream, ChunkStateKernel<decltype(type)>, inputs, layout, states, decays);
  });
  const int64_t elements = shape.head_size * shape.state_size;
  Launch(dim3(CeilDiv(elements, kThreads), shape.sequences * shape.heads), kThreads, 0, stream,
         StatePassKernel, states, static_cast<const float*>(decays), layout.chunks, elements, kept);
}

int64_t ScanSharedBytes(const MambaShape& shape) {
  return ScanBytes(shape, ScanLayoutOf(shape).length);
}

int64_t ScanScratchBytes(const MambaShape& shape) { return StateFloats(shape) * 4; }

void ScanForward(Stream stream, const ScanArgs& args, void* scratch) {
  const MambaShape& shape = args.shape;
  const ScanLayout layout = ScanLayoutOf(shape);
  float* states = static_cast<float*>(scratch);
  float* decays =
      states + shape.sequences * shape.heads * layout.chunks * shape.head_size * shape.state_size;
  ComputeScanStates(stream, {shape, args.xbc, args.projected, args.dt_bias, args.a_log}, states,
                    decays, args.state);
  WithType(args.xbc.dtype, [&](auto type) {
    Launch(dim3(layout.chunks, shape.heads, shape.sequences), kThreads, ScanSharedBytes(shape),
           stream, OutputKernel<decltype(type)>, args, layout, static_cast<const float*>(states));
  });
}

}  // namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET
