#!/usr/bin/env python3
"""Health and reflection, asked by a client that is not ours.

Seen red with the daemon not turning NOT_SERVING when it stops, and with reflection that no flag
turns off.
"""
import time
import unittest

from cluster import Cluster
import raw_api
from raw_api import field, grpc, parse

# grpc.health.v1.HealthCheckResponse.ServingStatus
SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3


@unittest.skipUnless(raw_api.AVAILABLE, raw_api.WHY_NOT)
class ApiTest(unittest.TestCase):
    def health(self, channel, service=b""):
        request = field(1, service) if service else b""
        return dict(parse(channel.unary_unary("/grpc.health.v1.Health/Check")(request, timeout=10))).get(1, 0)

    def test_health_follows_the_daemon_from_start_to_stop(self):
        with Cluster(local_worker=False) as cluster:
            channel = grpc.insecure_channel(cluster.ports["grpc"])
            # The port file is written when it serves, so there is nothing to wait for.
            self.assertEqual(self.health(channel), SERVING)
            for service in (b"nibble.v1.TrainingService", b"nibble.v1.WorkerService"):
                self.assertEqual(self.health(channel, service), SERVING)
            with self.assertRaises(grpc.RpcError) as unknown:
                self.health(channel, b"nibble.v1.Nothing")
            self.assertEqual(unknown.exception.code(), grpc.StatusCode.NOT_FOUND)
            watch = channel.unary_stream("/grpc.health.v1.Health/Watch")
            nothing = watch(field(1, "nibble.v1.Nothing"), timeout=60)
            self.assertEqual(dict(parse(next(nothing))).get(1), SERVICE_UNKNOWN)
            nothing.cancel()
            statuses = watch(b"", timeout=60)
            self.assertEqual(dict(parse(next(statuses))).get(1), SERVING)
            cluster.daemon.terminate()
            self.assertEqual(dict(parse(next(statuses))).get(1), NOT_SERVING)
            self.assertEqual(cluster.daemon.wait(30), 0)
            channel.close()

    def reflect(self, channel, request):
        """The first answer of ServerReflection to `request`."""
        call = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        return dict(parse(next(call(iter([request]), timeout=10))))

    def test_reflection_describes_every_service(self):
        with Cluster(local_worker=False) as cluster:
            channel = grpc.insecure_channel(cluster.ports["grpc"])
            listed = parse(self.reflect(channel, field(7, ""))[6])
            services = sorted(dict(parse(service))[1].decode() for _, service in listed)
            self.assertEqual(services, ["grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection",
                                        "nibble.v1.TrainingService", "nibble.v1.WorkerService"])
            files = parse(self.reflect(channel, field(4, "nibble.v1.TrainingService"))[4])
            self.assertTrue(any(b"SubmitJob" in descriptor for _, descriptor in files))
            unknown = dict(parse(self.reflect(channel, field(4, "nibble.v1.Nothing"))[7]))
            self.assertEqual(unknown[1], 5)  # NOT_FOUND
            channel.close()

    def test_reflection_can_be_off(self):
        with Cluster(local_worker=False, daemon_flags=["--no-reflection"]) as cluster:
            channel = grpc.insecure_channel(cluster.ports["grpc"])
            with self.assertRaises(grpc.RpcError) as off:
                self.reflect(channel, field(7, ""))
            self.assertEqual(off.exception.code(), grpc.StatusCode.UNIMPLEMENTED)
            channel.close()

    def test_liveness_by_a_new_connection_does_not_wait_for_work(self):
        with Cluster(local_worker=False) as cluster:
            started = time.monotonic()
            for _ in range(20):
                channel = grpc.insecure_channel(cluster.ports["grpc"])
                self.assertEqual(self.health(channel), SERVING)
                channel.close()
            self.assertLess(time.monotonic() - started, 20)


if __name__ == "__main__":
    unittest.main()
