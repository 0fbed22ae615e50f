// What quantising does to the values of an operand. Host only: a trainer copies a sample of an
// operand's source off its device and measures it here, whatever the device.
#ifndef KERNELS_QUANTISATION_STATS_H_
#define KERNELS_QUANTISATION_STATS_H_

#include <cstdint>
#include <limits>

#include "kernels/op_args.h"

namespace nibble::kernels {

// Sums over any number of pieces. "Values" are what is quantised, after any Hadamard transform.
struct QuantisationStats {
  int64_t elements = 0;
  int64_t saturated = 0;    // scaled magnitude above the largest element
  int64_t underflowed = 0;  // not zero, became zero
  double error_squares = 0;
  double value_squares = 0;
  float smallest_scale = std::numeric_limits<float>::infinity();  // of blocks; zeros left out
  float largest_scale = 0;

  void Add(const QuantisationStats& other);
  double SaturationShare() const;
  double UnderflowShare() const;
  // Root of the summed squares of the errors, relative to that of the values; 0 for all zeros.
  double RelativeError() const;
  // log2 of the largest block scale over the smallest; 0 without block scales.
  double ScaleSpread() const;
};

// Of `request`, whose source [R, C] is a piece of an operand's on the host: whole blocks of it.
// `decode` is the whole operand's tensor scale (*Operand::tensor_scale). Its inverse is taken for
// the encoding scale, whose last place it may miss. REQUIRES: a quantised format.
QuantisationStats MeasureQuantisation(const OperandRequest& request, float decode);

}  // namespace nibble::kernels

#endif  // KERNELS_QUANTISATION_STATS_H_
