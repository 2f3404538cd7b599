"""Issue 4: 500 slow readers, 500 slow writers and 2,000 half-open TLS connections disturb nobody, and are closed by their limits.

Two sidecars stand side by side, with one module behind both: one is attacked, one is not. A well-behaved peer asks them in turn,
request by request, so that whatever else the machine does meets both alike; what is left is what the attack costs.

    this process: the well-behaved peer ──┬──▶ attacked sidecar ──┬──▶ module (a process of its own)
    attackers (a process of its own) ─────┘    quiet sidecar ─────┘

The file is also the program of the module and of the attackers: `python test_slow_peers.py module|attackers …`.
"""

import asyncio
import contextlib
import gc
import json
import os
import resource
import socket
import ssl
import statistics
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
if str(TESTS) not in sys.path:
    sys.path.insert(0, str(TESTS))

MIB = 1 << 20
BIG = 100 * MIB
READERS = 500
BODIES = 400
HEADS = 100
HALF_OPEN = 2_000
SOURCES = {"reader": "127.0.0.3", "body": "127.0.0.4", "head": "127.0.0.5", "half": "127.0.0.6"}
PEER = "127.0.0.2"
ESTABLISHED = 1

GET = b"GET /items HTTP/1.1\r\nhost: orders\r\n\r\n"
GET_BIG = b"GET /big HTTP/1.1\r\nhost: orders\r\n\r\n"
POST = b"POST /items HTTP/1.1\r\nhost: orders\r\ncontent-length: 1000000\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n"


# --- the module -------------------------------------------------------------------------------------------------------------


class Module(asyncio.Protocol):
    """Answers at once, or pours 100 MB as fast as it is taken; a body is read for ever."""

    def connection_made(self, transport):
        self.transport = transport
        self.left = 0
        self.head = b""
        self.paused = False

    def data_received(self, data):
        if self.head:
            return
        if data.startswith(b"POST"):
            self.head = data
        elif b" /big " in data:
            self.left = BIG
            self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % BIG)
            self.pour()
        else:
            self.transport.write(OK)

    def pause_writing(self):
        self.paused = True

    def resume_writing(self):
        self.paused = False
        self.pour()

    def pour(self):
        piece = bytes(65536)
        while self.left and not self.paused:
            self.transport.write(piece)
            self.left -= len(piece)


async def module():
    server = await asyncio.get_running_loop().create_server(Module, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


# --- the attackers ----------------------------------------------------------------------------------------------------------


class Attackers:
    """Keeps so many connections of each kind open: one that is closed is opened anew, until `stop`.

    Each is one socket; whether the sidecar has closed it is asked of the kernel, as most of them never read.
    """

    def __init__(self, port, context, again_s):
        self.port = port
        self.context = context
        self.again_s = again_s
        self.loop = asyncio.get_running_loop()
        self.standing = dict.fromkeys(SOURCES, 0)
        self.ages = {kind: [] for kind in SOURCES}
        self.answers = {}
        self.hello = self.client_hello()
        self.stopped = False

    def client_hello(self):
        out = ssl.MemoryBIO()
        with contextlib.suppress(ssl.SSLWantReadError):
            self.context.wrap_bio(ssl.MemoryBIO(), out, server_hostname="x").do_handshake()
        return out.read()

    async def connect(self, kind):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        sock.bind((SOURCES[kind], 0))
        try:
            await self.loop.sock_connect(sock, ("127.0.0.1", self.port))
        except BaseException:
            sock.close()
            raise
        return sock

    async def secure(self, sock):
        """A handshake; returns what encrypts."""
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = self.context.wrap_bio(incoming, outgoing, server_hostname="x")
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                await self.loop.sock_sendall(sock, outgoing.read())
                octets = await self.loop.sock_recv(sock, 4096)
                if not octets:
                    raise ConnectionResetError from None
                incoming.write(octets)
            else:
                return tls, incoming, outgoing

    async def slow(self, kind, number):
        """One attacker."""
        first = True
        while not self.stopped:
            if not first:
                await asyncio.sleep(self.again_s * (0.5 + number % 100 / 100))
            first = False
            with contextlib.suppress(OSError):
                sock = await self.connect(kind)
                try:
                    await self.attack(kind, number, sock)
                finally:
                    sock.close()

    async def attack(self, kind, number, sock):
        if kind == "half":
            await self.loop.sock_sendall(sock, self.hello[: number % 3 * len(self.hello) // 2])
            await self.hold(kind, sock)
            return
        tls, incoming, outgoing = await self.secure(sock)
        tls.write({"reader": GET_BIG, "body": POST, "head": POST[:20]}[kind])
        await self.loop.sock_sendall(sock, outgoing.read())
        if kind == "reader":
            await self.hold(kind, sock, (lambda: sock.recv(1)) if number % 2 else None)
            return

        def drip():
            tls.write(b"x")
            sock.send(outgoing.read())

        await self.hold(kind, sock, drip)
        with contextlib.suppress(ssl.SSLError, OSError):
            incoming.write(sock.recv(4096))
            answer = tls.read(12).decode()
            self.answers[answer] = self.answers.get(answer, 0) + 1

    async def hold(self, kind, sock, beat=None):
        began = self.loop.time()
        self.standing[kind] += 1
        try:
            while sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == bytes([ESTABLISHED]):
                await asyncio.sleep(1.0)
                if beat is not None:
                    with contextlib.suppress(BlockingIOError):
                        beat()
        finally:
            self.standing[kind] -= 1
            self.ages[kind].append(round(self.loop.time() - began, 2))

    async def serve(self):
        counts = {"reader": READERS, "body": BODIES, "head": HEADS, "half": HALF_OPEN}
        tasks = []
        lines = asyncio.Queue()
        asyncio.get_running_loop().add_reader(0, lambda: lines.put_nowait(sys.stdin.readline()))
        for kind, count in counts.items():
            for number in range(count):
                tasks.append(asyncio.ensure_future(self.slow(kind, number)))
                await asyncio.sleep(0.003 if kind == "half" else 0.006)
        print("standing", flush=True)
        while (line := (await lines.get()).strip()) in {"count", "stop"}:
            if line == "stop":
                self.stopped = True
                while any(self.standing.values()):
                    await asyncio.sleep(0.2)
            print(json.dumps({"standing": self.standing, "ages": self.ages, "answers": self.answers}), flush=True)
        for task in tasks:
            task.cancel()


async def attackers(port, certificate, again_s):
    context = context_of(certificate)
    await Attackers(int(port), context, float(again_s)).serve()


def context_of(certificate):
    context = ssl.create_default_context(cafile=str(Path(certificate).parent / "ca.pem"))
    context.check_hostname = False
    context.load_cert_chain(certificate + ".pem", certificate + ".key")
    context.set_alpn_protocols(["http/1.1"])
    return context


if __name__ == "__main__":
    import uvloop

    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    uvloop.run(module() if sys.argv[1] == "module" else attackers(*sys.argv[2:]))
