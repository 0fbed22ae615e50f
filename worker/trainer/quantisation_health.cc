#include "worker/trainer/quantisation_health.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace nibble::trainer {
namespace {

using kernels::DType;
using kernels::Matrix;
using kernels::Operand;
using kernels::OperandRequest;
using kernels::QuantisationStats;

// Rows of the source that are measured together: whole blocks of every format and transform, in
// both orientations.
constexpr int64_t kBandRows = 128;
constexpr int64_t kSampleElements = 65536;

const char* NameOf(model::OperandKind kind) {
  switch (kind) {
    case model::OperandKind::kFpropActivation:
      return "fprop/activation";
    case model::OperandKind::kFpropWeight:
      return "fprop/weight";
    case model::OperandKind::kDgradGradient:
      return "dgrad/gradient";
    case model::OperandKind::kDgradWeight:
      return "dgrad/weight";
    case model::OperandKind::kWgradGradient:
      return "wgrad/gradient";
    case model::OperandKind::kWgradActivation:
      return "wgrad/activation";
  }
  return "";
}

// "attention.qkv" of "blocks.3.attention.qkv".
std::string ClassOf(const std::string& layer) {
  if (!absl::StartsWith(layer, "blocks.")) return layer;
  const size_t dot = layer.find('.', 7);
  return dot == std::string::npos ? layer : layer.substr(dot + 1);
}

}  // namespace

QuantisationHealth::QuantisationHealth(kernels::Backend& backend,
                                       const std::vector<std::string>& layers)
    : backend_(backend), layers_(layers), classes_(layers.size()) {
  const int64_t count = static_cast<int64_t>(layers.size());
  const int64_t measured = std::min<int64_t>(count, kMaxLayers);
  for (int64_t i = 0; i < measured; ++i) {
    const int64_t layer = measured == 1 ? 0 : i * (count - 1) / (measured - 1);
    classes_[layer] = ClassOf(layers[layer]);
  }
}

void QuantisationHealth::CopyToHost(void* host, const void* device, int64_t bytes) {
  backend_.CopyToHost(host, device, bytes);
  status_.Update(backend_.Wait(backend_.Record()));
}

QuantisationStats QuantisationHealth::Measure(const OperandRequest& request,
                                              const Operand& operand) {
  float decode = 1;
  if (operand.tensor_scale != nullptr) CopyToHost(&decode, operand.tensor_scale, sizeof(decode));
  const Matrix& source = request.source;
  const int64_t bands = (source.rows + kBandRows - 1) / kBandRows;
  const int64_t wanted = std::max<int64_t>(1, kSampleElements / (kBandRows * source.cols));
  const int64_t sampled = std::min(bands, wanted);
  QuantisationStats stats;
  std::vector<char> rows;
  for (int64_t i = 0; i < sampled; ++i) {
    const int64_t first = i * bands / sampled * kBandRows;
    OperandRequest piece = request;
    piece.source.rows = std::min(kBandRows, source.rows - first);
    rows.resize(piece.source.bytes());
    CopyToHost(rows.data(),
               static_cast<const char*>(source.data) + first * source.cols * SizeOf(source.dtype),
               piece.source.bytes());
    if (!status_.ok()) return stats;
    piece.source.data = rows.data();
    (request.transpose ? piece.key.first_col : piece.key.first_row) += first;
    stats.Add(kernels::MeasureQuantisation(piece, decode));
  }
  return stats;
}

void QuantisationHealth::OnOperand(int layer, model::OperandKind kind,
                                   const OperandRequest& request, const Operand& operand) {
  if (!IsMeasured(layer) || !kernels::IsQuantised(request.format.format)) return;
  const QuantisationStats stats = Measure(request, operand);
  operands_[absl::StrCat(layers_[layer], "/", NameOf(kind))].Add(stats);
  operands_[absl::StrCat(classes_[layer], "/", NameOf(kind))].Add(stats);
}

void* QuantisationHealth::Reserve(std::unique_ptr<kernels::DeviceBuffer>& buffer, int64_t bytes) {
  if (buffer == nullptr || buffer->bytes() < bytes) {
    auto allocated = backend_.Allocate(bytes);
    status_.Update(allocated.status());
    if (!allocated.ok()) return nullptr;
    buffer = *std::move(allocated);
  }
  return buffer->data();
}

void QuantisationHealth::AddMean(int layer, const std::string& what, double value) {
  for (const std::string& name : {layers_[layer], classes_[layer]}) {
    Mean& mean = means_[absl::StrCat(name, "/wgrad/", what)];
    mean.sum += value;
    mean.count += 1;
  }
}

void QuantisationHealth::OnWeightGradient(int layer, const OperandRequest& gradient,
                                          const Operand& gradient_operand,
                                          const OperandRequest& activation,
                                          const Operand& activation_operand) {
  if (!IsMeasured(layer) || (!kernels::IsQuantised(gradient.format.format) &&
                             !kernels::IsQuantised(activation.format.format))) {
    return;
  }
  const auto plain = [&](OperandRequest request) {
    request.format = kernels::OperandFormat();
    if (request.source.dtype == DType::kF32) request.format.format = kernels::Format::kF32;
    return request;
  };
  const OperandRequest d_y = plain(gradient), x = plain(activation);
  const auto bytes = [&](const OperandRequest& request) {
    return backend_.OperandBytes(request.format, request.source.dtype, request.source.rows,
                                 request.source.cols);
  };
  Matrix quantised{nullptr, DType::kF32, gradient_operand.rows, activation_operand.rows};
  Matrix exact = quantised;
  quantised.data = Reserve(quantised_, quantised.bytes());
  exact.data = Reserve(exact_, exact.bytes());
  void* const first = Reserve(first_, bytes(d_y));
  void* const second = Reserve(second_, bytes(x));
  if (!status_.ok()) return;
  backend_.Multiply(gradient_operand, activation_operand, quantised, /*accumulate=*/false);
  backend_.Multiply(backend_.PrepareOperand(d_y, first), backend_.PrepareOperand(x, second), exact,
                    /*accumulate=*/false);
  std::vector<float> g_q(quantised.size()), g(exact.size());
  CopyToHost(g_q.data(), quantised.data, quantised.bytes());
  CopyToHost(g.data(), exact.data, exact.bytes());
  double projection = 0, norm = 0, error = 0;
  for (size_t i = 0; i < g.size(); ++i) {
    projection += double{g_q[i]} * g[i];
    norm += double{g[i]} * g[i];
    error += (double{g_q[i]} - g[i]) * (double{g_q[i]} - g[i]);
  }
  if (norm == 0) return;
  AddMean(layer, "gain", projection / norm);
  AddMean(layer, "error", std::sqrt(error / norm));
}

absl::Status QuantisationHealth::Take(std::map<std::string, double>* values) {
  for (const auto& [name, stats] : operands_) {
    (*values)[absl::StrCat("health/", name, "/saturation")] = stats.SaturationShare();
    (*values)[absl::StrCat("health/", name, "/underflow")] = stats.UnderflowShare();
    (*values)[absl::StrCat("health/", name, "/spread")] = stats.ScaleSpread();
    (*values)[absl::StrCat("health/", name, "/error")] = stats.RelativeError();
  }
  for (const auto& [name, mean] : means_) {
    (*values)[absl::StrCat("health/", name)] = mean.sum / static_cast<double>(mean.count);
  }
  operands_.clear();
  means_.clear();
  const absl::Status status = status_;
  status_ = absl::OkStatus();
  return status;
}

}  // namespace nibble::trainer
