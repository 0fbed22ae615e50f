# The operators' sources, each compiled once for each instruction set (see simd.h).
set(NIBBLE_CPU_OP_SOURCES
    adamw.cc
    attention.cc
    attention_backward.cc
    elementwise.cc
    embedding.cc
    lm_head.cc
    rms_norm.cc
    rope.cc
    swiglu.cc)
