"""Accepts connections: an accept loop of our own, so that each connection gets the TLS context in force at that moment.

A listener that speaks TLS bounds what comes from one address, and how many handshakes are under way (`sources.py`).

A listener stops in two steps: `pause` leaves new connections in the kernel's queue (too many are open), `stop` takes what
is already in that queue and closes the socket, so that a drain resets nobody who was let in.

Another process of the same user may take an address over while we still have it (`bind`): the kernel then gives it every
new connection, and what is in our queue by then stays ours. So a sidecar can be replaced without a moment in which nobody
listens, and without a connection that nobody accepts.
"""

from __future__ import annotations

import ctypes
import socket
import ssl
import struct
import sys

from flui.downstream.relay import Gate
from flui.model.topology import Address
from flui.transport.secure import Secure

_BACKLOG = 1024
_ACCEPTS = 16
"""Connections accepted per wake-up, so that a flood of them leaves time for those already here."""
_SO_ATTACH_REUSEPORT_CBPF = 51
"""socket(7): which socket of those at one address gets a new connection is what a program in BPF returns."""
_BPF_RETURN = struct.Struct("HBBI")
_BPF_RETURN_K = 0x06


def bind(address: Address, *, take_over: bool = False) -> socket.socket:
    """A listening socket.

    Args:
        address: Where.
        take_over: Every new connection comes here from now on, though another sidecar of ours may listen there. Without it
            an address in use is an error, as ever.

    Raises:
        OSError: in use, not ours, not permitted.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if take_over:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((address.host, address.port))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # after `bind`, which still finds out who is there
        sock.listen(_BACKLOG)
        if take_over and sys.platform == "linux":
            _comes_first(sock)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def _comes_first(sock: socket.socket) -> None:
    """Has the kernel give new connections to `sock`, the second at its address; the only one later on, whatever the program says."""
    program = ctypes.create_string_buffer(_BPF_RETURN.pack(_BPF_RETURN_K, 0, 0, 1))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, struct.pack("HP", 1, ctypes.addressof(program)))


class Acceptor:
    """Takes connections from one socket to one gate."""

    __slots__ = ("_accepting", "_gate", "_handshakes", "_opening", "_sock", "_stopped", "address")

    def __init__(self, gate: Gate, sock: socket.socket) -> None:
        name = sock.getsockname()
        self.address = Address(name[0], name[1])
        """Where it listens; the port is the real one when 0 was asked for."""
        self._gate = gate
        self._sock = sock
        self._accepting = False
        self._stopped = False
        self._handshakes = 0
        self._opening: dict[Secure, str] = {}
        """Handshakes under way, and where they come from; the oldest first."""

    @property
    def busy(self) -> bool:
        """Whether handshakes are under way."""
        return self._handshakes > 0

    def start(self) -> None:
        """Accepts from now on."""
        self._accepting = True
        self._gate.relay.loop.add_reader(self._sock.fileno(), self._ready)

    def stop(self) -> None:
        """Accepts what has already connected, then nothing more."""
        if self._stopped:
            return
        self._stopped = True
        self._pause()
        while self._accept():
            pass
        self._sock.close()

    def look(self) -> None:
        """Goes on accepting if there is room again."""
        if not self._stopped and not self._accepting and not self._full():
            self.start()

    def _full(self) -> bool:
        return len(self._gate.connections) + self._handshakes >= self._gate.relay.limits.connections

    def _ready(self) -> None:
        for _ in range(_ACCEPTS):
            if self._full():
                self._pause()
                self._gate.relay.journal.warn("too many connections", listener=self._gate.listener.name)
                return
            if not self._accept():
                return

    def _pause(self) -> None:
        if self._accepting:
            self._accepting = False
            self._gate.relay.loop.remove_reader(self._sock.fileno())

    def _accept(self) -> bool:
        try:
            sock, name = self._sock.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False
        except OSError as error:
            # Out of descriptors, most likely. The queue stays readable: `look` tries again, this loop would spin.
            self._gate.relay.journal.error("accept failed", listener=self._gate.listener.name, error=str(error))
            self._pause()
            return False
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tasks = self._gate.relay.tasks
        if not self._gate.listener.tls:
            self._handshakes += 1
            tasks.start(self._open(sock))
        elif self._lets_in(name[0]):
            self._handshakes += 1
            wire = self._wire(name[0])
            self._opening[wire] = name[0]
            tasks.start(self._shake(sock, wire, name[0]))
        else:
            sock.close()
        return True

    async def _open(self, sock: socket.socket) -> None:
        """A caller in plain text: there is nothing to find out about it."""
        gate = self._gate
        try:
            await gate.relay.loop.connect_accepted_socket(gate.protocol, sock)
        except OSError as error:
            sock.close()
            gate.count_refused("aborted", str(error) or type(error).__name__)
        finally:
            self._handshakes -= 1

    def _lets_in(self, source: str) -> bool:
        """Whether a caller from there may try to prove who it is."""
        gate = self._gate
        limits = gate.relay.limits
        why = gate.sources.refuses(source, limits.connections, limits.connections_per_source)
        if why:
            gate.turned_away(why, source)
            return False
        gate.sources.enter(source)
        while len(self._opening) >= limits.handshakes:
            # The one that has waited longest: who means it is done in milliseconds, so it is hardly ever one of those.
            oldest = next(iter(self._opening))
            gate.turned_away("handshakes", self._opening.pop(oldest))
            oldest.abort()
        return True

    def _wire(self, source: str) -> Secure:
        gate = self._gate
        credentials = gate.relay.credentials
        assert credentials is not None
        handshake_s = gate.relay.timeouts.handshake_s
        return Secure(gate.protocol(source), credentials.server_context(), gate.relay.loop, handshake_s, server=True)

    async def _shake(self, sock: socket.socket, wire: Secure, source: str) -> None:
        """A caller that must prove who it is."""
        gate = self._gate
        accepted = False
        try:
            await gate.relay.loop.connect_accepted_socket(lambda: wire, sock)
            await wire.established()
            accepted = True
        except ssl.SSLError as error:
            gate.count_refused(_reason(error), str(error))
        except OSError as error:
            if wire in self._opening:  # else it was given up, and is counted
                gate.count_refused("timeout" if isinstance(error, TimeoutError) else "aborted", str(error) or type(error).__name__)
        finally:
            self._opening.pop(wire, None)
            self._handshakes -= 1
            if not accepted:
                sock.close()
                gate.sources.leave(source, proven=False)


def _reason(error: ssl.SSLError) -> str:
    """A closed set of reasons for the metric, from OpenSSL's own names."""
    name = (error.reason or "").lower()
    if "certificate_verify" in name:
        return "untrusted"
    if "peer_did_not_return" in name:
        return "no_certificate"
    if "http_request" in name or "wrong_version" in name:
        return "plaintext"
    if "version" in name or "protocol" in name:
        return "version"
    return "handshake"
