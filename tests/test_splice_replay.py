"""What is kept of a request goes out again whole; credit that was given for it once is not given twice."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flui.answer import answer
from flui.codecs.http1 import Http1Client, Http1Server
from flui.codecs.validate import validate
from flui.model.config import Limits
from flui.model.decision import Decision, Forward
from flui.model.events import Credit, Data, End, RequestHead, Reset, ResponseHead
from flui.model.fault import Fault
from flui.model.fields import field
from flui.model.resilience import HIGH, LOW, NORMAL
from flui.splice import Splice
from support.rig import DECISION, OK, TRACE, head, plain

OTHER = b"00-11111111111111111111111111111111-2222222222222222-01"
WINDOW = Limits().window_octets


class Port:
    """A codec's event side: it remembers what it was told to say."""

    def __init__(self, stream=7):
        self.said = []
        self._stream = stream

    def send(self, event):
        if isinstance(event, RequestHead):  # what is said of it is said now: a head may be sent more than once
            self.said.append(("request", event.stream, tuple((f.name, f.value) for f in event.extra or ())))
        else:
            self.said.extend(plain([event]))

    def events(self):
        return []

    def open(self):
        return self._stream

    @property
    def body(self):
        return b"".join(e[2] for e in self.said if e[0] == "data")

    @property
    def kinds(self):
        return [e[0] for e in self.said]

    def field(self, name):
        return dict(self.said[0][2]).get(name)


class Asked:
    """A retrier that says what it is told to."""

    def __init__(self, *verdicts):
        self.verdicts = list(verdicts)
        self.heads = []

    def again(self, head):
        self.heads.append(head.status if head is not None else None)
        return self.verdicts.pop(0)


def spliced(asked=None, *, keep=None, retrier=None, decision=DECISION):
    down = Port(3)
    asked = asked or head()
    asked.stream = 3
    splice = Splice(down, asked, decision, 10.0, b"" if asked.trace else OTHER, None)
    splice.retrier = retrier
    if keep is not None:
        splice.keep(keep)
    return splice, down


# --- what is kept -----------------------------------------------------------------------------------------------------------


def test_a_kept_request_goes_out_again_whole():
    splice, _ = spliced(head(b"PUT", length=6), keep=10, retrier=Asked(True))
    first, second = Port(7), Port(9)
    splice.attach(first, 11.0)
    splice.from_down(Data(3, b"abc"))
    splice.from_up([Reset(7, Fault.UPSTREAM_RESET)], 12.0)
    assert splice.deaf
    assert not splice.done
    splice.detach()
    splice.from_down(Data(3, b"def"))
    splice.from_down(End(3))
    splice.attach(second, 13.0)
    assert first.body == b"abc"
    assert second.body == b"abcdef"
    assert second.kinds[-1] == "end"
    assert {e[1] for e in second.said} == {9}, "all under the new number"
    assert splice.tries == 2
    assert splice.octets_in == 6, "what the caller sent, not what was sent on"


def test_a_request_without_body_goes_out_again_with_its_end():
    splice, _ = spliced(retrier=Asked(True))
    first, second = Port(7), Port(9)
    splice.attach(first, 11.0)
    splice.from_down(End(3))
    splice.from_up([Reset(7, Fault.UPSTREAM_RESET)], 12.0)
    splice.detach()
    assert splice.can_repeat
    splice.attach(second, 13.0)
    assert first.kinds == second.kinds == ["request", "end"]


def test_trailers_go_out_again():
    splice, _ = spliced(head(b"PUT", length=-1), keep=10, retrier=Asked(True))
    splice.attach(Port(), 11.0)
    splice.from_down(Data(3, b"abc"))
    splice.from_down(End(3, [field(b"t", b"v")]))
    splice.from_up([Reset(7, Fault.UPSTREAM_RESET)], 12.0)
    splice.detach()
    second = Port(9)
    splice.attach(second, 13.0)
    assert second.said[-1] == ("end", 9, ((b"t", b"v"),))


@pytest.mark.parametrize(("size", "repeats"), [(10, True), (11, False)])
def test_past_its_bound_the_second_try_is_given_up_and_never_the_body(size, repeats):
    asked = Asked(True)
    splice, down = spliced(head(b"PUT", length=size), keep=10, retrier=asked)
    up = Port()
    splice.attach(up, 11.0)
    splice.from_down(Data(3, b"a" * 5))
    splice.from_down(Data(3, b"b" * (size - 5)))
    splice.from_down(End(3))
    assert up.body == b"a" * 5 + b"b" * (size - 5)
    assert splice.can_repeat is repeats
    assert splice.kept_octets == (size if repeats else 0)
    splice.from_up([Reset(7, Fault.UPSTREAM_RESET)], 12.0)
    assert asked.heads == ([None] if repeats else [])
    assert splice.done is not repeats
    assert bool(down.said) is not repeats


def test_a_body_that_outgrows_its_bound_between_two_tries_still_arrives_whole():
    """The second try is decided already; there is no third, and from then on nothing is kept."""
    asked = Asked(True)
    splice, down = spliced(head(b"PUT", length=12), keep=4, retrier=asked)
    splice.attach(Port(), 11.0)
    splice.from_down(Data(3, b"abcd"))
    splice.from_up([Reset(7, Fault.UPSTREAM_RESET)], 12.0)
    splice.detach()
    splice.from_down(Data(3, b"efgh"))
    second = Port(9)
    splice.attach(second, 13.0)
    splice.from_down(Data(3, b"ijkl"))
    splice.from_down(End(3))
    assert second.body == b"abcdefghijkl"
    assert splice.kept_octets == 0
    assert not splice.can_repeat
    splice.from_up([Reset(9, Fault.UPSTREAM_RESET)], 14.0)
    assert down.said[0][:3] == ("response", 3, 502)
    assert asked.heads == [None]


def test_without_keep_the_body_is_forgotten_as_it_is_sent():
    splice, _ = spliced(head(b"POST", length=6))
    splice.from_down(Data(3, b"abc"))
    assert splice.kept_octets == 3, "there is nobody to send it to yet"
    up = Port()
    splice.attach(up, 11.0)
    assert splice.kept_octets == 0
    splice.from_down(Data(3, b"def"))
    assert splice.kept_octets == 0
    assert up.body == b"abcdef"
    assert not splice.can_repeat


def test_once_an_answer_has_begun_nothing_is_kept_unless_it_is_mirrored():
    for mirror, kept in (("", 0), ("shadow", 5)):
        splice, _ = spliced(head(b"PUT", length=5), keep=10, retrier=Asked())
        splice.mirror = mirror
        splice.attach(Port(), 11.0)
        splice.from_down(Data(3, b"hello"))
        splice.from_up([ResponseHead(7, 200, [], 2)], 12.0)
        assert splice.kept_octets == kept


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.integers(0, 120), st.data())
def test_however_it_is_cut_and_whenever_it_fails_the_last_endpoint_gets_the_whole_body(pieces, room, draw):
    """Failures strike between any two pieces, before or after the pause; within the bound each is repaired, past it none is."""
    whole = b"".join(pieces)
    splice, _ = spliced(head(b"PUT", length=len(whole)), keep=room, retrier=Asked(*[True] * 99))
    up = Port()
    if draw.draw(st.booleans(), "attached at once"):
        splice.attach(up, 11.0)
    for event in (*(Data(3, piece) for piece in pieces), End(3)):
        splice.from_down(event)
        what = draw.draw(st.sampled_from(("on", "fails", "fails and is paused", "begins")), "what happens")
        if splice.up is None and what == "begins":
            up = Port()
            splice.attach(up, 11.0)
        elif splice.up is not None and what.startswith("fails"):
            splice.from_up([Reset(7, Fault.UPSTREAM_RESET)], 12.0)
            if splice.done:
                assert splice.octets_in > room, "it was given up for its length only"
                return
            splice.detach()
            if what == "fails":
                up = Port()
                splice.attach(up, 11.0)
    if splice.up is None:
        up = Port()
        splice.attach(up, 11.0)
    assert up.body == whole
    assert up.kinds[-1] == "end"
    assert splice.kept_octets <= room


# --- what is asked, and what of a failed try is heard -----------------------------------------------------------------------


def test_nothing_of_a_try_that_is_given_up_is_passed_on():
    splice, down = spliced(retrier=Asked(True, False))
    splice.attach(Port(), 11.0)
    for event in (ResponseHead(7, 503, [], 4), Data(7, b"gone"), End(7)):
        splice.from_up([event], 12.0)
    assert down.said == []
    assert (splice.status, splice.octets_out, splice.done) == (0, 0, False)
    splice.detach()
    splice.attach(Port(9), 13.0)
    for event in (ResponseHead(9, 503, [], 4), Data(9, b"last"), End(9)):
        splice.from_up([event], 14.0)
    assert [e[0] for e in down.said] == ["response", "data", "end"]
    assert down.body == b"last"
    assert (splice.status, splice.octets_out, splice.done) == (503, 4, True)


def test_who_retries_is_not_asked_of_what_went_well_nor_after_the_head():
    asked = Asked()
    splice, down = spliced(retrier=asked)
    splice.attach(Port(), 11.0)
    splice.from_up([ResponseHead(7, 200, [], 4)], 12.0)
    splice.from_up([Data(7, b"ha")], 12.0)
    splice.from_up([Reset(7, Fault.UPSTREAM_RESET)], 12.0)
    assert asked.heads == []
    assert down.kinds == ["response", "data", "reset"]


def test_an_answer_that_cannot_be_understood_is_not_asked_for_again():
    asked = Asked()
    splice, down = spliced(retrier=asked)
    splice.attach(Port(), 11.0)
    splice.from_up([Reset(7, Fault.UPSTREAM_MALFORMED)], 12.0)
    assert asked.heads == []
    assert down.said[0][2] == 502


def test_an_interim_answer_does_not_stand_in_the_way_of_a_second_try():
    splice, down = spliced(retrier=Asked(True))
    splice.attach(Port(), 11.0)
    splice.from_up([ResponseHead(7, 103, [], 0)], 12.0)
    splice.from_up([Reset(7, Fault.UPSTREAM_RESET)], 12.0)
    assert not splice.done
    assert down.said == [("response", 3, 103, (), 0)]


def test_a_refusal_of_another_sidecar_is_read_and_goes_no_further():
    from flui.codecs.http1.lines import parse_field

    heard = []

    class Reads:
        def again(self, head):
            heard.append(head.refusal)
            return False

    splice, down = spliced(retrier=Reads())
    splice.attach(Port(), 11.0)
    splice.from_up([ResponseHead(7, 503, [parse_field(b"flui-fault: overloaded"), parse_field(b"x: y")], 0, local=True)], 12.0)
    assert heard == [b"overloaded"]
    assert down.said[0][3] == ((b"x", b"y"),)


@pytest.mark.parametrize("given_up", [True, False])
def test_another_sidecar_may_ask_elsewhere_unless_a_module_may_act_on_the_request(given_up):
    splice, down = spliced(retrier=Asked(True))
    splice.attach(Port(), 11.0)
    if given_up:
        splice.from_up([Reset(7, Fault.UPSTREAM_RESET)], 12.0)
        splice.detach()
    splice.fail(Fault.APP_UNAVAILABLE)
    assert ((b"flui-fault", b"app_unavailable") in down.said[0][3]) is given_up


def test_a_caller_that_goes_between_two_tries_ends_it():
    splice, down = spliced(retrier=Asked(True))
    up = Port()
    splice.attach(up, 11.0)
    splice.from_up([Reset(7, Fault.UPSTREAM_RESET)], 12.0)
    splice.detach()
    splice.from_down(Reset(3, Fault.CALLER_GONE))
    assert splice.done
    assert splice.fault is Fault.CALLER_GONE
    assert down.said == []
    assert "reset" not in up.kinds, "the first is over already"


# --- credit -----------------------------------------------------------------------------------------------------------------


def test_credit_that_the_first_try_gave_is_not_given_again():
    splice, down = spliced(head(b"PUT", length=100), keep=100, retrier=Asked(True, True))
    splice.attach(Port(), 11.0)
    splice.from_down(Data(3, b"a" * 60))
    splice.from_up([Credit(7, 60)], 11.0)
    splice.from_up([Reset(7, Fault.UPSTREAM_RESET)], 12.0)
    splice.detach()
    splice.attach(Port(), 13.0)
    for octets in (25, 25):
        splice.from_up([Credit(7, octets)], 13.0)
    assert down.said == [("credit", 3, 60)]
    splice.from_up([Credit(7, 25)], 13.0)
    assert down.said == [("credit", 3, 60), ("credit", 3, 15)], "the last 15 are new"
    splice.from_up([Reset(7, Fault.UPSTREAM_RESET)], 14.0)
    splice.detach()
    splice.attach(Port(), 15.0)
    splice.from_up([Credit(7, 75)], 15.0)
    assert len(down.said) == 2, "after two tries as after one"
    splice.from_up([Credit(7, 5)], 15.0)
    assert down.said[-1] == ("credit", 3, 5)


def test_a_try_that_fails_before_it_has_asked_for_all_that_was_credited_leaves_nothing_over():
    splice, down = spliced(head(b"PUT", length=100), keep=100, retrier=Asked(True, True))
    splice.attach(Port(), 11.0)
    splice.from_up([Credit(7, 60)], 11.0)
    for tried in (13.0, 15.0):
        splice.from_up([Reset(7, Fault.UPSTREAM_RESET)], tried)
        splice.detach()
        splice.attach(Port(), tried + 1)
        splice.from_up([Credit(7, 20)], tried + 1)
    splice.from_up([Credit(7, 50)], 17.0)
    assert [e[2] for e in down.said if e[0] == "credit"] == [60, 10]


@given(st.lists(st.one_of(st.integers(1, 50), st.just(0)), max_size=30))
def test_the_caller_is_never_credited_for_more_than_one_try_has_taken(steps):
    """A number is credit that the try under way gives, 0 its failure. What is given is the most that any try had asked for."""
    splice, down = spliced(head(b"PUT", length=9999), keep=9999, retrier=Asked(*[True] * 99))
    splice.attach(Port(), 11.0)
    most = this = 0
    for step in steps:
        if step:
            this += step
            most = max(most, this)
            splice.from_up([Credit(7, step)], 12.0)
        else:
            this = 0
            splice.from_up([Reset(7, Fault.UPSTREAM_RESET)], 12.0)
            splice.detach()
            splice.attach(Port(), 12.0)
        assert sum(e[2] for e in down.said if e[0] == "credit") == most
        assert all(e[2] > 0 for e in down.said if e[0] == "credit")


@pytest.mark.parametrize("size", [1, WINDOW // 2, WINDOW, 3 * WINDOW])
@pytest.mark.parametrize("chunked", [False, True])
def test_with_real_codecs_a_request_that_fails_midway_arrives_whole_and_within_its_window(size, chunked):
    """Two connections in memory: the first dies when it has taken about half; the codec that serves the caller is never overfed."""
    body = bytes(i % 251 for i in range(size))
    down = Http1Server(Limits(), b"http")
    ups = [Http1Client(Limits()), Http1Client(Limits())]
    sent = [bytearray(), bytearray()]
    wire = b"%x\r\n%b\r\n0\r\n\r\n" % (size, body) if chunked else body
    framing = b"transfer-encoding: chunked" if chunked else b"content-length: %d" % size
    waiting = [b"PUT /a HTTP/1.1\r\nhost: a\r\n" + framing + b"\r\n\r\n"] + [wire[at : at + 9_000] for at in range(0, len(wire), 9_000)]
    splice: Splice | None = None
    now = 0
    back = bytearray()
    for _ in range(10_000):
        if down.reading and waiting:
            down.receive(waiting.pop(0))
        for event in down.events():
            if isinstance(event, RequestHead):
                assert validate(event) is None
                splice = Splice(down, event, DECISION, 0.0, TRACE, None)
                splice.retrier = Asked(True)
                splice.keep(4 * WINDOW)
                splice.attach(ups[0], 0.0)
            else:
                splice.from_down(event)
        for event in ups[now].events():
            splice.from_up([event], 0.0)
        assert down._body.credit <= WINDOW
        sent[now] += ups[now].take()
        ups[now].repay()
        if now == 0 and splice.octets_in >= size / 2:
            ups[0].receive_reset()
            for event in ups[0].events():
                splice.from_up([event], 0.0)
            assert splice.deaf
            splice.detach()
            now = 1
            splice.attach(ups[1], 0.0)
        elif now == 1 and splice.request_ended and not splice.status:
            ups[1].receive(OK)
        back += down.take()
        if splice.done:
            break
    assert splice.done
    assert splice.fault is None
    assert back.startswith(b"HTTP/1.1 200 ")
    got = bytes(sent[1]).partition(b"\r\n\r\n")[2]
    if chunked:
        whole = bytearray()
        while True:
            length, _, got = got.partition(b"\r\n")
            if not int(length, 16):
                break
            whole += got[: int(length, 16)]
            got = got[int(length, 16) + 2 :]
        got = bytes(whole)
    assert got == body
    assert b"flui-attempt: 2\r\n" in sent[1]
    assert b"flui-attempt" not in sent[0]


# --- what the next one is told ----------------------------------------------------------------------------------------------


def decision(timeout_s=0.0, priority=NORMAL, add=(), deadline=None):
    forward = DECISION.action
    assert isinstance(forward, Forward)
    action = Forward(forward.targets, timeout_s, 0.0, None, add, deadline, keep_forwarded=False, priority=priority)
    return Decision(action, DECISION.why, DECISION.expires_at, DECISION.labels, DECISION.log_text)


@pytest.mark.parametrize(("said", "told"), [(1, [None, b"2", b"3"]), (2, [b"2", b"3", b"4"])])
def test_a_second_try_says_that_it_is_one(said, told):
    asked = head()
    asked.attempt = said
    splice, _ = spliced(asked, retrier=Asked(True, True))
    splice.from_down(End(3))
    for number, expected in enumerate(told):
        up = Port()
        splice.attach(up, 11.0)
        assert up.field(b"flui-attempt") == expected
        if number < 2:
            splice.from_up([Reset(7, Fault.UPSTREAM_RESET)], 12.0)
            splice.detach()


@pytest.mark.parametrize(("said", "timeout_s", "told"), [(2000, 0.0, [1875, 750]), (-1, 3.0, [2875, 1750]), (2000, 1.0, [875, 0])])
def test_a_second_try_has_only_what_is_left(said, timeout_s, told):
    asked = head()
    asked.deadline = said
    deadline = field(b"flui-deadline", b"%d" % (timeout_s * 1000)) if timeout_s else None
    splice, _ = spliced(asked, retrier=Asked(True), decision=decision(timeout_s, deadline=deadline))
    splice.from_down(End(3))
    for now, left in zip((10.125, 11.25), told, strict=True):
        up = Port()
        splice.attach(up, now)
        assert up.field(b"flui-deadline") == b"%d" % left
        if left == told[0]:
            splice.from_up([Reset(7, Fault.UPSTREAM_RESET)], 11.0)
            splice.detach()


@pytest.mark.parametrize(("route", "said", "told"), [(NORMAL, LOW, b"low"), (NORMAL, HIGH, None), (NORMAL, -1, None)])
def test_a_caller_can_only_lower_its_priority(route, said, told):
    asked = head()
    asked.priority = said
    splice, _ = spliced(asked, decision=decision(priority=route))
    up = Port()
    splice.attach(up, 10.0)
    assert up.field(b"flui-priority") == told


# --- a second upstream beside the first, and copies -------------------------------------------------------------------------


def test_the_one_that_is_adopted_is_heard_and_sent_to_from_then_on():
    splice, down = spliced(retrier=Asked())
    first, second = Port(7), Port(9)
    splice.attach(first, 11.0)
    splice.from_down(End(3))
    splice.tries += 1
    stream = splice.say(second, 12.0)
    assert second.field(b"flui-attempt") == b"2"
    assert stream == 9
    splice.adopt(second, stream, 12.0)
    splice.from_up([ResponseHead(9, 200, [], 100)], 13.0)
    splice.from_down(Credit(3, 40))
    assert second.said[-1] == ("credit", 9, 40)
    assert first.kinds == ["request", "end"]
    assert (splice.attached_at, splice.first_at) == (12.0, 13.0)
    splice.fail(Fault.UPSTREAM_TIMEOUT)
    assert second.said[-1][0] == "reset"
    assert down.kinds == ["response", "reset"]


def test_a_copy_is_a_first_try_with_the_time_that_the_original_had():
    asked = head(b"PUT", b"/a", length=5, fields=[field(b"x", b"y")])
    asked.deadline = 800
    splice, down = spliced(asked, keep=10, retrier=Asked(True))
    splice.mirror = "shadow"
    splice.attach(Port(), 10.0)
    splice.from_down(Data(3, b"hello"))
    splice.from_down(End(3))
    splice.from_up([Reset(7, Fault.UPSTREAM_RESET)], 10.2)
    splice.detach()
    second = Port()
    splice.attach(second, 10.25)
    splice.from_up([ResponseHead(7, 200, [], 0)], 10.5)
    splice.from_up([End(7)], 10.5)
    assert second.field(b"flui-attempt") == b"2"
    assert second.field(b"flui-deadline") == b"550"
    copy = splice.copy(20.0)
    up = Port(1)
    said = len(down.said)
    assert copy.say(up, 20.0) == 1
    assert up.field(b"flui-deadline") == b"800"
    assert up.field(b"flui-attempt") is None
    assert up.field(b"traceparent") == OTHER
    assert plain(copy.kept())[0][2] == b"hello"
    assert plain(copy.kept())[-1][0] == "end"
    assert (splice.tries, splice.octets_in, len(down.said)) == (2, 5, said), "the original stays as it ended"


def test_a_copy_of_a_request_without_body_and_with_its_own_trace():
    asked = head(fields=[field(b"traceparent", TRACE)])
    asked.trace = TRACE
    splice, _ = spliced(asked)
    splice.attach(Port(), 10.0)
    splice.from_down(End(3))
    copy = splice.copy(20.0)
    up = Port()
    copy.say(up, 20.0)
    assert up.field(b"traceparent") is None, "it is among the fields already, once"
    assert [e[0] for e in plain(copy.kept())] == ["end"]


# --- answers with a status of their own -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "title"),
    [(503, "Service Unavailable"), (418, "I'm a Teapot"), (404, "Not Found"), (599, "Internal Server Error"), (299, "OK")],
)
def test_an_answer_is_titled_by_its_status(status, title):
    down = Port(1)
    octets = answer(down, 1, Fault.INJECTED, b"/a", TRACE, status)
    assert down.said[0][2] == status
    assert len(down.body) == octets
    problem = json.loads(down.body)
    assert (problem["status"], problem["title"], problem["code"]) == (status, title, "injected")


@pytest.mark.parametrize(("status", "length"), [(204, None), (205, b"0"), (304, None)])
def test_an_answer_that_has_no_content_says_none(status, length):
    """RFC 9110 8.6: no content-length in a 204; a caller that waited for its octets would read the next answer as them."""
    down = Http1Server(Limits(), b"http")
    down.receive(b"GET /a HTTP/1.1\r\nhost: a\r\n\r\n")
    down.events()
    assert answer(down, 1, Fault.INJECTED, b"/a", TRACE, status) == 0
    lines = down.take().split(b"\r\n")
    assert lines[-2:] == [b"", b""]
    assert dict(line.split(b": ") for line in lines[1:-2]).get(b"content-length") == length


@pytest.mark.parametrize(("spent_s", "left"), [(0.0, 100), (0.0001, 99), (0.25, 0), (0.05078125, 49)])
def test_time_never_stands_still_over_many_quick_hops(spent_s, left):
    """A part of a millisecond is taken off as a whole one: else a loop of a thousand quick hops would never end."""
    asked = head()
    asked.deadline = 100
    splice, _ = spliced(asked)
    assert splice.left_ms(10.0 + spent_s) == left


def test_what_comes_after_the_end_is_not_taken_for_the_whole_request():
    """It was answered before it was complete: what is kept lacks the rest, and may not be sent to anybody."""
    splice, _ = spliced(head(b"PUT", length=5))
    splice.keep(100)
    splice.from_down(Data(3, b"he"))
    splice.fail(Fault.NO_ENDPOINT)
    splice.from_down(Data(3, b"llo"))
    splice.from_down(End(3))
    assert splice.request_ended
    assert not splice.can_repeat
