"""The server that `connectconformance --mode server` is given: one of its own, as a gRPC module behind two real sidecars.

    reference client ─▶ web (outbound, plain HTTP/1.1 or h2c) ══ mTLS ══▶ orders (inbound, policy) ─▶ SERVER (h2c, gRPC)

    connectconformance --conf FILE --mode server -- python tests/support/connect_behind.py SERVER [--api FILE] [--keep FOLDER]

The suite writes a `ServerCompatRequest` on stdin and reads a `ServerCompatResponse` from stdout, each behind its length (four
octets), and ends us by SIGTERM. Whatever protocol it asks for, the module is told to be gRPC: what its caller speaks is the
sidecars' business. Each run leaves a folder in `--keep`: configuration, journals and access logs of both sides.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.pair import Pair

PROTOCOL, HTTP_VERSION, USE_TLS, MESSAGE_RECEIVE_LIMIT = 1, 2, 4, 6
"""Fields of a `ServerCompatRequest`."""
HOST, PORT = 1, 2
"""Fields of a `ServerCompatResponse`."""
GRPC, HTTP_2 = 2, 2
RULES = """\
p, spiffe://shop/web, orders, CALL, /connectrpc.conformance.v1.ConformanceService/*
p, spiffe://shop/web, orders, *, /*
"""
"""The first admits every call in every dialect; the other one what is no call, which the suite asks for, too, to hear it refused by
those who serve. The access log tells them apart."""
WEB = "routes: [{name: all, match: {path: '/*'}, to: orders, timeout: 0}]\nlimits: {grpc_message: 64MiB}\n"
"""No deadline that the caller did not set, for the module tells which one it heard; and the limit on messages that is asked about
is the module's."""
ORDERS = "limits: {grpc_message: 64MiB}\n"
SERVICE = "outlier: {consecutive: off, share: off}\n"
"""The module fails on purpose, again and again."""


def varint(value: int) -> bytes:
    """Seven bits an octet, the lowest first."""
    octets = bytearray()
    while value > 0x7F:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*octets, value))


def _number(octets: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (octets[at] & 0x7F) << shift
        shift += 7
        at += 1
        if octets[at - 1] < 0x80:
            return value, at


def fields(octets: bytes) -> dict[int, int | bytes]:
    """The fields of a message of numbers, texts and messages, by their numbers; the last of a kind counts."""
    found: dict[int, int | bytes] = {}
    at = 0
    while at < len(octets):
        tag, at = _number(octets, at)
        value, at = _number(octets, at)
        if tag & 7 == 2:
            found[tag >> 3] = octets[at : at + value]
            at += value
        else:
            found[tag >> 3] = value
    return found


def message(told: dict[int, int | bytes]) -> bytes:
    """The other way."""
    parts = [
        varint(number << 3) + varint(value) if isinstance(value, int) else varint(number << 3 | 2) + varint(len(value)) + value
        for number, value in told.items()
    ]
    return b"".join(parts)


def read(stream: BinaryIO) -> dict[int, int | bytes]:
    """The next message of the suite's."""
    length = int.from_bytes(stream.read(4), "big")
    octets = stream.read(length)
    assert len(octets) == length, "the other end closed in the middle of a message"
    return fields(octets)


def write(stream: BinaryIO, told: dict[int, int | bytes]) -> None:
    octets = message(told)
    stream.write(len(octets).to_bytes(4, "big") + octets)
    stream.flush()


@contextlib.contextmanager
def module(server: Path, limit: int) -> Iterator[str]:
    """The suite's server as a gRPC module; its address."""
    started = subprocess.Popen([server, "-port", "0"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert started.stdin is not None
        assert started.stdout is not None
        write(started.stdin, {PROTOCOL: GRPC, HTTP_VERSION: HTTP_2, MESSAGE_RECEIVE_LIMIT: limit})
        answer = read(started.stdout)
        host = answer[HOST]
        assert isinstance(host, bytes)
        yield f"{host.decode()}:{answer[PORT]}"
    finally:
        started.terminate()
        started.wait(5)


def main() -> None:
    """Serves until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("server", type=Path)
    parser.add_argument("--api", type=Path, help="a descriptor set of what the module serves")
    parser.add_argument("--keep", type=Path, help="where the folders of the sidecars are left")
    chosen = parser.parse_args()
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    asked = read(sys.stdin.buffer)
    assert not asked.get(USE_TLS), "the outbound listener is plain"
    limit = asked.get(MESSAGE_RECEIVE_LIMIT, 0)
    assert isinstance(limit, int)
    folder = Path(tempfile.mkdtemp(prefix=f"{asked[PROTOCOL]}-over-{asked[HTTP_VERSION]}-", dir=chosen.keep))
    api = "" if chosen.api is None else f", api: '{chosen.api}'"
    try:
        with (
            module(chosen.server, limit) as address,
            Pair(folder, f"{{url: 'h2c://{address}', timeout: 0{api}}}", rules=RULES, service=SERVICE, web=WEB, orders=ORDERS) as pair,
        ):
            write(sys.stdout.buffer, {HOST: pair.outbound.host.encode(), PORT: pair.outbound.port})
            while not ended.wait(1) and os.getppid() != 1:
                pass
            pair.check()
    finally:
        if chosen.keep is None:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
