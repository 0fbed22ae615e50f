#!/usr/bin/env python3
"""Reads every #include against the table of who may include whom, and every file against the sizes
of the house style.

Seen red: adding '#include "worker/data/prepare.h"' to server/rpc, '#include <thread>' to
server/scheduler, a 700-line source, a wrong guard, a file(GLOB) and a system() call each fail it.
"""
import pathlib
import re
import subprocess
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]

# Longest prefix wins. Value: prefixes of project headers that may be included, and whether
# protobuf messages ("proto") or services ("grpc") may be.
TABLE = {
    "base/": (["base/"], None),
    "proto/": (["base/", "proto/"], "proto"),
    "kernels/nvfp4/": (["kernels/nvfp4/"], None),
    "kernels/": (["base/", "kernels/"], None),
    # Kernels are compiled for GPUs: plain headers only. Host code of the folder is under "kernels/".
    "kernels/cuda/*.cu": (["kernels/nvfp4/", "kernels/op_args.h", "kernels/mamba_args.h",
                           "kernels/adamw.h", "kernels/cuda/"], None),
    "worker/data/": (["base/", "kernels/", "worker/data/"], None),
    "worker/collective/": (["base/", "kernels/", "worker/collective/"], None),
    "worker/checkpoint/": (["base/", "kernels/", "worker/checkpoint/"], None),
    "worker/model/": (["base/", "kernels/", "worker/model/", "worker/data/"], None),
    "worker/optimizer/": (["base/", "kernels/", "worker/optimizer/", "worker/model/"], None),
    "worker/inference/": (["base/", "kernels/", "worker/inference/", "worker/model/",
                           "worker/checkpoint/"], None),
    "worker/evaluation/": (["base/", "kernels/", "worker/evaluation/", "worker/inference/",
                            "worker/model/", "worker/data/"], None),
    "worker/interchange/": (["base/", "proto/", "kernels/nvfp4/", "worker/interchange/",
                             "worker/model/", "worker/checkpoint/", "worker/model_description.h"],
                            "proto"),
    "worker/snapshot/": (["base/", "worker/snapshot/"], None),
    "worker/trainer/": (["base/", "kernels/", "worker/snapshot/", "worker/trainer/", "worker/model/", "worker/optimizer/",
                         "worker/data/", "worker/checkpoint/", "worker/collective/", "worker/inference/",
                         "worker/evaluation/"], None),
    "worker/link/": (["base/", "proto/", "worker/link/", "worker/snapshot/", "worker/trainer/", "kernels/operand_format.h"],
                     "proto"),
    "worker/agent/": (["base/", "proto/", "worker/agent/", "worker/link/", "worker/snapshot/"], "grpc"),
    "worker/": (["base/", "proto/", "worker/", "kernels/"], "proto"),  # main files
    "worker/nibble_worker": (["base/", "proto/", "worker/agent/", "worker/link/"], "grpc"),
    "server/scheduler/": (["base/", "server/scheduler/"], None),
    "server/store/": (["base/", "server/scheduler/", "server/store/"], None),
    "server/telemetry/": (["base/", "server/scheduler/", "server/telemetry/"], None),
    "server/coordinator/": (["base/", "server/scheduler/", "server/store/", "server/telemetry/",
                             "server/coordinator/"], None),
    "server/": (["base/", "proto/", "server/"], "grpc"),
    "client/": (["base/", "proto/", "client/", "worker/data/"], "grpc"),
    "tests/": ([""], "grpc"),
}
PURE_SCHEDULER_BANS = ["thread", "mutex", "chrono", "fstream", "random", "filesystem", "atomic",
                       "condition_variable", "ctime"]
PROJECT = ("base/", "proto/", "kernels/", "worker/", "server/", "client/", "tests/")

# Longest sources and headers that the style aims at, and the exceptions. This list only shrinks.
LIMITS = {".cc": 600, ".cu": 450, ".cuh": 450, ".h": 300}
LONGER = {}


def tracked_files():
    out = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                         check=True, capture_output=True, text=True).stdout
    return [f for f in out.splitlines() if (ROOT / f).is_file()]


def rule_of(path):
    if path.endswith((".cu", ".cuh")):
        return "kernels/cuda/*.cu" if path.startswith("kernels/cuda/") else None
    # A file outside every row has no permission at all, so that a new folder needs a new row.
    return max((p for p in TABLE if path.startswith(p)), key=len, default=None)


class StructureTest(unittest.TestCase):
    def sources(self):
        files = [f for f in tracked_files() if pathlib.Path(f).suffix in (".cc", ".h", ".cu", ".cuh")]
        self.assertGreater(len(files), 50, "the list of sources is not believable")
        return files

    def test_includes_follow_the_table(self):
        wrong = []
        for path in self.sources():
            rule = rule_of(path)
            if rule is None:
                wrong.append(f"{path}: no row in the table")
                continue
            allowed, generated = TABLE[rule]
            # A test may use fakes and what it tests with; only production code is layered.
            is_test = path.endswith("_test.cc") or "/testing/" in path or path.startswith("tests/")
            for number, line in enumerate((ROOT / path).read_text().splitlines(), 1):
                match = re.match(r'\s*#\s*include\s+[<"]([^>"]+)[>"]', line)
                if not match:
                    continue
                name = match.group(1)
                where = f"{path}:{number}: {name}"
                if name.endswith(".grpc.pb.h") or name.startswith("grpc"):
                    if generated != "grpc":
                        wrong.append(where + " (no gRPC here)")
                elif name.endswith(".pb.h") or name.startswith("google/protobuf"):
                    if generated is None:
                        wrong.append(where + " (no protobuf here)")
                elif name.startswith(PROJECT):
                    if not any(name.startswith(a) for a in allowed) and not is_test:
                        wrong.append(where)
                    server, worker = name.startswith("server/"), name.startswith("worker/")
                    if path.startswith("server/") and worker or path.startswith("worker/") and server:
                        wrong.append(where + " (server and worker never include each other)")
                elif path.startswith("server/scheduler/") and not is_test and (
                        name in PURE_SCHEDULER_BANS or name == "sqlite3.h"):
                    wrong.append(where + " (the scheduler is pure)")
        self.assertEqual(wrong, [])

    def test_sizes(self):
        wrong = []
        for path in self.sources():
            lines = len((ROOT / path).read_text().splitlines())
            limit = LONGER.get(path, LIMITS[pathlib.Path(path).suffix])
            if lines > limit:
                wrong.append(f"{path}: {lines} lines, at most {limit}")
        self.assertEqual(wrong, [])
        for path in LONGER:
            self.assertTrue((ROOT / path).is_file(), f"{path} is in LONGER but is gone")

    def test_include_guards_are_paths(self):
        wrong = []
        for path in self.sources():
            if path.endswith(".h"):
                guard = re.sub(r"[/.]", "_", path).upper() + "_"
                if f"#ifndef {guard}" not in (ROOT / path).read_text():
                    wrong.append(f"{path}: wants {guard}")
        self.assertEqual(wrong, [])

    def test_cmake_lists_files_by_name(self):
        for path in tracked_files():
            if path.endswith("CMakeLists.txt") or path.endswith(".cmake"):
                self.assertNotRegex((ROOT / path).read_text(), r"(?i)file\s*\(\s*glob", path)

    def test_no_dangerous_calls(self):
        # std::regex recurses per character; system and popen start shells, which only tests may do.
        pattern = re.compile(r"std::regex|[^_\w.](?:system|popen)\s*\(|\bstrcpy\s*\(|\bsprintf\s*\(")
        wrong = []
        for path in self.sources():
            if path.endswith("_test.cc"):
                continue
            for number, line in enumerate((ROOT / path).read_text().splitlines(), 1):
                if pattern.search(line.split("//")[0]):
                    wrong.append(f"{path}:{number}: {line.strip()}")
        self.assertEqual(wrong, [])

    def test_no_disabled_tests(self):
        for path in self.sources():
            self.assertNotRegex((ROOT / path).read_text(), r"\bDISABLED_|TEST.*\n\s*GTEST_SKIP\(\);", path)


if __name__ == "__main__":
    sys.exit(unittest.main())
