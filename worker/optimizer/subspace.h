// The leading singular directions of a matrix by subspace iteration, the same bits every time.
#ifndef WORKER_OPTIMIZER_SUBSPACE_H_
#define WORKER_OPTIMIZER_SUBSPACE_H_

#include <cstdint>
#include <vector>

namespace nibble::optimizer {

// Makes the columns of `matrix` [rows, cols], row-major, orthonormal: modified Gram-Schmidt, twice,
// column by column, in FP64. A column that the ones before it span up to a relative 1e-6 (a zero
// gradient, a rank below `cols`) is replaced by the first unit vector that they do not nearly span.
// REQUIRES: cols <= rows.
void Orthonormalise(int64_t rows, int64_t cols, double* matrix);

// Where the iteration starts: [rows, cols] standard normal values, a function of seed and index.
std::vector<double> StartingSubspace(uint64_t seed, int index, int64_t rows, int64_t cols);

}  // namespace nibble::optimizer

#endif  // WORKER_OPTIMIZER_SUBSPACE_H_
