"""Threats C1-C5 and C7: what a peer may do in vain, and what it may make us hold. Each limit has its number and its name."""

import tracemalloc

import hpack
import pytest
from http2_talk import GET, POST, body, frame, goaways, head, heard, resets, server

from flui.codecs.http2 import Bounds, frames
from flui.codecs.http2.bounds import MESH, MODULE
from flui.model.config import Limits
from flui.model.events import UNKNOWN, Data, End, RequestHead, Reset, ResponseHead
from flui.model.fault import Fault
from flui.model.units import KIB, MIB
from support.rig import reset

CALM = 11


def ended(codec, name):
    assert [code for _, code in goaways(codec.take())] == [CALM]
    assert codec.closing
    assert codec.counts[name] == 1


def test_c1_rapid_reset_ends_with_the_hundredth_and_each_one_is_heard():
    codec, encoder = server(), hpack.Encoder()
    gone = begun = 0
    for stream in range(1, 20_000, 2):
        codec.receive(head(stream, encoder=encoder) + frames.rst_stream(stream, 8))
        told = codec.events()
        begun += sum(isinstance(e, RequestHead) for e in told)
        gone += sum(isinstance(e, Reset) and e.fault is Fault.CALLER_GONE for e in told)
    assert begun == gone == 100
    ended(codec, "rapid_reset")


def test_c1_resets_that_are_far_apart_are_no_flood():
    codec, encoder = server(), hpack.Encoder()
    for n, stream in enumerate(range(1, 1000, 2)):
        codec.tick(n * 0.4)
        codec.receive(head(stream, encoder=encoder) + frames.rst_stream(stream, 8))
        codec.take()
    assert not codec.closing


def resetting(codec, rounds, *, age_s=0.0, answered=0):
    """Exchanges that are reset at some age, with so many answered beside each; how many were reset before the connection ended."""
    encoder, stream = hpack.Encoder(), 1
    for n in range(rounds):
        codec.tick(n * 0.001)
        codec.receive(head(stream, encoder=encoder))
        codec.tick(n * 0.001 + age_s)
        codec.receive(frames.rst_stream(stream, 8))
        stream += 2
        for _ in range(answered):
            codec.receive(head(stream, encoder=encoder))
            codec.send(ResponseHead(stream, 204, [], 0))
            codec.send(End(stream))
            stream += 2
        codec.events()
        codec.take()
        if codec.closing:
            return n + 1
    return rounds


def test_c1_one_that_speaks_for_many_callers_may_not_reset_rapidly_either():
    """Between sidecars there may be many resets, for each caller may give up; a hundred at once and nothing else is an attack."""
    assert resetting(server(bounds=MESH), 2_000) == 100
    assert resetting(server(bounds=MODULE), 2_000) == 50, "before the next sidecar takes it for one"


def test_c1_callers_that_give_up_among_others_or_late_are_no_attack():
    assert resetting(server(bounds=MESH), 2_000, answered=2) == 2_000
    assert resetting(server(bounds=MESH), 2_000, age_s=0.3) == 2_000
    assert resetting(server(bounds=MESH), 20_000, age_s=0.3) == 10_000


OFFENCES = {
    "a window that overflows": lambda n: frames.window_update(n, (1 << 31) - 1),
    "a window of nothing": lambda n: frames.window_update(n, 0),
    "DATA behind END_STREAM": lambda n: body(n, b"x"),
    "PRIORITY of another length": lambda n: frame(2, 0, n, b""),
    "HEADERS behind END_STREAM": head,
}


@pytest.mark.parametrize("offence", OFFENCES)
def test_c2_resets_that_a_peer_made_us_send_count_the_same(offence):
    """MadeYouReset (CVE-2025-8671)."""
    codec, encoder = server(), hpack.Encoder()
    begun = 0
    for stream in range(1, 2000, 2):
        codec.receive(head(stream, encoder=encoder))
        codec.receive(OFFENCES[offence](stream))
        begun += sum(isinstance(e, RequestHead) for e in codec.events())
        if codec.closing:
            break
        codec.take()
    assert begun == 100
    ended(codec, "made_you_reset")


@pytest.mark.parametrize("size", [0, 100])
def test_c3_continuation_flood(size):
    codec = server()
    codec.receive(frame(1, 1, 1, b"\x82"))
    for n in range(20):
        codec.receive(frame(9, 0, 1, b"\0" * size))
        assert codec.closing == (n >= 7)
    ended(codec, "continuation_flood")


def test_c3_a_block_of_more_than_60_kib():
    codec = server()
    codec.receive(frame(1, 1, 1, b"\0" * 16384) + frame(9, 0, 1, b"\0" * 16384) * 3)
    ended(codec, "continuation_flood")


FLOODS = {
    "ping_flood": frame(6, 0, 0, b"12345678"),
    "settings_flood": frames.settings([]),
    "priority_flood": frame(2, 0, 99, b"\0\0\0\1\0"),
    "window_update_flood": frames.window_update(0, 1),
    "empty_data_flood": body(1),
    "unknown_frame_flood": frame(0x99, 0, 0, b"x"),
}


@pytest.mark.parametrize("name", FLOODS)
def test_c4_frames_that_carry_nothing(name):
    codec = server()
    codec.receive(head(1, POST, end=False))
    codec.events()
    sent = 0
    while not codec.closing:
        codec.receive(FLOODS[name] * 10)
        codec.take()
        sent += 10
    assert 990 <= sent <= 1010
    assert heard(codec) == [reset(1, Fault.CALLER_GONE)]
    assert codec.counts[name] == 1


def test_c4_answers_that_nobody_reads_are_bounded():
    """The peer's socket is full: what it asks for is not taken any more, and not held either."""
    codec = server(bounds=Bounds(idle_frames=1 << 30))
    codec.stall(True)
    out = 0
    while not codec.closing:
        codec.receive(frame(6, 0, 0, b"12345678"))
        out += len(codec.take())
    assert out <= 64 * KIB
    assert codec.counts == {"ping_flood": 1}
    codec = server(bounds=Bounds(idle_frames=1 << 30))
    for _ in range(5000):
        codec.receive(frame(6, 0, 0, b"12345678"))
        codec.take()
    assert not codec.closing, "one that reads is no flood"


def test_c4_a_download_of_many_updates_is_no_flood():
    codec = server()
    codec.receive(head(1))
    codec.events()
    codec.send(ResponseHead(1, 200, [], UNKNOWN))
    for _ in range(5000):
        codec.send(Data(1, b"x" * 100))
        codec.take()
        codec.receive(frames.window_update(1, 100) + frames.window_update(0, 100))
    assert not codec.closing


def test_c5_an_hpack_bomb_ends_before_it_is_copied():
    codec = server()
    tracemalloc.start()
    codec.receive(frame(1, 5, 1, b"\x82\x84\x86\x01\x01a\x40\x01a\x7f\x81\x1e" + b"v" * 4000 + b"\xbe" * 12_000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < MIB
    ended(codec, "header_bomb")


@pytest.mark.parametrize("name", [b"cookie", b"host", b"x-a"])
def test_c5_what_is_discarded_counts_too(name):
    """Cookie crumbs, hosts, fields that are refused: their size counts before anything is made of them."""
    codec, encoder = server(), hpack.Encoder()
    codec.receive(head(1, [*GET, *[(name, b"v" * 1000)] * 61], encoder=encoder))
    assert heard(codec) == [reset(1, Fault.HEAD_TOO_LARGE)]


def test_c5_the_heads_of_a_connection_are_bounded_together():
    """A repeated block of 70 octets, 50 KiB decoded: twenty of them are a mebibyte, and no more are let in."""
    codec, encoder = server(), hpack.Encoder()
    fields = [*GET, *[(b"x-%d" % n, b"v" * 900) for n in range(4)], *[(b"x-0", b"v" * 900)] * 50]
    for stream in range(1, 100, 2):
        codec.receive(head(stream, fields, encoder=encoder))
    begun = sum(isinstance(e, RequestHead) for e in codec.events())
    assert begun == MIB // (sum(len(n) + len(v) + 32 for n, v in fields))
    assert {code for _, code in resets(codec.take())} == {7}
    assert codec.counts["refused"] == 50 - begun
    assert not codec.closing


def test_one_exchange_more_than_may_be_is_refused():
    """RFC 9113 5.1.2: REFUSED_STREAM, so that it may be sent again; its field block moves the table all the same."""
    codec, encoder = server(bounds=Bounds(streams=3)), hpack.Encoder()
    codec.receive(b"".join([head(n, [*GET, (b"x-n", b"%d" % n)], encoder=encoder) for n in (1, 3, 5, 7)]))
    assert [e[1] for e in heard(codec) if e[0] == "request"] == [1, 3, 5]
    assert resets(codec.take()) == [(7, 7)]
    codec.send(Reset(1, Fault.DENIED))
    codec.receive(body(7, b"x") + head(9, [*GET, (b"x-n", b"7")], encoder=encoder))
    assert heard(codec)[0][5] == ((b"x-n", b"7"),)


def test_c7_a_peer_that_does_not_read_begins_nothing_new():
    codec, encoder = server(), hpack.Encoder()
    codec.receive(frames.settings([(4, 0)]))
    for stream in range(1, 60, 2):
        codec.receive(head(stream, encoder=encoder))
        for e in codec.events():
            if isinstance(e, RequestHead):
                codec.send(ResponseHead(e.stream, 200, [], UNKNOWN))
                codec.send(Data(e.stream, b"x" * 64 * KIB))
    assert codec.queued_octets <= MIB + 64 * KIB
    assert codec.counts["refused"] > 0
    for stream in range(1, 60, 2):
        codec.send(Reset(stream, Fault.CALLER_GONE))
    assert codec.queued_octets == 0


def test_a_slow_head_is_seen():
    """C8 is the owner's: `started` says that something has begun and is not complete."""
    codec = server(Limits())
    assert not codec.started
    codec.receive(b"\0")
    assert codec.started
