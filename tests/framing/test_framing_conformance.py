"""What every framing owes to whoever joins two of them: the same suite for each."""

import tracemalloc
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flui.framing.base import Message, MessageLimits
from flui.framing.document import DocumentFraming
from flui.framing.grpc import GrpcFraming
from flui.framing.grpc_web import GrpcWebTextFraming
from flui.framing.ndjson import NdjsonFraming
from flui.framing.sse import SseFraming
from flui.model.fault import Fault
from flui.model.units import KIB, MIB

STREAMS = {"grpc": GrpcFraming, "grpc-web-text": GrpcWebTextFraming, "ndjson": NdjsonFraming, "sse": SseFraming}
ALL = {**STREAMS, "document": DocumentFraming}
every = pytest.mark.parametrize("name", ALL)
streams = pytest.mark.parametrize("name", STREAMS)
PAYLOADS = [b'{"n": 1}', b"x" * 300, b'{"text": "\xc3\xa4 \\n"}', b":data: id: 7"]


def messages_for(name):
    return PAYLOADS[:1] if name == "document" else PAYLOADS


def framed(name, payloads, limits=None):
    writer = ALL[name](limits or MessageLimits()).writer([])
    for payload in payloads:
        assert writer.send(Message(payload)) is None
    octets = writer.take(1 << 30)
    assert writer.pending == 0
    return octets


def read(name, chunks, limits=None):
    """Payloads, the fault and the credit of these chunks and the end behind them."""
    reader = ALL[name](limits or MessageLimits()).reader([], Fault.MALFORMED)
    found = []

    def take():
        while (message := reader.take()) is not None:
            found.append(message.payload)

    for chunk in chunks:
        reader.receive(chunk)
        take()
    reader.finish()
    take()
    return found, reader.fault, reader.credit()


def inspected(name, chunks, limits=None):
    watch = ALL[name](limits or MessageLimits()).inspector([], Fault.MALFORMED)
    begun = sum(watch.inspect(chunk) for chunk in chunks)
    watch.finish()
    assert begun == watch.messages
    return begun, watch.fault


@every
def test_what_is_written_is_read_and_seen_passing_however_it_is_cut(name):
    octets = framed(name, messages_for(name))
    for cut in range(len(octets) + 1):
        chunks = [octets[:cut], octets[cut:]]
        assert read(name, chunks) == (messages_for(name), None, len(octets))
        assert inspected(name, chunks) == (len(messages_for(name)), None)
    single = [octets[at : at + 1] for at in range(len(octets))]
    assert read(name, single) == (messages_for(name), None, len(octets))
    assert inspected(name, single) == (len(messages_for(name)), None)


@every
@given(data=st.data())
def test_any_text_in_any_pieces_goes_through(name, data):
    line = st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]), min_size=1).map(str.encode)
    payloads = data.draw(st.lists(line.filter(bytes.strip), min_size=1, max_size=1 if name == "document" else 8))
    random = Random(data.draw(st.integers(0, 1 << 30)))
    octets = framed(name, payloads)
    chunks = []
    while octets:
        size = random.randint(1, len(octets))
        chunks.append(octets[:size])
        octets = octets[size:]
    got, fault, _ = read(name, chunks)
    assert (got, fault) == (payloads, None)
    assert inspected(name, chunks) == (len(payloads), None)


@every
@given(octets=st.binary(max_size=400), cuts=st.lists(st.integers(0, 400), max_size=5))
def test_octets_of_any_kind_never_raise_and_mean_the_same_however_they_are_cut(name, octets, cuts):
    borders = sorted({0, len(octets), *(min(cut, len(octets)) for cut in cuts)})
    chunks = [octets[a:b] for a, b in zip(borders, borders[1:], strict=False)]
    whole, cut = read(name, [octets]), read(name, chunks)
    assert cut[:2] == whole[:2]
    assert cut[2] <= len(octets)
    if whole[1] is None:
        assert cut[2] == whole[2] == len(octets), "all of it is credited, each octet once"
    assert inspected(name, chunks)[1] == inspected(name, [octets])[1]


@every
def test_what_waits_leaves_as_credit_allows(name):
    payloads = messages_for(name)
    octets = framed(name, payloads)
    writer = ALL[name](MessageLimits()).writer([])
    for payload in payloads:
        assert writer.send(Message(payload)) is None
    assert writer.pending == len(octets)
    assert writer.take(0) == b""
    out = b""
    while writer.pending:
        piece = writer.take(7)
        assert 0 < len(piece) <= 7
        out += piece
        assert writer.pending == len(octets) - len(out)
    assert out == octets
    assert writer.take(7) == b""


@every
def test_a_message_above_the_limit_is_refused_on_both_sides_before_it_is_whole(name):
    limits = MessageLimits(message_octets=100)
    assert read(name, [framed(name, [b"x" * 100])], limits)[:2] == ([b"x" * 100], None)
    writer = ALL[name](limits).writer([])
    assert writer.send(Message(b"x" * 101)) is Fault.BODY_TOO_LARGE
    assert writer.pending == 0
    octets = framed(name, [b"x" * 1000])
    for chunks in ([octets], [octets[at : at + 1] for at in range(len(octets))], [octets[:250]]):
        assert read(name, chunks, limits)[:2] == ([], Fault.BODY_TOO_LARGE)
        assert inspected(name, chunks, limits)[1] is Fault.BODY_TOO_LARGE


@streams
def test_one_message_too_many_is_refused_and_those_before_it_stay(name):
    limits = MessageLimits(messages=2)
    octets = framed(name, [b"a", b"b", b"c"])
    assert read(name, [octets], limits)[:2] == ([b"a", b"b"], Fault.BODY_TOO_LARGE)
    assert inspected(name, [octets], limits)[1] is Fault.BODY_TOO_LARGE
    writer = ALL[name](limits).writer([])
    assert [writer.send(Message(payload)) for payload in (b"a", b"b", b"c")] == [None, None, Fault.BODY_TOO_LARGE]
    assert read(name, [writer.take(1000)])[0] == [b"a", b"b"]


@streams
def test_credit_for_what_is_not_taken_is_not_given(name):
    octets = framed(name, [b"a" * 100] * 50)
    reader = ALL[name](MessageLimits()).reader([], Fault.MALFORMED)
    reader.receive(octets)
    assert reader.credit() == 0
    assert reader.take() is not None
    assert reader.credit() <= len(octets) // 50 + 2, "that of one message"


@every
def test_a_message_longer_than_a_window_gets_credit_as_it_comes(name):
    octets = framed(name, [b"x" * 10 * KIB])
    reader = ALL[name](MessageLimits()).reader([], Fault.MALFORMED)
    given_back = 0
    for at in range(0, len(octets), KIB):
        reader.receive(octets[at : at + KIB])
        got = reader.take()
        given_back += reader.credit()
        assert got is not None or given_back == min(at + KIB, len(octets))
    reader.finish()
    reader.take()
    assert given_back + reader.credit() == len(octets)


@every
def test_what_is_held_is_bounded_whatever_comes(name):
    limits = MessageLimits(message_octets=16 * KIB)
    for chunk in (b"x" * 8 * KIB, b"\n" * 8 * KIB, b"data: x\n" * 2 * KIB, b"data:\n" * 2 * KIB, b"\0" * 16 * KIB, b":c\n" * 4 * KIB):
        reader = ALL[name](limits).reader([], Fault.MALFORMED)
        watch = ALL[name](limits).inspector([], Fault.MALFORMED)
        tracemalloc.start()
        try:
            for _ in range(12):
                reader.receive(chunk)
                while reader.take() is not None:
                    pass
                watch.inspect(chunk)
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert held < 2 * MIB, (name, chunk[:8])
