"""Any sequence of frames: never an exception, never more held than the bounds say, and a sibling that behaves is answered."""

import hpack
from http2_talk import GET, OK, POST, body, client, frame, head, heard, server
from hypothesis import given, settings
from hypothesis import strategies as st

from flui.codecs.http2 import Bounds, frames
from flui.model.config import Limits
from flui.model.events import UNKNOWN, Credit, Data, End, RequestHead, Reset, ResponseHead
from flui.model.fault import Fault
from flui.model.units import KIB

SMALL = Limits(stream_window_octets=2 * KIB, head_octets=2 * KIB, fields=20, body_octets=8 * KIB)
TIGHT = Bounds(streams=8, held_octets=128 * KIB, window_octets=65535)
STREAM = st.sampled_from([0, 1, 1, 3, 3, 5, 7, 9, 11, 2, 4])
BLOCK = st.one_of(
    st.sampled_from([GET, POST, OK, [(b"t", b"v")], [*GET, (b"X", b"y")], [*POST, (b"content-length", b"5")], [(b":status", b"103")]]).map(
        lambda fields: hpack.Encoder().encode(fields)
    ),
    st.binary(max_size=40),
)
FRAME = st.one_of(
    st.builds(frame, st.just(1), st.integers(0, 255), STREAM, BLOCK),
    st.builds(frame, st.just(1), st.sampled_from([4, 5]), STREAM, BLOCK),
    st.builds(frame, st.just(0), st.sampled_from([0, 1, 8, 9]), STREAM, st.binary(max_size=3000)),
    st.builds(frame, st.integers(2, 12), st.integers(0, 255), STREAM, st.binary(max_size=20)),
    st.builds(frames.window_update, STREAM, st.integers(0, (1 << 31) - 1)),
    st.builds(frames.rst_stream, STREAM, st.integers(0, 15)),
    st.builds(
        frames.settings, st.lists(st.tuples(st.integers(0, 9), st.one_of(st.integers(0, 100_000), st.just((1 << 31) - 1))), max_size=3)
    ),
    st.builds(frame, st.just(9), st.sampled_from([0, 4]), STREAM, BLOCK),
)
SAID = st.one_of(
    st.builds(
        lambda s, status, length: ResponseHead(s, status, [], length),
        STREAM,
        st.sampled_from([103, 200, 204]),
        st.sampled_from([0, UNKNOWN]),
    ),
    st.builds(lambda s, n: Data(s, b"x" * n), STREAM, st.integers(1, 3000)),
    st.builds(End, STREAM),
    st.builds(Credit, STREAM, st.integers(1, 5000)),
    st.builds(lambda s: Reset(s, Fault.UPSTREAM_RESET), STREAM),
)
STEP = st.one_of(FRAME, FRAME, SAID, st.sampled_from(["take", "stall", "flow"]))


def walk(codec, steps, cut):
    """Does it all; returns the events, and sees at each step that what is held is bounded and adds up."""
    told, queued = [], 0
    for step in steps:
        if isinstance(step, bytes):
            for at in range(0, len(step), cut):
                codec.receive(step[at : at + cut])
        elif step == "take":
            codec.take()
        elif isinstance(step, str):
            codec.stall(step == "stall")
        else:
            queued += len(step.chunk) if isinstance(step, Data) else 0
            codec.send(step)
        told += codec.events()
        assert codec.held_octets == sum(s.held for s in codec._streams.values()) <= TIGHT.held_octets
        assert codec.queued_octets == sum(s.queued for s in codec._streams.values()) <= queued
        assert codec.streams <= TIGHT.streams
        assert len(codec._in) < 16384 + 9
        assert sum(map(len, codec._block_parts)) <= SMALL.head_octets
        assert codec._heads_octets == sum(s.head_octets for s in codec._streams.values())
        assert all(s.waiting == (s in codec._ready) for s in codec._streams.values())
        assert {s.number for s in codec._ready} <= set(codec._streams)
        if codec.closing and codec._dead:
            assert not codec._streams
    return told


def orderly(told):
    """Each exchange: head, data, end or reset, and nothing behind that."""
    state = {}
    for e in told:
        if isinstance(e, RequestHead):
            assert e.stream not in state
            state[e.stream] = "open"
        elif isinstance(e, Data):
            assert e.chunk
            assert state[e.stream] == "open"
        elif isinstance(e, End):
            assert state[e.stream] == "open"
            state[e.stream] = "ended"
        elif isinstance(e, Reset):
            assert state.get(e.stream) != "gone" or e.fault is Fault.CALLER_GONE or e.fault is Fault.MALFORMED
            state[e.stream] = "gone"


@settings(max_examples=300, deadline=None)
@given(st.lists(STEP, max_size=40), st.sampled_from([1, 7, 1 << 20]))
def test_a_server_survives_any_caller(steps, cut):
    codec = server(SMALL, TIGHT)
    orderly(walk(codec, steps, cut))
    if not codec.closing and not codec._block_stream and not codec._in and codec.streams < 8:
        stream = codec._highest + 2 | 1
        codec._decoder = type(codec._decoder)(1 << 16)  # the caller begins its tables anew, which no frame can say
        codec._blocks.clear()
        codec.receive(head(stream, POST, end=False) + body(stream, b"x", end=True))
        assert [e[0] for e in heard(codec) if e[1] == stream] == ["request", "data", "end"]
    codec.receive_eof()
    codec.receive_reset()
    codec.events()
    codec.take()


@settings(max_examples=300, deadline=None)
@given(st.lists(STEP, max_size=40), st.sampled_from([1, 7, 1 << 20]))
def test_a_client_survives_any_upstream(steps, cut):
    codec = client(SMALL, TIGHT)
    for n in range(5):
        stream = codec.open()
        codec.send(RequestHead(stream, b"GET", b"http", b"a", b"/", b"", [], UNKNOWN if n % 2 else 0))
        if n % 2 == 0:
            codec.send(End(stream))
    told = walk(codec, [s for s in steps if not isinstance(s, ResponseHead)], cut)
    ended = set()
    for e in told:
        assert not isinstance(e, RequestHead)
        if not isinstance(e, Credit):
            assert e.stream not in ended
        if isinstance(e, (End, Reset)):
            ended.add(e.stream)
    codec.receive_eof()
    ended |= {e.stream for e in codec.events() if isinstance(e, Reset)}
    assert not codec._streams


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_octets_end_in_order(octets):
    for codec in (server(SMALL, TIGHT), client(SMALL, TIGHT)):
        codec.receive(octets)
        orderly(codec.events())
        codec.take()
