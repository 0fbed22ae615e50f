// Quantisation health of a training step: what quantising does to each operand of each linear
// layer, and how true the weight gradient stays (docs/numerics.md). Only looks: the training has
// the same bits with and without it.
#ifndef WORKER_TRAINER_QUANTISATION_HEALTH_H_
#define WORKER_TRAINER_QUANTISATION_HEALTH_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kernels/backend.h"
#include "kernels/quantisation_stats.h"
#include "worker/model/linear_probe.h"

namespace nibble::trainer {

// Listens to one micro-batch. Allocates, on the host and, the first time, on the device.
class QuantisationHealth : public model::LinearProbe {
 public:
  // Layers measured: of a model with more, the first, the last and what lies evenly between them.
  static constexpr int kMaxLayers = 32;

  // `layers`: names in forward order ("blocks.0.attention.qkv"). `backend` outlives it.
  QuantisationHealth(kernels::Backend& backend, const std::vector<std::string>& layers);

  void OnOperand(int layer, model::OperandKind kind, const kernels::OperandRequest& request,
                 const kernels::Operand& operand) override;
  void OnWeightGradient(int layer, const kernels::OperandRequest& gradient,
                        const kernels::Operand& gradient_operand,
                        const kernels::OperandRequest& activation,
                        const kernels::Operand& activation_operand) override;

  // What was heard since the last call, by name; the first device error, if any. Of every quantised
  // operand, of a sample of about 65,536 elements in whole blocks:
  //   health/<layer>/<product>/<operand>/saturation   share of elements clipped
  //   health/<layer>/<product>/<operand>/underflow    share of elements that became zero
  //   health/<layer>/<product>/<operand>/spread       log2(largest / smallest block scale)
  //   health/<layer>/<product>/<operand>/error        |quantised - x| / |x|
  // and of the whole weight gradient g_q against the unquantised g of the same dY and X:
  //   health/<layer>/wgrad/gain    <g_q, g> / <g, g>
  //   health/<layer>/wgrad/error   |g_q - g| / |g|
  // <layer> is a layer's name, or a class of layers ("attention.qkv") for all of its measured ones
  // together (gains and gradient errors: their mean).
  absl::Status Take(std::map<std::string, double>* values);

 private:
  struct Mean {
    double sum = 0;
    int64_t count = 0;
  };
  bool IsMeasured(int layer) const { return !classes_[layer].empty(); }
  void CopyToHost(void* host, const void* device, int64_t bytes);
  kernels::QuantisationStats Measure(const kernels::OperandRequest& request,
                                     const kernels::Operand& operand);
  void* Reserve(std::unique_ptr<kernels::DeviceBuffer>& buffer, int64_t bytes);
  void AddMean(int layer, const std::string& what, double value);

  kernels::Backend& backend_;
  const std::vector<std::string> layers_;
  std::vector<std::string> classes_;  // by layer; empty for those that are not measured
  absl::Status status_;
  std::map<std::string, kernels::QuantisationStats> operands_;
  std::map<std::string, Mean> means_;
  std::unique_ptr<kernels::DeviceBuffer> quantised_, exact_, first_, second_;
};

}  // namespace nibble::trainer

#endif  // WORKER_TRAINER_QUANTISATION_HEALTH_H_
