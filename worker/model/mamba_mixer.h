// The Mamba-2 mixer (Dao & Gu, arXiv 2405.21060), as Nemotron-H has it: in-projection, causal
// convolution, scan, gated norm, out-projection. kernels/mamba_args.h has the formulas.
#ifndef WORKER_MODEL_MAMBA_MIXER_H_
#define WORKER_MODEL_MAMBA_MIXER_H_

#include "kernels/backend.h"
#include "worker/model/parts.h"

namespace nibble::model {

class MambaMixer : public Mixer {
 public:
  MambaMixer(PartsContext& context, Projection in, Projection out,
             const MambaParameters& parameters)
      : Mixer(context, std::move(in), std::move(out)), parameters_(parameters) {}
  void PlanKept(Arena& arena) override;
  void PlanScratch(Arena& arena) override;
  void Forward(const kernels::Matrix& x, const kernels::Matrix& y,
               const TokenRange& tokens) override;
  void Backward(const kernels::Matrix& d_y, const kernels::Matrix& x, const kernels::Matrix& d_x,
                const TokenRange& tokens) override;

 private:
  kernels::MambaShape shape() const;

  const MambaParameters parameters_;
  kernels::Matrix projected_;        // [N, projected_width]
  kernels::Matrix xbc_;              // [N, channels]
  kernels::Matrix scanned_;          // [N, inner]
  kernels::Matrix gated_;            // [N, inner]
  float* reciprocal_rms_ = nullptr;  // [N, groups]
  kernels::Matrix d_projected_, d_xbc_, d_scanned_, d_gated_;
};

}  // namespace nibble::model

#endif  // WORKER_MODEL_MAMBA_MIXER_H_
