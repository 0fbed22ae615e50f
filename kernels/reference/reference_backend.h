// The oracle: one thread, scalar code that reads like the formulas, FP64 accumulation. Slow.
#ifndef KERNELS_REFERENCE_REFERENCE_BACKEND_H_
#define KERNELS_REFERENCE_REFERENCE_BACKEND_H_

#include <memory>

#include "kernels/backend.h"

namespace nibble::kernels {

std::unique_ptr<Backend> CreateReferenceBackend();

}  // namespace nibble::kernels

#endif  // KERNELS_REFERENCE_REFERENCE_BACKEND_H_
