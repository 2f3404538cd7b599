"""An endpoint that speaks HTTP/2 through the `h2` library, over plain text or TLS, and does what a test tells it to.

module = await H2Module().listen()           answers 200 to each whole request
silent = await H2Module(answers=False).listen()
silent.connections[0].respond(1, b"late")    and now to this one
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings

from flui.model.topology import Address
from support.pki import Authority, Leaf, raw_context


class H2Connection(asyncio.Protocol):
    """One connection, as its endpoint sees it."""

    def __init__(self, module: H2Module) -> None:
        self.module = module
        self.heads: dict[int, dict[bytes, bytes]] = {}
        self.bodies: dict[int, bytes] = {}
        self.ended: list[int] = []
        """Streams whose request is whole, in order."""
        self.resets: list[tuple[int, int]] = []
        self.goaways: list[int] = []
        """Codes of the GOAWAYs that came."""
        self.reads = 0
        """Times that octets came."""
        self.lost = False
        config = h2.config.H2Configuration(client_side=False, header_encoding=None)
        self.h2 = h2.connection.H2Connection(config)
        self.h2.local_settings = h2.settings.Settings(client=False, initial_values=module.settings)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.module.connections.append(self)
        tls = transport.get_extra_info("ssl_object")
        if not self.module.greets or (tls is not None and tls.selected_alpn_protocol() != "h2"):
            return
        self.h2.initiate_connection()
        if self.module.window:
            self.h2.increment_flow_control_window(self.module.window)
        self.send()

    def data_received(self, data: bytes) -> None:
        self.reads += 1
        for event in self.h2.receive_data(data):
            self._heard(event)
        self.send()

    def _heard(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            self.heads[event.stream_id] = dict(event.headers)
            self.bodies[event.stream_id] = b""
        elif isinstance(event, h2.events.DataReceived):
            self.bodies[event.stream_id] += event.data
            if self.module.reads:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            self.ended.append(event.stream_id)
            if self.module.answers:
                self.respond(event.stream_id, b"ok\n")
        elif isinstance(event, h2.events.StreamReset):
            self.resets.append((event.stream_id, int(event.error_code)))
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.goaways.append(int(event.error_code))

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True

    def send(self) -> None:
        octets = self.h2.data_to_send()
        if octets and not self.transport.is_closing():
            self.transport.write(octets)

    def respond(self, stream: int, body: bytes = b"", status: int = 200, *, end: bool = True) -> None:
        """A head, as much of `body` as its windows let through, and its end."""
        self.h2.send_headers(stream, [(b":status", b"%d" % status), (b"content-type", b"text/plain")])
        self.more(stream, body, end=end)

    def more(self, stream: int, body: bytes = b"", *, end: bool = False) -> None:
        while body:
            size = min(len(body), self.h2.local_flow_control_window(stream), 16_384)
            if not size:
                break
            self.h2.send_data(stream, body[:size])
            body = body[size:]
        if end and not body:
            self.h2.end_stream(stream)
        self.send()

    def reset(self, stream: int, code: int = 8) -> None:
        self.h2.reset_stream(stream, code)
        self.send()

    def leave(self, last: int) -> None:
        """GOAWAY that looks at no stream above `last`; those below go on. (`h2` itself says nothing after one.)"""
        self.transport.write(b"\0\0\x08\x07\0\0\0\0\0" + last.to_bytes(4, "big") + bytes(4))


class H2Module:
    """The endpoint."""

    def __init__(
        self, *, answers: bool = True, reads: bool = True, streams: int = 1_000, window: int = 0, stream_window: int = 65_535
    ) -> None:
        """What it does by itself.

        Args:
            answers: 200 to each whole request.
            reads: It gives back what it has taken of the windows.
            streams: Exchanges at a time that it takes.
            window: What it adds to the window of each connection.
            stream_window: Window of each stream.
        """
        self.answers = answers
        self.greets = True
        """It says its SETTINGS as soon as somebody is there. Never where TLS settled on another protocol."""
        self.reads = reads
        self.window = window
        codes = h2.settings.SettingCodes
        self.settings = {codes.MAX_CONCURRENT_STREAMS: streams, codes.INITIAL_WINDOW_SIZE: stream_window, codes.ENABLE_PUSH: 0}
        self.connections: list[H2Connection] = []
        self.accepts = True
        self.address: Address
        self._server: asyncio.Server

    async def listen(self, leaf: Leaf | None = None, ca: Authority | None = None, alpn: Sequence[str] = ("h2",)) -> H2Module:
        context = None
        if leaf is not None and ca is not None:
            context = raw_context(ssl.PROTOCOL_TLS_SERVER, leaf, [ca], alpn=alpn)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: H2Connection(self), "127.0.0.1", 0, ssl=context)
        name = self._server.sockets[0].getsockname()
        self.address = Address(name[0], name[1])
        return self

    @property
    def open(self) -> list[H2Connection]:
        return [connection for connection in self.connections if not connection.lost]

    def stop(self) -> None:
        self._server.close()
        for connection in self.open:
            connection.transport.abort()
