# The operators' sources, each compiled once for each instruction set (see simd.h).
set(NIBBLE_CPU_OP_SOURCES)
