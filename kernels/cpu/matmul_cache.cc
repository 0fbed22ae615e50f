#include "kernels/cpu/matmul_cache.h"

#include "base/check.h"
#include "oneapi/dnnl/dnnl.h"

namespace nibble::kernels::cpu {
namespace {

// Lives for ever: primitives of threads that outlive main's static objects still refer to it.
dnnl_engine_t Engine() {
  static const dnnl_engine_t engine = [] {
    dnnl_engine_t created = nullptr;
    NIBBLE_CHECK(dnnl_engine_create(&created, dnnl_cpu, 0) == dnnl_success);
    return created;
  }();
  return engine;
}

dnnl_data_type_t TypeOf(DType type) { return type == DType::kBF16 ? dnnl_bf16 : dnnl_f32; }

dnnl_memory_desc_t Side(int64_t rows, int64_t cols, const TileSide& side) {
  const dnnl_dims_t dims = {rows, cols};
  const dnnl_dims_t plain = {side.stride, 1};
  const dnnl_dims_t transposed = {1, side.stride};
  dnnl_memory_desc_t desc;
  NIBBLE_CHECK(dnnl_memory_desc_init_by_strides(&desc, 2, dims, TypeOf(side.type),
                                                side.transposed ? transposed : plain) ==
               dnnl_success);
  return desc;
}

// Null where oneDNN has no such product here.
dnnl_primitive_desc_t Describe(const TileProduct& p, dnnl_memory_desc_t* a, dnnl_memory_desc_t* b,
                               dnnl_memory_desc_t* c) {
  *a = Side(p.m, p.k, p.a);
  *b = Side(p.k, p.n, p.b);
  *c = Side(p.m, p.n, TileSide{nullptr, DType::kF32, p.c_stride, false});
  dnnl_matmul_desc_t matmul;
  NIBBLE_CHECK(dnnl_matmul_desc_init(&matmul, a, b, nullptr, c) == dnnl_success);
  dnnl_primitive_attr_t attributes = nullptr;
  NIBBLE_CHECK(dnnl_primitive_attr_create(&attributes) == dnnl_success);
  dnnl_primitive_attr_set_scratchpad_mode(attributes, dnnl_scratchpad_mode_user);
  dnnl_post_ops_t post_ops = nullptr;
  if (p.accumulate) {
    NIBBLE_CHECK(dnnl_post_ops_create(&post_ops) == dnnl_success);
    dnnl_post_ops_append_sum(post_ops, 1.0f);
    dnnl_primitive_attr_set_post_ops(attributes, post_ops);
  }
  dnnl_primitive_desc_t desc = nullptr;
  if (dnnl_primitive_desc_create(&desc, &matmul, attributes, Engine(), nullptr) != dnnl_success) {
    desc = nullptr;
  }
  if (post_ops != nullptr) dnnl_post_ops_destroy(post_ops);
  dnnl_primitive_attr_destroy(attributes);
  return desc;
}

dnnl_memory_t MemoryOf(const dnnl_memory_desc_t& desc) {
  dnnl_memory_t memory = nullptr;
  NIBBLE_CHECK(dnnl_memory_create(&memory, &desc, Engine(), DNNL_MEMORY_NONE) == dnnl_success);
  return memory;
}

dnnl_stream_t Stream() {
  static const dnnl_stream_t stream = [] {
    dnnl_stream_t created = nullptr;
    NIBBLE_CHECK(dnnl_stream_create(&created, Engine(), dnnl_stream_default_flags) == dnnl_success);
    return created;
  }();
  return stream;
}

}  // namespace

struct MatmulCache::Primitive {
  dnnl_primitive_t primitive = nullptr;
  dnnl_memory_t a = nullptr, b = nullptr, c = nullptr, scratchpad = nullptr;
  int64_t scratchpad_bytes = 0;

  ~Primitive() {
    for (dnnl_memory_t memory : {a, b, c, scratchpad}) {
      if (memory != nullptr) dnnl_memory_destroy(memory);
    }
    if (primitive != nullptr) dnnl_primitive_destroy(primitive);
  }
};

MatmulCache::MatmulCache() = default;
MatmulCache::~MatmulCache() = default;

MatmulCache& MatmulCache::OfThisThread() {
  thread_local MatmulCache cache;
  return cache;
}

bool MatmulCache::Supports(DType type) {
  TileProduct probe;
  probe.m = probe.n = probe.k = 64;
  probe.a = probe.b = TileSide{nullptr, type, 64, false};
  probe.c_stride = 64;
  dnnl_memory_desc_t a, b, c;
  dnnl_primitive_desc_t desc = Describe(probe, &a, &b, &c);
  if (desc == nullptr) return false;
  dnnl_primitive_desc_destroy(desc);
  return true;
}

MatmulCache::Primitive* MatmulCache::Create(const TileProduct& product) {
  dnnl_memory_desc_t a, b, c;
  dnnl_primitive_desc_t desc = Describe(product, &a, &b, &c);
  NIBBLE_CHECK(desc != nullptr);
  auto created = std::make_unique<Primitive>();
  const dnnl_memory_desc_t* scratchpad =
      dnnl_primitive_desc_query_md(desc, dnnl_query_scratchpad_md, 0);
  created->scratchpad_bytes =
      scratchpad == nullptr ? 0 : static_cast<int64_t>(dnnl_memory_desc_get_size(scratchpad));
  if (created->scratchpad_bytes > 0) created->scratchpad = MemoryOf(*scratchpad);
  NIBBLE_CHECK(dnnl_primitive_create(&created->primitive, desc) == dnnl_success);
  dnnl_primitive_desc_destroy(desc);
  created->a = MemoryOf(a);
  created->b = MemoryOf(b);
  created->c = MemoryOf(c);
  return created.release();
}

void MatmulCache::Run(const TileProduct& p) {
  const Key key(p.a.type, p.a.transposed, p.b.transposed, p.accumulate, p.m, p.n, p.k, p.a.stride,
                p.b.stride, p.c_stride);
  std::unique_ptr<Primitive>& entry = primitives_[key];
  if (entry == nullptr) {
    entry.reset(Create(p));
    const size_t needed = entry->scratchpad_bytes + 64;
    if (scratchpad_.size() < needed) scratchpad_.resize(needed);
  }
  dnnl_memory_set_data_handle(entry->a, const_cast<void*>(p.a.data));
  dnnl_memory_set_data_handle(entry->b, const_cast<void*>(p.b.data));
  dnnl_memory_set_data_handle(entry->c, p.c);
  dnnl_exec_arg_t arguments[4] = {
      {DNNL_ARG_SRC, entry->a}, {DNNL_ARG_WEIGHTS, entry->b}, {DNNL_ARG_DST, entry->c}, {}};
  int count = 3;
  if (entry->scratchpad_bytes > 0) {
    const uintptr_t base = (reinterpret_cast<uintptr_t>(scratchpad_.data()) + 63) / 64 * 64;
    dnnl_memory_set_data_handle(entry->scratchpad, reinterpret_cast<void*>(base));
    arguments[count++] = {DNNL_ARG_SCRATCHPAD, entry->scratchpad};
  }
  NIBBLE_CHECK(dnnl_primitive_execute(entry->primitive, Stream(), count, arguments) ==
               dnnl_success);
}

}  // namespace nibble::kernels::cpu
