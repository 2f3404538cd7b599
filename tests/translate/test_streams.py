"""Streams in memory, between a caller and a service that each send as long as they are let, and give credit late.

    sender ── chunks, cut anywhere, within its window ──▶ translation ──▶ receiver, which keeps half a window of credit back

What is held to: everything arrives, in order and whole, whatever the windows are; and what waits anywhere has a bound.
"""

import base64
import random
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flui
from flui.framing.base import MessageLimits
from flui.framing.document import DocumentReader
from flui.framing.grpc import GrpcReader
from flui.framing.ndjson import NdjsonReader
from flui.model.config import Limits
from flui.model.events import UNKNOWN, Credit, Data, End, Reset, ResponseHead
from flui.model.fault import Fault
from flui.model.fields import field
from flui.model.grpc import Status
from flui.translate.base import Translation
from flui.translate.connect import ConnectJson, ConnectStream, ConnectUnary
from flui.translate.formats import PROTO, Format
from flui.translate.grpc_web import GrpcWeb, GrpcWebText
from flui.translate.heads import Shown
from flui.translate.rest import NO_ROUTES
from flui.translate.rest_grpc import RestCalls, RestStream
from flui.translate.schema import NO_SCHEMA

pytestmark = pytest.mark.skipif(flui.compiled(), reason="stand-ins cannot take the place of compiled classes")

KIB = 1024
MIB = 1024 * KIB
OK = [field(b"grpc-status", b"0")]
KINDS = ("grpc-web", "grpc-web-text", "connect", "connect-json", "ndjson", "sse")
UNDERSTOOD = ("connect-json", "ndjson", "sse")


def framed(payload, flag=0):
    return bytes((flag,)) + len(payload).to_bytes(4, "big") + payload


class Stretched(Format):
    """Messages of the service are `times` as long as the caller's; below 0 it is the other way round."""

    def __init__(self, times):
        self.times = times

    @property
    def opaque(self):
        return False

    def _longer(self, payload, times):
        return payload * times if times > 0 else payload[: max(1, len(payload) // -times)]

    def ask(self, payload):
        return self._longer(payload, self.times)

    def tell(self, payload):
        return self._longer(payload, -self.times)


class Caller:
    """The caller's codec: what the caller gets, and what it may send."""

    def __init__(self, window, due):
        self.room = window
        self.due = due
        self.owed = 0
        self.got = bytearray()
        self.status = 0
        self.ended = False
        self.cut = None

    def send(self, event):
        if isinstance(event, Data):
            self.got += event.chunk
            self.owed += len(event.chunk)
        elif isinstance(event, Credit):
            self.room += event.octets
        elif isinstance(event, End):
            self.ended = True
        elif isinstance(event, Reset):
            self.cut = event.fault
        elif isinstance(event, ResponseHead):
            self.status = event.status


class Service:
    """The splice of the call: what the service gets, and what it may send."""

    def __init__(self, window, due):
        self.room = window
        self.due = due
        self.owed = 0
        self.got = bytearray()
        self.ended = False
        self.fault = None
        self.status = 0
        self.octets_out = 0
        self.said = None
        self.translation = None

    def heard(self, event):
        if isinstance(event, Data):
            self.got += event.chunk
            self.owed += len(event.chunk)
        elif isinstance(event, Credit):
            self.room += event.octets
        elif isinstance(event, End):
            self.ended = True

    def give_up(self, fault, status, message):
        self.fault = fault
        self.said = (status, message)
        self.translation.end(SimpleNamespace(status=status, message=message, details=[], metadata=[], retry_after_s=0))


def translation(kind, caller, limits, format_=None, messages=None):
    messages = messages or MessageLimits()
    window = max(limits.window_octets, limits.stream_window_octets)
    format_ = format_ or PROTO
    shown = SimpleNamespace(content_type=field(b"content-type", b"x"), fields=lambda fields: fields)
    of = RestCalls(NO_SCHEMA, NO_ROUTES, messages, window, 1)
    if kind == "grpc-web":
        return GrpcWeb(caller, 1, None, shown)
    if kind == "grpc-web-text":
        return GrpcWebText(caller, 1, None, shown)
    if kind == "connect":
        return ConnectStream(caller, 1, None)
    if kind == "connect-json":
        return ConnectJson(caller, 1, None, format_, GrpcReader(messages, False, Fault.MALFORMED), b"", messages, window)
    if kind == "single":
        reader = NdjsonReader(messages, Fault.MALFORMED)
        return RestStream(caller, 1, None, format_, reader, b"", messages, of, events=False, single=True)
    reader = NdjsonReader(messages, Fault.MALFORMED) if kind == "ndjson" else DocumentReader(messages, Fault.MALFORMED)
    return RestStream(caller, 1, None, format_, reader, b"", messages, of, events=kind == "sse", single=False)


def joined(kind, limits, format_=None, messages=None):
    due = limits.credit_octets(limits.stream_window_octets)
    caller = Caller(limits.window_octets, due)
    service = Service(limits.stream_window_octets, due)
    made = translation(kind, caller, limits, format_, messages)
    service.translation = made
    made.attach(service)
    return caller, service, made


def spelt(kind, messages):
    """The caller's messages as it sends them."""
    if kind == "ndjson":
        return b"".join(message + b"\n" for message in messages)
    octets = b"".join(framed(message) for message in messages)
    return base64.b64encode(octets) if kind == "grpc-web-text" else octets


def read(kind, octets):
    """The messages in an answer that has ended."""
    if kind == "ndjson":
        return octets.split(b"\n")[:-1]
    if kind == "sse":
        *events, last, _ = octets.split(b"\n\n")
        assert last == b"event: end\ndata: {}"
        return [event.removeprefix(b"data: ") for event in events]
    if kind == "grpc-web-text":
        octets = b"".join(base64.b64decode(part + b"=" * (-len(part) % 4)) for part in octets.replace(b"==", b"=").split(b"="))
    found = []
    at = 0
    while at < len(octets):
        size = int.from_bytes(octets[at + 1 : at + 5], "big")
        found.append((octets[at], octets[at + 5 : at + 5 + size]))
        at += 5 + size
    assert at == len(octets)
    assert found.pop()[0] == (2 if kind.startswith("connect") else 0x80)
    assert all(flag == 0 for flag, _ in found)
    return [payload for _, payload in found]


def pay(side, tell, chance):
    """Credit for what was taken: as much as is due, late."""
    while side.owed >= side.due:
        # any part of it from `due` on, as the socket takes it
        octets = side.owed if chance is None else min(side.owed, side.due + chance.randrange(side.due))
        side.owed -= octets
        tell(Credit(1, octets))


def carry(octets, side, tell, other, credit, chance, most):
    """Sends `octets` as a window lets it; what was not sent in the end is returned: 0, or it was stuck."""
    sent = 0
    largest = 0
    while sent < len(octets):
        size = min(side.room, len(octets) - sent, most)
        if chance is not None and size > 1:
            size = chance.randint(1, size)
        if size <= 0:
            break
        side.room -= size
        tell(Data(1, octets[sent : sent + size]))
        sent += size
        if chance is None or chance.random() < 0.7 or not side.room:
            largest = max(largest, other.owed)
            pay(other, credit, chance)
    return len(octets) - sent, max(largest, other.owed)


def lengths():
    tiny = st.lists(st.integers(1, 3), min_size=1, max_size=60).map(lambda each: each * 200)
    some = st.lists(st.integers(1, 3000), min_size=1, max_size=100)
    large = st.lists(st.integers(1, 400 * KIB), min_size=1, max_size=3)
    return st.one_of(tiny, some, large)


WINDOWS = st.sampled_from([4 * KIB, 5000, 16 * KIB, 64 * KIB, 124 * KIB, 256 * KIB])
TIMES = st.sampled_from([1, 3, 7, -3, -7])


def bound(limits, format_, longest):
    """Octets that may wait for a receiver at most: a window, and the message that goes over it."""
    times = abs(format_.times) if format_ is not None else 1
    return (
        2 * max(limits.window_octets, limits.stream_window_octets) * 4 // 3
        + (longest + 10) * times
        + limits.credit_octets(limits.window_octets)
    )


@pytest.mark.parametrize("kind", ["grpc-web", "grpc-web-text", "connect", "connect-json", "ndjson"])
@settings(max_examples=40, deadline=None)
@given(
    sizes=lengths(),
    window=WINDOWS,
    stream=WINDOWS,
    times=TIMES,
    seed=st.one_of(st.none(), st.integers(0, 2**32)),
    most=st.sampled_from([1 << 30, 1000]),
)
def test_a_callers_stream_arrives_whatever_the_windows_are(kind, sizes, window, stream, times, seed, most):
    limits = Limits(window_octets=window, stream_window_octets=stream)
    format_ = Stretched(times) if kind in UNDERSTOOD else None
    caller, service, made = joined(kind, limits, format_)
    chance = None if seed is None else random.Random(seed)
    messages = [bytes((65 + n % 26,)) * size for n, size in enumerate(sizes)]
    left, waited = carry(spelt(kind, messages), caller, made.hear, service, made.send, chance, most)
    assert not left, "the caller waits for credit that nobody gives"
    made.hear(End(1))
    pay(service, made.send, None)
    assert service.ended
    assert service.fault is None
    assert bytes(service.got) == b"".join(framed(format_.ask(each) if format_ else each) for each in messages)
    assert waited <= bound(limits, format_, max(sizes))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(
    sizes=lengths(),
    window=WINDOWS,
    stream=WINDOWS,
    times=TIMES,
    seed=st.one_of(st.none(), st.integers(0, 2**32)),
    most=st.sampled_from([1 << 30, 16 * KIB, 1000]),
)
def test_a_services_stream_arrives_whatever_the_windows_are(kind, sizes, window, stream, times, seed, most):
    limits = Limits(window_octets=window, stream_window_octets=stream)
    format_ = Stretched(times) if kind in UNDERSTOOD else None
    caller, service, made = joined(kind, limits, format_)
    chance = None if seed is None else random.Random(seed)
    messages = [bytes((65 + n % 26,)) * size for n, size in enumerate(sizes)]
    made.send(ResponseHead(1, 200, [], UNKNOWN))
    octets = b"".join(framed(message) for message in messages)
    left, waited = carry(octets, service, made.send, caller, made.hear, chance, most)
    assert not left, "the service waits for credit that nobody gives"
    made.send(End(1, OK))
    assert caller.ended
    assert read(kind, bytes(caller.got)) == [format_.tell(each) if format_ else each for each in messages]
    assert waited <= bound(limits, format_, max(sizes))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 5 * KIB, 4 * MIB])
def test_nobody_is_read_while_the_caller_takes_nothing(kind, size):
    """What the service gets rid of is bounded, and so is what it becomes."""
    limits = Limits()
    caller, service, made = joined(kind, limits, Stretched(-3) if kind in UNDERSTOOD else None)
    caller.due = 1 << 40
    made.send(ResponseHead(1, 200, [], UNKNOWN))
    octets = framed(b"x" * size) * max(1, 16 * MIB // (size + 5))
    left, _ = carry(octets, service, made.send, caller, made.hear, None, 16 * KIB)
    taken = len(octets) - left
    assert taken <= 256 * KIB + (size + 5 if kind in UNDERSTOOD else 0)
    assert caller.owed <= (256 * KIB + size + 5) * 4
    assert made.codec is caller


@pytest.mark.parametrize("kind", ["grpc-web", "grpc-web-text", "connect", "connect-json", "ndjson"])
@pytest.mark.parametrize("size", [1, 5 * KIB, 3 * MIB])
def test_nobody_is_read_while_the_service_takes_nothing(kind, size):
    limits = Limits()
    caller, service, made = joined(kind, limits, Stretched(3) if kind in UNDERSTOOD else None)
    service.due = 1 << 40
    octets = spelt(kind, [b"x" * size] * max(1, 16 * MIB // (size + 5)))
    left, _ = carry(octets, caller, made.hear, service, made.send, None, 1 << 30)
    taken = len(octets) - left
    assert taken <= 384 * KIB + (size + 5 if kind in UNDERSTOOD else 0)
    assert service.owed <= (384 * KIB + size + 5) * 4


def test_a_service_that_sends_more_than_the_one_message_of_its_method_is_ended():
    """Of the second nothing is kept, and no credit is given for a third."""
    caller, service, made = joined("single", Limits(), Stretched(1))
    made.send(ResponseHead(1, 200, [], UNKNOWN))
    octets = framed(b"x" * 1000) * 1000
    carry(octets, service, made.send, caller, made.hear, None, 16 * KIB)
    assert service.fault is Fault.UPSTREAM_MALFORMED
    assert service.said[0] is Status.UNIMPLEMENTED
    assert (caller.status, caller.ended) == (502, True)
    assert len(caller.got) < KIB


def unary(limits):
    caller = Caller(limits.window_octets, limits.credit_octets(limits.window_octets))
    service = Service(limits.stream_window_octets, limits.credit_octets(limits.stream_window_octets))
    made = ConnectUnary(caller, 1, None, PROTO, b"", 0, limits.grpc_message_octets, Shown())
    service.translation = made
    made.attach(service)
    return caller, service, made


def test_so_is_one_of_a_single_message_each_way():
    caller, service, made = unary(Limits())
    made.send(ResponseHead(1, 200, [], UNKNOWN))
    made.send(Data(1, framed(b"a") + framed(b"b")))
    assert service.said[0] is Status.UNIMPLEMENTED
    assert (caller.status, caller.ended) == (501, True)


@pytest.mark.parametrize("octets", [framed(b"a", 1), framed(b"a", 7), framed(b"abc")[:-1], b"\0\0"])
def test_an_answer_that_is_not_made_of_whole_messages_is_no_success(octets):
    """Also where no limit is set, and so nobody else has looked: what was lost must not pass for the whole."""
    for kind in UNDERSTOOD:
        caller, service, made = joined(kind, Limits(grpc_message_octets=0), Stretched(1))
        made.send(ResponseHead(1, 200, [], UNKNOWN))
        made.send(Data(1, octets))
        made.send(End(1, OK))
        assert caller.ended
        assert b"internal" in caller.got or b'"code":13' in caller.got, (kind, caller.got)
    caller, service, made = unary(Limits(grpc_message_octets=0))
    made.send(ResponseHead(1, 200, [], UNKNOWN))
    made.send(Data(1, octets))
    if not service.said:
        made.send(End(1, OK))
    assert caller.status == 500
    assert service.said[0] is Status.INTERNAL


@pytest.mark.parametrize("kind", UNDERSTOOD)
def test_the_services_own_error_goes_before_that_of_a_message_cut_short(kind):
    caller, _, made = joined(kind, Limits(), Stretched(1))
    made.send(ResponseHead(1, 200, [], UNKNOWN))
    made.send(Data(1, framed(b"one") + framed(b"two")[:-1]))
    made.send(End(1, [field(b"grpc-status", b"5"), field(b"grpc-message", b"gone")]))
    assert caller.ended
    assert b"gone" in caller.got
    assert b"one" in caller.got


def test_every_translation_is_one_here():
    """A new dialect has to be added to these tests."""

    def below(kind):
        return {kind, *(each for child in kind.__subclasses__() for each in below(child))}

    streams = {each.__name__ for each in below(Translation) if "Unary" not in each.__name__ and each.__module__.startswith("flui")}
    assert streams <= {"Translation", "Stream", "GrpcWeb", "GrpcWebText", "ConnectStream", "ConnectJson", "RestStream"}
