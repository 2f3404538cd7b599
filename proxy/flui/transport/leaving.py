"""Who goes while nobody reads from him: a socket that is not read tells nothing of its end, so those are watched apart.

held back ──▶ watch ──▶ the peer is gone ──▶ abort ──▶ the transport's protocol hears that it is lost
                └──▶ read again: forget
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import select
import socket
import struct
from typing import Final

_IS_HERE: Final = hasattr(select, "epoll")
"""Elsewhere than on Linux a peer that goes is noticed when it is read again, or its time is up."""


AT_ONCE: Final = struct.pack("ii", 1, 0)
"""SO_LINGER: closing drops what is not sent, and resets the peer."""
_UNSENT: Final = 0x894B
"""SIOCOUTQNSD (linux/sockios.h): octets that the kernel has not sent yet, as the peer's window is full. Elsewhere an error."""


def cut(transport: asyncio.Transport) -> None:
    """Closes a connection of which something is still under way, and its peer can tell at once.

    An orderly end would wait behind what was written, for as long as the peer does not read: then it is reset.
    """
    sock = transport.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError, ValueError):  # it is closed already, or is no TCP
            if transport.get_write_buffer_size() or any(fcntl.ioctl(sock.fileno(), _UNSENT, bytes(4))):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
    transport.abort()


class Leavers:
    """Sockets of one process that are not read. Costs nothing while nobody is held back, and one descriptor for all of them."""

    __slots__ = ("_loop", "_poll", "_watched")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._poll: select.epoll | None = None
        self._watched: dict[int, asyncio.Transport] = {}

    def watch(self, transport: asyncio.Transport, *, half: bool) -> int:
        """Aborts `transport` when its peer goes.

        Args:
            transport: Not read any more.
            half: A peer that will say no more is gone, too: it is so where TLS is spoken, not in plain TCP.

        Returns:
            What to `forget`; -1: it is not watched.
        """
        sock = transport.get_extra_info("socket")
        if not _IS_HERE or sock is None or sock.fileno() < 0:
            return -1
        if self._poll is None:
            self._poll = select.epoll()
            self._loop.add_reader(self._poll.fileno(), self._look)
        number: int = sock.fileno()
        self._unwatch(number)
        self._poll.register(number, (select.EPOLLRDHUP if half else 0) | select.EPOLLONESHOT)
        self._watched[number] = transport
        return number

    def forget(self, number: int, transport: asyncio.Transport) -> None:
        """It is read again, or lost; nothing happens if another one has its number by now."""
        if self._watched.get(number) is transport:
            self._unwatch(number)

    def _unwatch(self, number: int) -> None:
        if self._watched.pop(number, None) is not None and self._poll is not None:
            with contextlib.suppress(OSError):  # a socket that was closed is out by itself
                self._poll.unregister(number)

    def _look(self) -> None:
        assert self._poll is not None, "nobody is watched"
        for number, _ in self._poll.poll(0):
            transport = self._watched.get(number)
            if transport is not None:
                self._unwatch(number)
                transport.abort()

    def close(self) -> None:
        """Watches nobody any more."""
        self._watched.clear()
        if self._poll is not None:
            self._loop.remove_reader(self._poll.fileno())
            self._poll.close()
            self._poll = None
