"""Accepts connections: an accept loop of our own, so that each connection gets the TLS context in force at that moment.

A listener that speaks TLS bounds what comes from one address, and how many handshakes are under way (`sources.py`).

A listener stops in two steps: `pause` leaves new connections in the kernel's queue (too many are open), `stop` takes what
is already in that queue and closes the socket, so that a drain resets nobody who was let in.
"""

from __future__ import annotations

import socket
import ssl

from flui.downstream.relay import Gate
from flui.model.topology import Address
from flui.transport.secure import Secure

_BACKLOG = 1024
_ACCEPTS = 64
"""Connections accepted per wake-up, so that a flood of them leaves time for those already here."""


def bind(address: Address) -> socket.socket:
    """A listening socket.

    Raises:
        OSError: in use, not ours, not permitted.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address.host, address.port))
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


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
        self._opening: dict[Secure, None] = {}
        """Handshakes under way, the oldest first."""

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
        gate = self._gate
        source = name[0] if gate.listener.tls else ""
        if source:
            limits = gate.relay.limits
            why = gate.sources.refuses(source, limits.connections, limits.connections_per_source)
            if why:
                gate.turned_away(why, source)
                sock.close()
                return True
            gate.sources.enter(source)
            if len(self._opening) >= limits.handshakes:
                # The one that has waited longest: who means it is done in milliseconds, so it is hardly ever one of those.
                oldest = next(iter(self._opening))
                del self._opening[oldest]
                gate.turned_away("handshakes", "")
                oldest.abort()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._handshakes += 1
        gate.relay.tasks.start(self._open(sock, source))
        return True

    async def _open(self, sock: socket.socket, source: str) -> None:
        gate = self._gate
        loop = gate.relay.loop
        accepted = False
        secure: Secure | None = None
        try:
            if gate.listener.tls:
                assert gate.relay.credentials is not None
                context = gate.relay.credentials.server_context()
                wire = Secure(gate.protocol(source), context, loop, gate.relay.timeouts.handshake_s, server=True)
                secure = wire
                await loop.connect_accepted_socket(lambda: wire, sock)
                self._opening[wire] = None
                await wire.established()
            else:
                await loop.connect_accepted_socket(gate.protocol, sock)
            accepted = True
        except ssl.SSLError as error:
            gate.count_refused(_reason(error), str(error))
        except OSError as error:
            gate.count_refused("timeout" if isinstance(error, TimeoutError) else "aborted", str(error) or type(error).__name__)
        finally:
            if not accepted:
                sock.close()
                if source:
                    gate.sources.leave(source, proven=False)
            if secure is not None:
                self._opening.pop(secure, None)
            self._handshakes -= 1


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
