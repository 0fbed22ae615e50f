#include "proto/spec/precision_formats.h"

#include "absl/strings/str_cat.h"

namespace nibble::spec {
namespace {

struct FormatRow {
  const char* name;
  v1::NumberFormat format;
  int block_size;
  int dimension_unit;
};

const FormatRow kFormats[] = {
    {"fp32", v1::FP32, 0, 1},
    {"bf16", v1::BF16, 0, 1},
    {"fp8", v1::FP8_E4M3, 0, 16},
    {"fp8_e5m2", v1::FP8_E5M2, 0, 16},
    {"fp8_blockwise", v1::FP8_BLOCKWISE, 128, 16},
    {"mxfp8", v1::MXFP8, 32, 32},
    {"mxfp4", v1::MXFP4, 32, 32},
    {"nvfp4", v1::NVFP4, 16, 16},
};

const FormatRow* RowOf(v1::NumberFormat format) {
  for (const FormatRow& row : kFormats) {
    if (row.format == format) return &row;
  }
  return nullptr;
}

}  // namespace

const std::vector<std::string>& RecipeNames() {
  static const auto* const names = new std::vector<std::string>{
      "fp32", "bf16", "fp8", "fp8_blockwise", "mxfp8", "mxfp4", "nvfp4"};
  return *names;
}

const std::vector<std::string>& FormatNames() {
  static const auto* const names = [] {
    auto* list = new std::vector<std::string>;
    for (const FormatRow& row : kFormats) list->push_back(row.name);
    return list;
  }();
  return *names;
}

v1::NumberFormat FormatNamed(absl::string_view name) {
  for (const FormatRow& row : kFormats) {
    if (name == row.name) return row.format;
  }
  return v1::NUMBER_FORMAT_UNSPECIFIED;
}

std::string NameOf(v1::NumberFormat format) {
  const FormatRow* row = RowOf(format);
  return row == nullptr ? "unknown" : row->name;
}

bool IsQuantised(v1::NumberFormat format) { return format != v1::FP32 && format != v1::BF16; }
bool IsFourBit(v1::NumberFormat format) { return format == v1::NVFP4 || format == v1::MXFP4; }

int BlockSize(v1::NumberFormat format) {
  const FormatRow* row = RowOf(format);
  return row == nullptr ? 0 : row->block_size;
}

int DimensionUnit(v1::NumberFormat format) {
  const FormatRow* row = RowOf(format);
  return row == nullptr ? 1 : row->dimension_unit;
}

const std::vector<OperandPlace>& OperandPlaces() {
  static const auto* const places = new std::vector<OperandPlace>{
      {Product::kFprop, false, Role::kActivation}, {Product::kFprop, true, Role::kWeight},
      {Product::kDgrad, false, Role::kGradient},   {Product::kDgrad, true, Role::kWeight},
      {Product::kWgrad, false, Role::kGradient},   {Product::kWgrad, true, Role::kActivation}};
  return *places;
}

std::string NameOf(Product product) {
  return product == Product::kFprop ? "fprop" : product == Product::kDgrad ? "dgrad" : "wgrad";
}

std::string NameOf(Role role) {
  return role == Role::kActivation ? "activation" : role == Role::kWeight ? "weight" : "gradient";
}

std::string NameOf(const OperandPlace& place) {
  return absl::StrCat(NameOf(place.product), ".", NameOf(place.role));
}

std::vector<std::string> ProductNames() { return {"fprop", "dgrad", "wgrad"}; }
std::vector<std::string> RoleNames() { return {"activation", "weight", "gradient"}; }

std::vector<std::string> OperandPlaceNames() {
  std::vector<std::string> names;
  for (const OperandPlace& place : OperandPlaces()) names.push_back(NameOf(place));
  return names;
}

v1::ProductPrecision* MutableProduct(Product product, v1::LinearPrecision* row) {
  return product == Product::kFprop   ? row->mutable_fprop()
         : product == Product::kDgrad ? row->mutable_dgrad()
                                      : row->mutable_wgrad();
}

v1::OperandPrecision* MutableOperand(const OperandPlace& place, v1::LinearPrecision* row) {
  v1::ProductPrecision* product = MutableProduct(place.product, row);
  return place.second ? product->mutable_second() : product->mutable_first();
}

bool MatchesGlob(absl::string_view pattern, absl::string_view text) {
  size_t p = 0, t = 0;
  // Where the newest * stands, and how much of the text it takes so far.
  size_t star = absl::string_view::npos, taken = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      taken = t;
    } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == text[t])) {
      ++p;
      ++t;
    } else if (star != absl::string_view::npos) {
      p = star + 1;
      t = ++taken;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

}  // namespace nibble::spec
