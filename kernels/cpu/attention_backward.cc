// Gradient of causal grouped-query attention; formulas in kernels/reference/attention.cc.
//
// Probabilities are computed again from the scores and log_sum_exp, block by block, so that memory
// grows with the sequence and not with its square. A tile is one key head of one sequence: the
// query heads that share it and their blocks are added to dk and dv in a fixed order.
#include "kernels/cpu/attention_block.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/lanes.h"
#include "kernels/cpu/ops.h"

namespace nibble::kernels::cpu::NIBBLE_ISA {
namespace {

struct BackwardMemory {
  float* probabilities;  // [kQueries, kKeys]
  float* d_scores;       // [kQueries, kKeys]
  float* delta;          // [kQueries]
  float* queries;        // [kQueries, head_size]
  float* d_out;          // [kQueries, head_size]
  float* d_queries;      // [kQueries, head_size]
  float* keys;           // [sequence_length, head_size]
  float* values;
  float* d_keys;
  float* d_values;

  static NIBBLE_INLINE int64_t Floats(const AttentionShape& shape) {
    return 2 * kQueries * kKeys + kQueries +
           (3 * kQueries + 4 * shape.sequence_length) * shape.head_size;
  }
  NIBBLE_INLINE BackwardMemory(float* at, const AttentionShape& shape) {
    const int64_t whole = shape.sequence_length * shape.head_size;
    probabilities = at;
    d_scores = probabilities + kQueries * kKeys;
    delta = d_scores + kQueries * kKeys;
    queries = delta + kQueries;
    d_out = queries + kQueries * shape.head_size;
    d_queries = d_out + kQueries * shape.head_size;
    keys = d_queries + kQueries * shape.head_size;
    values = keys + whole;
    d_keys = values + whole;
    d_values = d_keys + whole;
  }
};

template <bool kBf16>
NIBBLE_SIMD float DotRow(const void* a, int64_t at, const float* b, int64_t size) {
  F32x16 sum = Zero();
  ForLanes(0, size, [&](int64_t i, int64_t count) NIBBLE_LAMBDA {
    sum = sum + LoadLanes<kBf16>(a, at + i, count) * LoadLanes<false>(b, i, count);
  });
  return ReduceAdd(sum);
}

template <bool kBf16>
void NarrowRows(const float* from, const Matrix& to, int64_t row, int64_t col, int64_t rows,
                int64_t cols) {
  for (int64_t r = 0; r < rows; ++r) {
    ForLanes(0, cols, [&](int64_t c, int64_t count) NIBBLE_LAMBDA {
      StoreLanes<kBf16>(to.data, (row + r) * to.cols + col + c,
                        LoadLanes<false>(from, r * cols + c, count), count);
    });
  }
}

void WriteHead(const float* from, const Matrix& to, int64_t row, int64_t col, int64_t rows,
               int64_t cols) {
  if (to.dtype == DType::kBF16) {
    NarrowRows<true>(from, to, row, col, rows, cols);
  } else {
    NarrowRows<false>(from, to, row, col, rows, cols);
  }
}

// p = exp(score - log_sum_exp); ds = p (dp - delta) scale, in place of dp.
NIBBLE_SIMD void ScoreGradientRow(float* scores, float* d_scores, int64_t visible, int64_t keys,
                                  float log_sum_exp, float delta, float scale) {
  const int64_t padded = PadVisible(scores, visible);
  ZeroHidden(scores, padded, keys);
  ZeroHidden(d_scores, padded, keys);
  for (int64_t j = 0; j < padded; j += kLanes) {
    const F32x16 p = Exp(Load(scores + j) - Set1(log_sum_exp));
    const F32x16 ds = p * (Load(d_scores + j) - Set1(delta)) * Set1(scale);
    Store(scores + j, p);
    Store(d_scores + j, ds);
  }
}

// One block of query rows of one head: writes dq, adds to the tile's dk and dv.
void BackwardBlock(const AttentionBackwardArgs& args, const HeadColumns& head, int64_t first_query,
                   const float* log_sum_exp, const BackwardMemory& m) {
  const int64_t size = args.shape.head_size;
  const float scale = ScoreScale(size);
  const int64_t queries = Smaller(kQueries, args.shape.sequence_length - first_query);
  const int64_t row = head.first_row + first_query;
  WidenHead(args.qkv, row, head.q, queries, size, m.queries);
  WidenHead(args.d_out, row, head.q, queries, size, m.d_out);
  for (int64_t t = 0; t < queries; ++t) {
    const int64_t at = (row + t) * args.out.cols + head.q;
    m.delta[t] = args.out.dtype == DType::kBF16
                     ? DotRow<true>(args.out.data, at, m.d_out + t * size, size)
                     : DotRow<false>(args.out.data, at, m.d_out + t * size, size);
  }
  for (int64_t first_key = 0; first_key < first_query + queries; first_key += kKeys) {
    const int64_t keys = Smaller(kKeys, first_query + queries - first_key);
    const int64_t offset = first_key * size;
    Sgemm(false, true, queries, keys, size, scale, m.queries, size, m.keys + offset, size, 0,
          m.probabilities, kKeys);
    Sgemm(false, true, queries, keys, size, 1, m.d_out, size, m.values + offset, size, 0,
          m.d_scores, kKeys);
    for (int64_t t = 0; t < queries; ++t) {
      ScoreGradientRow(m.probabilities + t * kKeys, m.d_scores + t * kKeys,
                       Smaller(keys, first_query + t + 1 - first_key), keys,
                       log_sum_exp[first_query + t], m.delta[t], scale);
    }
    Sgemm(true, false, keys, size, queries, 1, m.probabilities, kKeys, m.d_out, size, 1,
          m.d_values + offset, size);
    Sgemm(true, false, keys, size, queries, 1, m.d_scores, kKeys, m.queries, size, 1,
          m.d_keys + offset, size);
    Sgemm(false, false, queries, size, keys, 1, m.d_scores, kKeys, m.keys + offset, size,
          first_key == 0 ? 0 : 1, m.d_queries, size);
  }
  WriteHead(m.d_queries, args.d_qkv, row, head.q, queries, size);
}

}  // namespace

void AttentionBackward(OpContext& context, const AttentionBackwardArgs& args) {
  const AttentionShape shape = args.shape;
  const int64_t group = shape.heads / shape.kv_heads;
  const int64_t length = shape.sequence_length;
  ParallelFor(context.pool, shape.sequences * shape.kv_heads, [&](int64_t tile, int thread) {
    const int64_t sequence = tile / shape.kv_heads;
    const int64_t first_head = tile % shape.kv_heads * group;
    const BackwardMemory m(
        static_cast<float*>(context.scratch.ForThread(thread, BackwardMemory::Floats(shape) * 4)),
        shape);
    const HeadColumns shared(shape, sequence, first_head);
    WidenHead(args.qkv, shared.first_row, shared.k, length, shape.head_size, m.keys);
    WidenHead(args.qkv, shared.first_row, shared.v, length, shape.head_size, m.values);
    __builtin_memset(m.d_keys, 0, 2 * length * shape.head_size * 4);
    for (int64_t h = first_head; h < first_head + group; ++h) {
      const HeadColumns head(shape, sequence, h);
      const float* log_sum_exp = args.log_sum_exp + (sequence * shape.heads + h) * length;
      for (int64_t first_query = 0; first_query < length; first_query += kQueries) {
        BackwardBlock(args, head, first_query, log_sum_exp, m);
      }
    }
    WriteHead(m.d_keys, args.d_qkv, shared.first_row, shared.k, length, shape.head_size);
    WriteHead(m.d_values, args.d_qkv, shared.first_row, shared.v, length, shape.head_size);
  });
}

}  // namespace nibble::kernels::cpu::NIBBLE_ISA
