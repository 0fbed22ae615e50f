"""HTTP/2 frames made by hand (RFC 9113), for what no proper client would send."""
import socket
import struct
import time

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, CONTINUATION = 0, 1, 3, 4, 6, 9
END_STREAM, END_HEADERS = 1, 4


def frame(kind, payload=b"", flags=0, stream=0):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def integer(value, prefix_bits, first=0):
    """HPACK's integer (RFC 7541, 5.1)."""
    limit = (1 << prefix_bits) - 1
    if value < limit:
        return bytes([first | value])
    out = bytearray([first | limit])
    value -= limit
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def header(name, value):
    """A literal header field, neither indexed nor Huffman coded."""
    name, value = name.encode(), value.encode()
    return b"\0" + integer(len(name), 7) + name + integer(len(value), 7) + value


def call_headers(method="/nibble.v1.TrainingService/ListJobs"):
    return b"".join(header(*pair) for pair in [
        (":method", "POST"), (":scheme", "http"), (":path", method), (":authority", "localhost"),
        ("content-type", "application/grpc"), ("te", "trailers")])


def connect(address, timeout=20):
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=timeout)


def greet(connection):
    connection.sendall(PREFACE + frame(SETTINGS))


def send_until_refused(connection, pieces, seconds):
    """Sends until the peer closes or the time is over: (bytes that went out, whether it was closed)."""
    sent, end = 0, time.monotonic() + seconds
    connection.settimeout(0.5)
    for piece in pieces:
        view = memoryview(piece)
        while view:
            if time.monotonic() > end:
                return sent, False
            try:
                count = connection.send(view)
            except TimeoutError:
                continue
            except OSError:
                return sent, True
            sent += count
            view = view[count:]
    return sent, is_closed(connection, end - time.monotonic())


def is_closed(connection, seconds):
    """Reads away what comes; whether the peer closed within that time."""
    end = time.monotonic() + seconds
    connection.settimeout(0.2)
    while time.monotonic() < end:
        try:
            if not connection.recv(1 << 16):
                return True
        except TimeoutError:
            continue
        except OSError:
            return True
    return False
