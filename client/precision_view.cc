#include "client/precision_view.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "client/table.h"
#include "client/text.h"

namespace nibble::client {
namespace {

// Operands of a product are named as in docs/numerics.md.
struct ProductView {
  const char* name;
  const char* first;
  const char* second;
  const v1::ProductPrecision& (v1::LinearPrecision::*precision)() const;
};

const ProductView kProducts[] = {
    {"fprop", "X", "W", &v1::LinearPrecision::fprop},
    {"dgrad", "dY", "W^T", &v1::LinearPrecision::dgrad},
    {"wgrad", "dY^T", "X^T", &v1::LinearPrecision::wgrad},
};

std::string ProductText(const Terminal& terminal, const ProductView& view,
                        const v1::LinearPrecision& linear) {
  const v1::ProductPrecision& product = (linear.*view.precision)();
  return absl::StrCat(view.first, " ", OperandText(product.first()),
                      terminal.unicode ? " · " : " | ", view.second, " ",
                      OperandText(product.second()));
}

std::string Dimensions(const Terminal& terminal, const v1::LinearPrecision& linear) {
  return absl::StrCat(linear.in_features(), terminal.unicode ? "→" : "->", linear.out_features());
}

using LinearRows = google::protobuf::RepeatedPtrField<v1::LinearPrecision>;

bool HasNotes(const LinearRows& rows) {
  return std::any_of(rows.begin(), rows.end(),
                     [](const auto& linear) { return !linear.note().empty(); });
}

Table Rows(const Terminal& terminal, const LinearRows& linears) {
  const bool notes = HasNotes(linears);
  std::vector<Column> columns = {{"LAYER"}, {"IN, OUT"}, {"FPROP"}, {"DGRAD"}, {"WGRAD"}};
  if (notes) columns.push_back({"NOTE"});
  Table table(columns);
  for (const v1::LinearPrecision& linear : linears) {
    std::vector<std::string> cells = {Safe(linear.layer()), Dimensions(terminal, linear)};
    for (const ProductView& product : kProducts) {
      cells.push_back(ProductText(terminal, product, linear));
    }
    if (notes) cells.push_back(Safe(linear.note()));
    table.Add(std::move(cells));
  }
  return table;
}

Table Lines(const Terminal& terminal, const LinearRows& linears) {
  Table table({{"LAYER"}, {"IN, OUT"}, {"PRODUCT"}, {"OPERANDS"}});
  for (const v1::LinearPrecision& linear : linears) {
    // The note stands under the layer's name, in its second line.
    const std::string names[] = {
        Safe(linear.layer()),
        linear.note().empty() ? "" : absl::StrCat("  (", Safe(linear.note()), ")"), ""};
    for (int i = 0; i < 3; ++i) {
      table.Add({names[i], i == 0 ? Dimensions(terminal, linear) : "", kProducts[i].name,
                 ProductText(terminal, kProducts[i], linear)});
    }
  }
  return table;
}

void PrintRows(const Terminal& terminal, const LinearRows& linears, bool rows_only) {
  const Table rows = Rows(terminal, linears);
  if (rows_only || !terminal.out_is_terminal || rows.Width() <= terminal.columns) {
    rows.Print(terminal);
  } else {
    Lines(terminal, linears).Print(terminal);
  }
}

// Elements along the dot-product dimension that share a scale.
int BlockSize(v1::NumberFormat format) {
  switch (format) {
    case v1::NVFP4:
      return 16;
    case v1::MXFP4:
    case v1::MXFP8:
      return 32;
    default:
      return 128;
  }
}

}  // namespace

std::string OperandText(const v1::OperandPrecision& operand) {
  std::string text = absl::AsciiStrToLower(v1::NumberFormat_Name(operand.format()));
  if (operand.block_rows() > 0) {
    absl::StrAppend(&text, " ", operand.block_rows(), "x", BlockSize(operand.format()));
  }
  if (operand.hadamard_size() > 0) {
    absl::StrAppend(&text, " hadamard-", operand.hadamard_size());
    if (operand.hadamard_signs() == v1::HADAMARD_SIGNS_NONE) text += " without signs";
    if (operand.hadamard_signs() == v1::HADAMARD_SIGNS_DRAWN) text += " drawn";
    if (operand.hadamard_signs() == v1::HADAMARD_SIGNS_REDRAWN) text += " redrawn";
  }
  if (operand.block_target() != v1::BLOCK_TARGET_SIX) text += " four-over-six";
  if (operand.format() == v1::NVFP4 || operand.format() == v1::MXFP4) {
    absl::StrAppend(&text, " ", absl::AsciiStrToLower(v1::Rounding_Name(operand.rounding())));
  }
  return text;
}

void PrintPrecision(const Terminal& terminal, const v1::ResolvedPrecision& precision,
                    bool rows_only) {
  PrintRows(terminal, precision.linears(), rows_only);
  for (const v1::PrecisionPhase& later : precision.later()) {
    *terminal.out << "\nfrom step " << later.first_step() + 1 << " on:\n\n";
    LinearRows rows = later.linears();
    for (v1::LinearPrecision& row : rows) {
      // A later row says which layer changes, not again how large it is.
      if (row.index() < 0 || row.index() >= precision.linears_size()) continue;
      row.set_in_features(precision.linears(row.index()).in_features());
      row.set_out_features(precision.linears(row.index()).out_features());
    }
    PrintRows(terminal, rows, rows_only);
  }
}

}  // namespace nibble::client
