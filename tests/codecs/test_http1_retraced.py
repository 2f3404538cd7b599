"""A caller that repeats its head but for the trace is understood as if each head were its first."""

from hypothesis import given
from hypothesis import strategies as st

from flui.codecs.http1 import Http1Client, Http1Server
from flui.codecs.validate import validate
from flui.model.config import Limits
from flui.model.decision import Decision, Forward, Why
from flui.model.events import End, RequestHead, ResponseHead
from flui.model.topology import Target
from flui.splice import Splice

FORWARD = Forward((Target("a"),), 15.0, 60.0, None, (), None, keep_forwarded=False)
DECISION = Decision(FORWARD, Why("inbound", "a", "app", "r:1", "spiffe://t/p"), float("inf"), ("inbound", "a", "app"), b"")


def relayed(server, client, octets):
    """What one request becomes: its faults, or what of it the endpoint gets."""
    server.receive(octets)
    head, *more = server.events()
    if not isinstance(head, RequestHead):
        return head.fault
    fault = validate(head)
    if fault is not None:
        return fault
    splice = Splice(server, head, DECISION, 0.0, b"", None)
    splice.attach(client, 0.0)
    for event in more:
        splice.from_down(event)
    seen = (splice.trace, head.trace, head.key, head.deadline, head.host, [f.value for f in head.fields], client.take())
    client.receive(b"HTTP/1.1 204 No Content\r\n\r\n")
    splice.from_up(client.events(), 0.0)
    server.take()
    return seen


traces = st.sampled_from(
    [b"00-%032x-%016x-0%d" % (trace, span, flag) for trace in (0, 1, 2**127) for span in (0, 1, 7) for flag in (0, 1)]
    + [b"00-" + b"g" * 32 + b"-" + b"1" * 16 + b"-01", b"x" * 55, b"00-1", b"", b"0" * 54 + b" "]
)
lines = st.lists(
    st.sampled_from([b"x: 1", b"flui-key: k", b"flui-deadline: 9", b"connection: x", b"X-Note: traceparent: 00-%032x-%016x-01" % (1, 1)]),
    max_size=3,
)
names = st.sampled_from([b"traceparent", b"traceparent", b"Traceparent", b"TRACEPARENT"])


@st.composite
def streams(draw):
    before, after, name = draw(lines), draw(lines), draw(names)
    spot = draw(st.booleans())
    found = []
    for trace in draw(st.lists(traces, min_size=2, max_size=6)):
        parts = [*before, b"%b: %b" % (name, trace), *after, *([b"traceparent: " + trace] if spot and draw(st.integers(0, 9)) == 0 else [])]
        found.append(b"GET /a HTTP/1.1\r\nHost: x\r\n" + b"".join(part + b"\r\n" for part in parts) + b"\r\n")
    return found


@given(streams())
def test_what_it_means_does_not_depend_on_what_was_said_before(heads):
    server, client = Http1Server(Limits(), b"http"), Http1Client(Limits())
    for head in heads:
        found = relayed(server, client, head)
        assert found == relayed(Http1Server(Limits(), b"http"), Http1Client(Limits()), head)
        if not isinstance(found, tuple):
            return


def test_the_record_of_an_exchange_keeps_the_trace_that_it_had():
    """The next head may be there, parsed, before the record is written."""
    server = Http1Server(Limits(), b"http")
    first, second = (b"GET /a HTTP/1.1\r\nHost: x\r\ntraceparent: 00-%032x-%016x-01\r\n\r\n" % (n, n) for n in (1, 2))
    server.receive(first)
    head, _ = server.events()
    assert validate(head) is None
    splice = Splice(server, head, DECISION, 0.0, b"", None)
    server.receive(second)
    server.send(ResponseHead(1, 204, [], 0))
    server.send(End(1))
    assert server.events()[0] is head
    assert b"%032x" % 2 in head.trace
    assert b"%032x" % 1 in splice.trace
    assert not splice.minted
    copy = splice.copy(1.0)
    client = Http1Client(Limits())
    copy.attach(client, 1.0)
    sent = client.take()
    assert b"%032x" % 1 in sent
    assert b"%032x" % 2 not in sent


def test_what_was_decided_is_forgotten_with_the_trace():
    """A route may match on the field itself."""
    server = Http1Server(Limits(), b"http")
    for n in (1, 2):
        server.receive(b"GET /a HTTP/1.1\r\nHost: x\r\ntraceparent: 00-%032x-%016x-01\r\n\r\n" % (n, n))
        head, _ = server.events()
        assert validate(head) is None
        assert head.decided is None
        head.decided = DECISION
        server.send(ResponseHead(n, 204, [], 0))
        server.send(End(n))
