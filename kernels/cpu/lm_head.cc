// Output head with cross-entropy, a chunk of rows at a time; FP32 logits of one chunk are all that
// is ever in memory.
//
// 1. Blocks of logits are computed, and while they are in the cache replaced by
//    exp(logit - block maximum), with that maximum and the sum kept: one exponential a logit.
// 2. Rows: maximum and sum over the blocks in order; the loss; the factor of each block.
// 3. d_logits = (e * factor - onehot * loss_scale), rounded to the activations' type, in place, and
//    their product with the weight, summed over the blocks of a group; groups are added in order.
// 4. d_weight += d_logits^T x, tile by tile, over the whole chunk.
//
// With a soft cap, blocks keep the capped logits instead, since the cap's derivative needs them,
// and step 3 takes the exponential again.
//
// Rounded gradients stay FP32 values in place where products are FP32, and are packed to BF16 at
// the start of their row of a block where the machine multiplies BF16.
//
// Blocks, chunks and groups follow from the shapes alone.
#include <math.h>

#include "base/check.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/lanes.h"
#include "kernels/cpu/ops.h"

namespace nibble::kernels::cpu::NIBBLE_ISA {
namespace {

// Logits of a chunk: 50 MB. Larger chunks read and write d_weight less often.
constexpr int64_t kChunkLogits = int64_t{13} << 20;
constexpr int64_t kRows = 128;  // of a block of logits
constexpr int64_t kMaxGroups = 16;
constexpr int64_t kColumnsPerGroup = 2048;
constexpr int64_t kRowsPerTile = 16;  // of step 2

// A block's maximum and sum of exponentials of one row; from step 2 on, the factor that turns its
// exponentials into gradients (without the target's share), in `sum`.
struct BlockStats {
  float max;
  float sum;
};

struct Plan {
  int64_t features, vocabulary, chunk_rows;
  int64_t columns;  // of a block of logits
  int64_t blocks;   // along the vocabulary
  int64_t groups, blocks_per_group;
  float softcap;     // 0: none
  bool bf16;         // activations
  bool native_bf16;  // products of BF16 sides
};

Plan MakePlan(const OpContext& context, const LmHeadArgs& args) {
  Plan plan;
  plan.features = args.x.cols;
  plan.vocabulary = args.weight.rows;
  // A block's widened weights and its logits fit the second-level cache.
  plan.columns = plan.features <= 512 ? 256 : 128;
  plan.blocks = TileCount(plan.vocabulary, plan.columns);
  const int64_t rows = kChunkLogits / (plan.blocks * plan.columns) / kRows * kRows;
  plan.chunk_rows = Smaller(args.x.rows, Larger(rows, kRows));
  const int64_t groups = Smaller(kMaxGroups, Larger(1, plan.vocabulary / kColumnsPerGroup));
  plan.blocks_per_group = TileCount(plan.blocks, groups);
  plan.groups = TileCount(plan.blocks, plan.blocks_per_group);
  plan.softcap = args.logit_softcap;
  plan.bf16 = args.x.dtype == DType::kBF16;
  plan.native_bf16 = context.native_bf16 && plan.bf16 && args.weight.storage == DType::kBF16;
  return plan;
}

// The chunk's memory, cut from one piece of scratch.
struct ChunkMemory {
  float* logits;         // [blocks, chunk_rows, columns]: a block at a time is near in memory
  BlockStats* stats;     // [chunk_rows, blocks]
  float* target_logits;  // [chunk_rows]
  float* x;              // [chunk_rows, features], where products are FP32
  float* d_x;            // [groups, chunk_rows, features]

  static NIBBLE_INLINE int64_t Bytes(const Plan& plan) {
    return 4 * plan.chunk_rows *
           (plan.blocks * (plan.columns + 2) + 1 + (1 + plan.groups) * plan.features);
  }
  NIBBLE_INLINE ChunkMemory(void* at, const Plan& plan) {
    logits = static_cast<float*>(at);
    stats = reinterpret_cast<BlockStats*>(logits + plan.chunk_rows * plan.blocks * plan.columns);
    target_logits = reinterpret_cast<float*>(stats + plan.chunk_rows * plan.blocks);
    x = target_logits + plan.chunk_rows;
    d_x = x + plan.chunk_rows * plan.features;
  }
};

struct Chunk {
  const Plan& plan;
  const LmHeadArgs& args;
  const ChunkMemory& memory;
  int64_t first_row;
  int64_t rows;
};

TileSide F32Side(const float* data, int64_t stride, bool transposed) {
  return {data, DType::kF32, stride, transposed};
}

// Rows [row, ...) of x.
TileSide XSide(const Chunk& chunk, int64_t row, int64_t col) {
  const int64_t features = chunk.plan.features;
  if (!chunk.plan.native_bf16)
    return F32Side(chunk.memory.x + row * features + col, features, false);
  const uint16_t* x = static_cast<const uint16_t*>(chunk.args.x.data);
  return {x + (chunk.first_row + row) * features + col, DType::kBF16, features, false};
}

// The weight's rows of one block: as they are, or widened into the thread's memory.
TileSide WeightSide(const Chunk& chunk, int64_t first_col, int64_t cols, float* wide) {
  const Operand& weight = chunk.args.weight;
  const int64_t features = chunk.plan.features;
  if (weight.storage == DType::kF32) {
    return F32Side(static_cast<const float*>(weight.data) + first_col * features, features, false);
  }
  if (chunk.plan.native_bf16) {
    return {static_cast<const uint16_t*>(weight.data) + first_col * features, DType::kBF16,
            features, false};
  }
  WidenRows({weight.data, weight.storage, features, first_col, 0, cols, features}, wide);
  return F32Side(wide, features, false);
}

// The logits of a block from a row on; rows are plan.columns apart.
float* BlockLogits(const Chunk& chunk, int64_t row, int64_t block) {
  return chunk.memory.logits + (block * chunk.plan.chunk_rows + row) * chunk.plan.columns;
}

// Gradients of the logits from (row, col) on, to the end of the block at most.
TileSide GradientSide(const Chunk& chunk, int64_t row, int64_t col, bool transposed) {
  const int64_t columns = chunk.plan.columns;
  float* logits = BlockLogits(chunk, row, col / columns);
  if (!chunk.plan.native_bf16) return F32Side(logits + col % columns, columns, transposed);
  return {reinterpret_cast<uint16_t*>(logits) + col % columns, DType::kBF16, 2 * columns,
          transposed};
}

// c tanh(x / c), the tangent from e^(-2|x|/c): absolute errors of some 1e-7 c.
NIBBLE_SIMD F32x16 SoftCap(F32x16 x, float cap) {
  const F32x16 e = Exp(Abs(x) * Set1(-2.0f / cap));
  const F32x16 magnitude = (Set1(1.0f) - e) / (Set1(1.0f) + e) * Set1(cap);
  const I32x16 sign = BitsOf(x) & Set1I((int32_t)0x80000000);
  return FloatOf(BitsOf(magnitude) | sign);
}

void SoftCapRow(float* logits, int64_t size, float cap) {
  ForLanes(0, size, [&](int64_t i, int64_t count) NIBBLE_LAMBDA {
    StoreLanes<false>(logits, i, SoftCap(LoadLanes<false>(logits, i, count), cap), count);
  });
}

// ---- step 1 ----
NIBBLE_SIMD float LargestOf(const float* values, int64_t count) {
  float max = values[0];
  for (int64_t i = 1; i < count; ++i) max = values[i] > max ? values[i] : max;
  return max;
}

// Replaces the logits by their exponentials, or with kKeepLogits only sums these.
template <bool kKeepLogits>
NIBBLE_SIMD BlockStats ExponentiateRow(float* logits, int64_t size) {
  F32x16 max = Set1(-__builtin_inff());
  ForLanes(0, size, [&](int64_t i, int64_t count) NIBBLE_LAMBDA {
    F32x16 x = LoadLanes<false>(logits, i, count);
    if (count < kLanes) x = Set1(LargestOf(logits + i, count));
    max = Max(max, x);
  });
  const float row_max = ReduceMax(max);
  F32x16 sum = Zero();
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    const F32x16 e = Exp(Load(logits + i) - Set1(row_max));
    if (!kKeepLogits) Store(logits + i, e);
    sum = sum + e;
  }
  float total = ReduceAdd(sum);
  if (i < size) {
    float lanes[kLanes];
    Store(lanes, Exp(LoadPartial(logits + i, size - i) - Set1(row_max)));
    for (int64_t j = 0; i + j < size; ++j) {
      if (!kKeepLogits) logits[i + j] = lanes[j];
      total += lanes[j];
    }
  }
  return {row_max, total};
}

void ComputeBlock(const Chunk& chunk, int64_t first_row, int64_t block, float* wide) {
  const Plan& plan = chunk.plan;
  const int64_t first_col = block * plan.columns;
  const int64_t cols = Smaller(plan.columns, plan.vocabulary - first_col);
  const int64_t rows = Smaller(kRows, chunk.rows - first_row);
  float* logits = BlockLogits(chunk, first_row, block);
  TileProduct product;
  product.m = rows;
  product.n = cols;
  product.k = plan.features;
  product.a = XSide(chunk, first_row, 0);
  product.b = WeightSide(chunk, first_col, cols, wide);
  product.b.transposed = true;
  product.c = logits;
  product.c_stride = plan.columns;
  MultiplyTile(product);
  for (int64_t r = 0; r < rows; ++r) {
    float* row = logits + r * plan.columns;
    if (plan.softcap != 0) SoftCapRow(row, cols, plan.softcap);
    const int64_t target = chunk.args.targets[chunk.first_row + first_row + r] - first_col;
    if (target >= 0 && target < cols) chunk.memory.target_logits[first_row + r] = row[target];
    chunk.memory.stats[(first_row + r) * plan.blocks + block] =
        plan.softcap != 0 ? ExponentiateRow<true>(row, cols) : ExponentiateRow<false>(row, cols);
  }
}

// What the loss of a row of the chunk counts in the objective.
float RowScale(const Chunk& chunk, int64_t row) {
  const float* scales = chunk.args.row_scales;
  return scales == nullptr ? chunk.args.loss_scale
                           : chunk.args.loss_scale * scales[chunk.first_row + row];
}

// ---- step 2 ----
void FinishRow(const Chunk& chunk, int64_t row) {
  const LmHeadArgs& args = chunk.args;
  const int64_t blocks = chunk.plan.blocks;
  const int64_t n = chunk.first_row + row;
  BlockStats* stats = chunk.memory.stats + row * blocks;
  if (args.targets[n] < 0) {
    args.losses[n] = 0;
    if (args.log_sum_exp != nullptr) args.log_sum_exp[n] = 0;
    return;
  }
  float max = stats[0].max;
  for (int64_t b = 1; b < blocks; ++b) max = stats[b].max > max ? stats[b].max : max;
  float sum = 0;
  for (int64_t b = 0; b < blocks; ++b) {
    float scale[kLanes];
    Store(scale, Exp(Set1(stats[b].max - max)));
    sum += stats[b].sum * scale[0];
    stats[b].sum = scale[0];
  }
  const float log_sum = logf(sum);
  const float log_sum_exp = max + log_sum;
  const float factor = RowScale(chunk, row) * (1 + 2 * args.z_loss * log_sum_exp);
  for (int64_t b = 0; b < blocks; ++b) stats[b].sum = stats[b].sum / sum * factor;
  // Not (max + log sum) - target: with large logits that would lose the loss's own digits.
  args.losses[n] = log_sum + (max - chunk.memory.target_logits[row]);
  if (args.log_sum_exp != nullptr) args.log_sum_exp[n] = log_sum_exp;
}

// ---- step 3 ----
struct GradientFactors {
  float of_exponential;
  float block_max;  // of capped logits
  float softcap;
  bool bf16;  // round
};

// Of lanes that hold exponentials, or capped logits; without the target's share.
NIBBLE_SIMD F32x16 Gradient(const GradientFactors& k, F32x16 x) {
  F32x16 gradient;
  if (k.softcap == 0) {
    gradient = x * Set1(k.of_exponential);
  } else {
    const F32x16 tangent = x * Set1(1 / k.softcap);
    gradient =
        Exp(x - Set1(k.block_max)) * Set1(k.of_exponential) * (Set1(1.0f) - tangent * tangent);
  }
  return k.bf16 ? RoundToBf16(gradient) : gradient;
}

// The gradient at the target, from what is stored there.
float TargetGradient(const GradientFactors& k, float stored, float row_scale) {
  if (k.softcap == 0) return stored * k.of_exponential - row_scale;
  float e[kLanes];
  Store(e, Exp(Set1(stored - k.block_max)));
  const float tangent = stored * (1 / k.softcap);
  return (e[0] * k.of_exponential - row_scale) * (1 - tangent * tangent);
}

void GradientRow(const Chunk& chunk, int64_t row, int64_t block, int64_t first_col, int64_t cols) {
  const Plan& plan = chunk.plan;
  float* logits = BlockLogits(chunk, row, block);
  uint16_t* packed = reinterpret_cast<uint16_t*>(logits);
  const int64_t target = chunk.args.targets[chunk.first_row + row];
  if (target < 0) {
    __builtin_memset(logits, 0, cols * 4);
    return;
  }
  const BlockStats& stats = chunk.memory.stats[row * plan.blocks + block];
  const GradientFactors k{stats.sum, stats.max, plan.softcap, plan.bf16};
  const int64_t at = target - first_col;
  const bool here = at >= 0 && at < cols;
  F32x16 at_target = Zero();
  if (here) at_target = Set1(TargetGradient(k, logits[at], RowScale(chunk, row)));
  // Ascending, so that packed values never overwrite exponentials that are still to be read.
  ForLanes(0, cols, [&](int64_t i, int64_t count) NIBBLE_LAMBDA {
    const F32x16 gradient = Gradient(k, LoadLanes<false>(logits, i, count));
    if (plan.native_bf16) {
      StoreLanes<true>(packed, i, gradient, count);
    } else {
      StoreLanes<false>(logits, i, gradient, count);
    }
  });
  if (here && plan.native_bf16) StoreLanes<true>(packed, at, at_target, 1);
  if (here && !plan.native_bf16) {
    StoreLanes<false>(logits, at, plan.bf16 ? RoundToBf16(at_target) : at_target, 1);
  }
}

// Gradients of one block of rows and a group of blocks, and their part of d_x.
void GradientGroup(const Chunk& chunk, int64_t first_row, int64_t group, float* wide) {
  const Plan& plan = chunk.plan;
  const int64_t rows = Smaller(kRows, chunk.rows - first_row);
  const int64_t first_block = group * plan.blocks_per_group;
  const int64_t end = Smaller(plan.blocks, first_block + plan.blocks_per_group);
  TileProduct product;
  product.m = rows;
  product.n = plan.features;
  product.c = chunk.memory.d_x + (group * plan.chunk_rows + first_row) * plan.features;
  product.c_stride = plan.features;
  for (int64_t block = first_block; block < end; ++block) {
    const int64_t first_col = block * plan.columns;
    const int64_t cols = Smaller(plan.columns, plan.vocabulary - first_col);
    for (int64_t r = 0; r < rows; ++r) GradientRow(chunk, first_row + r, block, first_col, cols);
    product.k = cols;
    product.a = GradientSide(chunk, first_row, first_col, false);
    product.b = WeightSide(chunk, first_col, cols, wide);
    product.accumulate = block > first_block;
    MultiplyTile(product);
  }
}

// d_x of one row: the groups' parts in order.
template <bool kBf16>
void SumGroups(const Chunk& chunk, int64_t row) {
  const Plan& plan = chunk.plan;
  ForLanes(0, plan.features, [&](int64_t c, int64_t count) NIBBLE_LAMBDA {
    F32x16 sum = Zero();
    for (int64_t group = 0; group < plan.groups; ++group) {
      const int64_t at = (group * plan.chunk_rows + row) * plan.features + c;
      sum = sum + LoadLanes<false>(chunk.memory.d_x, at, count);
    }
    StoreLanes<kBf16>(chunk.args.d_x.data, (chunk.first_row + row) * plan.features + c, sum, count);
  });
}

// ---- step 4 ----
struct WeightTile {
  int64_t first_row, rows;  // of d_weight
  int64_t first_col, cols;
};

void WeightGradientTile(const Chunk& chunk, const WeightTile& tile) {
  const Plan& plan = chunk.plan;
  TileProduct product;
  product.m = tile.rows;
  product.n = tile.cols;
  product.k = chunk.rows;
  product.a = GradientSide(chunk, 0, tile.first_row, true);
  product.b = XSide(chunk, 0, tile.first_col);
  product.c = chunk.args.d_weight + tile.first_row * plan.features + tile.first_col;
  product.c_stride = plan.features;
  product.accumulate = true;
  MultiplyTile(product);
}

// ---- the chunk ----
void WidenX(OpContext& context, const Chunk& chunk) {
  if (chunk.plan.native_bf16) return;
  const int64_t features = chunk.plan.features;
  ParallelFor(context.pool, TileCount(chunk.rows, kRowsPerTile), [&](int64_t tile, int) {
    const int64_t row = tile * kRowsPerTile;
    WidenRows({chunk.args.x.data, chunk.args.x.dtype, features, chunk.first_row + row, 0,
               Smaller(kRowsPerTile, chunk.rows - row), features},
              chunk.memory.x + row * features);
  });
}

float* ThreadWeights(OpContext& context, const Chunk& chunk, int thread) {
  const int64_t bytes = chunk.plan.columns * chunk.plan.features * 4;
  return static_cast<float*>(context.scratch.ForThread(thread, bytes));
}

void ForwardChunk(OpContext& context, const Chunk& chunk) {
  const int64_t row_blocks = TileCount(chunk.rows, kRows);
  WidenX(context, chunk);
  ParallelFor(context.pool, row_blocks * chunk.plan.blocks, [&](int64_t tile, int thread) {
    ComputeBlock(chunk, tile % row_blocks * kRows, tile / row_blocks,
                 ThreadWeights(context, chunk, thread));
  });
  ParallelFor(context.pool, TileCount(chunk.rows, kRowsPerTile), [&](int64_t tile, int) {
    const int64_t end = Smaller(chunk.rows, (tile + 1) * kRowsPerTile);
    for (int64_t row = tile * kRowsPerTile; row < end; ++row) FinishRow(chunk, row);
  });
}

void BackwardChunk(OpContext& context, const Chunk& chunk) {
  const Plan& plan = chunk.plan;
  const int64_t row_blocks = TileCount(chunk.rows, kRows);
  ParallelFor(context.pool, row_blocks * plan.groups, [&](int64_t tile, int thread) {
    GradientGroup(chunk, tile % row_blocks * kRows, tile / row_blocks,
                  ThreadWeights(context, chunk, thread));
  });
  ParallelFor(context.pool, TileCount(chunk.rows, kRowsPerTile), [&](int64_t tile, int) {
    const int64_t end = Smaller(chunk.rows, (tile + 1) * kRowsPerTile);
    for (int64_t row = tile * kRowsPerTile; row < end; ++row) {
      if (plan.bf16) {
        SumGroups<true>(chunk, row);
      } else {
        SumGroups<false>(chunk, row);
      }
    }
  });
  // A tile's rows lie within one block (GradientSide). Small weights get small tiles: enough of
  // them for several threads.
  const int64_t tile_rows = plan.vocabulary <= 1024 ? 64 : 128;
  const int64_t tile_cols = 256;
  const int64_t col_tiles = TileCount(plan.features, tile_cols);
  const int64_t row_tiles = TileCount(plan.vocabulary, tile_rows);
  ParallelFor(context.pool, row_tiles * col_tiles, [&](int64_t tile, int) {
    WeightTile part;
    part.first_row = tile / col_tiles * tile_rows;
    part.rows = Smaller(tile_rows, plan.vocabulary - part.first_row);
    part.first_col = tile % col_tiles * tile_cols;
    part.cols = Smaller(tile_cols, plan.features - part.first_col);
    WeightGradientTile(chunk, part);
  });
}

}  // namespace

void LmHead(OpContext& context, const LmHeadArgs& args) {
  NIBBLE_CHECK(!args.weight.transposed && args.weight.tensor_scale == nullptr);
  const Plan plan = MakePlan(context, args);
  const ChunkMemory memory(context.scratch.Shared(ChunkMemory::Bytes(plan)), plan);
  for (int64_t row = 0; row < args.x.rows; row += plan.chunk_rows) {
    const Chunk chunk{plan, args, memory, row, Smaller(plan.chunk_rows, args.x.rows - row)};
    ForwardChunk(context, chunk);
    if (args.d_x.data != nullptr) BackwardChunk(context, chunk);
  }
}

}  // namespace nibble::kernels::cpu::NIBBLE_ISA
