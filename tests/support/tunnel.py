"""A way into a listener that wants mTLS and HTTP/2, for peers that speak neither TLS nor our certificates.

    peer ══ plain TCP ══▶ Tunnel ══ TLS 1.3, client certificate, ALPN h2 ══▶ inbound

Octets are copied both ways as they come. An end of the far side becomes an end of the near side, an abort an abort: what
a conformance suite wants to see of a connection's end, it sees.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from types import TracebackType
from typing import Self

from flui.model.topology import Address

_CHUNK = 1 << 16


class Tunnel:
    """Listens on a port of 127.0.0.1, in a thread of its own, while the block runs."""

    def __init__(self, to: Address, context: ssl.SSLContext, alpn: str = "h2") -> None:  # noqa: TID251  a peer that is not ours
        """Not open yet.

        Args:
            to: The listener.
            context: Who calls, and whom it believes; its ALPN is set here.
            alpn: What is to be spoken; the listener must agree.
        """
        self._to = to
        self._context = context
        self._alpn = alpn
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server
        self._tasks: set[asyncio.Task[None]] = set()
        self.address: Address
        self.opened = 0
        """Connections that came through so far."""

    def __enter__(self) -> Self:
        self._context.set_alpn_protocols([self._alpn])
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(5)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = Address(*self._server.sockets[0].getsockname())

    async def _stop(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._loop.shutdown_asyncgens()

    async def _serve(self, near_in: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        far_out: asyncio.StreamWriter | None = None
        try:
            far_in, far_out = await asyncio.open_connection(self._to.host, self._to.port, ssl=self._context, server_hostname="any.invalid")
            spoken = far_out.get_extra_info("ssl_object").selected_alpn_protocol()
            assert spoken == self._alpn, f"{spoken} was agreed on"
            self.opened += 1
            there = self._loop.create_task(_copy(near_in, far_out))
            back = self._loop.create_task(_copy(far_in, near_out))
            try:
                await asyncio.wait((there, back), return_when=asyncio.FIRST_COMPLETED)
                if back.done() and back.exception() is not None:
                    near_out.transport.abort()
            finally:
                there.cancel()
                back.cancel()
                await asyncio.gather(there, back, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            near_out.transport.abort()
        finally:
            near_out.close()
            if far_out is not None:
                far_out.close()
                with contextlib.suppress(OSError, asyncio.CancelledError):
                    await far_out.wait_closed()


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Until the source ends; an abort of it is raised."""
    while octets := await source.read(_CHUNK):
        sink.write(octets)
        await sink.drain()
