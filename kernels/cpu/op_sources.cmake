# The operators' sources, each compiled once for each instruction set (see simd.h).
set(NIBBLE_CPU_OP_SOURCES
    activation.cc
    adamw.cc
    added_rows.cc
    attention.cc
    attention_backward.cc
    causal_conv.cc
    elementwise.cc
    embedding.cc
    gated_norm.cc
    layer_norm.cc
    lm_head.cc
    rms_norm.cc
    rope.cc
    scan.cc
    scan_backward.cc
    swiglu.cc)
