"""What every codec promises, whatever its protocol. A new codec joins `PAIRS` and must pass all of it.

A pair is a client codec and a server codec back to back: octets from one go to the other. Everything here is said in
events, so nothing knows how the protocol looks on the wire.
"""

from random import Random

import pytest

from flui.codecs.http1 import Http1Client, Http1Server
from flui.codecs.http2 import Http2Client, Http2Server
from flui.codecs.validate import validate
from flui.model.config import Limits
from flui.model.events import UNKNOWN, Credit, Data, End, RequestHead, Reset, ResponseHead
from flui.model.fault import Fault
from flui.model.fields import field
from flui.model.units import KIB
from support.rig import pairs, plain

LIMITS = Limits(window_octets=4 * KIB, stream_window_octets=4 * KIB, head_octets=4 * KIB, fields=20)


class Pair:
    """A client and a server codec of one protocol, and what each has said."""

    def __init__(self, client, server):
        self.client = client
        self.server = server
        self.at_client = []
        self.at_server = []

    def carry(self, cut=1 << 20, random=None):
        """Carries octets until nobody has any, in pieces."""
        while True:
            there, back = self.client.take(), self.server.take()
            self.client.repay()
            self.server.repay()
            for octets, codec in ((there, self.server), (back, self.client)):
                at = 0
                while at < len(octets):
                    size = random.randint(1, cut) if random else cut
                    codec.receive(octets[at : at + size])
                    at += size
            self.at_client += self.client.events()
            self.at_server += self.server.events()
            if not there and not back:
                return self

    def served(self):
        """What the server has heard since the last call, as tuples without Credit."""
        heard, self.at_server = self.at_server, []
        return plain(e for e in heard if not isinstance(e, Credit))

    def answered(self):
        heard, self.at_client = self.at_client, []
        return plain(e for e in heard if not isinstance(e, Credit))

    def credits(self):
        """Octets of credit the client's sender and the server's sender were given."""
        return sum(e.octets for e in self.at_client if isinstance(e, Credit)), sum(
            e.octets for e in self.at_server if isinstance(e, Credit)
        )

    def ask(self, method=b"GET", length=0, fields=(), path=b"/a"):
        stream = self.client.open()
        self.client.send(RequestHead(stream, method, b"http", b"a", path, b"?q", [*fields, *declared(length)], length))
        return stream

    def answer(self, status=200, length=0, fields=()):
        self.server.send(ResponseHead(1, status, [*fields, *declared(length)], length))


def declared(length):
    """A length that is known is a field too, as every codec hands it on; that there is no body need not be said."""
    return [field(b"content-length", b"%d" % length)] if length > 0 else []


def http1():
    return Pair(Http1Client(LIMITS), Http1Server(LIMITS, b"http"))


def http2():
    """Greetings are exchanged, so that both sides know the other's windows."""
    pair = Pair(Http2Client(LIMITS), Http2Server(LIMITS, b"http")).carry()
    assert not pair.at_client + pair.at_server
    return pair


PAIRS = {"http/1.1": http1, "http/2": http2}


@pytest.fixture(params=list(PAIRS))
def pair(request):
    return PAIRS[request.param]()


@pytest.mark.parametrize("size", [0, 1, 300, 20 * KIB])
@pytest.mark.parametrize("known", [True, False])
def test_an_exchange_arrives_as_it_was_said(pair, size, known):
    """Heads, bodies of every size with and without a length, ends; three times on one connection."""
    body = Random(size).randbytes(size)
    length = size if known else UNKNOWN
    for turn in range(1, 4):
        stream = pair.ask(b"POST", length, [field(b"x-turn", b"%d" % turn)])
        drive(pair, pair.client, stream, body)
        served = pair.served()
        assert [e[0] for e in served] == ["request", *(["data"] if size else []), "end"]
        assert served[0][2] == b"POST"
        assert served[0][4] == b"/a?q"
        assert dict(served[0][5])[b"x-turn"] == b"%d" % turn
        assert served[0][6] == length
        assert b"".join(e[2] for e in served if e[0] == "data") == body
        at_server = served[0][1]
        pair.server.send(ResponseHead(at_server, 201, [field(b"x-back", b"%d" % turn), *declared(length)], length))
        drive(pair, pair.server, at_server, body)
        answered = pair.answered()
        assert [e[0] for e in answered] == ["response", *(["data"] if size else []), "end"]
        assert answered[0][1] == stream
        assert answered[0][2] == 201
        assert dict(answered[0][3])[b"x-back"] == b"%d" % turn
        assert b"".join(e[2] for e in answered if e[0] == "data") == body
        assert pair.client.reusable
        assert pair.server.idle


def drive(pair, codec, stream, body, trailers=None):
    """Sends a body as credit allows; the far side gives credit for what it got."""
    other = pair.server if codec is pair.client else pair.client
    window, at = LIMITS.window_octets, 0
    allowed = window
    pair.carry()
    while at < len(body):
        assert allowed > 0, "no credit came back"
        chunk = body[at : at + min(allowed, 1500)]
        codec.send(Data(stream, chunk))
        at += len(chunk)
        allowed -= len(chunk)
        before = len(pair.at_server), len(pair.at_client)
        pair.carry()
        heard = pair.at_server[before[0] :] if other is pair.server else pair.at_client[before[1] :]
        for e in heard:
            if isinstance(e, Data):
                other.send(Credit(e.stream, len(e.chunk)))
        said = pair.at_client[before[1] :] if codec is pair.client else pair.at_server[before[0] :]
        allowed += sum(e.octets for e in said if isinstance(e, Credit))
    codec.send(End(stream, trailers))
    pair.carry()


def test_trailers_of_a_body_of_unknown_length_arrive(pair):
    stream = pair.ask(b"POST", UNKNOWN)
    drive(pair, pair.client, stream, b"x", [field(b"x-sum", b"1")])
    assert pair.served()[-1] == ("end", 1, ((b"x-sum", b"1"),))
    pair.answer(200, UNKNOWN)
    drive(pair, pair.server, 1, b"y", [field(b"grpc-status", b"0")])
    assert pair.answered()[-1] == ("end", stream, ((b"grpc-status", b"0"),))


def test_interim_responses_pass_before_the_final_one(pair):
    stream = pair.ask(b"POST", 1, [field(b"expect", b"100-continue")])
    pair.carry()
    pair.answer(100, 0)
    pair.server.send(ResponseHead(1, 103, [field(b"link", b"</a>")], 0))
    assert [e[2] for e in pair.carry().answered()] == [100, 103]
    drive(pair, pair.client, stream, b"x")
    pair.answer(200, 0)
    pair.server.send(End(1))
    assert [e[0] for e in pair.carry().answered()] == ["response", "end"]
    assert pair.client.reusable


@pytest.mark.parametrize(("method", "status"), [(b"HEAD", 200), (b"GET", 204), (b"GET", 304)])
def test_a_response_without_a_body_ends_with_its_head(pair, method, status):
    stream = pair.ask(method)
    pair.client.send(End(stream))
    pair.carry()
    pair.answer(status, UNKNOWN if status != 204 else 0)
    pair.server.send(End(1))
    assert [e[0] for e in pair.carry().answered()] == ["response", "end"]
    assert pair.client.reusable


def test_a_response_may_come_while_its_request_still_is_sent(pair):
    """threats A9: whole and in order; the connection says by itself whether it can go on."""
    stream = pair.ask(b"POST", UNKNOWN)
    pair.client.send(Data(stream, b"some"))
    pair.carry()
    pair.answer(403, 0)
    pair.server.send(End(1))
    assert [e[0] for e in pair.carry().answered()] == ["response", "end"]
    pair.client.send(Data(stream, b"more"))
    pair.client.send(End(stream))
    pair.carry()
    assert not pair.answered()


@pytest.mark.parametrize("length", [10, UNKNOWN])
def test_a_request_that_is_given_up_is_never_complete(pair, length):
    stream = pair.ask(b"POST", length)
    pair.client.send(Data(stream, b"some"))
    pair.carry()
    pair.client.send(Reset(stream, Fault.CALLER_GONE))
    pair.carry()
    if pair.client.closing:
        pair.server.receive_eof()
    pair.carry()
    told = pair.served()
    assert told[-1] == ("reset", 1, Fault.CALLER_GONE)
    assert "end" not in [e[0] for e in told]


@pytest.mark.parametrize("length", [10, UNKNOWN])
def test_a_response_that_is_given_up_is_never_complete(pair, length):
    stream = pair.ask()
    pair.client.send(End(stream))
    pair.carry()
    pair.answer(200, length)
    pair.server.send(Data(1, b"some"))
    pair.carry()
    pair.server.send(Reset(1, Fault.UPSTREAM_RESET))
    pair.carry()
    if pair.server.closing:
        pair.client.receive_eof()
    pair.carry()
    told = pair.answered()
    assert told[-1][0] == "reset"
    assert "end" not in [e[0] for e in told]


@pytest.mark.parametrize("way", ["request", "response"])
def test_no_more_data_than_there_is_credit_for(pair, way):
    """Architecture 3: no credit from the far side, no credit to the near side. The reader stops; what it holds is bounded."""
    sender, reader = (pair.client, pair.server) if way == "request" else (pair.server, pair.client)
    stream = pair.ask(b"POST", UNKNOWN if way == "request" else 0)
    if way == "response":
        pair.client.send(End(stream))
        pair.carry()
        pair.answer(200, UNKNOWN)
    pair.carry()
    for _ in range(20):
        sender.send(Data(1, b"x" * KIB))
    octets = sender.take()
    given = 0
    for at in range(0, len(octets), 512):
        if not reader.reading:
            break
        reader.receive(octets[at : at + 512])
        given += 512
    heard = sum(len(e.chunk) for e in reader.events() if isinstance(e, Data))
    assert heard <= LIMITS.window_octets
    # Where one connection carries many exchanges, its socket is read on; there the windows have stopped the sender itself.
    assert not reader.reading or sender.queued_octets == 20 * KIB - heard, "whoever owns the socket must stop reading"
    assert given < LIMITS.window_octets + 2 * 512
    reader.send(Credit(1, 100))
    assert sum(len(e.chunk) for e in reader.events() if isinstance(e, Data)) <= 100


@pytest.mark.parametrize("way", ["request", "response"])
def test_no_credit_while_the_socket_is_stalled(pair, way):
    sender = pair.client if way == "request" else pair.server
    stream = pair.ask(b"POST", UNKNOWN if way == "request" else 0)
    if way == "response":
        pair.client.send(End(stream))
        pair.carry()
        pair.answer(200, UNKNOWN)
    sender.stall(True)
    sender.send(Data(1, b"x" * LIMITS.window_octets))
    assert not [e for e in sender.events() if isinstance(e, Credit)]
    sender.stall(False)
    assert sum(e.octets for e in sender.events() if isinstance(e, Credit)) == LIMITS.window_octets


def test_every_request_that_arrives_is_validated_the_same_after_another_hop(pair):
    """What the validator made canonical is canonical: a second sidecar changes nothing."""
    stream = pair.ask(path=b"/a%62%2D%c3%a9", fields=[field(b"x-a", b"b")])
    pair.client.send(End(stream))
    pair.carry()
    arrived = next(e for e in pair.at_server if isinstance(e, RequestHead))
    assert validate(arrived) is None
    first = (arrived.method, arrived.authority, arrived.path, arrived.query, pairs(arrived.fields))
    again = PAIRS["http/1.1"]()
    again.client.open()
    again.client.send(arrived)
    again.client.send(End(1))
    again.carry()
    second = next(e for e in again.at_server if isinstance(e, RequestHead))
    assert validate(second) is None
    assert (second.method, second.authority, second.path, second.query, pairs(second.fields)) == first
    assert second.path == b"/ab-%C3%A9"


@pytest.mark.parametrize("seed", range(40))
def test_any_octets_become_events_and_never_an_exception(pair, seed):
    """`receive` never raises; after a fault nothing more is told and nothing is held."""
    random = Random(seed)
    for codec in (pair.server, pair.client):
        if codec is pair.client:
            pair.client.open()
            pair.client.send(RequestHead(1, b"GET", b"http", b"a", b"/", b"", [], 0))
            pair.client.send(End(1))
        for _ in range(30):
            octets = random.choice(
                [random.randbytes(random.randint(1, 200)), b"HTTP/1.1 200 OK\r\n", b"GET / HTTP/1.1\r\n", b"\r\n", b"a: b\r\n"]
            )
            codec.receive(octets)
            if any(isinstance(e, Reset) for e in codec.events()):
                codec.receive(b"x" * 10_000)
                assert not codec.events()
                break
            assert len(codec._in) <= LIMITS.head_octets + 200
        codec.receive_eof()
        codec.events()
        codec.take()


@pytest.mark.parametrize("seed", range(10))
def test_cutting_the_octets_anywhere_changes_nothing(pair, seed):
    random = Random(seed)
    stream = pair.ask(b"POST", UNKNOWN, [field(b"x-a", b"b")])
    pair.client.send(Data(stream, b"hello" * 20))
    pair.client.send(End(stream, [field(b"t", b"v")]))
    pair.carry(7, random)
    assert pair.served()[1:] == [("data", 1, b"hello" * 20), ("end", 1, ((b"t", b"v"),))]
    pair.answer(length=UNKNOWN, fields=[field(b"x-b", b"c")])
    pair.server.send(Data(1, b"world" * 20))
    pair.server.send(End(1, [field(b"u", b"w")]))
    pair.carry(7, random)
    assert pair.answered()[1:] == [("data", stream, b"world" * 20), ("end", stream, ((b"u", b"w"),))]
