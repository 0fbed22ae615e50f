// Small plots in text, with axes.
#ifndef CLIENT_PLOT_H_
#define CLIENT_PLOT_H_

#include <string>
#include <vector>

#include "client/terminal.h"

namespace nibble::client {

struct Series {
  std::string label;
  // Of the same length, x ascending. Points that are not finite are left out.
  std::vector<double> x;
  std::vector<double> y;
  Color color = Color::kCyan;
};

struct PlotSize {
  int columns = 72;  // of the whole plot, axis labels included
  int rows = 10;     // of the drawing area; two lines more below it
};

// Lines of the plot, each ended by a newline; empty where no series has a point. Dense series show
// the mean of each column. The y axis covers all but the highest 3 % of the columns, so that the
// fall from the initial loss does not flatten the rest; what is above is cut off at the upper edge.
// Braille dots on a Unicode terminal (where two series need colours to tell them apart), otherwise
// one ASCII mark a series: '*', '+', 'o'. `x_label` is written under the axis; a legend follows
// where there are several series.
std::string Plot(const Terminal& terminal, const std::vector<Series>& series, const PlotSize& size,
                 const std::string& x_label);

// "████████░░░░" of `columns` characters, or "####----".
std::string ProgressBar(const Terminal& terminal, double share, int columns);

}  // namespace nibble::client

#endif  // CLIENT_PLOT_H_
