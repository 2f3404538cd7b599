"""One exchange with a sidecar, held in the hand: read as little as one likes, written as long as one is let, given up at any time.

    with OneHttp2(address, context) as caller:
        caller.begin("POST", path, kind)
        caller.write(octets, 0.3)           how many were taken before nobody took more for so long
        caller.end()
        caller.read(65536)                  body of the answer, so many octets at least, or all of it
        caller.cancel()                     RST_STREAM; in HTTP/1.1 the connection goes

Blocking sockets of a peer that is not ours; what the kernel holds is kept small.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import time
from types import TracebackType
from typing import Self

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions

from flui.model.topology import Address

KERNEL_OCTETS = 64 * 1024
_PIECE = 64 * 1024
_WAIT_S = 20.0


class _Caller:
    """What both have in common."""

    alpn = ""

    def __init__(self, address: Address, context: ssl.SSLContext) -> None:  # noqa: TID251  a peer that is not ours
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_OCTETS)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_OCTETS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(_WAIT_S)
        sock.connect((address.host, address.port))
        context.set_alpn_protocols([self.alpn])
        self.socket = context.wrap_socket(sock, server_hostname="any.invalid", suppress_ragged_eofs=True)
        self.status = 0
        self.fields: dict[bytes, bytes] = {}
        self.body = bytearray()
        """Of the answer, so far."""
        self.over = False
        """The answer is complete, or the exchange is dead."""
        self.was_reset = False
        self.over_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.socket.close()

    def _end(self) -> None:
        if not self.over:
            self.over = True
            self.over_at = time.monotonic()

    def _recv(self) -> bytes:
        try:
            return self.socket.recv(_PIECE)
        except (ConnectionError, ssl.SSLEOFError):
            self.was_reset = True
            return b""

    def hear(self) -> None:
        """Takes in what comes next, once."""
        raise NotImplementedError

    def read(self, octets: int) -> bytes:
        """So many octets of the answer's body, or what there is of it."""
        while len(self.body) < octets and not self.over:
            self.hear()
        said = bytes(self.body[:octets])
        del self.body[:octets]
        return said

    def rest(self) -> bytes:
        """All that is left of the answer."""
        while not self.over:
            self.hear()
        return bytes(self.body)

    def headed(self) -> None:
        """Reads until the head of the answer is there."""
        while not self.status and not self.over:
            self.hear()


class OneHttp1(_Caller):
    """By HTTP/1.1; a body is chunked."""

    alpn = "http/1.1"

    def __init__(self, address: Address, context: ssl.SSLContext) -> None:  # noqa: TID251  as above
        super().__init__(address, context)
        self._in = bytearray()
        self._left = -1
        """Octets of the chunk, or of the body, that must still come; -1: a line about it comes first."""
        self._chunked = False

    def begin(self, verb: str, target: str, kind: str = "", more: tuple[tuple[str, str], ...] = ()) -> None:
        lines = [f"{verb} {target} HTTP/1.1", "host: orders", *(f"{name}: {value}" for name, value in more)]
        if kind:
            lines += [f"content-type: {kind}", "transfer-encoding: chunked"]
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode())

    def write(self, octets: bytes, patience_s: float = _WAIT_S) -> int:
        """How many octets of body were taken, within whole pieces, before nobody took any for `patience_s`."""
        self.socket.settimeout(patience_s)
        taken = 0
        try:
            for at in range(0, len(octets), _PIECE):
                piece = octets[at : at + _PIECE]
                said = memoryview(b"%x\r\n%b\r\n" % (len(piece), piece))
                while said:
                    said = said[self.socket.send(said) :]
                taken += len(piece)
        except (TimeoutError, ssl.SSLWantWriteError, ConnectionError):
            pass
        finally:
            self.socket.settimeout(_WAIT_S)
        return taken

    def end(self) -> None:
        self.socket.sendall(b"0\r\n\r\n")

    def cancel(self) -> None:
        """Resets the connection: its end would wait behind what was written and nobody takes."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def hear(self) -> None:
        more = self._recv()
        if not more:
            self._end()
            return
        self._in += more
        if not self.status:
            head, mark, rest = bytes(self._in).partition(b"\r\n\r\n")
            if not mark:
                return
            start, *lines = head.split(b"\r\n")
            status = int(start.split(b" ")[1])
            self._in = bytearray(rest)
            if status < 200:
                return
            self.status = status
            self.fields = dict(line.split(b": ", 1) for line in lines)
            self._chunked = b"transfer-encoding" in self.fields
            self._left = -1 if self._chunked else int(self.fields.get(b"content-length", b"0"))
        self._take()

    def _take(self) -> None:
        at = 0
        held = self._in
        while True:
            if self._left < 0:
                line = held.find(b"\r\n", at)
                if line < 0:
                    break
                self._left = int(held[at:line], 16)
                at = line + 2
                if not self._left:
                    self._end()
                    break
            part = held[at : at + self._left]
            self.body += part
            at += len(part)
            self._left -= len(part)
            if self._left:
                break
            if not self._chunked:
                self._end()
                break
            if len(held) - at < 2:  # the line end of the chunk has not come
                self._left = 0
                break
            at += 2
            self._left = -1
        del held[:at]


class OneHttp2(_Caller):
    """By HTTP/2, by hyper-h2, with its windows of 65,535 octets."""

    alpn = "h2"

    def __init__(self, address: Address, context: ssl.SSLContext) -> None:  # noqa: TID251  as above
        super().__init__(address, context)
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding=None))
        self.h2.initiate_connection()
        self._flush()
        self._stream = 1

    def _flush(self) -> None:
        octets = self.h2.data_to_send()
        if octets:
            self.socket.sendall(octets)

    def begin(self, verb: str, target: str, kind: str = "", more: tuple[tuple[str, str], ...] = ()) -> None:
        head = [(":method", verb), (":scheme", "https"), (":authority", "orders"), (":path", target), *more]
        if kind:
            head.append(("content-type", kind))
        self._stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(self._stream, head, end_stream=not kind)
        self._flush()

    def write(self, octets: bytes, patience_s: float = _WAIT_S) -> int:
        """How many octets of body were taken before no window was opened for `patience_s`."""
        taken = 0
        while taken < len(octets) and not self.over:
            room = min(self.h2.local_flow_control_window(self._stream), self.h2.max_outbound_frame_size, len(octets) - taken)
            if room > 0:
                self.h2.send_data(self._stream, octets[taken : taken + room])
                self._flush()
                taken += room
                continue
            self.socket.settimeout(patience_s)
            try:
                self.hear()
            except TimeoutError:
                break
            finally:
                self.socket.settimeout(_WAIT_S)
        return taken

    def end(self) -> None:
        self.h2.end_stream(self._stream)
        self._flush()

    def cancel(self) -> None:
        self.h2.reset_stream(self._stream, h2.errors.ErrorCodes.CANCEL)
        self._flush()

    def hear(self) -> None:
        octets = self._recv()
        if not octets:
            self._end()
            return
        for event in self.h2.receive_data(octets):
            if isinstance(event, h2.events.ResponseReceived):
                self.fields = dict(event.headers)
                self.status = int(self.fields[b":status"])
            elif isinstance(event, h2.events.TrailersReceived):
                self.fields |= dict(event.headers)
            elif isinstance(event, h2.events.DataReceived):
                self.body += event.data
                with contextlib.suppress(h2.exceptions.StreamClosedError):  # it ended with these octets
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset)):
                self.was_reset = isinstance(event, h2.events.StreamReset)
                self._end()
            elif isinstance(event, h2.events.ConnectionTerminated):
                self._end()
        self._flush()
