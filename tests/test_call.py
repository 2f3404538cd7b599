"""A gRPC call is refused, bounded and ended in gRPC's dialect; what is none of gRPC's becomes a status; octets pass as they came."""

from dataclasses import replace

import h2.config
import h2.connection
import h2.events
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flui.call import Call
from flui.codecs.grpc import STATUS_LINES, grpc_timeout
from flui.codecs.http1 import Http1Server
from flui.codecs.http2 import Http2Client, Http2Server
from flui.codecs.validate import validate
from flui.model.config import Limits
from flui.model.decision import Forward, Why
from flui.model.events import UNKNOWN, Credit, Data, End, RequestHead, Reset, ResponseHead
from flui.model.fault import DIALECTS, Fault
from flui.model.fields import classified, field
from flui.model.grpc import FAILED, STATUSES, Status, counted_as, status_of_http
from flui.model.topology import Target
from support.rig import DECISION, TRACE, plain

TYPE = classified(b"content-type", b"application/grpc")
ASK = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":authority", b"stock"),
    (b":path", b"/shop.Stock/Get"),
    (b"content-type", b"application/grpc"),
    (b"te", b"trailers"),
]
OK = [(b":status", b"200"), (b"content-type", b"application/grpc")]


def framed(*payloads, flag=0):
    return b"".join(bytes((flag,)) + len(p).to_bytes(4, "big") + p for p in payloads)


def asked(fields=(), path=b"/shop.Stock/Get", length=UNKNOWN):
    made = RequestHead(3, b"POST", b"http", b"stock", path, b"", [TYPE, *(classified(n, v) for n, v in fields)], length)
    assert validate(made) is None
    assert made.grpc
    return made


ONE = framed(b"x")


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


def begun(octets=0, decision=DECISION, hook=None, head=None):
    down, up = Port(), Port()
    call = Call(down, head or asked(), decision, 10.0, TRACE, None, octets, hook)
    call.attach(up, 10.0)
    return call, down, up


class Relay:
    """`h2` asks, our server codec, the validator, a call, our client codec, `h2` answers."""

    def __init__(self, octets=1024, decision=DECISION):
        config = [
            h2.config.H2Configuration(client_side=side, header_encoding=None, validate_outbound_headers=False) for side in (True, False)
        ]
        self.caller, self.module = (h2.connection.H2Connection(one) for one in config)
        self.down, self.up = Http2Server(Limits(), b"http"), Http2Client(Limits())
        self.heard, self.reached = [], []
        self.octets, self.decision = octets, decision
        self.calls = {}
        self.caller.initiate_connection()
        self.module.initiate_connection()

    def carry(self):
        moved = True
        while moved:
            moved = False
            for peer, codec, told in ((self.caller, self.down, self.heard), (self.module, self.up, self.reached)):
                there, back = peer.data_to_send(), codec.take()
                codec.receive(there)
                told.extend(peer.receive_data(back) if back else [])
                moved = moved or bool(there or back)
            for event in self.down.events():
                moved = True
                if isinstance(event, RequestHead):
                    assert validate(event) is None
                    self.calls[event.stream] = call = Call(self.down, event, self.decision, 0.0, TRACE, None, self.octets)
                    call.attach(self.up, 0.0)
                else:
                    self.calls[event.stream].from_down(event)
            for event in self.up.events():
                moved = True
                next(c for c in self.calls.values() if c.up_stream == event.stream).from_up([event], 0.0)
        return self

    def ask(self, body=ONE, end=True, more=()):
        self.carry()
        self.caller.send_headers(1, [*ASK, *more])
        self.caller.send_data(1, body, end_stream=end)
        return self.carry()

    def ended(self):
        """What the caller made of it: gRPC's status and text, messages' octets, codes of resets."""
        status, text, octets, codes = None, "", b"", []
        for event in self.heard:
            for name, value in getattr(event, "headers", None) or ():
                status = int(value) if name == b"grpc-status" else status
                text = value.decode() if name == b"grpc-message" else text
            if isinstance(event, h2.events.DataReceived):
                octets += event.data
            if isinstance(event, h2.events.StreamReset):
                codes.append(event.error_code)
        return status, text, octets, codes


# --- refusals -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault is not Fault.CALLER_GONE], ids=lambda fault: fault.value)
def test_every_refusal_is_http_200_and_a_head_that_is_all_there_is(fault):
    call, down, up = begun()
    call.fail(fault)
    assert plain(up.said)[-1][0] == "reset"
    head, end = down.said
    assert (head.status, head.length, type(end)) == (200, 0, End)
    said = {line.name: line.value for line in head.fields}
    assert said[b"content-type"] == b"application/grpc"
    assert said[b"grpc-status"] == b"%d" % DIALECTS[fault].grpc
    assert fault.value in said[b"grpc-message"].decode()
    assert (b"grpc-retry-pushback-ms" in said) == bool(DIALECTS[fault].retry_after_s)
    assert (call.done, call.status, call.outcome()) == (True, 200, STATUSES[DIALECTS[fault].grpc])


@pytest.mark.parametrize("said", [b"application/grpc", b"application/grpc+json", b"application/grpc+proto; charset=utf-8"])
def test_a_refusal_has_the_content_type_of_its_call(said):
    """connect-go takes no answer to `+json` that is not `+json`, and reports that instead of the status."""
    made = RequestHead(3, b"POST", b"http", b"stock", b"/shop.Stock/Get", b"", [classified(b"content-type", said)], UNKNOWN)
    assert validate(made) is None
    call, down, _ = begun(head=made)
    call.fail(Fault.DEADLINE_PASSED)
    assert [line.value for line in down.said[0].fields if line.name == b"content-type"] == [said]


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (Fault.NO_ROUTE, Status.UNIMPLEMENTED),
        (Fault.APP_UNAVAILABLE, Status.UNAVAILABLE),
        (Fault.NO_ENDPOINT, Status.UNAVAILABLE),
        (Fault.UPSTREAM_TIMEOUT, Status.DEADLINE_EXCEEDED),
        (Fault.DEADLINE_PASSED, Status.DEADLINE_EXCEEDED),
        (Fault.DENIED, Status.PERMISSION_DENIED),
        (Fault.RATE_LIMITED, Status.RESOURCE_EXHAUSTED),
        (Fault.OVERLOADED, Status.UNAVAILABLE),
        (Fault.BODY_TOO_LARGE, Status.RESOURCE_EXHAUSTED),
        (Fault.MALFORMED, Status.INTERNAL),
    ],
)
def test_bad_ends_have_the_status_that_was_promised(fault, status):
    call, _, _ = begun()
    call.fail(fault)
    assert call.outcome() is status


def test_a_rate_says_in_milliseconds_when_to_come_back():
    call, down, _ = begun()
    call.fail(Fault.RATE_LIMITED, retry_after_s=7)
    assert (b"grpc-retry-pushback-ms", b"7000") in [(line.name, line.value) for line in down.said[0].fields]


def test_a_fault_made_on_purpose_has_the_status_of_its_http_status():
    call, _, _ = begun()
    call.fail(Fault.INJECTED, 429)
    assert call.outcome() is status_of_http(429)


def test_over_http1_a_refusal_is_a_head_too():
    codec = Http1Server(Limits(), b"http")
    codec.receive(b"POST /a.B/C HTTP/1.1\r\nhost: stock\r\ncontent-type: application/grpc\r\ncontent-length: 0\r\n\r\n")
    head = codec.events()[0]
    assert validate(head) is None
    Call(codec, head, DECISION, 0.0, TRACE, None).fail(Fault.DENIED)
    octets = codec.take()
    assert octets.startswith(b"HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ngrpc-status: 7\r\n")
    assert octets.endswith(b"content-length: 0\r\n\r\n")


# --- what has begun -------------------------------------------------------------------------------------------------------------


def test_an_answer_that_ends_between_two_messages_ends_in_trailers():
    relay = Relay().ask()
    relay.module.send_headers(1, OK)
    relay.module.send_data(1, framed(b"one"))
    relay.carry()
    relay.calls[1].fail(Fault.DEADLINE_PASSED)
    relay.carry()
    status, text, octets, codes = relay.ended()
    assert (status, octets, codes) == (4, framed(b"one"), [])
    assert "deadline_passed" in text
    assert [e.error_code for e in relay.reached if isinstance(e, h2.events.StreamReset)] == [8]


def test_an_answer_that_is_cut_within_a_message_is_reset():
    relay = Relay().ask()
    relay.module.send_headers(1, OK)
    relay.module.send_data(1, framed(b"one") + framed(b"two")[:6])
    relay.carry()
    relay.calls[1].fail(Fault.UPSTREAM_RESET)
    relay.carry()
    assert relay.ended()[0] is None
    assert relay.ended()[3] == [DIALECTS[Fault.UPSTREAM_RESET].h2]


def test_a_caller_that_goes_is_heard_by_the_module_at_once():
    relay = Relay().ask(end=False)
    relay.caller.reset_stream(1, 8)
    relay.carry()
    assert [e.error_code for e in relay.reached if isinstance(e, h2.events.StreamReset)] == [8]
    assert relay.calls[1].outcome() is Status.CANCELLED


# --- length of messages -----------------------------------------------------------------------------------------------------------


def test_a_message_that_is_too_long_ends_the_call_before_an_octet_of_it_passes():
    relay = Relay(octets=10).ask(framed(b"x" * 10, b"y" * 11), end=False)
    assert relay.ended()[0] == 8
    assert b"y" not in b"".join(e.data for e in relay.reached if isinstance(e, h2.events.DataReceived))
    assert [type(e) for e in relay.reached if isinstance(e, h2.events.StreamReset)]


def test_an_answer_with_a_message_that_is_too_long_ends_in_trailers():
    relay = Relay(octets=10).ask()
    relay.module.send_headers(1, OK)
    relay.module.send_data(1, framed(b"x"))
    relay.carry()
    relay.module.send_data(1, framed(b"y" * 11))
    relay.carry()
    assert relay.ended() == (8, relay.ended()[1], framed(b"x"), [])


def test_a_message_that_is_cut_short_is_malformed():
    call, down, up = begun(100)
    call.from_down(Data(3, framed(b"abc")[:-1]))
    call.from_down(End(3))
    assert call.outcome() is Status.INTERNAL
    assert plain(up.said)[-1][0] == "reset"
    assert down.said[0].status == 200


def test_without_a_limit_nobody_looks():
    call, _, up = begun(0)
    call.from_down(Data(3, b"\xff not gRPC at all"))
    assert plain(up.said)[-1] == ("data", 7, b"\xff not gRPC at all")


@settings(max_examples=200, deadline=None)
@given(sizes=st.lists(st.integers(0, 30), max_size=6), cuts=st.lists(st.integers(1, 40), max_size=20), limit=st.integers(1, 30))
def test_octets_pass_as_they_came_up_to_the_first_message_that_is_too_long(sizes, cuts, limit):
    octets = framed(*[b"m" * size for size in sizes])
    call, _, up = begun(limit)
    at = 0
    for cut in [*cuts, len(octets)]:
        if at < len(octets):
            call.from_down(Data(3, octets[at : at + cut]))
            at += cut
    call.from_down(End(3))
    passed = b"".join(e.chunk for e in up.said if isinstance(e, Data))
    if all(size <= limit for size in sizes):
        assert passed == octets
        assert not call.done
    else:
        first = next(n for n, size in enumerate(sizes) if size > limit)
        assert len(passed) < len(framed(*[b"m" * size for size in sizes[:first]])) + 5
        assert octets.startswith(passed)
        assert call.outcome() is Status.RESOURCE_EXHAUSTED


class Hook:
    def __init__(self, most):
        self.most = most
        self.seen = []

    def messages(self, number, *, asked):
        self.seen.append((number, asked))
        return Fault.DENIED if sum(n for n, _ in self.seen) > self.most else None


def test_a_hook_is_asked_before_messages_pass_and_may_end_the_call():
    hook = Hook(3)
    call, _, up = begun(0, hook=hook)
    call.from_down(Data(3, framed(b"a")))
    call.from_down(Data(3, framed(b"b", b"c") + b"\0"))
    call.from_down(Data(3, b"\0\0\0"))
    assert hook.seen == [(1, True), (2, True)]
    call.from_down(Data(3, b"\1d"))
    assert call.outcome() is Status.PERMISSION_DENIED
    assert b"".join(e.chunk for e in up.said if isinstance(e, Data)) == framed(b"a", b"b", b"c") + b"\0\0\0\0"


# --- what the service says ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("http", [400, 401, 403, 404, 415, 429, 500, 502, 503, 504])
def test_an_answer_that_is_none_of_grpcs_becomes_a_status(http):
    relay = Relay().ask()
    relay.module.send_headers(1, [(b":status", b"%d" % http), (b"content-type", b"text/html")])
    relay.module.send_data(1, b"<html>", end_stream=True)
    relay.carry()
    status, text, octets, codes = relay.ended()
    assert (status, octets, codes) == (status_of_http(http).value, b"", [])
    assert str(http) in text
    assert relay.calls[1].done
    assert relay.up.room > 0


def test_html_with_200_is_unknown():
    relay = Relay().ask()
    relay.module.send_headers(1, [(b":status", b"200"), (b"content-type", b"text/html")])
    relay.carry()
    assert relay.ended()[0] == 2
    assert [type(e) for e in relay.reached if isinstance(e, h2.events.StreamReset)], "its body is not waited for"


def test_an_answer_without_a_status_gets_one():
    relay = Relay().ask()
    relay.module.send_headers(1, OK)
    relay.module.send_data(1, framed(b"one"), end_stream=True)
    relay.carry()
    assert relay.ended()[:1] + relay.ended()[2:] == (2, framed(b"one"), [])
    assert relay.calls[1].outcome() is Status.UNKNOWN


def test_trailers_only_passes_as_it_is_and_counts():
    relay = Relay().ask()
    relay.module.send_headers(1, [*OK, (b"grpc-status", b"5"), (b"grpc-message", b"no such item"), (b"x", b"y")], end_stream=True)
    relay.carry()
    assert relay.ended() == (5, "no such item", b"", [])
    assert relay.calls[1].outcome() is Status.NOT_FOUND


def test_a_status_counts_whatever_the_http_status_beside_it():
    call, down, _ = begun()
    call.from_up([ResponseHead(7, 503, [TYPE, STATUS_LINES[5]], 0)], 11.0)
    call.from_up([End(7)], 11.0)
    assert (down.said[0].status, call.outcome(), call.judged()) == (200, Status.NOT_FOUND, 404)


@pytest.mark.parametrize("status", list(Status), ids=lambda status: status.name)
def test_an_endpoint_is_judged_by_the_status(status):
    call, _, _ = begun()
    call.from_up([ResponseHead(7, 200, [TYPE], UNKNOWN)], 11.0)
    call.from_up([Data(7, framed(b"x"))], 11.0)
    call.from_up([End(7, [STATUS_LINES[status]])], 11.0)
    assert call.outcome() is status
    assert (call.judged() >= 500) == (status in FAILED)
    assert call.judged() == counted_as(status)


class Retrier:
    def __init__(self, *, again):
        self.agrees = again
        self.heads = []

    def again(self, head):
        self.heads.append(head)
        return self.agrees


def test_an_answer_that_is_all_head_may_be_tried_again():
    for fields, http in (([TYPE, STATUS_LINES[14]], 200), ([], 503)):
        call, down, _ = begun()
        call.retrier = Retrier(again=True)
        call.from_up([ResponseHead(7, http, fields, 0)], 11.0)
        assert call.deaf
        assert not call.done
        assert not down.said


def test_what_is_refused_a_second_try_is_asked_once_and_passed_on():
    call, down, _ = begun()
    call.retrier = retrier = Retrier(again=False)
    call.from_up([ResponseHead(7, 503, [TYPE, STATUS_LINES[14]], 0)], 11.0)
    call.from_up([End(7)], 11.0)
    assert len(retrier.heads) == 1
    assert call.outcome() is Status.UNAVAILABLE
    assert len(down.said) == 2


def test_a_message_before_the_status_is_final():
    call, _, _ = begun()
    call.retrier = retrier = Retrier(again=True)
    call.from_up([ResponseHead(7, 200, [TYPE], UNKNOWN)], 11.0)
    call.from_up([Data(7, framed(b"x"))], 11.0)
    call.from_up([End(7, [STATUS_LINES[14]])], 11.0)
    assert not retrier.heads
    assert call.done


def test_another_sidecars_refusal_is_known_and_goes_no_further():
    call, down, _ = begun()
    call.retrier = Retrier(again=False)
    call.from_up([ResponseHead(7, 200, [TYPE, STATUS_LINES[14], classified(b"flui-fault", b"overloaded")], 0, local=True)], 11.0)
    assert call.refusal == b"overloaded"
    assert b"flui-fault" not in [line.name for line in down.said[0].fields]


# --- deadlines and attempts ---------------------------------------------------------------------------------------------------------


def sent_on(up):
    return dict(plain(up.said)[0][5])


def test_what_is_left_of_the_deadline_is_sent_on_as_grpc_timeout():
    down, up = Port(), Port()
    forward = DECISION.action
    assert isinstance(forward, Forward)
    decision = replace(DECISION, action=Forward((Target("up"),), 2.0, 0.0, None, (), field(b"grpc-timeout", b"2000m"), False))
    for fields, now, most in (((b"grpc-timeout", b"1500m"), 10.25, 1250), ((b"grpc-timeout", b"9S"), 10.5, 1500), (None, 10.5, 1500)):
        call = Call(down, asked([fields] if fields else []), decision, 10.0, TRACE, None)
        up.said.clear()
        call.attach(up, now)
        said = sent_on(up)
        assert most - 2 <= grpc_timeout(said[b"grpc-timeout"]) <= most
        assert b"flui-deadline" not in said


def test_a_call_without_a_deadline_gets_the_routes():
    decision = replace(DECISION, action=Forward((Target("up"),), 2.0, 0.0, None, (), field(b"grpc-timeout", b"2000m"), False))
    assert sent_on(begun(decision=decision)[2])[b"grpc-timeout"] == b"2000m"


@pytest.mark.parametrize(
    ("at", "status"), [(11.499, Status.DEADLINE_EXCEEDED), (11.6, Status.DEADLINE_EXCEEDED), (11.4, Status.UNAVAILABLE)]
)
def test_a_module_that_resets_at_the_deadline_means_the_deadline(at, status):
    """grpc-go's server does, and its own clients read it so."""
    call, down, up = begun(head=asked([(b"grpc-timeout", b"1500m")]))
    call.from_up([Reset(call.up_stream, Fault.UPSTREAM_RESET)], at)
    assert call.outcome() is status
    assert dict((line.name, line.value) for line in down.said[0].fields)[b"grpc-status"] == b"%d" % status
    assert up.said


def test_without_a_deadline_a_reset_is_one():
    call, _, _ = begun()
    call.from_up([Reset(call.up_stream, Fault.UPSTREAM_RESET)], 1e6)
    assert call.outcome() is Status.UNAVAILABLE


def test_a_second_attempt_says_how_many_came_before():
    call, _, up = begun(head=asked([(b"grpc-previous-rpc-attempts", b"2")]))
    assert sent_on(up)[b"grpc-previous-rpc-attempts"] == b"2"
    assert sent_on(up)[b"flui-attempt"] == b"3"
    call, _, up = begun()
    assert b"grpc-previous-rpc-attempts" not in sent_on(up)
    call.detach()
    call.attach(up, 10.0)
    assert dict(plain(up.said)[-1][5])[b"grpc-previous-rpc-attempts"] == b"1"


def test_credit_and_everything_else_passes():
    call, down, up = begun(100)
    call.from_up([Credit(7, 9)], 11.0)
    call.from_down(Credit(3, 8))
    assert (plain(down.said), plain(up.said)[-1]) == ([("credit", 3, 9)], ("credit", 7, 8))
    call.from_down(Reset(3, Fault.CALLER_GONE))
    assert call.outcome() is Status.CANCELLED


def test_a_copy_is_a_call_too():
    call, _, up = begun(10)
    call.keep(100)
    call.from_down(Data(3, framed(b"x")))
    call.from_down(End(3))
    copy = call.copy(12.0)
    assert isinstance(copy, Call)
    assert [type(e) for e in copy.kept()] == [Data, End]
    assert isinstance(DECISION.why, Why)
    assert up.said
