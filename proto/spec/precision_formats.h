// What number formats, recipes, products and operands are called in a policy, and what each format
// needs of a matrix. Internal to proto/spec.
#ifndef PROTO_SPEC_PRECISION_FORMATS_H_
#define PROTO_SPEC_PRECISION_FORMATS_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "nibble/v1/precision.pb.h"

namespace nibble::spec {

// In the order in which users should read them.
const std::vector<std::string>& RecipeNames();
// Of PrecisionOverride.format.
const std::vector<std::string>& FormatNames();

// NUMBER_FORMAT_UNSPECIFIED for an unknown name. Recipes' names are formats' too.
v1::NumberFormat FormatNamed(absl::string_view name);
std::string NameOf(v1::NumberFormat format);

bool IsQuantised(v1::NumberFormat format);  // anything but FP32 and BF16
bool IsFourBit(v1::NumberFormat format);    // E2M1 elements: NVFP4, MXFP4
// Elements that share a scale along the dot-product dimension; 0: no block scales.
int BlockSize(v1::NumberFormat format);
// What the dot-product dimension must be a multiple of: whole blocks, or 16 as products of 8-bit
// elements want; FP8 blocks of 128 may be partial at the edge.
int DimensionUnit(v1::NumberFormat format);

enum class Product { kFprop, kDgrad, kWgrad };
enum class Role { kActivation, kWeight, kGradient };

// One of the six operands of a linear layer.
struct OperandPlace {
  Product product;
  bool second;
  Role role;
};
// fprop.activation, fprop.weight, dgrad.gradient, dgrad.weight, wgrad.gradient, wgrad.activation.
const std::vector<OperandPlace>& OperandPlaces();
std::string NameOf(Product product);
std::string NameOf(Role role);
std::string NameOf(const OperandPlace& place);  // "dgrad.gradient"
std::vector<std::string> ProductNames();
std::vector<std::string> RoleNames();
std::vector<std::string> OperandPlaceNames();

v1::ProductPrecision* MutableProduct(Product product, v1::LinearPrecision* row);
v1::OperandPrecision* MutableOperand(const OperandPlace& place, v1::LinearPrecision* row);

// `pattern` with * for any characters and ? for one. Time is bounded by the product of the lengths.
bool MatchesGlob(absl::string_view pattern, absl::string_view text);

}  // namespace nibble::spec

#endif  // PROTO_SPEC_PRECISION_FORMATS_H_
