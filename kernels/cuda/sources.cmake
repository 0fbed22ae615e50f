# What is compiled for GPUs by nvcc and for the tests' emulation by the host's compiler.
set(NIBBLE_CUDA_KERNELS
    attention.cu
    attention_backward.cu
    causal_conv.cu
    elementwise.cu
    embedding.cu
    gated_norm.cu
    hadamard.cu
    lm_head.cu
    norms.cu
    optimizer.cu
    product_scale.cu
    quantize.cu
    scaled.cu
    scan.cu
    scan_backward.cu)
# The backend over a device, host code, once for each of both.
set(NIBBLE_CUDA_BACKEND cuda_backend.cc cuda_engine.cc cuda_operand.cc)
