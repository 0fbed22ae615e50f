#include "kernels/reference/reference_backend.h"

#include "kernels/host_backend.h"
#include "kernels/reference/operand.h"
#include "kernels/reference/ops.h"

namespace nibble::kernels {
namespace {

class ReferenceBackend : public HostBackend {
 public:
  absl::string_view name() const override { return "reference"; }
  absl::string_view description() const override { return "scalar, FP64 accumulation, 1 thread"; }

  int64_t OperandBytes(const OperandFormat& format, DType source, int64_t rows,
                       int64_t cols) const override {
    return reference::OperandBytes(format, source, rows, cols);
  }
  Operand PrepareOperand(const OperandRequest& request, void* storage) override {
    return reference::PrepareOperand(request, storage);
  }
  bool CanTranspose(const Operand& operand) const override {
    return SurvivesTransposition(operand.format);
  }
  Operand Transposed(const Operand& operand) const override {
    return reference::Transposed(operand);
  }
  void Multiply(const Operand& a, const Operand& b, Matrix c, bool accumulate) override {
    reference::Multiply(a, b, c, accumulate);
  }

  void EmbeddingForward(const int32_t* tokens, Matrix table, Matrix out) override {
    reference::EmbeddingForward(tokens, table, out);
  }
  void EmbeddingBackward(const int32_t* tokens, Matrix d_out, Matrix d_table) override {
    reference::EmbeddingBackward(tokens, d_out, d_table);
  }
  void RmsNormForward(const RmsNormArgs& args) override { reference::RmsNormForward(args); }
  void RmsNormBackward(const RmsNormBackwardArgs& args) override {
    reference::RmsNormBackward(args);
  }
  void Rope(const RopeArgs& args) override { reference::Rope(args); }
  void AttentionForward(const AttentionArgs& args) override { reference::AttentionForward(args); }
  void AttentionBackward(const AttentionBackwardArgs& args) override {
    reference::AttentionBackward(args);
  }
  void SwiGluForward(Matrix gate_up, Matrix out) override {
    reference::SwiGluForward(gate_up, out);
  }
  void SwiGluBackward(Matrix d_out, Matrix gate_up, Matrix d_gate_up) override {
    reference::SwiGluBackward(d_out, gate_up, d_gate_up);
  }
  void LayerNormForward(const LayerNormArgs& args) override { reference::LayerNormForward(args); }
  void LayerNormBackward(const LayerNormBackwardArgs& args) override {
    reference::LayerNormBackward(args);
  }
  void AddRows(Matrix out, const float* table, int64_t period) override {
    reference::AddRows(out, table, period);
  }
  void AddRowsBackward(Matrix d_out, float* d_table, int64_t period) override {
    reference::AddRowsBackward(d_out, d_table, period);
  }
  void ActivationForward(Activation activation, Matrix in, Matrix out) override {
    reference::ActivationForward(activation, in, out);
  }
  void ActivationBackward(Activation activation, Matrix d_out, Matrix in, Matrix d_in) override {
    reference::ActivationBackward(activation, d_out, in, d_in);
  }
  void CausalConvForward(const CausalConvArgs& args) override {
    reference::CausalConvForward(args);
  }
  void CausalConvBackward(const CausalConvBackwardArgs& args) override {
    reference::CausalConvBackward(args);
  }
  void ScanForward(const ScanArgs& args) override { reference::ScanForward(args); }
  void ScanBackward(const ScanBackwardArgs& args) override { reference::ScanBackward(args); }
  void GatedNormForward(const GatedNormArgs& args) override { reference::GatedNormForward(args); }
  void GatedNormBackward(const GatedNormBackwardArgs& args) override {
    reference::GatedNormBackward(args);
  }
  void LmHead(const LmHeadArgs& args) override { reference::LmHead(args); }
  void AddInPlace(Matrix out, Matrix in) override { reference::AddInPlace(out, in); }
  void Cast(Matrix from, Matrix to) override { reference::Cast(from, to); }
  void Norm(const float* values, int64_t size, float* norm) override {
    reference::Norm(values, size, norm);
  }
  void AdamW(const AdamWArgs& args) override { reference::AdamW(args); }
};

}  // namespace

std::unique_ptr<Backend> CreateReferenceBackend() { return std::make_unique<ReferenceBackend>(); }

}  // namespace nibble::kernels
