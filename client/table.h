// Left-aligned text tables with two spaces between the columns.
#ifndef CLIENT_TABLE_H_
#define CLIENT_TABLE_H_

#include <string>
#include <vector>

#include "client/terminal.h"

namespace nibble::client {

struct Column {
  std::string heading;
  bool right = false;  // numbers
};

class Table {
 public:
  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}
  // One cell a column. Cells are printed as they are: pass what comes from outside through Safe().
  void Add(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  bool empty() const { return rows_.empty(); }
  // Headings (dim on a terminal), then the rows; no space at the ends of lines.
  void Print(const Terminal& terminal) const;
  // Columns of the widest line.
  int Width() const;

 private:
  std::vector<int> Widths() const;
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

// "name   value" lines with aligned values; empty values are left out.
class Facts {
 public:
  void Add(std::string name, std::string value);
  void Print(const Terminal& terminal) const;

 private:
  std::vector<std::pair<std::string, std::string>> facts_;
};

}  // namespace nibble::client

#endif  // CLIENT_TABLE_H_
