#include "kernels/quantisation_stats.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/check.h"
#include "kernels/nvfp4/e2m1.h"
#include "kernels/nvfp4/e4m3.h"
#include "kernels/nvfp4/e5m2.h"
#include "kernels/reference/quantize.h"

namespace nibble::kernels {
namespace {

float LargestElement(Format format) {
  if (HasE2m1Elements(format)) return nvfp4::kE2m1Max;
  return format == Format::kFp8E5m2 ? nvfp4::kE5m2Max : nvfp4::kE4m3Max;
}

// `scale`: of the value's block and tensor together.
void AddValue(float x, float element, float scale, float largest, QuantisationStats* stats) {
  stats->elements += 1;
  if (std::fabs(x) > largest * scale && scale > 0) stats->saturated += 1;
  if (x != 0 && element == 0) stats->underflowed += 1;
  const double error = double{element} * scale - x;
  stats->error_squares += error * error;
  stats->value_squares += double{x} * x;
}

void AddScale(float scale, QuantisationStats* stats) {
  if (!(scale > 0)) return;
  stats->smallest_scale = std::min(stats->smallest_scale, scale);
  stats->largest_scale = std::max(stats->largest_scale, scale);
}

QuantisationStats MeasureNvfp4(const OperandRequest& request, float decode) {
  const float encode = 1.0f / decode;
  const nvfp4::TensorScale tensor = {encode, decode, encode * (1.0f / 6.0f), encode * 0.25f};
  const reference::QuantizedMatrix quantised = reference::Quantize(request, &tensor);
  const std::vector<float> x = reference::QuantizerInput(request);
  QuantisationStats stats;
  for (size_t i = 0; i < x.size(); ++i) {
    const float scale = nvfp4::E4m3ToF32(quantised.scales[i / 16]);
    if (i % 16 == 0) AddScale(scale, &stats);
    AddValue(x[i], nvfp4::E2m1ToF32(quantised.codes[i]), scale * decode, nvfp4::kE2m1Max, &stats);
  }
  return stats;
}

}  // namespace

QuantisationStats MeasureQuantisation(const OperandRequest& request, float decode) {
  const Format format = request.format.format;
  NIBBLE_CHECK(IsQuantised(format));
  if (format == Format::kNvfp4) return MeasureNvfp4(request, decode);
  const nvfp4::BlockScale tensor = {1.0f / decode, decode};
  const reference::ScaledMatrix quantised = reference::QuantizeScaled(request, &tensor);
  const std::vector<float> x = reference::QuantizerInput(request);
  QuantisationStats stats;
  if (BlockSizeOf(format) != 0) {
    for (float scale : quantised.scales) AddScale(scale, &stats);
  }
  for (int64_t r = 0; r < quantised.rows; ++r) {
    for (int64_t c = 0; c < quantised.cols; ++c) {
      const int64_t at = r * quantised.cols + c;
      AddValue(x[at], quantised.elements[at], quantised.ScaleAt(r, c) * quantised.decode,
               LargestElement(format), &stats);
    }
  }
  return stats;
}

void QuantisationStats::Add(const QuantisationStats& other) {
  elements += other.elements;
  saturated += other.saturated;
  underflowed += other.underflowed;
  error_squares += other.error_squares;
  value_squares += other.value_squares;
  smallest_scale = std::min(smallest_scale, other.smallest_scale);
  largest_scale = std::max(largest_scale, other.largest_scale);
}

double QuantisationStats::SaturationShare() const {
  return elements == 0 ? 0 : static_cast<double>(saturated) / static_cast<double>(elements);
}
double QuantisationStats::UnderflowShare() const {
  return elements == 0 ? 0 : static_cast<double>(underflowed) / static_cast<double>(elements);
}
double QuantisationStats::RelativeError() const {
  return value_squares == 0 ? 0 : std::sqrt(error_squares / value_squares);
}
double QuantisationStats::ScaleSpread() const {
  return largest_scale == 0 ? 0 : std::log2(double{largest_scale} / smallest_scale);
}

}  // namespace nibble::kernels
