#!/usr/bin/env python3
"""No object that is compiled for one instruction set may define a symbol that another object could
define too: the linker keeps one copy, perhaps the AVX-512 one, and every caller on an older machine
faults.

Arguments: the nm program, the instruction set, and its objects.
Seen red: objects with a std::vector<int>::resize, with <iostream>, and with an `inline` function
that is not always inlined.
"""
import subprocess
import sys


def main():
    nm, isa, *objects = sys.argv[1:]
    if not objects:
        sys.exit("no objects given")
    wrong = []
    defined = 0
    for path in objects:
        out = subprocess.run([nm, "-C", "--defined-only", path], check=True, capture_output=True,
                             text=True).stdout
        for line in out.splitlines():
            kind, name = line[17:].split(" ", 1) if line[:1] != " " else line.strip().split(" ", 1)
            defined += 1
            inside = f"nibble::kernels::cpu::{isa}::" in name
            # Local symbols cannot clash; DW.ref.* is the unwinder's own, data without code.
            if kind.islower() and kind not in "vwu" or inside or name.startswith("DW.ref."):
                continue
            wrong.append(f"{path}: {kind} {name}")
        # Code that runs before main would run on every machine.
        if any("_GLOBAL__sub_I" in line for line in out.splitlines()):
            wrong.append(f"{path}: static initialisation")
    if defined == 0:
        wrong.append("the objects define nothing")
    for line in wrong:
        print(line)
    sys.exit(1 if wrong else 0)


main()
