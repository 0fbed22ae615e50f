"""The virtual environment of the benchmarks' peer, PyTorch from PyPI, and its settings."""
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "release"
VENV = ROOT / "build" / "bench-venv"

# Passive waiting and an allocator that keeps what it has: PyTorch is faster with them.
ENVIRONMENT = {"OMP_WAIT_POLICY": "passive", "MALLOC_TRIM_THRESHOLD_": "100000000000",
               "MALLOC_MMAP_THRESHOLD_": "100000000000"}


def python():
    """The interpreter that has torch and numpy; installs them the first time."""
    path = VENV / "bin" / "python"
    if not path.exists():
        print("installing PyTorch into", VENV, file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
        subprocess.run([VENV / "bin" / "pip", "install", "-q", "torch", "numpy"], check=True)
    return path


class Server:
    """A program that runs its operation for each line it reads and answers with the seconds."""

    def __init__(self, command, environment=None):
        self.process = subprocess.Popen([str(word) for word in command], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                                        env={**os.environ, **(environment or {})})

    def run(self):
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args[0]} ended")
        return float(line)

    def stop(self):
        self.process.stdin.close()
        self.process.wait()
