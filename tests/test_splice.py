"""A splice joins two event ports: what enters one side leaves the other, credit flows back, endings are told once."""

import json

import pytest

from flui.answer import answer
from flui.model.decision import Forward
from flui.model.events import Credit, Data, End, Reset, ResponseHead
from flui.model.fault import DIALECTS, Fault
from flui.model.fields import field
from flui.splice import Splice
from support.rig import DECISION, TRACE, head, plain

OTHER = b"00-11111111111111111111111111111111-2222222222222222-01"


class Port:
    """A codec's event side: it remembers what it was told to say."""

    def __init__(self):
        self.said = []

    def send(self, event):
        self.said.append(event)

    def events(self):
        return []

    def open(self):
        return 7

    @property
    def told(self):
        return plain(self.said)


def spliced(asked=None, decision=DECISION, origin=None):
    down = Port()
    asked = asked or head()
    asked.stream = 3
    return Splice(down, asked, decision, 10.0, b"" if asked.trace else OTHER, origin), down


def test_what_enters_one_side_leaves_the_other():
    splice, down = spliced(head(b"POST", length=2))
    up = Port()
    splice.attach(up, 10.5)
    splice.from_down(Data(3, b"hi"))
    splice.from_down(End(3))
    assert [e[:2] for e in up.told] == [("request", 7), ("data", 7), ("end", 7)]
    for event in (ResponseHead(7, 100, [], 0), ResponseHead(7, 200, [field(b"x", b"y")], 3), Data(7, b"yes"), End(7, [field(b"t", b"v")])):
        splice.from_up([event], 11.0)
    assert down.told == [
        ("response", 3, 100, (), 0),
        ("response", 3, 200, ((b"x", b"y"),), 3),
        ("data", 3, b"yes"),
        ("end", 3, ((b"t", b"v"),)),
    ]
    assert splice.done
    assert (splice.status, splice.octets_in, splice.octets_out, splice.fault) == (200, 2, 3, None)
    assert (splice.begun_at, splice.attached_at, splice.first_at) == (10.0, 10.5, 11.0)


def test_what_comes_before_there_is_an_upstream_waits_and_nothing_is_credited():
    """While dialling, at most one window is held: the caller's codec gets no Credit."""
    splice, down = spliced(head(b"POST", length=4))
    splice.from_down(Data(3, b"ab"))
    splice.from_down(Data(3, b"cd"))
    splice.from_down(End(3))
    assert down.told == []
    assert not splice.sent
    up = Port()
    splice.attach(up, 11.0)
    assert [e[0] for e in up.told] == ["request", "data", "end"]
    assert up.told[1] == ("data", 7, b"abcd")
    assert splice.sent


def test_credit_of_each_side_goes_to_the_other():
    splice, down = spliced(head(b"POST", length=4))
    up = Port()
    splice.attach(up, 11.0)
    splice.from_down(Credit(3, 50))
    assert up.told[-1] == ("credit", 7, 50)
    splice.from_up([Credit(7, 60)], 11.0)
    assert down.told == [("credit", 3, 60)]


def test_the_request_carries_what_was_decided_and_what_was_missing():
    forward = DECISION.action
    assert isinstance(forward, Forward)
    action = Forward(
        forward.targets,
        timeout_s=1.5,
        idle_timeout_s=0.0,
        key=None,
        add=(field(b"flui-principal", b"spiffe://a/b"),),
        deadline=field(b"flui-deadline", b"1500"),
        keep_forwarded=False,
    )
    decision = type(DECISION)(action, DECISION.why, DECISION.expires_at, DECISION.labels, DECISION.log_text)
    asked = head(fields=[field(b"x", b"y")])
    asked.forwarded = [field(b"x-forwarded-for", b"evil")]
    splice, _ = spliced(asked, decision, field(b"forwarded", b"for=127.0.0.1"))
    up = Port()
    splice.attach(up, 10.0)
    assert dict(up.told[0][5]) == {
        b"x": b"y",
        b"flui-principal": b"spiffe://a/b",
        b"traceparent": OTHER,
        b"flui-deadline": b"1500",
        b"forwarded": b"for=127.0.0.1",
    }


def test_the_trace_of_the_caller_is_kept():
    asked = head(fields=[field(b"traceparent", TRACE)])
    asked.trace = TRACE
    splice, _ = spliced(asked)
    up = Port()
    splice.attach(up, 10.0)
    assert up.told[0][5] == ((b"traceparent", TRACE),)
    assert splice.trace == TRACE


def test_the_forwarded_fields_of_an_allow_listed_hop_come_before_ours():
    """threats E1: positional trust."""
    forward = DECISION.action
    assert isinstance(forward, Forward)
    action = Forward(forward.targets, 0.0, 0.0, None, (), None, keep_forwarded=True)
    asked = head()
    asked.forwarded = [field(b"forwarded", b"for=1.2.3.4")]
    decision = type(DECISION)(action, DECISION.why, DECISION.expires_at, DECISION.labels, DECISION.log_text)
    splice, _ = spliced(asked, decision, field(b"forwarded", b"for=127.0.0.1"))
    up = Port()
    splice.attach(up, 10.0)
    assert [value for name, value in up.told[0][5] if name == b"forwarded"] == [b"for=1.2.3.4", b"for=127.0.0.1"]


@pytest.mark.parametrize(("said", "timeout_s", "left"), [(2000, 0.0, 1500), (2000, 1.0, 500), (100, 1.0, 0), (-1, 1.0, 500)])
def test_the_deadline_shrinks_by_what_was_spent_here(said, timeout_s, left):
    forward = DECISION.action
    assert isinstance(forward, Forward)
    action = Forward(forward.targets, timeout_s, 0.0, None, (), None, keep_forwarded=False)
    asked = head()
    asked.deadline = said
    splice, _ = spliced(asked, type(DECISION)(action, DECISION.why, DECISION.expires_at, DECISION.labels, DECISION.log_text))
    assert splice.left_ms(10.5) == left
    up = Port()
    splice.attach(up, 10.5)
    assert dict(up.told[0][5]).get(b"flui-deadline") == (b"%d" % left if said >= 0 else None)


def test_hop_by_hop_fields_of_a_response_end_here():
    """RFC 9110 7.6.1, for responses too; what only a sidecar may say is not believed from an upstream either."""
    from flui.codecs.http1.lines import parse_field

    splice, down = spliced()
    splice.attach(Port(), 10.0)
    lines = [
        b"Connection: X-Gone, keep-alive",
        b"X-Gone: 1",
        b"X-Kept: 2",
        b"Keep-Alive: timeout=5",
        b"Transfer-Encoding: chunked",
        b"Trailer: x",
        b"Upgrade: h2c",
        b"Proxy-Authenticate: x",
        b"Flui-Principal: spiffe://evil/x",
        b"Set-Cookie: a",
        b"Set-Cookie: b",
    ]
    splice.from_up([ResponseHead(7, 200, [parse_field(line) for line in lines], -1, local=True)], 11.0)
    assert down.told[0][3] == ((b"x-kept", b"2"), (b"set-cookie", b"a"), (b"set-cookie", b"b"))


def test_a_connection_option_cannot_take_the_length_out_of_a_response():
    from flui.codecs.http1.lines import parse_field

    splice, down = spliced()
    splice.attach(Port(), 10.0)
    fields = [parse_field(b"Connection: content-length"), parse_field(b"Content-Length: 5")]
    splice.from_up([ResponseHead(7, 200, fields, 5, local=True)], 11.0)
    assert down.told[0][3] == ((b"content-length", b"5"),)


# Endings.


@pytest.mark.parametrize("fault", list(Fault))
def test_every_fault_before_the_response_is_answered_once(fault):
    splice, down = spliced()
    up = Port()
    splice.attach(up, 10.0)
    splice.fail(fault)
    splice.fail(Fault.INTERNAL)
    splice.reset(Fault.CALLER_GONE)
    assert [e[0] for e in down.told] == ["response", "data", "end"]
    assert down.told[0][2] == DIALECTS[fault].http == splice.status
    problem = json.loads(down.told[1][2])
    assert problem["status"] == DIALECTS[fault].http
    assert problem["code"] == fault.value
    assert problem["instance"] == "/"
    assert up.told[-1] == ("reset", 7, fault)
    assert splice.fault is fault
    assert splice.done


def test_a_fault_after_the_head_of_the_response_cuts_it():
    splice, down = spliced()
    up = Port()
    splice.attach(up, 10.0)
    splice.from_up([ResponseHead(7, 200, [], 10)], 11.0)
    splice.from_up([Reset(7, Fault.UPSTREAM_RESET)], 11.0)
    assert down.told[-1] == ("reset", 3, Fault.UPSTREAM_RESET)
    assert splice.status == 200
    assert splice.done


def test_an_interim_response_is_no_response():
    splice, down = spliced()
    splice.attach(Port(), 10.0)
    splice.from_up([ResponseHead(7, 100, [], 0)], 11.0)
    splice.from_up([Reset(7, Fault.UPSTREAM_MALFORMED)], 11.0)
    assert [e[2] for e in down.told if e[0] == "response"] == [100, 502]


def test_a_caller_that_goes_is_not_answered_and_the_upstream_is_told():
    splice, down = spliced()
    up = Port()
    splice.attach(up, 10.0)
    splice.from_down(Reset(3, Fault.CALLER_GONE))
    assert down.told == []
    assert up.told[-1] == ("reset", 7, Fault.CALLER_GONE)
    assert splice.status == 499


def test_a_caller_that_turns_malformed_is_answered_and_the_upstream_is_told():
    splice, down = spliced(head(b"POST", length=-1))
    up = Port()
    splice.attach(up, 10.0)
    splice.from_down(Reset(3, Fault.MALFORMED))
    assert down.told[0][2] == 400
    assert up.told[-1] == ("reset", 7, Fault.MALFORMED)


def test_nothing_passes_after_the_end():
    splice, down = spliced()
    up = Port()
    splice.attach(up, 10.0)
    splice.from_up([ResponseHead(7, 200, [], 0)], 11.0)
    splice.from_up([End(7)], 11.0)
    said = len(down.said), len(up.said)
    splice.from_down(Data(3, b"late"))
    splice.from_down(End(3))
    splice.from_up([Data(7, b"late")], 12.0)
    splice.from_up([Reset(7, Fault.UPSTREAM_RESET)], 12.0)
    splice.fail(Fault.UPSTREAM_TIMEOUT)
    assert (len(down.said), len(up.said)) == said
    assert splice.fault is None


def test_a_failure_before_an_upstream_is_there_holds_nothing_back():
    splice, down = spliced(head(b"POST", length=4))
    splice.from_down(Data(3, b"abcd"))
    splice.fail(Fault.UPSTREAM_REFUSED)
    assert down.told[0][2] == 502
    assert splice.done
    assert not splice.sent


def test_an_answer_tells_nothing_of_the_inside():
    """RFC 9457; threats G7: the document names the request and the fault, no endpoint, rule or principal."""
    down = Port()
    octets = answer(down, 1, Fault.OVERLOADED, b"/a", TRACE)
    told = down.told
    assert dict(told[0][3]) == {
        b"content-type": b"application/problem+json",
        b"cache-control": b"no-store",
        b"content-length": b"%d" % octets,
        b"retry-after": b"1",
    }
    assert json.loads(told[1][2]) == {
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        "code": "overloaded",
        "instance": "/a",
        "trace": "0af7651916cd43dd8448eb211c80319c",
    }
    assert len(told[1][2]) == octets
