#include "worker/optimizer/subspace.h"

#include <cmath>

#include "base/check.h"
#include "worker/model/weights.h"

namespace nibble::optimizer {
namespace {

// Relative length of what is left of a column below which it counts as spanned: far above FP32's
// rounding of the products that made it.
constexpr double kSpanned = 1e-6;

double Norm(int64_t rows, const std::vector<double>& v) {
  double sum = 0;
  for (int64_t i = 0; i < rows; ++i) sum += v[i] * v[i];
  return std::sqrt(sum);
}

// Takes the first `count` columns of `basis`, which lie one after the other, out of v.
void Project(const std::vector<double>& basis, int64_t rows, int64_t count,
             std::vector<double>* v) {
  for (int pass = 0; pass < 2; ++pass) {
    for (int64_t j = 0; j < count; ++j) {
      const double* column = basis.data() + j * rows;
      double dot = 0;
      for (int64_t i = 0; i < rows; ++i) dot += column[i] * (*v)[i];
      for (int64_t i = 0; i < rows; ++i) (*v)[i] -= dot * column[i];
    }
  }
}

// A direction outside the first `count` < rows columns of `basis`. One of the unit vectors has a
// squared distance of at least (rows - count) / rows from their span.
void FillUnspanned(const std::vector<double>& basis, int64_t rows, int64_t count,
                   std::vector<double>* v) {
  const double enough = 0.5 * static_cast<double>(rows - count) / static_cast<double>(rows);
  for (int64_t unit = 0; unit < rows; ++unit) {
    v->assign(rows, 0.0);
    (*v)[unit] = 1;
    Project(basis, rows, count, v);
    const double norm = Norm(rows, *v);
    if (norm * norm >= enough) return;
  }
}

}  // namespace

void Orthonormalise(int64_t rows, int64_t cols, double* matrix) {
  NIBBLE_CHECK(cols <= rows);
  std::vector<double> basis(rows * cols);  // by column
  std::vector<double> v(rows);
  for (int64_t j = 0; j < cols; ++j) {
    for (int64_t i = 0; i < rows; ++i) v[i] = matrix[i * cols + j];
    const double before = Norm(rows, v);
    Project(basis, rows, j, &v);
    // Also where a value is not a number.
    if (!(Norm(rows, v) > kSpanned * before)) FillUnspanned(basis, rows, j, &v);
    const double norm = Norm(rows, v);
    for (int64_t i = 0; i < rows; ++i) basis[j * rows + i] = v[i] / norm;
  }
  for (int64_t j = 0; j < cols; ++j) {
    for (int64_t i = 0; i < rows; ++i) matrix[i * cols + j] = basis[j * rows + i];
  }
}

std::vector<double> StartingSubspace(uint64_t seed, int index, int64_t rows, int64_t cols) {
  std::vector<float> values(rows * cols);
  // Not the values that the weights themselves start from.
  const model::InitialDistribution normal{model::InitialDistribution::kNormal, 1};
  model::FillInitialValues(seed ^ 0x9e3779b97f4a7c15, index, normal, 0, rows * cols,
                           values.data());
  return std::vector<double>(values.begin(), values.end());
}

}  // namespace nibble::optimizer
