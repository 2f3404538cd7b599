"""A library that speaks REST and no gRPC, with streams as long as anybody takes them, and an ear for who gives up.

with Shelf() as module:
    module.told         octets of titles that it got rid of, and ...
    module.heard        ... that it has taken in
    module.go           set: what it holds back goes on
    module.gone_at      when it heard that a request was given up

GET ...:watch answers in NDJSON, POST ...:import takes it; both in HTTP/1.1 with chunks, by blocking sockets.
"""

from __future__ import annotations

import json
import select
import socket
import threading
import time
from types import TracebackType
from typing import Any, Self

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from flui.model.topology import Address
from support import schemas
from support.pouring import GIB

DESCRIPTORS = ("library.proto",)
_PIECE = 256 * 1024
_HELD_S = 20.0
_LOOK_S = 0.01
_GONE = select.POLLHUP | select.POLLERR | select.POLLRDHUP


class _GoneError(Exception):
    """The request was given up."""


class Shelf:
    """One replica."""

    def __init__(self) -> None:
        self.octets = schemas.descriptor_set(*DESCRIPTORS)
        self.pool = descriptor_pool.DescriptorPool()
        for file in descriptor_pb2.FileDescriptorSet.FromString(self.octets).file:
            self.pool.Add(file)
        self.messages = {
            name: message_factory.GetMessageClass(self.pool.FindMessageTypeByName(f"lib.{name}")) for name in ("Book", "ListBooksRequest")
        }
        self.again()

    def again(self, *, title: int = 65_536, slow: bool = False, pause_every: int = 0, pause_s: float = 0.0) -> None:
        """As for the first request; with a pause of `pause_s` after so many octets that it took in. `slow`: one message, none before `go`."""
        self.pause_every, self.pause_s = pause_every, pause_s
        self.title = title
        self.slow = slow
        self.most = GIB
        self.told = self.heard = 0
        self.go, self.gone = threading.Event(), threading.Event()
        self.gone_at = 0.0

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = Address("127.0.0.1", self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.go.set()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with sock, sock.makefile("rb", _PIECE) as came:
            while start := came.readline():
                while came.readline().strip():
                    pass
                try:
                    if b":import" in start:
                        self._import(sock, came)
                    else:
                        self._watch(sock)
                except (_GoneError, OSError):
                    self.gone_at = time.monotonic()
                    self.gone.set()
                    return

    def _watch(self, sock: socket.socket) -> None:
        line = json.dumps({"title": "x" * self.title}).encode() + b"\n"
        chunk = b"%x\r\n%b\r\n" % (len(line), line)
        sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n")
        while self.told < self.most:
            left = memoryview(chunk)
            while left:
                self._until(sock, select.POLLOUT)
                left = left[sock.send(left, socket.MSG_DONTWAIT) :]
            self.told += self.title
        sock.sendall(b"0\r\n\r\n")

    def _import(self, sock: socket.socket, came: Any) -> None:
        books = 0
        text = b""
        while True:
            size = came.readline()
            if not size.endswith(b"\n"):
                raise _GoneError
            octets = int(size, 16)
            text += came.read(octets)
            if len(came.read(2)) < 2:
                raise _GoneError
            *lines, text = text.split(b"\n")
            for line in lines:
                books += 1
                title = len(json.loads(line).get("title", ""))
                self.heard += title
                if self.pause_every and self.heard % self.pause_every < title:
                    time.sleep(self.pause_s)
                if self.slow:
                    self._hold(sock)
            if not octets:
                break
        answer = json.dumps({"books": books}).encode()
        sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(answer), answer))

    def _hold(self, sock: socket.socket) -> None:
        until = time.monotonic() + _HELD_S
        while not self.go.wait(_LOOK_S) and time.monotonic() < until:
            self._until(sock, 0, 0)
        self.slow = False

    def _until(self, sock: socket.socket, what: int, wait_s: float = _HELD_S) -> None:
        """Waits until the socket is ready for that; raises when its peer has gone."""
        poll = select.poll()
        poll.register(sock, what | select.POLLRDHUP)
        for _, found in poll.poll(wait_s * 1000):
            if found & _GONE:
                raise _GoneError
