#include "kernels/cpu/cpu_backend.h"

#include <malloc.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/bulk_copy.h"
#include "base/status_macros.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/operand.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/host_backend.h"

namespace nibble::kernels {
namespace cpu {
namespace baseline {
extern const OpTable kOpTable;
}
namespace avx2 {
extern const OpTable kOpTable;
}
namespace avx512 {
extern const OpTable kOpTable;
}
}  // namespace cpu

namespace {

using cpu::Isa;

constexpr int kMaxThreads = 1024;

const cpu::OpTable& OpTableFor(Isa isa) {
  return isa == Isa::kAvx512 ? cpu::avx512::kOpTable
         : isa == Isa::kAvx2 ? cpu::avx2::kOpTable
                             : cpu::baseline::kOpTable;
}

std::string ProcessorName() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (absl::StartsWith(line, "model name")) {
      const std::pair<std::string, std::string> parts =
          absl::StrSplit(line, absl::MaxSplits(": ", 1));
      return parts.second;
    }
  }
  return "unknown processor";
}

// oneDNN allocates its packing buffers in every call. Freed memory is kept, so that a step does
// not fault the same pages in again (up to tenfold slower steps were seen).
void KeepFreedMemory() {
  mallopt(M_MMAP_THRESHOLD, 32 << 20);  // glibc's largest
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
}

class CpuBackend : public HostBackend {
 public:
  CpuBackend(int threads, Isa isa)
      : pool_(threads),
        scratch_(threads),
        context_{pool_, scratch_, cpu::NativeBf16Products()},
        operands_(context_, isa),
        ops_(OpTableFor(isa)),
        description_(absl::StrCat(ProcessorName(), ", ", cpu::NameOf(isa), ", ",
                                  context_.native_bf16 ? "BF16" : "FP32", " products, ", threads,
                                  threads == 1 ? " thread" : " threads")) {}

  absl::string_view name() const override { return "cpu"; }
  absl::string_view description() const override { return description_; }

  void CopyToDevice(void* device, const void* host, int64_t bytes) override {
    Copy(device, host, bytes);
  }
  void CopyToHost(void* host, const void* device, int64_t bytes) override {
    Copy(host, device, bytes);
  }

  int64_t OperandBytes(const OperandFormat& format, DType source, int64_t rows,
                       int64_t cols) const override {
    return operands_.Bytes(format, source, rows, cols);
  }
  Operand PrepareOperand(const OperandRequest& request, void* storage) override {
    return operands_.Prepare(request, storage);
  }
  bool CanTranspose(const Operand& operand) const override {
    return SurvivesTransposition(operand.format);
  }
  Operand Transposed(const Operand& operand) const override { return cpu::Transposed(operand); }
  void Multiply(const Operand& a, const Operand& b, Matrix c, bool accumulate) override {
    operands_.Multiply(a, b, c, accumulate);
  }

  void EmbeddingForward(const int32_t* tokens, Matrix table, Matrix out) override {
    ops_.embedding_forward(context_, tokens, table, out);
  }
  void EmbeddingBackward(const int32_t* tokens, Matrix d_out, Matrix d_table) override {
    ops_.embedding_backward(context_, tokens, d_out, d_table);
  }
  void RmsNormForward(const RmsNormArgs& args) override { ops_.rms_norm_forward(context_, args); }
  void RmsNormBackward(const RmsNormBackwardArgs& args) override {
    ops_.rms_norm_backward(context_, args);
  }
  void Rope(const RopeArgs& args) override { ops_.rope(context_, args); }
  void AttentionForward(const AttentionArgs& args) override {
    ops_.attention_forward(context_, args);
  }
  void AttentionBackward(const AttentionBackwardArgs& args) override {
    ops_.attention_backward(context_, args);
  }
  void SwiGluForward(Matrix gate_up, Matrix out) override {
    ops_.swiglu_forward(context_, gate_up, out);
  }
  void SwiGluBackward(Matrix d_out, Matrix gate_up, Matrix d_gate_up) override {
    ops_.swiglu_backward(context_, d_out, gate_up, d_gate_up);
  }
  void LayerNormForward(const LayerNormArgs& args) override {
    ops_.layer_norm_forward(context_, args);
  }
  void LayerNormBackward(const LayerNormBackwardArgs& args) override {
    ops_.layer_norm_backward(context_, args);
  }
  void AddRows(Matrix out, const float* table, int64_t period) override {
    ops_.add_rows(context_, out, table, period);
  }
  void AddRowsBackward(Matrix d_out, float* d_table, int64_t period) override {
    ops_.add_rows_backward(context_, d_out, d_table, period);
  }
  void ActivationForward(Activation activation, Matrix in, Matrix out) override {
    ops_.activation_forward(context_, activation, in, out);
  }
  void ActivationBackward(Activation activation, Matrix d_out, Matrix in, Matrix d_in) override {
    ops_.activation_backward(context_, activation, d_out, in, d_in);
  }
  void CausalConvForward(const CausalConvArgs& args) override {
    ops_.causal_conv_forward(context_, args);
  }
  void CausalConvBackward(const CausalConvBackwardArgs& args) override {
    ops_.causal_conv_backward(context_, args);
  }
  void ScanForward(const ScanArgs& args) override { ops_.scan_forward(context_, args); }
  void ScanBackward(const ScanBackwardArgs& args) override { ops_.scan_backward(context_, args); }
  void GatedNormForward(const GatedNormArgs& args) override {
    ops_.gated_norm_forward(context_, args);
  }
  void GatedNormBackward(const GatedNormBackwardArgs& args) override {
    ops_.gated_norm_backward(context_, args);
  }
  void LmHead(const LmHeadArgs& args) override { ops_.lm_head(context_, args); }
  void AddInPlace(Matrix out, Matrix in) override { ops_.add_in_place(context_, out, in); }
  void Cast(Matrix from, Matrix to) override { ops_.cast(context_, from, to); }
  void Norm(const float* values, int64_t size, float* norm) override {
    ops_.norm(context_, values, size, norm);
  }
  void AdamW(const AdamWArgs& args) override { ops_.adamw(context_, args); }

 private:
  // A whole training state is copied while training stalls for it: with all threads, past the
  // cache. Little is copied to be used at once.
  void Copy(void* to, const void* from, int64_t bytes) {
    constexpr int64_t kTileBytes = int64_t{256} << 10;
    if (bytes <= kTileBytes) {
      std::memcpy(to, from, bytes);
      return;
    }
    cpu::ParallelFor(pool_, (bytes + kTileBytes - 1) / kTileBytes, [&](int64_t tile, int) {
      const int64_t first = tile * kTileBytes;
      BulkCopy(static_cast<char*>(to) + first, static_cast<const char*>(from) + first,
               static_cast<size_t>(std::min(kTileBytes, bytes - first)));
    });
  }

  cpu::ThreadPool pool_;
  cpu::Scratch scratch_;
  cpu::OpContext context_;
  cpu::Operands operands_;
  const cpu::OpTable& ops_;
  const std::string description_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> CreateCpuBackend(const BackendOptions& options) {
  if (options.threads < 0 || options.threads > kMaxThreads) {
    return absl::InvalidArgumentError(absl::StrCat(
        "threads is ", options.threads, "; it takes 0 (all processors) to ", kMaxThreads));
  }
  NIBBLE_ASSIGN_OR_RETURN(const Isa isa, cpu::ChooseIsa());
  int threads = options.threads;
  if (threads == 0) threads = std::max(1u, std::thread::hardware_concurrency());
  KeepFreedMemory();
  return std::make_unique<CpuBackend>(std::min(threads, kMaxThreads), isa);
}

}  // namespace nibble::kernels
