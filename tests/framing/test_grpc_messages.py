"""gRPC's length-prefixed messages (PROTOCOL-HTTP2): read, written, and counted while they pass."""

import itertools
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flui.framing.base import Framing, Inspector, Message, MessageLimits, Reader, Writer
from flui.framing.grpc import GrpcFraming, GrpcInspector, GrpcReader, GrpcWriter, coding_of
from flui.model.fault import Fault
from flui.model.fields import field
from flui.model.units import MIB

LIMITS = MessageLimits()
SMALL = MessageLimits(message_octets=10, messages=3)


def framed(payload, flag=0):
    return bytes((flag,)) + len(payload).to_bytes(4, "big") + payload


def reader(limits=LIMITS, coded=False):
    return GrpcReader(limits, coded, Fault.MALFORMED)


def inspector(limits=LIMITS, coded=False):
    return GrpcInspector(limits, coded, Fault.MALFORMED)


def taken(source):
    found = []
    while (message := source.take()) is not None:
        found.append((message.payload, message.coded))
    return found


def pieces(octets, cuts):
    borders = [0, *sorted(min(cut, len(octets)) for cut in cuts), len(octets)]
    return [octets[a:b] for a, b in itertools.pairwise(borders)]


def read(chunks, limits=LIMITS, coded=False):
    """Messages, the fault and the credit of octets in these chunks, followed by their end."""
    source = reader(limits, coded)
    found = []
    for chunk in chunks:
        source.receive(chunk)
        found += taken(source)
    source.finish()
    found += taken(source)
    return found, source.fault, source.credit()


def inspected(chunks, limits=LIMITS, coded=False):
    """Messages begun, the fault, of octets in these chunks, followed by their end."""
    watch = inspector(limits, coded)
    begun = 0
    for chunk in chunks:
        begun += watch.inspect(chunk)
    watch.finish()
    assert begun == watch.messages
    return begun, watch.fault


STREAM = framed(b"") + framed(b"one") + framed(b"compressed", 1) + framed(b"x" * 300)
MESSAGES = [(b"", False), (b"one", False), (b"compressed", True), (b"x" * 300, False)]

BROKEN = [
    pytest.param(framed(b"a", 2), Fault.MALFORMED, id="a flag that is none"),
    pytest.param(framed(b"a", 255), Fault.MALFORMED, id="a trailer frame of gRPC-Web"),
    pytest.param(framed(b"a", 1), Fault.MALFORMED, id="compressed, and nobody said how"),
    pytest.param(b"\0\xff\xff\xff\xff", Fault.BODY_TOO_LARGE, id="a length of 4 GiB"),
    pytest.param(framed(b"eleven octs"), Fault.BODY_TOO_LARGE, id="above the limit"),
    pytest.param(framed(b"1") * 4, Fault.BODY_TOO_LARGE, id="one message too many"),
    pytest.param(b"\0\0\0\0\5four", Fault.MALFORMED, id="a length that promises more than comes"),
    pytest.param(b"\0\0\0", Fault.MALFORMED, id="an end within a prefix"),
    pytest.param(framed(b"fine") + b"\0\0\0\0\1", Fault.MALFORMED, id="an end behind a prefix"),
    pytest.param(b"<html>not gRPC</html>", Fault.MALFORMED, id="a page"),
]


def test_every_border_of_chunks_gives_the_same_messages():
    for a in range(len(STREAM) + 1):
        assert read(pieces(STREAM, [a]), coded=True) == (MESSAGES, None, len(STREAM))
        assert inspected(pieces(STREAM, [a]), coded=True) == (4, None)
    assert read([bytes((octet,)) for octet in STREAM], coded=True) == (MESSAGES, None, len(STREAM))
    assert inspected([bytes((octet,)) for octet in STREAM], coded=True) == (4, None)


def test_every_pair_of_borders_gives_the_same_messages():
    short = framed(b"ab") + framed(b"") + framed(b"c", 1)
    for a in range(len(short) + 1):
        for b in range(a, len(short) + 1):
            assert read(pieces(short, [a, b]), coded=True) == ([(b"ab", False), (b"", False), (b"c", True)], None, len(short))
            assert inspected(pieces(short, [a, b]), coded=True) == (3, None)


@pytest.mark.parametrize(("octets", "fault"), BROKEN)
def test_what_is_no_message_is_refused_wherever_it_is_cut(octets, fault):
    """Threats F5. Both forms say the same fault of the same octets, at each border and one octet at a time."""
    for chunks in [pieces(octets, [cut]) for cut in range(len(octets) + 1)] + [[bytes((octet,)) for octet in octets]]:
        found, said, _ = read(chunks, SMALL)
        assert said is fault
        begun, seen = inspected(chunks, SMALL)
        assert seen is fault
        assert begun >= len(found)


def test_a_fault_says_whose_it_is():
    source = GrpcReader(LIMITS, False, Fault.UPSTREAM_MALFORMED)
    source.receive(b"\7")
    source.receive(b"\0\0\0\0")
    assert (source.take(), source.fault) == (None, Fault.UPSTREAM_MALFORMED)
    watch = GrpcInspector(LIMITS, False, Fault.UPSTREAM_MALFORMED)
    watch.inspect(b"\7")
    assert watch.fault is Fault.UPSTREAM_MALFORMED


def test_messages_before_a_fault_are_whole_and_nothing_follows_it():
    source = reader()
    source.receive(framed(b"good") + framed(b"bad", 9) + framed(b"never"))
    assert taken(source) == [(b"good", False)]
    assert source.fault is Fault.MALFORMED
    source.receive(framed(b"late"))
    assert source.take() is None
    watch = inspector()
    assert watch.inspect(framed(b"good") + framed(b"bad", 9) + framed(b"never")) == 1
    assert watch.inspect(framed(b"late")) == 0


def test_the_default_limit_is_4_mib_and_is_meant_to_the_octet():
    assert LIMITS.message_octets == 4 * MIB
    for length, fault in ((4 * MIB, None), (4 * MIB + 1, Fault.BODY_TOO_LARGE)):
        prefix = b"\0" + length.to_bytes(4, "big")
        watch = inspector()
        watch.inspect(prefix)
        source = reader()
        source.receive(prefix)
        assert source.take() is None
        assert watch.fault is source.fault is fault


def test_a_length_is_judged_before_an_octet_of_it_is_kept():
    source = reader()
    source.receive(b"\0\x40\0\0\0" + bytes(10_000))
    source.take()
    assert source.fault is Fault.BODY_TOO_LARGE
    tracemalloc.start()
    for _ in range(1000):
        source.receive(bytes(10_000))
    assert tracemalloc.get_traced_memory()[0] < 100_000
    tracemalloc.stop()


def test_a_message_in_single_octets_costs_its_octets_and_not_forty_times_them():
    size = 200_000
    source = reader()
    tracemalloc.start()
    source.receive(b"\0" + size.to_bytes(4, "big"))
    for n in range(size - 1):
        source.receive(b"%c" % (n % 256))
        assert n % 1000 or source.take() is None
    assert tracemalloc.get_traced_memory()[1] < 2 * size
    tracemalloc.stop()
    source.receive(b"!")
    assert len(source.take().payload) == size


def test_messages_that_nobody_takes_are_not_credited():
    """No credit from the far side, no credit to the near side."""
    source = reader()
    source.receive(framed(b"one") + framed(b"two"))
    assert source.credit() == 0
    assert source.take().payload == b"one"
    assert (source.credit(), source.credit()) == (8, 0)
    source.receive(framed(b"three"))
    assert source.credit() == 0
    assert taken(source) == [(b"two", False), (b"three", False)]
    assert source.credit() == 18


def test_a_message_longer_than_the_window_is_credited_while_it_comes():
    """Otherwise a sender with a window of 64 KiB could never send one of 1 MiB."""
    message = framed(bytes(1 * MIB))
    source, at, credit, found = reader(), 0, 65_535, None
    while found is None:
        assert credit, "a sender with more to say has no credit"
        source.receive(message[at : at + credit])
        at += credit
        found = source.take()
        credit = source.credit()
    assert len(found.payload) == 1 * MIB


def test_the_credit_of_a_whole_stream_is_its_octets():
    source, total = reader(coded=True), 0
    for octet in STREAM:
        source.receive(b"%c" % octet)
        source.take()
        total += source.credit()
    assert total == len(STREAM)


def test_octets_within_a_chunk_are_not_kept_twice():
    """A message that came in one chunk is sliced from it; nothing stays behind."""
    source = reader()
    chunk = framed(bytes(1 * MIB))
    tracemalloc.start()
    source.receive(chunk)
    message = source.take()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(message.payload) == 1 * MIB
    assert peak < 1.1 * MIB


def test_an_inspector_tells_of_a_message_when_its_prefix_is_whole():
    """So a rule per message is asked before the octets pass that complete its prefix."""
    watch = inspector()
    assert watch.at_rest
    assert (watch.inspect(b"\0\0\0\0"), watch.at_rest) == (0, False)
    assert (watch.inspect(b"\3"), watch.at_rest) == (1, False)
    assert (watch.inspect(b"abc"), watch.at_rest) == (0, True)
    assert (watch.inspect(b""), watch.at_rest) == (0, True)
    assert (watch.inspect(framed(b"") * 3 + framed(b"12345")[:7]), watch.at_rest) == (4, False)
    assert (watch.inspect(b""), watch.at_rest) == (0, False)
    assert (watch.inspect(b"345"), watch.at_rest) == (0, True)
    assert (watch.messages, watch.octets, watch.largest) == (5, 8, 5)
    assert watch.finish() is None


def test_a_writer_sends_what_credit_allows_and_says_what_waits():
    sink = GrpcWriter(LIMITS, coded=True)
    for payload, coded in MESSAGES:
        assert sink.send(Message(payload, coded)) is None
    assert sink.pending == len(STREAM)
    assert sink.take(0) == b""
    out = [sink.take(credit) for credit in (1, 3, 7, 20, 10_000, 10_000)]
    assert [len(part) for part in out] == [1, 3, 7, 20, len(STREAM) - 31, 0]
    assert b"".join(out) == STREAM
    assert (sink.pending, sink.messages) == (0, 4)


def test_a_writer_frames_nothing_above_its_limits():
    sink = GrpcWriter(SMALL, coded=False)
    assert sink.send(Message(b"x" * 11)) is Fault.BODY_TOO_LARGE
    assert sink.pending == 0
    assert [sink.send(Message(b"x" * 10)) for _ in range(4)] == [None, None, None, Fault.BODY_TOO_LARGE]
    assert sink.take(1000) == framed(b"x" * 10) * 3


def test_a_writer_is_misused_with_compressed_messages_under_a_head_that_names_no_coding():
    with pytest.raises(AssertionError):
        GrpcWriter(LIMITS, coded=False).send(Message(b"x", coded=True))


def test_a_reader_is_misused_with_octets_after_the_end():
    source = reader()
    source.finish()
    with pytest.raises(AssertionError):
        source.receive(b"x")


def test_the_head_says_whether_messages_may_be_compressed():
    gzip, identity, other = field(b"grpc-encoding", b"GZIP"), field(b"grpc-encoding", b"Identity"), field(b"x", b"gzip")
    assert coding_of([other, gzip]) == b"gzip"
    assert coding_of([identity]) == coding_of([other]) == coding_of([]) == b""
    framing = GrpcFraming(LIMITS)
    for fields, fault in (([gzip], None), ([identity], Fault.MALFORMED), ([], Fault.MALFORMED)):
        source = framing.reader(fields, Fault.MALFORMED)
        source.receive(framed(b"", 1))
        source.take()
        watch = framing.inspector(fields, Fault.MALFORMED)
        watch.inspect(framed(b"", 1))
        assert source.fault is watch.fault is fault
    assert framing.writer([gzip]).send(Message(b"x", coded=True)) is None


def test_the_grpc_framing_is_a_framing():
    """A type checker reads this as well: the three are what `framing.base` promises."""
    framing: Framing = GrpcFraming(LIMITS)
    source: Reader = framing.reader([], Fault.MALFORMED)
    sink: Writer = framing.writer([])
    watch: Inspector = framing.inspector([], Fault.MALFORMED)
    sink.send(Message(b"through"))
    octets = sink.take(100)
    assert watch.inspect(octets) == 1
    source.receive(octets)
    assert repr(source.take()) == "Message(7 octets)"


payloads = st.lists(st.tuples(st.binary(max_size=40), st.booleans()), max_size=12)


@given(payloads, st.lists(st.integers(0, 300), max_size=12), st.lists(st.integers(1, 60), max_size=40))
def test_what_is_written_under_any_credit_is_read_at_any_border(messages, cuts, grants):
    sink = GrpcWriter(LIMITS, coded=True)
    for payload, coded in messages:
        assert sink.send(Message(payload, coded)) is None
    octets = b"".join([sink.take(credit) for credit in grants]) + sink.take(100_000)
    assert octets == b"".join(framed(payload, coded) for payload, coded in messages)
    assert read(pieces(octets, cuts), coded=True) == (messages, None, len(octets))
    assert inspected(pieces(octets, cuts), coded=True) == (len(messages), None)


@given(st.binary(max_size=80), st.lists(st.integers(0, 80), max_size=8), st.booleans())
def test_reader_and_inspector_say_the_same_of_any_octets(octets, cuts, coded):
    """And neither raises, and borders change nothing."""
    limits = MessageLimits(message_octets=20, messages=5)
    found, fault, _ = read([octets], limits, coded)
    assert read(pieces(octets, cuts), limits, coded)[:2] == (found, fault)
    whole = inspected([octets], limits, coded)
    assert inspected(pieces(octets, cuts), limits, coded)[1] is whole[1]
    assert whole[1] is fault or (whole[1], fault) == (None, None)
    assert sum(5 + len(payload) for payload, _ in found) <= len(octets)


@given(payloads, st.integers(1, 40))
def test_a_slow_taker_never_makes_the_sender_outrun_its_window(messages, window):
    """What is held is at most the window and the one message that is not whole."""
    octets = b"".join(framed(payload, coded) for payload, coded in messages)
    source, credit, at, found = reader(coded=True), window, 0, []
    while at < len(octets) or len(found) < len(messages):
        chunk = octets[at : at + credit]
        at += len(chunk)
        credit -= len(chunk)
        if chunk:
            source.receive(chunk)
        message = source.take()
        if message is not None:
            found.append((message.payload, message.coded))
        credit += source.credit()
        assert at - sum(5 + len(payload) for payload, _ in found) <= window + 45
        assert credit or message is not None, "nobody can go on"
    assert found == messages
