#!/usr/bin/env python3
"""TLS with real certificates: who is let in, who is not, and what those who are not are told.

Seen red with --tls-client-ca ignored by the daemon.
"""
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import time
import unittest

from cluster import BIN, Cluster, tiny_spec


def openssl(*arguments):
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


class Authority:
    """A certificate authority of its own in `directory`."""

    def __init__(self, directory):
        directory.mkdir()
        self.directory = directory
        self.certificate = directory / "ca.pem"
        self.key = directory / "ca.key"
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                "-subj", f"/CN=authority {directory.name}", "-keyout", self.key, "-out", self.certificate)

    def issue(self, name, alternative="IP:127.0.0.1"):
        """(certificate, key) for `name`."""
        key, request, certificate = (self.directory / f"{name}.{e}" for e in ("key", "csr", "pem"))
        extensions = self.directory / f"{name}.ext"
        extensions.write_text(f"subjectAltName={alternative}\n")
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
                "-keyout", key, "-out", request)
        openssl("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self.key, "-days", "2",
                "-set_serial", str(abs(hash(name)) + 1), "-extfile", extensions, "-out", certificate)
        return certificate, key


@unittest.skipUnless(shutil.which("openssl"), "Debian's package openssl is not installed")
class TlsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = pathlib.Path(tempfile.mkdtemp(prefix="nibble-tls-"))
        cls.ours = Authority(cls.directory / "ours")
        cls.other = Authority(cls.directory / "other")
        cls.server = cls.ours.issue("daemon")
        cls.client = cls.ours.issue("client")
        cls.stranger = cls.other.issue("stranger")

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.directory)

    def serve(self, *flags):
        certificate, key = self.server
        return Cluster(local_worker=False,
                       daemon_flags=["--tls-cert", certificate, "--tls-key", key, *flags])

    def refused(self, cluster, *flags):
        """The message of a call that must end with 5, unreachable."""
        result = cluster.nibble("info", "--timeout", "5", *flags, check=False)
        self.assertEqual(result.returncode, 5, result.stdout + result.stderr)
        self.assertIn(cluster.ports["grpc"], result.stderr)
        return result.stderr

    def run_worker(self, cluster, name, *flags):
        with open(cluster.directory / f"{name}.log", "wb") as log:
            return subprocess.Popen(
                [BIN / "nibble-worker", "--daemon", cluster.ports["grpc"], "--worker-id", name, "--slots", "1",
                 "--work-dir", cluster.directory / name, "--data-dir", cluster.data, *flags],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def stop(self, worker):
        worker.terminate()
        self.assertEqual(worker.wait(30), 0)

    def test_the_server_is_known_by_its_certificate(self):
        ca = ["--tls-ca", self.ours.certificate]
        with self.serve() as cluster:
            self.assertIn("version", cluster.nibble("info", *ca).stdout)
            self.assertIn("TLS", self.refused(cluster))  # plaintext
            self.assertRegex(self.refused(cluster, "--tls-ca", self.other.certificate), "certificate")
            worker = self.run_worker(cluster, "remote", *ca)
            job = cluster.nibble("submit", "-", "--wait", "-o", "json", *ca, input=tiny_spec(steps=20)).stdout
            self.assertEqual(json.loads(job)["state"], "SUCCEEDED", job)
            self.stop(worker)

    def test_a_client_certificate_is_demanded_where_asked_for(self):
        ca = ["--tls-ca", self.ours.certificate]
        mutual = [*ca, "--tls-cert", self.client[0], "--tls-key", self.client[1]]
        with self.serve("--tls-client-ca", self.ours.certificate) as cluster:
            self.refused(cluster, *ca)
            self.refused(cluster, *ca, "--tls-cert", self.stranger[0], "--tls-key", self.stranger[1])
            cluster.nibble("info", *mutual)
            config = cluster.directory / "nibble" / "config.yaml"
            config.parent.mkdir()
            config.write_text(f"server: {cluster.ports['grpc']}\ntls_ca: {self.ours.certificate}\n"
                              f"tls_cert: {self.client[0]}\ntls_key: {self.client[1]}\n")
            from_file = subprocess.run([BIN / "nibble", "list"], capture_output=True, text=True,
                                       env={**os.environ, "XDG_CONFIG_HOME": str(cluster.directory)})
            self.assertEqual(from_file.returncode, 0, from_file.stderr)
            stranger = self.run_worker(cluster, "stranger", *ca, "--tls-cert", self.stranger[0], "--tls-key",
                                       self.stranger[1])
            member = self.run_worker(cluster, "member", *mutual)
            deadline = time.monotonic() + 30
            workers = []
            while not workers and time.monotonic() < deadline:
                time.sleep(0.1)
                workers = json.loads(cluster.nibble("workers", "-o", "json", *mutual).stdout)["workers"]
            self.assertEqual([w["worker_id"] for w in workers], ["member"])
            # Refused is not fatal: it goes on trying, and says why.
            self.assertIsNone(stranger.poll())
            self.assertRegex((cluster.directory / "stranger.log").read_text(), "cannot|UNAVAILABLE|no answer")
            self.stop(stranger)
            self.stop(member)

    def test_tls_towards_a_daemon_without_it(self):
        with Cluster(local_worker=False) as cluster:
            self.assertRegex(self.refused(cluster, "--tls-ca", self.ours.certificate), "TLS|SSL")

    def test_a_certificate_for_another_host(self):
        certificate, key = self.ours.issue("elsewhere", alternative="DNS:train.example")
        with Cluster(local_worker=False, daemon_flags=["--tls-cert", certificate, "--tls-key", key]) as cluster:
            self.assertRegex(self.refused(cluster, "--tls-ca", self.ours.certificate), "certificate|hostname|peer")

    def test_files_that_are_no_credentials_stop_the_daemon(self):
        certificate, key = self.server
        empty = self.directory / "empty.pem"
        empty.write_text("")
        garbage = self.directory / "garbage.pem"
        garbage.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        cases = [(["--tls-cert", certificate], "--tls-key"),
                 (["--tls-key", key], "--tls-cert"),
                 (["--tls-client-ca", self.ours.certificate], "--tls-cert"),
                 (["--tls-cert", "/nosuch.pem", "--tls-key", key], "/nosuch.pem"),
                 (["--tls-cert", empty, "--tls-key", key], "empty.pem"),
                 (["--tls-cert", garbage, "--tls-key", key], "garbage.pem"),
                 (["--tls-cert", certificate, "--tls-key", garbage], "garbage.pem"),
                 (["--tls-cert", certificate, "--tls-key", self.client[1]], "client.key"),
                 (["--tls-cert", certificate, "--tls-key", key, "--tls-client-ca", empty], "empty.pem"),
                 (["--tls-cert", certificate, "--tls-key", key, "--tls-client-ca", garbage], "garbage.pem")]
        for flags, named in cases:
            with self.subTest(flags=[str(f) for f in flags]):
                state = tempfile.mkdtemp(dir=self.directory)
                result = subprocess.run(
                    [BIN / "nibbled", "--listen", "127.0.0.1:0", "--metrics-listen", "", "--state-dir", state,
                     *flags], capture_output=True, text=True, timeout=20)
                self.assertEqual(result.returncode, 1, result.stderr)
                self.assertIn(named, result.stderr)
                self.assertNotIn("in use", result.stderr)

    def test_beyond_loopback_only_with_tls_or_by_name(self):
        state = tempfile.mkdtemp(dir=self.directory)
        result = subprocess.run([BIN / "nibbled", "--listen", "0.0.0.0:0", "--metrics-listen", "", "--state-dir",
                                 state], capture_output=True, text=True, timeout=20)
        self.assertEqual(result.returncode, 1)
        self.assertIn("--insecure", result.stderr)


if __name__ == "__main__":
    unittest.main()
