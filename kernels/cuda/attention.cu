// Causal grouped-query attention, forward; formulas in kernels/reference/attention.cc.
//
// A block takes a tile of queries of one head and walks the keys twice: first for the maximum and
// the sum of exponentials of every row (online), then with the log-sum-exp known for
// out = sum of exp(s - lse) v, so that nothing is rescaled and sums stay in registers. Half as many
// products again as one pass, scores never in device memory. Probabilities are rounded to the
// activations' type before the second product, sums are FP32. Rows depend on nothing but their own
// query and the keys in tiles from position 0, so a call with first_query a multiple of the tile
// gives the bits of a call for all.
#include "kernels/cuda/attention_tile.cuh"

namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET {
namespace {

// Two lanes of a row agree on its maximum and sum.
struct RowStatistics {
  float max = -INFINITY;
  float sum = 0;
};

template <class T>
NIBBLE_DEVICE void UpdateStatistics(const float* row, int64_t query, int64_t first_key, float scale,
                                    RowStatistics* statistics) {
  constexpr int kPerLane = AttentionTile<T>::kPerLane;
  const int begin = LaneId() % 2 * kPerLane;
  float max = -INFINITY;
  for (int j = begin; j < begin + kPerLane; ++j) {
    if (first_key + j <= query) max = fmaxf(max, row[j] * scale);
  }
  max = fmaxf(max, __shfl_xor_sync(kAllLanes, max, 1));
  const float new_max = fmaxf(statistics->max, max);
  float sum = 0;
  for (int j = begin; j < begin + kPerLane; ++j) {
    if (first_key + j <= query) sum += expf(row[j] * scale - new_max);
  }
  sum += __shfl_xor_sync(kAllLanes, sum, 1);
  // The first tile holds key 0, which every query sees: new_max is a number from then on.
  statistics->sum = statistics->sum * expf(statistics->max - new_max) + sum;
  statistics->max = new_max;
}

template <class T>
NIBBLE_DEVICE void WriteProbabilities(const float* row, int64_t query, int64_t first_key,
                                      float scale, float log_sum_exp, T* to) {
  constexpr int kPerLane = AttentionTile<T>::kPerLane;
  const int begin = LaneId() % 2 * kPerLane;
  for (int j = begin; j < begin + kPerLane; ++j) {
    Put(to + j, first_key + j <= query ? expf(row[j] * scale - log_sum_exp) : 0.0f);
  }
}

// grid: [query tiles, heads, sequences].
template <class T, int kHeadTiles>
NIBBLE_GLOBAL void __launch_bounds__(AttentionTile<T>::kBlockThreads)
    ForwardKernel(AttentionArgs args, int padded, float scale) {
  using Tile = AttentionTile<T>;
  constexpr int kRows = Tile::kRows;
  SharedArena arena{DynamicShared<unsigned char>()};
  T* q = arena.Take<T>(kRows * (padded + 8));
  T* kv = arena.Take<T>(kRows * (padded + 8));
  T* weights = arena.Take<T>(kRows * Tile::kWeightStride);
  float* scores = arena.Take<float>(kRows * Tile::kScoreStride);

  const AttentionShape& shape = args.shape;
  const int head_size = static_cast<int>(shape.head_size);
  const int64_t length = shape.sequence_length, width = shape.qkv_width();
  const int64_t head = blockIdx.y, sequence = blockIdx.z;
  const int64_t kv_head = head / (shape.heads / shape.kv_heads);
  const int64_t first = args.first_query + static_cast<int64_t>(blockIdx.x) * kRows;
  const T* rows = static_cast<const T*>(args.qkv.data) + sequence * length * width;
  const T* keys = rows + (shape.heads + kv_head) * head_size;
  const T* values = rows + (shape.heads + shape.kv_heads + kv_head) * head_size;
  const int64_t query = first + WarpId() * kTile + LaneId() / 2;
  const float* score_row = scores + (WarpId() * kTile + LaneId() / 2) * Tile::kScoreStride;
  T* weight_row = weights + (WarpId() * kTile + LaneId() / 2) * Tile::kWeightStride;
  const int64_t last_key = first + kRows < length ? first + kRows : length;

  LoadTile(rows + head * head_size, width, first, length, head_size, padded, q);
  RowStatistics statistics;
  for (int64_t key = 0; key < last_key; key += kRows) {
    __syncthreads();  // the tile before was read
    LoadTile(keys, width, key, length, head_size, padded, kv);
    __syncthreads();
    WarpScores(q, kv, padded, scores);
    __syncwarp();
    UpdateStatistics<T>(score_row, query, key, scale, &statistics);
    __syncwarp();  // before the next scores
  }
  const float log_sum_exp = statistics.max + logf(statistics.sum);

  WarpTile<T> sums[kHeadTiles];
#pragma unroll
  for (int d = 0; d < kHeadTiles; ++d) sums[d].Clear();
  for (int64_t key = 0; key < last_key; key += kRows) {
    __syncthreads();
    LoadTile(keys, width, key, length, head_size, padded, kv);
    __syncthreads();
    WarpScores(q, kv, padded, scores);
    __syncwarp();
    WriteProbabilities(score_row, query, key, scale, log_sum_exp, weight_row);
    __syncthreads();
    LoadTile(values, width, key, length, head_size, padded, kv);
    __syncthreads();
    WarpAccumulate<false, kHeadTiles>(weights, kv, padded, sums);
  }
  const int64_t queries = length - args.first_query;
  const int64_t out_width = shape.heads * head_size;
  if (LaneId() % 2 == 0 && query < length) {
    args.log_sum_exp[(sequence * shape.heads + head) * queries + query - args.first_query] =
        log_sum_exp;
  }
  StoreRows<kHeadTiles>(
      sums, first - args.first_query, queries, head_size, scores,
      static_cast<T*>(args.out.data) + sequence * queries * out_width + head * head_size,
      out_width);
}

}  // namespace

int64_t AttentionSharedBytes(DType dtype, int64_t head_size) {
  int64_t bytes = 0;
  WithType(dtype, [&](auto type) {
    using T = decltype(type);
    using Tile = AttentionTile<T>;
    bytes = 2 * SharedPiece(Tile::kRows * (PaddedHead(head_size) + 8) * sizeof(T)) +
            SharedPiece(Tile::kRows * Tile::kWeightStride * sizeof(T)) +
            SharedPiece(Tile::kRows * Tile::kScoreStride * 4);
  });
  return bytes;
}

void AttentionForward(Stream stream, const AttentionArgs& args) {
  const AttentionShape& shape = args.shape;
  const float scale = 1.0f / sqrtf(static_cast<float>(shape.head_size));
  WithType(args.qkv.dtype, [&](auto type) {
    using T = decltype(type);
    using Tile = AttentionTile<T>;
    const dim3 grid(CeilDiv(shape.sequence_length - args.first_query, Tile::kRows), shape.heads,
                    shape.sequences);
    WithHeadTiles<T>(shape.head_size, [&]<int kHeadTiles>() {
      Launch(grid, Tile::kBlockThreads, AttentionSharedBytes(args.qkv.dtype, shape.head_size),
             stream, ForwardKernel<T, kHeadTiles>, args, PaddedHead(shape.head_size), scale);
    });
  });
}

}  // namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET
