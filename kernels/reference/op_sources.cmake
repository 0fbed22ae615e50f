# The operators' sources.
set(NIBBLE_REFERENCE_OP_SOURCES
    adamw.cc
    attention.cc
    elementwise.cc
    embedding.cc
    lm_head.cc
    rms_norm.cc
    rope.cc
    swiglu.cc)
