"""The API as a stranger sees it: bytes over a connection, with gRPC's Python client and messages
compiled from proto/ for the test.
"""
import pathlib
import shutil
import subprocess
import sys
import tempfile

from cluster import ROOT

try:
    import grpc
    import google.protobuf
except ImportError:
    grpc = None
WHY_NOT = "needs Debian's packages python3-grpcio, python3-protobuf and protobuf-compiler"
AVAILABLE = grpc is not None and shutil.which("protoc") is not None


def compile_messages():
    """Modules of nibble.v1: (job_pb2, training_service_pb2, worker_service_pb2)."""
    directory = tempfile.mkdtemp(prefix="nibble-pb2-")
    protos = sorted(str(p) for p in (ROOT / "proto" / "nibble" / "v1").glob("*.proto"))
    subprocess.run(["protoc", f"-I{ROOT / 'proto'}", f"--python_out={directory}", *protos], check=True)
    sys.path.insert(0, directory)
    try:
        from nibble.v1 import job_pb2, training_service_pb2, worker_service_pb2
    finally:
        sys.path.remove(directory)
        shutil.rmtree(directory)
    return job_pb2, training_service_pb2, worker_service_pb2


# ---- the wire format, by hand: https://protobuf.dev/programming-guides/encoding ----

def varint(value):
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7f | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number, payload):
    """A length-delimited field, or a varint where the payload is a number."""
    if isinstance(payload, int):
        return varint(number << 3) + varint(payload)
    if isinstance(payload, str):
        payload = payload.encode()
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def parse(message):
    """[(field number, value)], value an int or bytes."""
    out, at = [], 0

    def read():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7f) << shift
            shift += 7
            if byte < 0x80:
                return value
    while at < len(message):
        tag = read()
        if tag & 7 == 0:
            out.append((tag >> 3, read()))
        else:
            size = {1: 8, 5: 4}.get(tag & 7)
            size = read() if size is None else size
            out.append((tag >> 3, message[at:at + size]))
            at += size
    return out


class Refusal:
    """Code, message, ErrorInfo reason and BadRequest field paths of an error."""

    def __init__(self, error):
        self.code = error.code().name
        self.message = error.details()
        self.reason = self.domain = ""
        self.fields = []
        for key, value in error.trailing_metadata() or ():
            if key == "grpc-status-details-bin":
                self.read_details(value)

    def read_details(self, status):
        for number, detail in parse(status):
            if number != 3:
                continue
            envelope = dict(parse(detail))
            if envelope[1].endswith(b"ErrorInfo"):
                info = dict(parse(envelope[2]))
                self.reason, self.domain = info[1].decode(), info[2].decode()
            elif envelope[1].endswith(b"BadRequest"):
                self.fields = [dict(parse(v)).get(1, b"").decode() for _, v in parse(envelope[2])]

    def __repr__(self):
        return f"{self.code} {self.reason} {self.fields} {self.message!r}"


class Api:
    def __init__(self, address):
        self.channel = grpc.insecure_channel(address, options=[("grpc.max_send_message_length", -1)])

    def close(self):
        self.channel.close()

    def call(self, method, request, timeout=20):
        """The response's bytes, or a Refusal. `method` is "Service/Method" of nibble.v1."""
        try:
            return self.channel.unary_unary(f"/nibble.v1.{method}")(request, timeout=timeout)
        except grpc.RpcError as error:
            return Refusal(error)

    def first(self, method, request, timeout=20):
        """As `call`, for the first message of a server stream."""
        stream = self.channel.unary_stream(f"/nibble.v1.{method}")(request, timeout=timeout)
        try:
            return next(stream)
        except StopIteration:
            return None
        except grpc.RpcError as error:
            return Refusal(error)
        finally:
            stream.cancel()
