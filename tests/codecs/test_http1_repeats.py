"""A peer that says the same head again: the exchange is a new one, and what is sent on is the same, octet for octet."""

import pytest

from flui.codecs.http1 import Http1Client, Http1Server
from flui.codecs.validate import validate
from flui.model.config import Limits
from flui.model.decision import Decision, Forward, Why
from flui.model.events import End, RequestHead, ResponseHead
from flui.model.fields import field
from flui.model.topology import Target
from flui.splice import Splice

TRACE = b"00-11111111111111111111111111111111-2222222222222222-01"


def decision(*add):
    forward = Forward((Target("a"),), 15.0, 60.0, None, tuple(add), None, keep_forwarded=False)
    return Decision(forward, Why("inbound", "a", "app", "r:1", "spiffe://t/p"), float("inf"), ("inbound", "a", "app"), b"")


class Hop:
    """One caller's connection, one upstream connection, a splice for each exchange."""

    def __init__(self):
        self.server = Http1Server(Limits(), b"http")
        self.client = Http1Client(Limits())

    def ask(self, octets, **decided):
        self.server.receive(octets)
        events = self.server.events()
        head = events[0]
        assert isinstance(head, RequestHead)
        assert validate(head) is None
        self.splice = Splice(self.server, head, decided.get("decision", decision()), decided.get("now", 0.0), TRACE, None)
        self.splice.attach(self.client, decided.get("now", 0.0))
        for event in events[1:]:
            self.splice.from_down(event)
        return self.client.take()

    def answer(self, octets):
        self.client.receive(octets)
        for event in self.client.events():
            self.splice.from_up([event], 1.0)
        return self.server.take()


GET = b"GET /a?b HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 9.9.9.9\r\nConnection: keep-alive, x-gone\r\nX-Gone: 1\r\nX-Kept: 2\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nKeep-Alive: 5\r\nX: y\r\n\r\n"


def test_the_same_head_again_is_sent_on_the_same():
    hop = Hop()
    first = hop.ask(GET, decision=decision(field(b"flui-principal", b"p")))
    assert b"x-gone" not in first
    assert b"9.9.9.9" not in first
    told = hop.answer(OK + b"ok")
    assert b"keep-alive" not in told
    for _ in range(3):
        assert hop.ask(GET, decision=decision(field(b"flui-principal", b"p"))) == first
        assert hop.answer(OK + b"ok") == told


def test_what_one_exchange_added_is_not_in_the_next():
    hop = Hop()
    assert b"flui-principal: one" in hop.ask(GET, decision=decision(field(b"flui-principal", b"one")))
    hop.answer(OK + b"ok")
    second = hop.ask(GET, decision=decision(field(b"flui-principal", b"two")))
    assert b"flui-principal: two" in second
    assert b"one" not in second


def test_each_is_an_exchange_of_its_own():
    hop = Hop()
    streams = []
    for _ in range(3):
        hop.ask(GET)
        streams.append(hop.splice.stream)
        hop.answer(OK + b"ok")
    assert streams == [1, 2, 3]


@pytest.mark.parametrize("framing", [b"Content-Length: 3\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"])
def test_bodies_follow_each_of_them(framing):
    hop = Hop()
    sent = [hop.ask(b"POST /a HTTP/1.1\r\nHost: x\r\n" + framing)]
    hop.answer(OK + b"ok")
    sent.append(hop.ask(b"POST /a HTTP/1.1\r\nHost: x\r\n" + framing))
    assert sent[0] == sent[1]
    assert b"abc" in sent[1]


def test_the_same_response_head_to_head_and_to_get_has_the_body_of_its_own_request():
    hop = Hop()
    hop.ask(GET)
    assert hop.answer(OK + b"ok").endswith(b"\r\n\r\nok")
    hop.ask(GET.replace(b"GET", b"HEAD"))
    assert hop.answer(OK).endswith(b"x: y\r\n\r\n")
    assert hop.splice.done, "no body is waited for"
    hop.ask(GET)
    assert hop.answer(OK + b"ok").endswith(b"\r\n\r\nok")


def test_chunked_responses_with_one_head_are_each_read_to_their_end():
    hop = Hop()
    for body in (b"one", b"four"):
        hop.ask(GET)
        told = hop.answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        assert body in told
        assert hop.splice.done


def test_a_repeated_deadline_is_counted_from_its_own_request():
    hop = Hop()
    asked = GET.replace(b"\r\n\r\n", b"\r\nflui-deadline: 500\r\n\r\n")
    assert b"flui-deadline: 500\r\n" in hop.ask(asked, now=1.0)
    hop.answer(OK + b"ok")
    assert b"flui-deadline: 500\r\n" in hop.ask(asked, now=900.0)


def test_pipelined_repeats_are_answered_one_by_one():
    hop = Hop()
    hop.server.receive(GET * 3)
    for stream in (1, 2, 3):
        head, end = hop.server.events()
        assert (head.stream, type(end)) == (stream, End)
        hop.server.send(ResponseHead(stream, 204, [], 0))
        hop.server.send(End(stream))
    assert hop.server.events() == []
    assert hop.server.take().count(b"204") == 3


def test_a_head_that_ends_its_connection_or_is_long_is_not_kept():
    server = Http1Server(Limits(), b"http")
    server.receive(b"GET / HTTP/1.1\r\nHost: x\r\nX: %b\r\n\r\n" % (b"y" * 2000))
    assert server._last_head is None
    server = Http1Server(Limits(), b"http")
    server.receive(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert server._last_head is None


@pytest.mark.parametrize("octets", [b"\x00", b"", b"\r\n", b"\r", b"\n", b" "])
def test_before_the_first_head_nothing_is_a_repeat(octets):
    """Found by a mutant: NUL alone was taken for the head before it."""
    server = Http1Server(Limits(), b"http")
    server.receive(octets + b"\r\n\r\nhello")
    assert not any(isinstance(event, RequestHead) for event in server.events())
    client = Http1Client(Limits())
    client.send(RequestHead(client.open(), b"GET", b"http", b"x", b"/", b"", [], 0))
    client.receive(octets + b"\r\n\r\nhello")
    assert not any(isinstance(event, ResponseHead) for event in client.events())
