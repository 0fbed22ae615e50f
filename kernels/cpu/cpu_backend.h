// The production CPU backend: fixed tiles over a pool of threads, vector code chosen for the
// machine at run time, matrix products by oneDNN, one single-threaded call a tile.
#ifndef KERNELS_CPU_CPU_BACKEND_H_
#define KERNELS_CPU_CPU_BACKEND_H_

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace nibble::kernels {

// Errors of cpu::ChooseIsa; INVALID_ARGUMENT where options.threads is negative or above 1,024.
absl::StatusOr<std::unique_ptr<Backend>> CreateCpuBackend(const BackendOptions& options);

}  // namespace nibble::kernels

#endif  // KERNELS_CPU_CPU_BACKEND_H_
