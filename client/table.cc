#include "client/table.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace nibble::client {
namespace {

std::string Line(const std::vector<Column>& columns, const std::vector<int>& widths,
                 const std::vector<std::string>& cells) {
  std::string line;
  for (size_t i = 0; i < columns.size(); ++i) {
    if (i > 0) line += "  ";
    line += columns[i].right ? PadLeft(cells[i], widths[i]) : PadRight(cells[i], widths[i]);
  }
  absl::StripTrailingAsciiWhitespace(&line);
  return line;
}

}  // namespace

std::vector<int> Table::Widths() const {
  std::vector<int> widths;
  for (size_t i = 0; i < columns_.size(); ++i) {
    int width = DisplayWidth(columns_[i].heading);
    for (const auto& row : rows_) width = std::max(width, DisplayWidth(row[i]));
    widths.push_back(width);
  }
  return widths;
}

int Table::Width() const {
  int total = -2;
  for (const int width : Widths()) total += width + 2;
  return total;
}

void Table::Print(const Terminal& terminal) const {
  const std::vector<int> widths = Widths();
  std::vector<std::string> headings;
  for (const Column& column : columns_) headings.push_back(column.heading);
  *terminal.out << Paint(terminal, Color::kDim, Line(columns_, widths, headings)) << "\n";
  for (const auto& row : rows_) *terminal.out << Line(columns_, widths, row) << "\n";
}

void Facts::Add(std::string name, std::string value) {
  if (!value.empty()) facts_.emplace_back(std::move(name), std::move(value));
}

void Facts::Print(const Terminal& terminal) const {
  int width = 0;
  for (const auto& fact : facts_) width = std::max(width, DisplayWidth(fact.first));
  for (const auto& [name, value] : facts_) {
    *terminal.out << Paint(terminal, Color::kDim, PadRight(name, width)) << "  " << value << "\n";
  }
}

}  // namespace nibble::client
