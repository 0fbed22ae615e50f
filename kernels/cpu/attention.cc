// Causal grouped-query attention, forward, in blocks: kQueries query rows against kKeys keys at a
// time, with a running maximum and sum (Milakov & Gimelshein), so that memory does not grow with
// the square of the sequence. Blocks that the mask hides whole are skipped. Everything between the
// packed rows and the output is FP32.
//
// A tile is one block of query rows of one head; its result depends on nothing but its inputs.
#include <math.h>

#include "kernels/cpu/attention_block.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/lanes.h"
#include "kernels/cpu/ops.h"

namespace nibble::kernels::cpu::NIBBLE_ISA {
namespace {

// The tile's working memory, cut from one piece of scratch.
struct ForwardMemory {
  float* queries;  // [kQueries, head_size]
  float* keys;     // [kKeys, head_size]
  float* values;   // [kKeys, head_size]
  float* scores;   // [kQueries, kKeys]
  float* out;      // [kQueries, head_size]
  float* max;      // [kQueries]
  float* sum;      // [kQueries]

  static NIBBLE_INLINE int64_t Floats(int64_t head_size) {
    return (2 * kQueries + 2 * kKeys) * head_size + kQueries * kKeys + 2 * kQueries;
  }
  NIBBLE_INLINE ForwardMemory(float* at, int64_t head_size) {
    scores = at;
    max = scores + kQueries * kKeys;
    sum = max + kQueries;
    queries = sum + kQueries;
    out = queries + kQueries * head_size;
    keys = out + kQueries * head_size;
    values = keys + kKeys * head_size;
  }
};

// Turns a row of scores into exp(score - max) with the maximum so far, and rescales what earlier
// blocks have summed. `scores` has room up to a multiple of sixteen.
NIBBLE_SIMD void SoftmaxRow(float* scores, int64_t visible, int64_t keys, int64_t head_size,
                            bool first, float* max, float* sum, float* out) {
  const int64_t padded = PadVisible(scores, visible);
  ZeroHidden(scores, padded, keys);
  F32x16 lanes = Load(scores);
  for (int64_t j = kLanes; j < padded; j += kLanes) lanes = Max(lanes, Load(scores + j));
  const float block_max = ReduceMax(lanes);
  const float new_max = first || block_max > *max ? block_max : *max;
  F32x16 total = Zero();
  for (int64_t j = 0; j < padded; j += kLanes) {
    const F32x16 e = Exp(Load(scores + j) - Set1(new_max));
    Store(scores + j, e);
    total = total + e;
  }
  if (first) {
    *sum = ReduceAdd(total);
  } else {
    float scale[kLanes];
    Store(scale, Exp(Set1(*max - new_max)));
    *sum = *sum * scale[0] + ReduceAdd(total);
    ForLanes(0, head_size, [&](int64_t i, int64_t count) NIBBLE_LAMBDA {
      StoreLanes<false>(out, i, LoadLanes<false>(out, i, count) * Set1(scale[0]), count);
    });
  }
  *max = new_max;
}

template <bool kBf16>
void WriteRow(const AttentionArgs& args, int64_t at, const float* values, float sum) {
  const F32x16 inverse = Set1(1.0f / sum);
  ForLanes(0, args.shape.head_size, [&](int64_t i, int64_t count) NIBBLE_LAMBDA {
    StoreLanes<kBf16>(args.out.data, at + i, LoadLanes<false>(values, i, count) * inverse, count);
  });
}

// The queries [first_query, end_query) of one head, of one block of kQueries: then every block of
// keys has a visible one for each. `out_row`, `log_sum_exp`: where the first one's results go.
void AttendBlock(const AttentionArgs& args, const HeadColumns& head, int64_t first_query,
                 int64_t end_query, int64_t out_row, float* log_sum_exp,
                 const ForwardMemory& memory) {
  const AttentionShape shape = args.shape;
  const int64_t size = shape.head_size;
  const int64_t queries = end_query - first_query;
  WidenHead(args.qkv, head.first_row + first_query, head.q, queries, size, memory.queries);
  for (int64_t first_key = 0; first_key < first_query + queries; first_key += kKeys) {
    const int64_t keys = Smaller(kKeys, first_query + queries - first_key);
    WidenHead(args.qkv, head.first_row + first_key, head.k, keys, size, memory.keys);
    WidenHead(args.qkv, head.first_row + first_key, head.v, keys, size, memory.values);
    Sgemm(false, true, queries, keys, size, ScoreScale(size), memory.queries, size, memory.keys,
          size, 0, memory.scores, kKeys);
    const bool first = first_key == 0;
    for (int64_t t = 0; t < queries; ++t) {
      const int64_t visible = Smaller(keys, first_query + t + 1 - first_key);
      SoftmaxRow(memory.scores + t * kKeys, visible, keys, size, first, memory.max + t,
                 memory.sum + t, memory.out + t * size);
    }
    Sgemm(false, false, queries, size, keys, 1, memory.scores, kKeys, memory.values, size,
          first ? 0 : 1, memory.out, size);
  }
  for (int64_t t = 0; t < queries; ++t) {
    const int64_t at = (out_row + t) * shape.heads * size + head.q;
    if (args.out.dtype == DType::kBF16) {
      WriteRow<true>(args, at, memory.out + t * size, memory.sum[t]);
    } else {
      WriteRow<false>(args, at, memory.out + t * size, memory.sum[t]);
    }
    log_sum_exp[t] = memory.max[t] + logf(memory.sum[t]);
  }
}

}  // namespace

void AttentionForward(OpContext& context, const AttentionArgs& args) {
  const AttentionShape shape = args.shape;
  const int64_t first_block = args.first_query / kQueries;
  const int64_t blocks = TileCount(shape.sequence_length, kQueries) - first_block;
  const int64_t queries = shape.sequence_length - args.first_query;
  const int64_t floats = ForwardMemory::Floats(shape.head_size);
  ParallelFor(context.pool, shape.sequences * shape.heads * blocks, [&](int64_t tile, int thread) {
    const int64_t block = first_block + blocks - 1 - tile % blocks;  // the longest first
    const int64_t sequence_head = tile / blocks;
    const int64_t sequence = sequence_head / shape.heads;
    const HeadColumns head(shape, sequence, sequence_head % shape.heads);
    const int64_t begin = block == first_block ? args.first_query : block * kQueries;
    const int64_t end = Smaller((block + 1) * kQueries, shape.sequence_length);
    const int64_t offset = begin - args.first_query;
    const ForwardMemory memory(static_cast<float*>(context.scratch.ForThread(thread, floats * 4)),
                               shape.head_size);
    AttendBlock(args, head, begin, end, sequence * queries + offset,
                args.log_sum_exp + sequence_head * queries + offset, memory);
  });
}

}  // namespace nibble::kernels::cpu::NIBBLE_ISA
