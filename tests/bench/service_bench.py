#!/usr/bin/env python3
"""Figures of the service, through the real daemon over loopback:

  tests/bench/service_bench.py [--jobs 100000] [--workers 1000] [--pending 10000] [--pairs 5]
                               [--only jobs|restart|code|metrics] [--state DIRECTORY]

Durable submits/s with 32 clients; start and pages of a list with that many live jobs; 1,000 workers
taking all but the pending ones; metric points/s beside a bare SQLite insert, in turn; the command
line. Wall time, and the daemon's CPU time where others share the machine. The peer of submissions is
Slurm's sbatch, 31/s on another machine.
"""
import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))
from cluster import BIN, Cluster  # noqa: E402

LOAD = BIN.parent / "test" / "service_load"
CROWD = BIN.parent / "test" / "worker_crowd"


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mib(pid, what="VmHWM"):
    return int(re.search(what + r":\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())[1]) >> 10


def load(*arguments):
    output = subprocess.run([LOAD, *map(str, arguments)], check=True, capture_output=True, text=True).stdout
    return json.loads(output)


def submit(cluster, jobs, clients=32):
    before = cpu_seconds(cluster.daemon.pid)
    result = load(cluster.ports["grpc"], "submit", clients, jobs)
    cpu = cpu_seconds(cluster.daemon.pid) - before
    print(f"{jobs} durable submits, {clients} clients: {result['per_second']}/s, p50 {result['p50_ms']} ms, "
          f"p99 {result['p99_ms']} ms; daemon {cpu / jobs * 1e6:.0f} CPU us each", flush=True)


def start_again(cluster, times=3):
    for _ in range(times):
        cluster.kill_daemon()
        started = time.monotonic()
        cluster.start_daemon()
        took = time.monotonic() - started
        print(f"start after kill -9: {took:.2f} s to serving, {cpu_seconds(cluster.daemon.pid):.2f} CPU s, "
              f"{memory_mib(cluster.daemon.pid)} MiB", flush=True)


def lists(cluster):
    for pages in (1, 20):
        result = load(cluster.ports["grpc"], "list", 100 // pages, pages)
        print(f"a page of 100, {pages} deep: p50 {result['p50_ms']} ms, p99 {result['p99_ms']} ms", flush=True)


def restart(state, jobs):
    """Start alone, on a state directory that is made once and kept, so that programs can be compared."""
    made = (state / "jobs.db").exists()
    with Cluster(local_worker=False, state_directory=state) as cluster:
        if not made:
            submit(cluster, jobs)
        start_again(cluster, 7)
        cluster.kill_daemon()


def code():
    """From SubmitJob until the job's own program trains, with a worker that has nothing else to do."""
    with Cluster() as cluster:
        load(cluster.ports["grpc"], "start", 2)
        result = load(cluster.ports["grpc"], "start", 20)
        print(f"submit -> RUNNING (the trainer has opened its data and begins): p50 {result['p50_ms']} ms, "
              f"p99 {result['p99_ms']} ms, {result['calls']} jobs one after the other", flush=True)


def states(cluster):
    text = subprocess.run(["curl", "-s", f"http://{cluster.ports['metrics']}/metrics"], capture_output=True,
                          text=True).stdout
    return {m[1]: int(float(m[2])) for m in re.finditer(r'nibble_jobs\{state="(\w+)"\} (\S+)', text)}, text


def crowd(cluster, workers, running):
    slots = -(-running // workers)
    before = cpu_seconds(cluster.daemon.pid)
    process = subprocess.Popen([CROWD, cluster.ports["grpc"], str(workers), str(slots), "0", "600"],
                               stdout=subprocess.PIPE, text=True)
    try:
        started = time.monotonic()
        while True:
            counts = json.loads(process.stdout.readline())
            now, _ = states(cluster)
            if now.get("RUNNING", now.get("running", 0)) >= running:
                break
            if time.monotonic() - started > 300:
                print(f"only {now} after 300 s")
                break
        took = time.monotonic() - started
        cpu = cpu_seconds(cluster.daemon.pid) - before
        print(f"{workers} workers of {slots} slots took {running} jobs in {took:.1f} s: {running / took:.0f} "
              f"placements/s with their reports, {running / cpu:.0f} per CPU s of the daemon; {counts}; "
              f"{memory_mib(cluster.daemon.pid)} MiB", flush=True)
        before, started = cpu_seconds(cluster.daemon.pid), time.monotonic()
        lists(cluster)
        submit(cluster, 2000)
        time.sleep(15)
        share = (cpu_seconds(cluster.daemon.pid) - before) / (time.monotonic() - started)
        print(f"all held for 15 s: {share:.2f} cores", flush=True)
        cluster.kill_daemon()
        cluster.start_daemon()
        started = time.monotonic()
        base = None
        while True:
            counts = json.loads(process.stdout.readline())
            base = base or counts["registrations"]
            if counts["online"] == workers and counts["registrations"] >= 2 * workers:
                break
            if time.monotonic() - started > 60:
                break
        print(f"all back {time.monotonic() - started:.1f} s after kill -9: {counts}; "
              f"{memory_mib(cluster.daemon.pid)} MiB", flush=True)
        time.sleep(20)
        print(f"20 s later: {states(cluster)[0]}", flush=True)
    finally:
        process.kill()
        process.wait()


def metrics(pairs):
    ratios = []
    for pair in range(pairs):
        with Cluster(local_worker=False) as cluster:
            ours = load(cluster.ports["grpc"], "metrics", 3)["points_per_second"]
            peer = load(cluster.directory / "peer.db", "sqlite", 3)["points_per_second"]
        ratios.append(ours / peer)
        print(f"metric points/s: {ours:.0f} over RPC, {peer:.0f} into bare SQLite, ratio {ratios[-1]:.2f}", flush=True)
    print(f"median ratio {statistics.median(ratios):.2f}")


def command_line(cluster):
    for arguments in (["version", "--client"], ["version"], ["list"]):
        seconds = []
        for _ in range(20):
            started = time.monotonic()
            result = subprocess.run([BIN / "nibble", *arguments], capture_output=True,
                                    env={**os.environ, "NIBBLE_SERVER": cluster.ports["grpc"]})
            seconds.append(time.monotonic() - started)
        if result.returncode == 0:
            print(f"nibble {' '.join(arguments)}: median {statistics.median(seconds) * 1e3:.0f} ms, "
                  f"fastest {min(seconds) * 1e3:.0f} ms", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--pending", type=int, default=10_000)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--only", choices=["metrics", "jobs", "restart", "code"])
    parser.add_argument("--state", type=pathlib.Path, help="of restart: the state directory, made where it is not")
    options = parser.parse_args()
    print(f"load average {os.getloadavg()}, {os.cpu_count()} cores", flush=True)
    if options.only == "restart":
        if options.state is None:
            parser.error("--only restart needs --state")
        return restart(options.state.resolve(), options.jobs)
    if options.only in (None, "code"):
        code()
    if options.only in (None, "jobs"):
        with Cluster(local_worker=False) as cluster:
            submit(cluster, options.jobs)
            start_again(cluster)
            lists(cluster)
            command_line(cluster)
            crowd(cluster, options.workers, options.jobs - options.pending)
    if options.only in (None, "metrics"):
        metrics(options.pairs)


if __name__ == "__main__":
    main()
