#include "kernels/cuda/cublaslt.h"

#include <cublasLt.h>
#include <dlfcn.h>

#include <algorithm>
#include <map>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/hardware_error.h"
#include "base/status_macros.h"

namespace nibble::kernels::cuda {
namespace {

// Block scales of 16 elements came with 12.8; the interface used here is that of 13.
constexpr const char* kLibraries[] = {"libcublasLt.so.13",
                                      "/usr/local/cuda/lib64/libcublasLt.so.13"};

struct Functions {
  decltype(&cublasLtCreate) create = nullptr;
  decltype(&cublasLtDestroy) destroy = nullptr;
  decltype(&cublasLtGetStatusString) status_string = nullptr;
  decltype(&cublasLtMatmulDescCreate) desc_create = nullptr;
  decltype(&cublasLtMatmulDescDestroy) desc_destroy = nullptr;
  decltype(&cublasLtMatmulDescSetAttribute) desc_set = nullptr;
  decltype(&cublasLtMatrixLayoutCreate) layout_create = nullptr;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy = nullptr;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create = nullptr;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy = nullptr;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set = nullptr;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic = nullptr;
  decltype(&cublasLtMatmul) matmul = nullptr;
};

template <class F>
bool Resolve(void* library, const char* name, F* function) {
  *function = reinterpret_cast<F>(dlsym(library, name));
  return *function != nullptr;
}

bool ResolveAll(void* library, Functions* f) {
  return Resolve(library, "cublasLtCreate", &f->create) &&
         Resolve(library, "cublasLtDestroy", &f->destroy) &&
         Resolve(library, "cublasLtGetStatusString", &f->status_string) &&
         Resolve(library, "cublasLtMatmulDescCreate", &f->desc_create) &&
         Resolve(library, "cublasLtMatmulDescDestroy", &f->desc_destroy) &&
         Resolve(library, "cublasLtMatmulDescSetAttribute", &f->desc_set) &&
         Resolve(library, "cublasLtMatrixLayoutCreate", &f->layout_create) &&
         Resolve(library, "cublasLtMatrixLayoutDestroy", &f->layout_destroy) &&
         Resolve(library, "cublasLtMatmulPreferenceCreate", &f->preference_create) &&
         Resolve(library, "cublasLtMatmulPreferenceDestroy", &f->preference_destroy) &&
         Resolve(library, "cublasLtMatmulPreferenceSetAttribute", &f->preference_set) &&
         Resolve(library, "cublasLtMatmulAlgoGetHeuristic", &f->heuristic) &&
         Resolve(library, "cublasLtMatmul", &f->matmul);
}

cudaDataType_t TypeOf(Storage storage) {
  switch (storage) {
    case Storage::kF32:
      return CUDA_R_32F;
    case Storage::kBF16:
      return CUDA_R_16BF;
    case Storage::kE4m3:
      return CUDA_R_8F_E4M3;
    case Storage::kE5m2:
      return CUDA_R_8F_E5M2;
    case Storage::kPackedE2m1:
      break;
  }
  return CUDA_R_4F_E2M1;
}

// The largest power of two up to 256 that divides an address.
uint32_t AlignmentOf(const void* pointer) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(pointer) | 256u;
  return static_cast<uint32_t>(address & (~address + 1));
}

using Key = std::tuple<int64_t, int64_t, int64_t, Storage, Storage, int64_t, int64_t, bool, bool,
                       DType, int64_t, bool, uint32_t, uint32_t, uint32_t>;

Key KeyOf(const Product& p) {
  return {p.m,
          p.n,
          p.k,
          p.a.storage,
          p.b.storage,
          p.a.stride,
          p.b.stride,
          p.a.transposed,
          p.b.transposed,
          p.c_type,
          p.c_stride,
          p.accumulate,
          AlignmentOf(p.a.data),
          AlignmentOf(p.b.data),
          AlignmentOf(p.c)};
}

// A shape's descriptors and algorithm. The library's matrices are column-major: c^T = b a^T, its
// first operand is our b.
struct Plan {
  cublasLtMatmulDesc_t desc = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;
  cublasLtMatmulAlgo_t algorithm = {};
};

class LoadedCublasLt : public CublasLt {
 public:
  LoadedCublasLt(const Functions& functions, std::unique_ptr<DeviceBuffer> workspace,
                 std::unique_ptr<DeviceBuffer> constants, absl::string_view device)
      : f_(functions),
        workspace_(std::move(workspace)),
        constants_(std::move(constants)),
        device_(device) {}
  ~LoadedCublasLt() override {
    for (auto& [key, plan] : plans_) Destroy(plan);
    if (handle_ != nullptr) f_.destroy(handle_);
  }

  absl::Status Start() { return Check(f_.create(&handle_), "cublasLtCreate"); }
  absl::Status Multiply(const Product& product, void* stream) override;

 private:
  absl::Status Check(cublasStatus_t status, absl::string_view call) const {
    if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
    return HardwareError(absl::StrCat(call, " on ", device_, ": ", f_.status_string(status),
                                      " (kernels/cuda/cublaslt.cc)"));
  }
  template <class T>
  absl::Status Set(const Plan& plan, cublasLtMatmulDescAttributes_t attribute, const T& value) {
    return Check(f_.desc_set(plan.desc, attribute, &value, sizeof(value)),
                 "cublasLtMatmulDescSetAttribute");
  }
  absl::Status Describe(const Product& product, Plan* plan);
  absl::Status SetBlockScales(const Product& product, const Plan& plan);
  absl::Status Choose(const Product& product, Plan* plan);
  void Destroy(const Plan& plan) const {
    if (plan.c != nullptr) f_.layout_destroy(plan.c);
    if (plan.b != nullptr) f_.layout_destroy(plan.b);
    if (plan.a != nullptr) f_.layout_destroy(plan.a);
    if (plan.desc != nullptr) f_.desc_destroy(plan.desc);
  }

  const Functions f_;
  const std::unique_ptr<DeviceBuffer> workspace_;
  const std::unique_ptr<DeviceBuffer> constants_;
  const std::string device_;
  cublasLtHandle_t handle_ = nullptr;
  std::map<Key, Plan> plans_;
};

absl::Status LoadedCublasLt::Describe(const Product& p, Plan* plan) {
  NIBBLE_RETURN_IF_ERROR(Check(f_.desc_create(&plan->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F),
                               "cublasLtMatmulDescCreate"));
  // A side [rows, k] stored by rows is [k, rows] to the library.
  const cublasOperation_t transpose = CUBLAS_OP_T, plain = CUBLAS_OP_N;
  const cublasLtPointerMode_t on_device = CUBLASLT_POINTER_MODE_DEVICE;
  NIBBLE_RETURN_IF_ERROR(
      Set(*plan, CUBLASLT_MATMUL_DESC_TRANSA, p.b.transposed ? plain : transpose));
  NIBBLE_RETURN_IF_ERROR(
      Set(*plan, CUBLASLT_MATMUL_DESC_TRANSB, p.a.transposed ? transpose : plain));
  NIBBLE_RETURN_IF_ERROR(Set(*plan, CUBLASLT_MATMUL_DESC_POINTER_MODE, on_device));
  const auto layout = [&](cublasLtMatrixLayout_t* to, const Product::Side& side, int64_t rows) {
    return Check(f_.layout_create(to, TypeOf(side.storage), side.transposed ? rows : p.k,
                                  side.transposed ? p.k : rows, side.stride),
                 "cublasLtMatrixLayoutCreate");
  };
  NIBBLE_RETURN_IF_ERROR(layout(&plan->a, p.b, p.n));
  NIBBLE_RETURN_IF_ERROR(layout(&plan->b, p.a, p.m));
  NIBBLE_RETURN_IF_ERROR(
      Check(f_.layout_create(&plan->c, p.c_type == DType::kBF16 ? CUDA_R_16BF : CUDA_R_32F, p.n,
                             p.m, p.c_stride),
            "cublasLtMatrixLayoutCreate"));
  return SetBlockScales(p, *plan);
}

absl::Status LoadedCublasLt::SetBlockScales(const Product& p, const Plan& plan) {
  if (p.a.block_scales == nullptr) return absl::OkStatus();
  const cublasLtMatmulMatrixScale_t mode = CUBLASLT_MATMUL_MATRIX_SCALE_VEC16_UE4M3;
  NIBBLE_RETURN_IF_ERROR(Set(plan, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, mode));
  NIBBLE_RETURN_IF_ERROR(Set(plan, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, mode));
  NIBBLE_RETURN_IF_ERROR(Set(plan, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, p.b.block_scales));
  return Set(plan, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, p.a.block_scales);
}

absl::Status LoadedCublasLt::Choose(const Product& p, Plan* plan) {
  cublasLtMatmulPreference_t preference = nullptr;
  NIBBLE_RETURN_IF_ERROR(
      Check(f_.preference_create(&preference), "cublasLtMatmulPreferenceCreate"));
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    return Check(f_.preference_set(preference, attribute, &value, sizeof(value)),
                 "cublasLtMatmulPreferenceSetAttribute");
  };
  const auto choose = [&]() -> absl::Status {
    NIBBLE_RETURN_IF_ERROR(
        set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(workspace_->bytes())));
    NIBBLE_RETURN_IF_ERROR(set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                               static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE)));
    NIBBLE_RETURN_IF_ERROR(set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, AlignmentOf(p.b.data)));
    NIBBLE_RETURN_IF_ERROR(set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, AlignmentOf(p.a.data)));
    NIBBLE_RETURN_IF_ERROR(set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, AlignmentOf(p.c)));
    NIBBLE_RETURN_IF_ERROR(set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, AlignmentOf(p.c)));
    cublasLtMatmulHeuristicResult_t result = {};
    int found = 0;
    NIBBLE_RETURN_IF_ERROR(Check(f_.heuristic(handle_, plan->desc, plan->a, plan->b, plan->c,
                                              plan->c, preference, 1, &result, &found),
                                 "cublasLtMatmulAlgoGetHeuristic"));
    if (found == 0) {
      return absl::UnimplementedError(absl::StrCat(
          "cublasLtMatmulAlgoGetHeuristic on ", device_, ": no algorithm for a product [", p.m,
          ", ", p.k, "] x [", p.n, ", ", p.k, "] (kernels/cuda/cublaslt.cc)"));
    }
    plan->algorithm = result.algo;
    return absl::OkStatus();
  };
  const absl::Status status = choose();
  f_.preference_destroy(preference);
  return status;
}

absl::Status LoadedCublasLt::Multiply(const Product& p, void* stream) {
  auto [at, is_new] = plans_.try_emplace(KeyOf(p));
  Plan& plan = at->second;
  if (is_new) {
    absl::Status status = Describe(p, &plan);
    if (status.ok()) status = Choose(p, &plan);
    if (!status.ok()) {
      Destroy(plan);
      plans_.erase(at);
      return status;
    }
  } else {
    NIBBLE_RETURN_IF_ERROR(SetBlockScales(p, plan));
  }
  const float* zero = static_cast<const float*>(constants_->data());
  const float* one = zero + 1;
  return Check(
      f_.matmul(handle_, plan.desc, p.alpha == nullptr ? one : p.alpha, p.b.data, plan.a, p.a.data,
                plan.b, p.accumulate ? one : zero, p.c, plan.c, p.c, plan.c, &plan.algorithm,
                workspace_->data(), workspace_->bytes(), static_cast<cudaStream_t>(stream)),
      "cublasLtMatmul");
}

}  // namespace

absl::StatusOr<std::unique_ptr<CublasLt>> CublasLt::Open(std::unique_ptr<DeviceBuffer> workspace,
                                                         std::unique_ptr<DeviceBuffer> constants,
                                                         absl::string_view device) {
  std::string tried;
  for (const char* name : kLibraries) {
    void* library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    Functions functions;
    if (library != nullptr && ResolveAll(library, &functions)) {
      // Never unloaded: it keeps threads and state of its own.
      auto result = std::make_unique<LoadedCublasLt>(functions, std::move(workspace),
                                                     std::move(constants), device);
      NIBBLE_RETURN_IF_ERROR(result->Start());
      return result;
    }
    const char* error = library == nullptr ? dlerror() : "lacks a function";
    absl::StrAppend(&tried, "; ", name, ": ", error == nullptr ? "cannot be loaded" : error);
  }
  return absl::FailedPreconditionError(absl::StrCat("backend 'cuda' needs cuBLASLt 13", tried));
}

}  // namespace nibble::kernels::cuda
