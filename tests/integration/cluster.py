"""A daemon with its local worker for a test: started on free loopback ports in a temporary directory,
spoken to through the command line, killed by pid, and gone afterwards."""
import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("NIBBLE_BIN", ROOT / "build" / "release" / "bin"))

# A model that takes milliseconds a step, with every NVFP4 mechanism on: 2 blocks, one in BF16.
TINY_SPEC = """
name: {name}
seed: 7
model: {{vocab_size: 256, width: 32, blocks: 2, heads: 2, kv_heads: 1, head_size: 16, mlp_width: 64}}
data: {{path: tiny}}
training: {{steps: {steps}, sequence_length: 32, batch_size: 4, micro_batch_size: 2, validation_interval: 20,
  validation_sequences: 4}}
optimizer: {{learning_rate: 0.003, schedule: {{kind: cosine, warmup_steps: 5}}}}
precision: {{recipe: {recipe}}}
checkpoint: {{interval: {checkpoint}, keep: 2}}
resources: {{threads: {threads}}}
"""


def tiny_spec(name="tiny", steps=60, recipe="nvfp4", threads=1, checkpoint=10):
    return TINY_SPEC.format(name=name, steps=steps, recipe=recipe, threads=threads, checkpoint=checkpoint)


class Cluster:
    def __init__(self, slots=2, daemon_flags=(), local_worker=True, daemon_prefix=(), state_directory=None):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="nibble-test-"))
        self.slots = slots
        self.daemon_flags = list(daemon_flags)
        self.local_worker = local_worker
        # A program that executes the rest of its command line in its own process, such as prlimit.
        self.daemon_prefix = list(daemon_prefix)
        self.daemon = None
        self.ports = {}
        self.state = state_directory or self.directory / "state"
        self.data = self.directory / "data"
        self.data.mkdir()
        self.log = open(self.directory / "nibbled.log", "ab")

    def __enter__(self):
        self.prepare_data()
        self.start_daemon()
        return self

    def __exit__(self, kind, value, traceback):
        if kind is not None:
            self.log.flush()
            print((self.directory / "nibbled.log").read_text(errors="replace")[-6000:])
        self.stop_daemon()
        left = self.processes()
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        self.log.close()
        shutil.rmtree(self.directory, ignore_errors=True)
        if kind is None and left:
            raise AssertionError(f"processes left behind: {left}")

    # ---- processes ----

    def start_daemon(self, extra=()):
        ports = self.directory / "ports.json"
        ports.unlink(missing_ok=True)
        # After the first start the same port, so that clients find a restarted daemon.
        listen = self.ports.get("grpc", "127.0.0.1:0")
        self.daemon = subprocess.Popen(
            [*self.daemon_prefix, BIN / "nibbled", "--listen", listen, "--metrics-listen", "127.0.0.1:0",
             "--state-dir", self.state, "--port-file", ports,
             *(["--local-worker", "--slots", str(self.slots), "--data-dir", self.data]
               if self.local_worker else []), *self.daemon_flags, *extra],
            stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while True:
            try:
                self.ports = json.loads(ports.read_text())
                return
            except (FileNotFoundError, json.JSONDecodeError):
                pass
            if self.daemon.poll() is not None:
                raise AssertionError(f"nibbled ended with {self.daemon.returncode}")
            if time.monotonic() > deadline:
                raise AssertionError("nibbled does not serve after 30 s")
            time.sleep(0.01)

    def kill_daemon(self):
        self.daemon.kill()
        self.daemon.wait()

    def stop_daemon(self):
        if self.daemon is not None and self.daemon.poll() is None:
            self.daemon.terminate()
            try:
                self.daemon.wait(60)
            except subprocess.TimeoutExpired:
                self.daemon.kill()
                self.daemon.wait()
                raise AssertionError("nibbled did not stop within 60 s of SIGTERM")

    def processes(self, name=None):
        """Pids of our binaries whose command line or environment lies in this cluster's directory."""
        found = []
        for proc in pathlib.Path("/proc").iterdir():
            if not proc.name.isdigit() or int(proc.name) == os.getpid():
                continue
            try:
                executable = os.readlink(proc / "exe")
                if proc.joinpath("stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                    continue
                files = [os.readlink(proc / "cwd")]  # a trainer runs in its attempt's directory
                for descriptor in (proc / "fd").iterdir():
                    with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                        files.append(os.readlink(descriptor))
                command = (proc / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if not executable.startswith(str(BIN)):
                continue
            if name is not None and pathlib.Path(executable).name != name:
                continue
            directory = str(self.directory)
            if directory in command or any(f.startswith(directory) for f in files):
                found.append(int(proc.name))
        return found

    def kill(self, name):
        """kill -9 of every process of that binary; how many there were."""
        pids = self.processes(name)
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        return len(pids)

    # ---- the command line ----

    def prepare_data(self):
        text = self.directory / "text"
        text.mkdir()
        for i in range(20):
            (text / f"{i:02}.txt").write_text(
                "\n".join(f"Line {j} of document {i}: the quick brown fox jumps over {j * i} dogs."
                          for j in range(60)))
        self.nibble("data", "prepare", *sorted(text.iterdir()), "--out", self.data / "tiny")

    def nibble(self, *arguments, check=True, timeout=120, input=None):
        result = subprocess.run([BIN / "nibble", *map(str, arguments)], capture_output=True, text=True,
                                timeout=timeout, input=input,
                                env={**os.environ, "NIBBLE_SERVER": self.ports.get("grpc", "")})
        if check and result.returncode != 0:
            raise AssertionError(f"nibble {' '.join(map(str, arguments))} ended with "
                                 f"{result.returncode}:\n{result.stdout}{result.stderr}")
        return result

    def submit(self, spec, *flags):
        return self.nibble("submit", "-", *flags, input=spec).stdout.split()[0]

    def get(self, job):
        return json.loads(self.nibble("get", job, "-o", "json").stdout)

    def wait(self, job, states=("SUCCEEDED", "FAILED", "CANCELLED"), timeout=180):
        deadline = time.monotonic() + timeout
        while True:
            # The daemon may be down for a moment in the tests that kill it.
            result = self.nibble("get", job, "-o", "json", check=False)
            if result.returncode == 0:
                state = json.loads(result.stdout)
                if state["state"] in states:
                    return state
            if time.monotonic() > deadline:
                raise AssertionError(f"{job} is not in {states} after {timeout} s:\n"
                                     f"{result.stdout}{result.stderr}")
            time.sleep(0.1)

    def steps(self, job):
        rows = json.loads(self.nibble("metrics", job, "--name", "loss", "-o", "json").stdout)
        return rows

    def train_alone(self, spec, name="alone", threads=1):
        """The same spec by nibble-trainer with no daemon: result.json."""
        out = self.directory / name
        path = self.directory / f"{name}.yaml"
        path.write_text(spec)
        subprocess.run([BIN / "nibble-trainer", "--spec", path, "--out", out, "--data-dir", self.data,
                        "--threads", str(threads)], check=True, capture_output=True, timeout=300)
        return json.loads((out / "result.json").read_text())
