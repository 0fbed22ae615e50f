#include "kernels/cpu/gemm.h"

#include "base/check.h"
#include "kernels/cpu/matmul_cache.h"
#include "kernels/nvfp4/bf16.h"
#include "oneapi/dnnl/dnnl.h"

// libgomp, which Debian's oneDNN is threaded with. Declared here because a compiler without OpenMP
// support enabled may lack omp.h.
extern "C" void omp_set_num_threads(int threads);

namespace nibble::kernels::cpu {
namespace {

// oneDNN starts a team of omp_get_max_threads() threads, a setting of the calling thread.
void KeepSingleThreaded() {
  thread_local bool done = false;
  if (!done) {
    omp_set_num_threads(1);
    done = true;
  }
}

const float* Widened(const TileSide& side, int64_t rows, int64_t cols, WidenBuffer& buffer,
                     int64_t* stride) {
  if (side.type == DType::kF32) {
    *stride = side.stride;
    return static_cast<const float*>(side.data);
  }
  const int64_t stored_rows = side.transposed ? cols : rows;
  const int64_t stored_cols = side.transposed ? rows : cols;
  float* to = buffer.Get(stored_rows * stored_cols);
  const uint16_t* from = static_cast<const uint16_t*>(side.data);
  for (int64_t r = 0; r < stored_rows; ++r) {
    for (int64_t c = 0; c < stored_cols; ++c) {
      to[r * stored_cols + c] = nvfp4::Bf16ToF32(from[r * side.stride + c]);
    }
  }
  *stride = stored_cols;
  return to;
}

}  // namespace

void Sgemm(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, float alpha, const float* a,
           int64_t lda, const float* b, int64_t ldb, float beta, float* c, int64_t ldc) {
  KeepSingleThreaded();
  const dnnl_status_t status = dnnl_sgemm(trans_a ? 'T' : 'N', trans_b ? 'T' : 'N', m, n, k, alpha,
                                          a, lda, b, ldb, beta, c, ldc);
  NIBBLE_CHECK(status == dnnl_success);
}

bool NativeBf16Products() {
  static const bool native = [] {
    KeepSingleThreaded();
    return MatmulCache::Supports(DType::kBF16);
  }();
  return native;
}

void MultiplyTileByPrimitive(const TileProduct& product) {
  KeepSingleThreaded();
  NIBBLE_CHECK(product.a.type == product.b.type);
  MatmulCache::OfThisThread().Run(product);
}

void MultiplyTile(const TileProduct& p) {
  if (p.a.type == DType::kBF16 && p.b.type == DType::kBF16 && NativeBf16Products()) {
    MultiplyTileByPrimitive(p);
    return;
  }
  thread_local WidenBuffer wide_a, wide_b;
  int64_t lda = 0, ldb = 0;
  const float* a = Widened(p.a, p.m, p.k, wide_a, &lda);
  const float* b = Widened(p.b, p.k, p.n, wide_b, &ldb);
  Sgemm(p.a.transposed, p.b.transposed, p.m, p.n, p.k, 1.0f, a, lda, b, ldb,
        p.accumulate ? 1.0f : 0.0f, p.c, p.c_stride);
}

}  // namespace nibble::kernels::cpu
