#!/usr/bin/env python3
"""A real Prometheus scrapes a real run: what the daemon exposes parses, and its queries have answers.

Seen red without the gauge of the learning rate.
"""
import json
import shutil
import socket
import subprocess
import time
import unittest
import urllib.error
import urllib.parse
import urllib.request

from cluster import Cluster, tiny_spec

# Each must have at least one sample while a job trains.
QUERIES = [
    'nibble_jobs{state="RUNNING"} == 1',
    "nibble_queue_depth",
    'nibble_workers{state="online"} == 1',
    "nibble_slots",
    "nibble_slots_used == 1",
    "rate(nibble_rpc_total[1m])",
    "histogram_quantile(0.99, sum by (le) (rate(nibble_rpc_seconds_bucket[1m])))",
    "histogram_quantile(0.99, sum by (le) (rate(nibble_store_commit_seconds_bucket[1m])))",
    "nibble_job_loss > 0",
    "nibble_job_learning_rate > 0",
    "nibble_job_gradient_norm > 0",
    "nibble_job_tokens_per_second > 0",
    "nibble_job_tokens_total > 0",
    "nibble_job_step > 0",
    "rate(nibble_job_step_seconds_count[1m]) > 0",
    "nibble_build_info == 1",
]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@unittest.skipUnless(shutil.which("prometheus"), "Debian's package prometheus is not installed")
class PrometheusTest(unittest.TestCase):
    def test_queries_have_answers(self):
        with Cluster(slots=1) as cluster:
            config = cluster.directory / "prometheus.yml"
            config.write_text("global: {scrape_interval: 1s}\nscrape_configs:\n- job_name: nibble\n"
                              f"  static_configs: [{{targets: ['{cluster.ports['metrics']}']}}]\n")
            address = f"127.0.0.1:{free_port()}"
            prometheus = subprocess.Popen(
                ["prometheus", f"--config.file={config}", f"--web.listen-address={address}",
                 f"--storage.tsdb.path={cluster.directory / 'tsdb'}", "--log.level=error"])
            try:
                job = cluster.submit(tiny_spec(steps=1000000, checkpoint=0))
                cluster.wait(job, ("RUNNING",))
                waiting = dict.fromkeys(QUERIES, None)
                deadline = time.monotonic() + 60
                while waiting and time.monotonic() < deadline:
                    time.sleep(1)
                    for query in list(waiting):
                        url = f"http://{address}/api/v1/query?" + urllib.parse.urlencode({"query": query})
                        try:
                            answer = json.load(urllib.request.urlopen(url, timeout=5))
                        except urllib.error.HTTPError as error:
                            self.fail(f"{query}: {error.read().decode()}")
                        except OSError as error:  # Prometheus is still starting.
                            waiting[query] = error
                            continue
                        if answer["data"]["result"]:
                            del waiting[query]
                self.assertEqual(list(waiting), [])
                cluster.nibble("cancel", job)
                cluster.wait(job)
            finally:
                prometheus.terminate()
                prometheus.wait(30)


if __name__ == "__main__":
    unittest.main()
