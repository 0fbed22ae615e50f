# The operators' sources.
set(NIBBLE_REFERENCE_OP_SOURCES
    activation.cc
    adamw.cc
    added_rows.cc
    attention.cc
    causal_conv.cc
    elementwise.cc
    embedding.cc
    gated_norm.cc
    layer_norm.cc
    lm_head.cc
    rms_norm.cc
    rope.cc
    scan.cc
    swiglu.cc)
