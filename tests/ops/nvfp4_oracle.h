// The NVFP4 quantiser once more, written apart from the product: roundings search the tables of
// representable values in FP64. Only Philox is shared; its known answers are tested.
#ifndef TESTS_OPS_NVFP4_ORACLE_H_
#define TESTS_OPS_NVFP4_ORACLE_H_

#include <cstdint>
#include <vector>

#include "kernels/op_args.h"

namespace nibble::kernels {

double OracleE2m1(int code);  // 0..15
double OracleE4m3(int code);  // 0..126
// Nearest table entry, ties to the even code.
int OracleNearestE2m1(double y);
int OracleNearestE4m3(double value);
double OracleE5m2(int code);  // 0..123
int OracleNearestE5m2(double value);
// The largest grid point at or below |y| + byte / 256 of the step there.
int OracleStochasticE2m1(float y, int byte);

struct OracleResult {
  float amax = 0;
  float decode = 0;
  std::vector<uint8_t> codes;   // one a byte, [rows, cols]
  std::vector<uint8_t> scales;  // [rows, cols / 16]
};

// `x`: [rows, cols] as quantised: blocks run along rows.
OracleResult OracleQuantize(const std::vector<float>& x, int64_t rows, int64_t cols, int block_rows,
                            bool stochastic, const StochasticKey& key);

// [rows, cols] times R of every 16 columns, by the matrix, rounded to BF16. Exact sums in FP64
// differ from FP32 butterflies in the last place: REQUIRES inputs whose sums FP32 holds exactly.
std::vector<float> OracleHadamard(const std::vector<float>& x);

std::vector<float> OracleTranspose(const std::vector<float>& x, int64_t rows, int64_t cols);

}  // namespace nibble::kernels

#endif  // TESTS_OPS_NVFP4_ORACLE_H_
