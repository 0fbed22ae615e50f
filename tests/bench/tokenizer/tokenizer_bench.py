#!/usr/bin/env python3
"""Tokenising speed (GPT-2 BPE, one core) beside tiktoken and HF tokenizers, in one run.

  tests/bench/tokenizer/tokenizer_bench.py --driver build/release/test/tokenize_bench \
      [--gpt2 ../shared/data/tokenizers/gpt2] [--text FILE] [--pairs 7] [--megabytes 10]

Makes a virtual environment for the peers, checks that all three give the same ids, then runs
interleaved pairs after a warm-up and prints the median ratio ours / peer for each. Exit status 1
where ids differ or a ratio is below the floor of 1.
"""

import argparse
import array
import base64
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
import venv

PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
FLOOR = 1.0


def enter_environment(directory):
    """Runs this script again under an interpreter that has the peers."""
    python = directory / "bin" / "python"
    if not python.exists():
        venv.create(directory, with_pip=True)
        subprocess.run([python, "-m", "pip", "-q", "install", "tiktoken", "tokenizers"], check=True)
    os.environ["TOKENIZER_BENCH_READY"] = "1"
    os.execv(python, [str(python), __file__] + sys.argv[1:])


def load_peers(gpt2):
    """Name to a function from text to ids, single-threaded."""
    import tiktoken
    from tokenizers import Tokenizer, models, pre_tokenizers

    ranks = {}
    for line in (gpt2 / "gpt2.tiktoken").read_text().splitlines():
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)
    encoding = tiktoken.Encoding("gpt2", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
    tokenizer = Tokenizer(models.BPE.from_file(str(gpt2 / "vocab.json"), str(gpt2 / "merges.txt")))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return {
        "tiktoken": encoding.encode_ordinary,
        "HF tokenizers": lambda text: tokenizer.encode(text).ids,
    }


def cut(text, characters=20_000):
    """Parts of about that length. Cut behind a single line end, where no piece of text goes on: the
    ids of the parts together are those of the whole. (HF tokenizers takes minutes for one long text.)
    """
    parts = []
    begin = 0
    for match in re.finditer(r"(?<=\S)\n(?=\S)", text):
        if match.end() - begin >= characters:
            parts.append(text[begin:match.end()])
            begin = match.end()
    return parts + [text[begin:]]


def run_ours(options, text_file, ids_file=None):
    """Seconds of one encoding, after one to warm up, within the driver."""
    command = [options.driver, options.gpt2 / "vocab.json", options.gpt2 / "merges.txt", text_file,
               "2"]
    if ids_file:
        command.append(ids_file)
    return json.loads(subprocess.check_output(command))["seconds"][-1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    root = pathlib.Path(__file__).resolve().parents[3]
    shared = root.parent / "shared" / "data"
    parser.add_argument("--driver", required=True, type=pathlib.Path)
    parser.add_argument("--gpt2", default=shared / "tokenizers" / "gpt2", type=pathlib.Path)
    parser.add_argument("--text", default=shared / "corpus" / "input.txt", type=pathlib.Path)
    parser.add_argument("--pairs", default=7, type=int)
    parser.add_argument("--megabytes", default=10, type=int, help="of the text, at most")
    parser.add_argument("--venv", type=pathlib.Path,
                        default=pathlib.Path(tempfile.gettempdir()) / "nibble-tokenizer-bench")
    options = parser.parse_args()
    if "TOKENIZER_BENCH_READY" not in os.environ:
        enter_environment(options.venv)
    text = options.text.read_bytes()[: options.megabytes * 1_000_000].decode(errors="ignore")
    megabytes = len(text.encode()) / 1e6
    peers = load_peers(options.gpt2)
    parts = cut(text)
    good = True
    with tempfile.TemporaryDirectory() as directory:
        text_file = pathlib.Path(directory) / "text"
        ids_file = pathlib.Path(directory) / "ids"
        text_file.write_bytes(text.encode())
        run_ours(options, text_file, ids_file)
        ours = array.array("I", ids_file.read_bytes())
        for name, encode in peers.items():
            # The peer's warm-up too.
            same = list(ours) == [token for part in parts for token in encode(part)]
            ratios, speeds = [], []
            for _ in range(options.pairs):
                start = time.perf_counter()
                for part in parts:
                    encode(part)
                peer_seconds = time.perf_counter() - start
                our_seconds = run_ours(options, text_file)
                ratios.append(peer_seconds / our_seconds)
                speeds.append((megabytes / our_seconds, megabytes / peer_seconds))
            ratio = statistics.median(ratios)
            print(f"{name}: ours {statistics.median(s[0] for s in speeds):.1f} MB/s, "
                  f"peer {statistics.median(s[1] for s in speeds):.1f} MB/s, "
                  f"median ratio {ratio:.2f} (floor {FLOOR}), "
                  f"ids {'equal' if same else 'DIFFER'}")
            good = good and same and ratio >= FLOOR
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
