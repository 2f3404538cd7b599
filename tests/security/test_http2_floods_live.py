"""Threats C1-C5 and C7 against a real sidecar process, in plain text and over mTLS: the flood ends, and a sibling does not suffer.

Each attacker has a connection of its own and the same right to call as the sibling, which asks all the while on another one.
"""

from __future__ import annotations

import contextlib
import socket
import statistics
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from flui.codecs.http2 import frames
from flui.model.topology import Address
from flui.model.units import KIB, MIB
from support.pair import Pair, wait
from support.raw_h2 import GET, RawCaller, frame, literal, request_block

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]
CALM = frames.ENHANCE_YOUR_CALM
LARGE = 64 * MIB
GROWTH = 24 * MIB
"""What one attacker may make a sidecar hold, interpreter's own slack included."""
SLOWEST_S = 2.0
"""For any one answer to the sibling; it asks on a machine that the flood and the tests share."""
BATCH = 200


class Module(ThreadingHTTPServer):
    """`/` answers, `/never` does not, `/large` has no end to speak of; bodies are read as slowly as `/sink` is told."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):  # what the kernel holds is nobody's fault, and not what is looked at
            self.socket.setsockopt(socket.SOL_SOCKET, option, 64 * KIB)
        self.go = threading.Event()
        self.never = 0
        self.written = 0
        self.ended = 0
        """Exchanges of `/never` that were told to stop."""

    def handle_error(self, request, client_address):
        """Callers that go are what this is about."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Module

    def do_GET(self):
        if self.path == "/never":
            self.server.never += 1
            with contextlib.suppress(OSError):
                self.connection.settimeout(30)
                while self.connection.recv(1 << 10):
                    pass
            self.server.ended += 1
            self.close_connection = True
            return
        size = LARGE if self.path == "/large" else 3
        self.send_response(200)
        self.send_header("content-length", str(size))
        self.end_headers()
        chunk = b"x" * (64 * KIB)
        while size:
            size -= self.wfile.write(chunk[:size])
            self.server.written += len(chunk) if self.path == "/large" else 0

    def do_POST(self):
        self.server.go.wait(30)
        left = int(self.headers["content-length"])
        while left > 0:
            left -= len(self.rfile.read(min(left, 64 * KIB)))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        """Quiet."""


@pytest.fixture(scope="module")
def module():
    with Module() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.go.set()
        server.shutdown()
        thread.join(5)


@pytest.fixture(scope="module")
def pair(module, tmp_path_factory):
    app = Address("127.0.0.1", module.server_address[1])
    with Pair(tmp_path_factory.mktemp("floods"), f"http://{app}") as both:
        yield both
        both.check()


class Front:
    """One listener, its sidecar, and how to call it."""

    def __init__(self, pair, listener):
        self.listener = listener
        self.side = pair.web if listener == "outbound" else pair.orders
        self._pair = pair

    def caller(self, settings=None):
        if self.listener == "outbound":
            made = RawCaller.plain(self._pair.outbound, settings)
        else:
            made = RawCaller.tls(self._pair.inbound, self._pair.mesh.context("web"), settings)
        made.until(lambda found: found.kind == frames.SETTINGS and not found.flags & frames.ACK)
        return made

    def met(self, what):
        return self.side.metric("flui_http2_bounds_total", listener=self.listener, what=what)


@pytest.fixture(params=["outbound", "inbound"])
def front(request, pair):
    return Front(pair, request.param)


@contextlib.contextmanager
def sibling(front):
    """Asks without a pause while the block runs; each answer must come whole and soon, and memory must not grow."""
    took: list[float] = []
    broken: list[Exception] = []
    stop = threading.Event()

    def ask():
        try:
            with front.caller() as caller:
                stream = 1
                while not stop.is_set() or len(took) < 20:
                    began = time.monotonic()
                    caller.ask(stream)
                    answer = caller.answer(stream)
                    assert answer == (200, b"xxx"), answer
                    took.append(time.monotonic() - began)
                    stream += 2
        except (AssertionError, OSError) as error:
            broken.append(error)

    thread = threading.Thread(target=ask)
    with front.caller() as warm:
        warm.ask(1)
        warm.answer(1)
    before = front.side.resident_octets
    thread.start()
    try:
        wait(lambda: len(took) >= 5 or broken, "the sibling is answered")
        yield took
    finally:
        stop.set()
        thread.join(20)
    assert not broken, broken
    grown = front.side.resident_octets - before
    print(
        f"{front.listener}: sibling {len(took)} answers, median {statistics.median(took) * 1e3:.1f} ms, "
        f"slowest {max(took) * 1e3:.0f} ms; memory {grown / MIB:+.1f} MiB"
    )
    assert max(took) < SLOWEST_S
    assert grown < GROWTH


def flooded(caller, octets, *, reads=True, seconds=10.0):
    """Sends one batch after another until the sidecar hangs up; how many, and the code that it said.

    Args:
        caller: Whose connection it is.
        octets: The batch of a number.
        reads: What the sidecar says is read between two batches; without that, only at the end.
        seconds: It must have hung up by then.
    """
    code, sent, began = -1, 0, time.monotonic()
    while caller.send(octets(sent)):
        sent += 1
        assert time.monotonic() - began < seconds, f"{sent} batches, and it has not hung up"
        if reads:
            code = max([code, *(found.code for found in caller.waiting() if found.kind == frames.GOAWAY)])
    return sent, max(code, caller.goaway())


def test_rapid_resets_end_the_connection(front, module):
    """C1: each reset cancels what it began, and too many of them end the connection."""
    before = front.met("rapid_reset")

    def batch(number):
        streams = range(1 + 2 * BATCH * number, 1 + 2 * BATCH * (number + 1), 2)
        return b"".join(
            frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, stream, request_block(path=b"/never"))
            + frame(frames.RST_STREAM, 0, stream, b"\0\0\0\x08")
            for stream in streams
        )

    with sibling(front), front.caller() as caller:
        _, code = flooded(caller, batch)
    assert code == CALM
    wait(lambda: front.met("rapid_reset") > before, "it is counted")
    wait(lambda: module.never == module.ended, "no request that was given up goes on", 10)


def test_faults_that_make_the_sidecar_reset_count_as_resets(front):
    """C2, MadeYouReset: a window update of zero octets makes us end a stream that is being served."""

    def batch(number):
        streams = range(1 + 2 * BATCH * number, 1 + 2 * BATCH * (number + 1), 2)
        return b"".join(
            frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, stream, request_block(path=b"/never"))
            + frames.window_update(stream, 0)
            for stream in streams
        )

    with sibling(front), front.caller() as caller:
        _, code = flooded(caller, batch)
    assert code == CALM


def test_a_head_that_does_not_end_ends_the_connection(front):
    """C3: at most 8 frames and 60 KiB of one field block."""
    before = front.met("continuation_flood")
    for size in (0, 1, 16_000):
        with sibling(front), front.caller() as caller:
            caller.send(frame(frames.HEADERS, frames.END_STREAM, 1, GET))
            octets = frame(frames.CONTINUATION, 0, 1, literal(b"x", b"y" * 100)[:size].ljust(size, b"\0"))
            _, code = flooded(caller, lambda _, part=octets: part)
        assert code == CALM, size
    wait(lambda: front.met("continuation_flood") >= before + 3, "they are counted")


@pytest.mark.parametrize(
    ("name", "octets"),
    [
        ("ping", frame(frames.PING, 0, 0, b"12345678")),
        ("settings", frames.settings([])),
        ("window_update", frames.window_update(0, 1)),
        ("priority", frame(frames.PRIORITY, 0, 1, b"\0\0\0\0\1")),
        ("empty_data", frame(frames.DATA, 0, 1)),
        ("unknown_frame", frame(0x42, 0, 0, b"x")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_frames_that_carry_nothing_end_the_connection(front, name, octets):
    """C4: with the attacker reading, and with it not reading."""
    before = front.met(f"{name}_flood")
    with sibling(front):
        with front.caller() as caller:
            caller.ask(1, request_block(b"POST", b"/sink", b"orders", (b"content-length", b"10")), end=False)
            _, code = flooded(caller, lambda _: octets * BATCH)
            assert code == CALM
        with front.caller() as caller:
            caller.ask(1, request_block(b"POST", b"/sink", b"orders", (b"content-length", b"10")), end=False)
            flooded(caller, lambda _: octets * BATCH, reads=False)
    wait(lambda: front.met(f"{name}_flood") >= before + 2, "both are counted")


def test_a_header_bomb_ends_the_connection(front):
    """C5: one field of 4 KB in the table, named again and again: the decoded size counts, before anything is copied."""
    before = front.met("header_bomb")
    with sibling(front), front.caller() as caller:
        name, value = b"x-bomb", b"b" * 3900
        # RFC 7541 5.1, 6.2.1: a literal with its lengths as prefixed integers, put into the table as entry 62
        big = b"\x40" + bytes((len(name),)) + name + bytes((0x7F,)) + bytes(((3900 - 127) & 0x7F | 0x80, (3900 - 127) >> 7)) + value
        caller.ask(1, GET + big)
        assert caller.answer(1)[0] in {200, 431}
        caller.ask(3, GET + b"\xbe" * 12_000)
        assert caller.goaway() == CALM
    wait(lambda: front.met("header_bomb") > before, "it is counted")


def test_heads_of_many_exchanges_are_bounded_together(front):
    """C5: heads of 50 KB each on as many streams as one may have hold no more than a mebibyte; the others are refused, not kept."""
    with sibling(front), front.caller() as caller:
        block = request_block(b"GET", b"/never") + literal(b"x-fat", b"f" * 100) * 380  # 380 x 137 octets, past the number of fields or not
        for number in range(100):
            if not caller.send(frame(frames.HEADERS, frames.END_STREAM, 2 * number + 1, block[:16_000])):
                break
            for at in range(16_000, len(block), 16_000):
                last = frames.END_HEADERS if at + 16_000 >= len(block) else 0
                caller.send(frame(frames.CONTINUATION, last, 2 * number + 1, block[at : at + 16_000]))


def settling(count):
    """The number that `count()` stays at for half a second."""
    last, since = count(), time.monotonic()

    def still():
        nonlocal last, since
        if count() != last:
            last, since = count(), time.monotonic()
        return time.monotonic() - since > 0.5

    wait(still, "it comes to rest", 10)
    return last


def test_a_caller_that_does_not_read_stops_its_module_and_nobody_else(front, module):
    """C7: twenty answers of 64 MiB that nobody takes: each holds its window, the module waits, and memory does not grow."""
    with sibling(front), front.caller([(frames.INITIAL_WINDOW_SIZE, 1 << 20)]) as caller:
        written = module.written
        caller.send(frames.window_update(0, (1 << 31) - 1 - 65_535))
        for number in range(20):
            caller.ask(2 * number + 1, request_block(path=b"/large"))
        wait(lambda: module.written > written, "they begin")
        settled = settling(lambda: module.written)
        print(f"{front.listener}: the module wrote {(settled - written) / MIB:.1f} MiB of {20 * LARGE / MIB:.0f}")
        assert settled - written < 20 * 8 * MIB, "what the kernels hold between module and caller, and our windows"


def test_an_upload_that_the_module_does_not_read_stops_its_caller_and_nobody_else(front, module):
    """C7: the window closes after what we hold of it, on each of four streams."""
    module.go.clear()
    with sibling(front), front.caller() as caller:
        head = request_block(b"POST", b"/sink", b"orders", (b"content-length", b"%d" % LARGE))
        windows = {stream: 65_535 for stream in range(1, 9, 2)}
        whole = 65_535
        for stream in windows:
            caller.ask(stream, head, end=False)
        sent = 0
        while True:
            progressed = False
            for stream, window in windows.items():
                size = min(window, whole, 16_384)
                if size > 0:
                    assert caller.send(frame(frames.DATA, 0, stream, b"u" * size))
                    windows[stream] -= size
                    whole -= size
                    sent += size
                    progressed = True
            if progressed and whole > 0 and any(windows.values()):
                continue
            heard = 0
            caller.socket.settimeout(0.02 if progressed else 1.0)
            with contextlib.suppress(TimeoutError):
                for found in caller.frames():
                    assert found.kind not in {frames.GOAWAY, frames.RST_STREAM}, found
                    if found.kind == frames.WINDOW_UPDATE:
                        heard += 1
                        octets = int.from_bytes(found.payload, "big")
                        if found.stream:
                            windows[found.stream] += octets
                        else:
                            whole += octets
                    elif found.kind == frames.SETTINGS and not found.flags & frames.ACK:
                        value = dict(frames.parse_settings(found.payload)).get(frames.INITIAL_WINDOW_SIZE)
                        if value is not None:
                            windows = {stream: window + value - 65_535 for stream, window in windows.items()}
            if not heard and not progressed:
                break
        print(f"{front.listener}: {sent / MIB:.1f} MiB were taken of {4 * LARGE / MIB:.0f}")
        assert sent < 4 * 8 * MIB, "what the kernels hold between caller and module, and our windows"
    module.go.set()
