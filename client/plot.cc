#include "client/plot.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/text.h"

namespace nibble::client {
namespace {

constexpr int kLabelColumns = 8;
// A dense curve's share of columns that may lie above the plot.
constexpr double kCutShare = 0.03;
constexpr char kMarks[] = "*+o";

struct Range {
  double low = 0;
  double high = 0;
};

// Dots of a cell: 2 x 4 with braille, 1 x 1 in ASCII.
struct Grid {
  int dots_x;
  int dots_y;
};

// Mean of the points in each column of dots, NaN where there is none.
std::vector<double> ColumnMeans(const Series& series, const Range& x, int columns) {
  std::vector<double> sums(columns, 0);
  std::vector<int> counts(columns, 0);
  for (size_t i = 0; i < series.x.size(); ++i) {
    if (!std::isfinite(series.x[i]) || !std::isfinite(series.y[i])) continue;
    const double share = x.high > x.low ? (series.x[i] - x.low) / (x.high - x.low) : 0;
    const int column = std::clamp(static_cast<int>(share * (columns - 1) + 0.5), 0, columns - 1);
    sums[column] += series.y[i];
    ++counts[column];
  }
  for (int i = 0; i < columns; ++i) {
    sums[i] = counts[i] > 0 ? sums[i] / counts[i] : std::numeric_limits<double>::quiet_NaN();
  }
  return sums;
}

// Fills the columns between two points by straight lines.
void Interpolate(std::vector<double>* columns) {
  int last = -1;
  for (int i = 0; i < static_cast<int>(columns->size()); ++i) {
    if (std::isnan((*columns)[i])) continue;
    for (int k = last + 1; last >= 0 && k < i; ++k) {
      const double share = static_cast<double>(k - last) / (i - last);
      (*columns)[k] = (*columns)[last] + share * ((*columns)[i] - (*columns)[last]);
    }
    last = i;
  }
}

Range XRange(const std::vector<Series>& series) {
  Range range{std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity()};
  for (const Series& one : series) {
    for (size_t i = 0; i < one.x.size(); ++i) {
      if (!std::isfinite(one.x[i]) || !std::isfinite(one.y[i])) continue;
      range.low = std::min(range.low, one.x[i]);
      range.high = std::max(range.high, one.x[i]);
    }
  }
  return range;
}

Range YRange(const std::vector<std::vector<double>>& curves) {
  std::vector<double> values;
  for (const auto& curve : curves) {
    for (const double value : curve) {
      if (!std::isnan(value)) values.push_back(value);
    }
  }
  std::sort(values.begin(), values.end());
  const size_t cut = static_cast<size_t>(kCutShare * static_cast<double>(values.size()));
  Range range{values.front(), values[values.size() - 1 - cut]};
  if (range.high - range.low < 1e-9 * std::max(1.0, std::fabs(range.high))) {
    range.low -= 0.5;
    range.high += 0.5;
  }
  return range;
}

// What is drawn: for each cell the braille dots (bits of U+2800) or 1, and the series on top.
class Canvas {
 public:
  Canvas(int columns, int rows, const Grid& grid)
      : columns_(columns),
        rows_(rows),
        grid_(grid),
        dots_(columns * rows, 0),
        owner_(columns * rows, 0) {}

  void Dot(int x, int y, int series) {
    static constexpr int kBraille[2][4] = {{0x01, 0x02, 0x04, 0x40}, {0x08, 0x10, 0x20, 0x80}};
    const int cell = y / grid_.dots_y * columns_ + x / grid_.dots_x;
    if (owner_[cell] != series) dots_[cell] = 0;
    owner_[cell] = series;
    dots_[cell] |= grid_.dots_x == 1 ? 1 : kBraille[x % 2][y % 4];
  }

  // Draws `curve`, one value a column of dots; vertical strokes join its steps.
  void Draw(const std::vector<double>& curve, const Range& range, int series) {
    const int height = rows_ * grid_.dots_y;
    int before = -1;
    for (int x = 0; x < static_cast<int>(curve.size()); ++x) {
      if (std::isnan(curve[x])) {
        before = -1;
        continue;
      }
      const double share = (range.high - curve[x]) / (range.high - range.low);
      const int y = static_cast<int>(std::clamp(share, 0.0, 1.0) * (height - 1) + 0.5);
      const int from = before < 0 || before == y ? y : before < y ? before + 1 : before - 1;
      for (int k = std::min(from, y); k <= std::max(from, y); ++k) Dot(x, k, series);
      before = y;
    }
  }

  std::string Row(const Terminal& terminal, const std::vector<Series>& series, int row) const {
    std::string line;
    for (int column = 0; column < columns_;) {
      // One colour sequence for a run of cells of one series.
      const int owner = owner_[row * columns_ + column];
      std::string run;
      for (; column < columns_ && owner_[row * columns_ + column] == owner; ++column) {
        run += Cell(row * columns_ + column);
      }
      const bool blank = run.find_first_not_of(' ') == std::string::npos;
      line += blank ? run : Paint(terminal, series[owner].color, run);
    }
    return line;
  }

 private:
  std::string Cell(int cell) const {
    if (dots_[cell] == 0) return " ";
    if (grid_.dots_x == 1) return std::string(1, kMarks[owner_[cell] % 3]);
    // U+2800 + dots in UTF-8.
    return {'\xe2', static_cast<char>(0xa0 | dots_[cell] >> 6),
            static_cast<char>(0x80 | (dots_[cell] & 0x3f))};
  }

  int columns_;
  int rows_;
  Grid grid_;
  std::vector<int> dots_;
  std::vector<int> owner_;
};

std::string Tick(double value, double span) {
  const int decimals = span >= 50 ? 0 : span >= 5 ? 1 : span >= 0.5 ? 2 : span >= 0.05 ? 3 : 4;
  return absl::StrFormat("%.*f", decimals, value);
}

}  // namespace

std::string Plot(const Terminal& terminal, const std::vector<Series>& series, const PlotSize& size,
                 const std::string& x_label) {
  const Range x = XRange(series);
  const int columns = size.columns - kLabelColumns - 2;
  if (!(x.low <= x.high) || columns < 8 || size.rows < 2) return "";
  const bool braille = terminal.unicode && (series.size() == 1 || terminal.color);
  const Grid grid = braille ? Grid{2, 4} : Grid{1, 1};
  std::vector<std::vector<double>> curves;
  for (const Series& one : series) curves.push_back(ColumnMeans(one, x, columns * grid.dots_x));
  const Range y = YRange(curves);
  Canvas canvas(columns, size.rows, grid);
  for (size_t i = 0; i < curves.size(); ++i) {
    Interpolate(&curves[i]);
    canvas.Draw(curves[i], y, static_cast<int>(i));
  }
  std::string out;
  for (int row = 0; row < size.rows; ++row) {
    const bool labelled = row == 0 || row == size.rows - 1 || row == size.rows / 2;
    const double value = y.high - (y.high - y.low) * row / (size.rows - 1);
    absl::StrAppend(&out, PadLeft(labelled ? Tick(value, y.high - y.low) : "", kLabelColumns), " ",
                    terminal.unicode ? (labelled ? "┤" : "│") : "|",
                    canvas.Row(terminal, series, row), "\n");
  }
  std::string rule;
  for (int i = 0; i < columns; ++i) rule += terminal.unicode ? "─" : "-";
  absl::StrAppend(&out, std::string(kLabelColumns + 1, ' '), terminal.unicode ? "└" : "+", rule,
                  "\n");
  const std::string left = Short(x.low);
  const std::string right = absl::StrCat(Short(x.high), " ", x_label);
  absl::StrAppend(&out, std::string(kLabelColumns + 2, ' '), left, " ",
                  PadLeft(right, columns - DisplayWidth(left) - 1), "\n");
  if (series.size() > 1) {
    std::string legend(kLabelColumns + 2, ' ');
    for (size_t i = 0; i < series.size(); ++i) {
      const std::string mark = braille ? "⠶⠶" : std::string(1, kMarks[i % 3]);
      absl::StrAppend(&legend, i > 0 ? "   " : "", Paint(terminal, series[i].color, mark), " ",
                      series[i].label);
    }
    absl::StrAppend(&out, legend, "\n");
  }
  return out;
}

std::string ProgressBar(const Terminal& terminal, double share, int columns) {
  const double clamped = std::isfinite(share) ? std::clamp(share, 0.0, 1.0) : 0;
  const int full = static_cast<int>(clamped * columns);
  std::string done, rest;
  for (int i = 0; i < full; ++i) done += terminal.unicode ? "█" : "#";
  for (int i = full; i < columns; ++i) rest += terminal.unicode ? "░" : "-";
  return absl::StrCat(Paint(terminal, Color::kGreen, done), Paint(terminal, Color::kDim, rest));
}

}  // namespace nibble::client
