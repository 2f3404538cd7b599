"""The four ports of a codec: octets in, octets out, events in, events out."""

from __future__ import annotations

from typing import Protocol

from flui.model.events import Event


class Events(Protocol):
    """The side that faces the splice."""

    def send(self, event: Event) -> None:
        """Says `event` to the peer. What it costs on the wire is read with `take`."""

    def events(self) -> list[Event]:
        """What the peer has said since the last call, in order."""

    def open(self) -> int:
        """Number of the next exchange, on the side that asks."""


class Octets(Protocol):
    """The side that faces a byte stream (TCP, TLS)."""

    def receive(self, data: bytes) -> None:
        """Takes octets as they come, cut anywhere. Never raises: what is wrong becomes an event."""

    def receive_eof(self) -> None:
        """The peer will send no more."""

    def take(self) -> bytes:
        """Octets to write, once."""


class Codec(Events, Octets, Protocol):
    """Both sides."""

    closing: bool
    """After what `take` returns, the connection must end."""
    reading: bool
    """False: whoever owns the socket must stop reading until it turns true (no credit, or a full pipeline)."""

    def stall(self, stalled: bool) -> None:
        """The socket's write buffer is above (True) or back below (False) its mark: no Credit while it is."""
