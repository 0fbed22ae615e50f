// Which formats the products of each linear layer have at each step of a run: the only place that
// answers (layer, product, step). What the formats of a recipe are was resolved before
// (proto/spec); nothing here knows a recipe's name.
#ifndef WORKER_MODEL_PRECISION_POLICY_H_
#define WORKER_MODEL_PRECISION_POLICY_H_

#include <algorithm>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "base/check.h"
#include "kernels/operand_format.h"

namespace nibble::model {

// Formats of all linear layers, in forward order, from a step (counted from 0) on.
struct PrecisionPhase {
  int64_t first_step = 0;
  std::vector<kernels::LinearFormat> linears;
};

// A layer that computes in another format than its phase says, in these steps (counted from 0).
struct RaisedLayer {
  int layer = 0;
  int64_t first_step = 0;
  int64_t last_step = 0;
};

class PrecisionPolicy {
 public:
  PrecisionPolicy() : phases_(1) {}
  // One phase.
  explicit PrecisionPolicy(std::vector<kernels::LinearFormat> linears) {
    phases_.push_back({0, std::move(linears)});
  }
  // REQUIRES: the first phase starts at 0, the others later and later; all have as many layers.
  explicit PrecisionPolicy(std::vector<PrecisionPhase> phases) : phases_(std::move(phases)) {
    NIBBLE_CHECK(!phases_.empty() && phases_[0].first_step == 0);
    for (size_t i = 1; i < phases_.size(); ++i) {
      NIBBLE_CHECK(phases_[i].first_step > phases_[i - 1].first_step);
      NIBBLE_CHECK(phases_[i].linears.size() == phases_[0].linears.size());
    }
  }

  int64_t layers() const { return static_cast<int64_t>(phases_[0].linears.size()); }
  const kernels::LinearFormat& FormatsOf(int layer, int64_t step) const {
    for (const RaisedLayer& raised : raised_) {
      if (raised.layer == layer && raised.first_step <= step && step <= raised.last_step) {
        return *raised_format_;
      }
    }
    size_t phase = phases_.size() - 1;
    while (step < phases_[phase].first_step) --phase;
    return phases_[phase].linears[layer];
  }
  // Any layer may be raised to `format` for some steps: Any and Largest count it from now on.
  void AllowRaising(const kernels::LinearFormat& format) { raised_format_ = format; }
  // These are, and no others. REQUIRES: AllowRaising.
  void SetRaised(std::vector<RaisedLayer> raised) {
    NIBBLE_CHECK(raised.empty() || raised_format_.has_value());
    raised_ = std::move(raised);
  }
  // Whether some layer has, at some step, formats that satisfy `condition`.
  template <class Condition>
  bool Any(const Condition& condition) const {
    if (raised_format_.has_value() && condition(*raised_format_)) return true;
    return std::any_of(phases_.begin(), phases_.end(), [&](const PrecisionPhase& phase) {
      return std::any_of(phase.linears.begin(), phase.linears.end(), condition);
    });
  }
  // The largest value of measure(formats) over a layer's phases.
  template <class Measure>
  int64_t Largest(int layer, const Measure& measure) const {
    int64_t largest = raised_format_.has_value() ? measure(*raised_format_) : 0;
    for (const PrecisionPhase& phase : phases_) {
      largest = std::max<int64_t>(largest, measure(phase.linears[layer]));
    }
    return largest;
  }

 private:
  std::vector<PrecisionPhase> phases_;
  std::optional<kernels::LinearFormat> raised_format_;
  std::vector<RaisedLayer> raised_;
};

}  // namespace nibble::model

#endif  // WORKER_MODEL_PRECISION_POLICY_H_
