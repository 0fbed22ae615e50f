// Causal grouped-query attention, backward; formulas in kernels/reference/attention.cc.
//
// Three launches, no atomics: delta = dO . O of every (token, head); dK and dV, a block a tile of
// keys of one key head, which walks the query heads that share it in order and in each the queries
// from its own diagonal on; dQ, a block a tile of queries. Scores and probabilities are computed
// again in each: seven products instead of five, for sums whose order is fixed. P and dS are
// rounded to the activations' type before the products that follow, sums are FP32.
#include "kernels/cuda/attention_tile.cuh"

namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET {
namespace {

// delta [sequences, heads, length]; a warp a (token, head).
template <class T>
NIBBLE_GLOBAL void DeltaKernel(AttentionBackwardArgs args, float* delta) {
  const AttentionShape& shape = args.shape;
  const int64_t index = GlobalThread() / kWarp;
  if (index >= shape.tokens() * shape.heads) return;  // whole warps
  const int64_t n = index / shape.heads, head = index % shape.heads;
  const int64_t at = n * shape.heads * shape.head_size + head * shape.head_size;
  const T* d_out = static_cast<const T*>(args.d_out.data) + at;
  const T* out = static_cast<const T*>(args.out.data) + at;
  float sum = 0;
  for (int64_t i = LaneId(); i < shape.head_size; i += kWarp) {
    sum += ToFloat(d_out[i]) * ToFloat(out[i]);
  }
  sum = WarpSum(sum);
  const int64_t length = shape.sequence_length;
  if (LaneId() == 0) delta[(n / length * shape.heads + head) * length + n % length] = sum;
}

// A tile of queries against a tile of keys.
template <class T>
struct Pair {
  const T* q;
  const T* k;
  const T* d_out;
  const T* v;
  int padded;
  float scale;
  int64_t first_query, first_key, length;
  const float* log_sum_exp;  // of the (sequence, head)
  const float* delta;
  float* scores;
  T* p;  // may be null: not wanted
  T* ds;
};

// P and dS of the warp's 16 queries, into shared memory. Ends with what other warps may read only
// after a barrier.
template <class T>
NIBBLE_DEVICE void WarpGradients(const Pair<T>& pair) {
  using Tile = AttentionTile<T>;
  constexpr int kPerLane = Tile::kPerLane;
  const int row = WarpId() * kTile + LaneId() / 2, begin = LaneId() % 2 * kPerLane;
  const int64_t query = pair.first_query + row;
  const bool valid = query < pair.length;
  const float log_sum_exp = valid ? pair.log_sum_exp[query] : 0.0f;
  const float delta = valid ? pair.delta[query] : 0.0f;
  const float* score_row = pair.scores + row * Tile::kScoreStride;
  float p[kPerLane];
  WarpScores(pair.q, pair.k, pair.padded, pair.scores);
  __syncwarp();
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) {
    const bool seen = valid && pair.first_key + begin + j <= query;
    p[j] = seen ? expf(score_row[begin + j] * pair.scale - log_sum_exp) : 0.0f;
    if (pair.p != nullptr) Put(pair.p + row * Tile::kWeightStride + begin + j, p[j]);
  }
  __syncwarp();
  WarpScores(pair.d_out, pair.v, pair.padded, pair.scores);
  __syncwarp();
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) {
    Put(pair.ds + row * Tile::kWeightStride + begin + j,
        p[j] * (score_row[begin + j] - delta) * pair.scale);
  }
  __syncwarp();
}

template <class T>
struct BackwardMemory {
  T *q, *k, *d_out, *v, *p, *ds;
  float* scores;

  NIBBLE_DEVICE explicit BackwardMemory(int padded) {
    using Tile = AttentionTile<T>;
    SharedArena arena{DynamicShared<unsigned char>()};
    q = arena.Take<T>(Tile::kRows * (padded + 8));
    k = arena.Take<T>(Tile::kRows * (padded + 8));
    d_out = arena.Take<T>(Tile::kRows * (padded + 8));
    v = arena.Take<T>(Tile::kRows * (padded + 8));
    p = arena.Take<T>(Tile::kRows * Tile::kWeightStride);
    ds = arena.Take<T>(Tile::kRows * Tile::kWeightStride);
    scores = arena.Take<float>(Tile::kRows * Tile::kScoreStride);
  }
};

// grid: [key tiles, key heads, sequences].
template <class T, int kHeadTiles>
NIBBLE_GLOBAL void __launch_bounds__(AttentionTile<T>::kBlockThreads)
    KeyValueKernel(AttentionBackwardArgs args, const float* delta, int padded, float scale) {
  using Tile = AttentionTile<T>;
  const BackwardMemory<T> memory(padded);
  const AttentionShape& shape = args.shape;
  const int head_size = static_cast<int>(shape.head_size);
  const int64_t length = shape.sequence_length, width = shape.qkv_width();
  const int64_t out_width = shape.heads * head_size;
  const int64_t kv_head = blockIdx.y, sequence = blockIdx.z;
  const int64_t share = shape.heads / shape.kv_heads;
  const int64_t first_key = static_cast<int64_t>(blockIdx.x) * Tile::kRows;
  const int64_t key_column = (shape.heads + kv_head) * head_size;
  const int64_t value_column = key_column + shape.kv_heads * head_size;
  const T* rows = static_cast<const T*>(args.qkv.data) + sequence * length * width;
  LoadTile(rows + key_column, width, first_key, length, head_size, padded, memory.k);
  LoadTile(rows + value_column, width, first_key, length, head_size, padded, memory.v);
  WarpTile<T> d_k[kHeadTiles], d_v[kHeadTiles];
#pragma unroll
  for (int d = 0; d < kHeadTiles; ++d) {
    d_k[d].Clear();
    d_v[d].Clear();
  }
  for (int64_t head = kv_head * share; head < (kv_head + 1) * share; ++head) {
    const int64_t statistics = (sequence * shape.heads + head) * length;
    const T* d_out =
        static_cast<const T*>(args.d_out.data) + sequence * length * out_width + head * head_size;
    for (int64_t first = first_key; first < length; first += Tile::kRows) {
      __syncthreads();  // the queries before were read
      LoadTile(rows + head * head_size, width, first, length, head_size, padded, memory.q);
      LoadTile(d_out, out_width, first, length, head_size, padded, memory.d_out);
      __syncthreads();
      WarpGradients(Pair<T>{memory.q, memory.k, memory.d_out, memory.v, padded, scale, first,
                            first_key, length, args.log_sum_exp + statistics, delta + statistics,
                            memory.scores, memory.p, memory.ds});
      __syncthreads();  // keys are summed over the queries of all warps
      WarpAccumulate<true, kHeadTiles>(memory.p, memory.d_out, padded, d_v);
      WarpAccumulate<true, kHeadTiles>(memory.ds, memory.q, padded, d_k);
    }
  }
  T* d_rows = static_cast<T*>(args.d_qkv.data) + sequence * length * width;
  StoreRows<kHeadTiles>(d_k, first_key, length, head_size, memory.scores, d_rows + key_column,
                        width);
  StoreRows<kHeadTiles>(d_v, first_key, length, head_size, memory.scores, d_rows + value_column,
                        width);
}

// grid: [query tiles, heads, sequences].
template <class T, int kHeadTiles>
NIBBLE_GLOBAL void __launch_bounds__(AttentionTile<T>::kBlockThreads)
    QueryKernel(AttentionBackwardArgs args, const float* delta, int padded, float scale) {
  using Tile = AttentionTile<T>;
  const BackwardMemory<T> memory(padded);
  const AttentionShape& shape = args.shape;
  const int head_size = static_cast<int>(shape.head_size);
  const int64_t length = shape.sequence_length, width = shape.qkv_width();
  const int64_t out_width = shape.heads * head_size;
  const int64_t head = blockIdx.y, sequence = blockIdx.z;
  const int64_t kv_head = head / (shape.heads / shape.kv_heads);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * Tile::kRows;
  const int64_t statistics = (sequence * shape.heads + head) * length;
  const T* rows = static_cast<const T*>(args.qkv.data) + sequence * length * width;
  const T* keys = rows + (shape.heads + kv_head) * head_size;
  const T* values = keys + shape.kv_heads * head_size;
  const T* d_out =
      static_cast<const T*>(args.d_out.data) + sequence * length * out_width + head * head_size;
  LoadTile(rows + head * head_size, width, first, length, head_size, padded, memory.q);
  LoadTile(d_out, out_width, first, length, head_size, padded, memory.d_out);
  WarpTile<T> d_q[kHeadTiles];
#pragma unroll
  for (int d = 0; d < kHeadTiles; ++d) d_q[d].Clear();
  for (int64_t key = 0; key < first + Tile::kRows && key < length; key += Tile::kRows) {
    __syncthreads();
    LoadTile(keys, width, key, length, head_size, padded, memory.k);
    LoadTile(values, width, key, length, head_size, padded, memory.v);
    __syncthreads();
    WarpGradients(Pair<T>{memory.q, memory.k, memory.d_out, memory.v, padded, scale, first, key,
                          length, args.log_sum_exp + statistics, delta + statistics, memory.scores,
                          nullptr, memory.ds});
    WarpAccumulate<false, kHeadTiles>(memory.ds, memory.k, padded, d_q);
  }
  StoreRows<kHeadTiles>(
      d_q, first, length, head_size, memory.scores,
      static_cast<T*>(args.d_qkv.data) + sequence * length * width + head * head_size, width);
}

}  // namespace

int64_t AttentionBackwardSharedBytes(DType dtype, int64_t head_size) {
  int64_t bytes = 0;
  WithType(dtype, [&](auto type) {
    using T = decltype(type);
    using Tile = AttentionTile<T>;
    bytes = 4 * SharedPiece(Tile::kRows * (PaddedHead(head_size) + 8) * sizeof(T)) +
            2 * SharedPiece(Tile::kRows * Tile::kWeightStride * sizeof(T)) +
            SharedPiece(Tile::kRows * Tile::kScoreStride * 4);
  });
  return bytes;
}

int64_t AttentionBackwardScratchBytes(const AttentionShape& shape) {
  return shape.tokens() * shape.heads * 4;
}

void AttentionBackward(Stream stream, const AttentionBackwardArgs& args, void* scratch) {
  const AttentionShape& shape = args.shape;
  const float scale = 1.0f / sqrtf(static_cast<float>(shape.head_size));
  const int64_t shared = AttentionBackwardSharedBytes(args.qkv.dtype, shape.head_size);
  const int padded = PaddedHead(shape.head_size);
  float* delta = static_cast<float*>(scratch);
  WithType(args.qkv.dtype, [&](auto type) {
    using T = decltype(type);
    using Tile = AttentionTile<T>;
    Launch(dim3(CeilDiv(shape.tokens() * shape.heads * kWarp, kThreads)), kThreads, 0, stream,
           DeltaKernel<T>, args, delta);
    const int64_t tiles = CeilDiv(shape.sequence_length, Tile::kRows);
    WithHeadTiles<T>(shape.head_size, [&]<int kHeadTiles>() {
      Launch(dim3(tiles, shape.kv_heads, shape.sequences), Tile::kBlockThreads, shared, stream,
             KeyValueKernel<T, kHeadTiles>, args, static_cast<const float*>(delta), padded, scale);
      Launch(dim3(tiles, shape.heads, shape.sequences), Tile::kBlockThreads, shared, stream,
             QueryKernel<T, kHeadTiles>, args, static_cast<const float*>(delta), padded, scale);
    });
  });
}

}  // namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET
