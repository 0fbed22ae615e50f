// The namespace of what is compiled twice: for GPUs (`device`), and for the host emulation that the
// tests run (`emulated`). One program may hold both.
#ifndef KERNELS_CUDA_TARGET_H_
#define KERNELS_CUDA_TARGET_H_

#if !defined(NIBBLE_CUDA_TARGET)
#define NIBBLE_CUDA_TARGET device
#endif

#endif  // KERNELS_CUDA_TARGET_H_
