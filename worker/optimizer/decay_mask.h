// Which parameters weight decay applies to.
#ifndef WORKER_OPTIMIZER_DECAY_MASK_H_
#define WORKER_OPTIMIZER_DECAY_MASK_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/model/parameter_table.h"
#include "worker/optimizer/optimizer_config.h"

namespace nibble::optimizer {

// Elements [first, first + size) of the flat buffers.
struct DecayRange {
  int64_t first = 0;
  int64_t size = 0;
  bool decay = false;

  bool operator==(const DecayRange&) const = default;
};

// The flat buffers cut where decay begins or ends: a parameter decays where Parameter::decay() says
// so or a pattern of decay_include matches its name, unless one of decay_exclude does. Gaps go with
// the parameter before them. INVALID_ARGUMENT: a pattern matches no parameter.
absl::StatusOr<std::vector<DecayRange>> DecayRanges(const AdamWConfig& config,
                                                    const model::ParameterTable& table);

}  // namespace nibble::optimizer

#endif  // WORKER_OPTIMIZER_DECAY_MASK_H_
