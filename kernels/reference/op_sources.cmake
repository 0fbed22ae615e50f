# The operators' sources.
set(NIBBLE_REFERENCE_OP_SOURCES)
