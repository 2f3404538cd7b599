"""Requests and responses that end early, late or not at all, and what the caller's word is worth (threats A9, E1)."""

import threading

import pytest

from security.live import WAIT_S, Live

LISTENERS = ["outbound", "inbound"]


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    with Live(tmp_path_factory.mktemp("live")) as running:
        yield running


def until(holds):
    """Waits for the other thread, by its own events."""
    tick = threading.Event()
    for _ in range(int(WAIT_S / 0.005)):
        if holds():
            return
        tick.wait(0.005)
    raise AssertionError("it did not happen")


def in_step(live):
    """A fresh exchange is answered as itself."""
    with live.call("outbound") as caller:
        caller.send(b"GET /after HTTP/1.1\r\nHost: app\r\n\r\n")
        answer = caller.answer()
        assert answer is not None
        assert answer.body == b"GET /after"


@pytest.mark.parametrize("listener", LISTENERS)
@pytest.mark.parametrize("framing", [b"Content-Length: 1000\r\n\r\nsome", b"Transfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n"])
def test_a_caller_that_goes_in_the_middle_takes_its_upstream_connection_along(live, listener, framing):
    """threats A9: the rest would be read as the body of somebody else's request."""
    before = len(live.upstream.seen)
    with live.call(listener) as caller:
        caller.send(b"POST /gone HTTP/1.1\r\nHost: app\r\n" + framing)
        until(lambda: len(live.upstream.seen) > before and live.upstream.seen[before].body == b"some")
    seen = live.upstream.seen[before]
    until(lambda: seen.connection.lost)
    assert not seen.whole
    in_step(live)


@pytest.mark.parametrize("listener", LISTENERS)
@pytest.mark.parametrize("framing", [b"Content-Length: 40\r\n\r\nsome", b"Transfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n"])
def test_an_early_response_is_passed_on_and_both_connections_end(live, listener, framing):
    """threats A9: what is left of the request is never read as the next one, on either side."""
    before = len(live.upstream.seen)
    with live.call(listener) as caller:
        caller.send(b"POST /early HTTP/1.1\r\nHost: app\r\n" + framing)
        answer = caller.answer()
        assert answer is not None
        assert (answer.status, answer.body) == (200, b"POST /early")
        caller.send(b"GET /admin HTTP/1.1\r\nHost: app\r\n\r\n")
        assert caller.rest() == b""
    until(lambda: live.upstream.seen[before].connection.lost)
    in_step(live)
    assert [str(s) for s in live.upstream.seen[before:]] == ["POST /early", "GET /after"]


@pytest.mark.parametrize("listener", LISTENERS)
def test_a_caller_that_waits_for_100_continue_gets_it_from_the_upstream(live, listener):
    """RFC 9110 10.1.1."""
    with live.call(listener) as caller:
        caller.send(b"POST /a HTTP/1.1\r\nHost: app\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        while b"\r\n\r\n" not in caller.ahead:
            assert caller._more()
        assert caller.ahead == b"HTTP/1.1 100 Continue\r\n\r\n"
        caller.send(b"hello")
        answer = caller.answer()
        assert answer is not None
        assert (answer.status, answer.interim) == (200, 1)
    assert live.upstream.seen[-1].body == b"hello"


def test_a_caller_that_half_closes_behind_a_large_body_gets_its_answer(live):
    """RFC 9112 9.6; the body is sixteen windows long."""
    body = bytes(range(256)) * 4096
    with live.call("outbound") as caller:
        caller.send(b"POST /big HTTP/1.1\r\nHost: app\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        caller.half_close()
        answer = caller.answer()
        assert answer is not None
        assert (answer.status, answer.body) == (200, b"POST /big")
        assert caller.rest() == b""
    assert live.upstream.seen[-1].body == body


@pytest.mark.parametrize("listener", LISTENERS)
def test_a_large_chunked_body_arrives_whole_and_is_followed_by_the_next_request(live, listener):
    chunk = b"x" * 10_000
    with live.call(listener) as caller:
        octets = (
            b"POST /big HTTP/1.1\r\nHost: app\r\nTransfer-Encoding: chunked\r\n\r\n"
            + b"2710\r\n%b\r\n" % chunk * 100
            + b"0\r\nt: v\r\n\r\n"
        )
        caller.send(octets + b"GET /next HTTP/1.1\r\nHost: app\r\n\r\n")
        for expected in (b"POST /big", b"GET /next"):
            answer = caller.answer()
            assert answer is not None
            assert answer.body == expected
    big = next(s for s in reversed(live.upstream.seen) if s.target == b"/big")
    assert big.body == chunk * 100
    assert big.trailers == [(b"t", b"v")]


def test_only_an_allow_listed_hop_may_say_where_a_request_came_from(live):
    """threats E1: what others say is stripped, what a hop says is kept, and ours stands behind it."""
    for who, kept in (("caller", []), ("hop", [(b"forwarded", b"for=9.9.9.9"), (b"x-forwarded-for", b"9.9.9.9")])):
        with live.call("inbound", who) as caller:
            caller.send(
                b"GET /a HTTP/1.1\r\nHost: app\r\nForwarded: for=9.9.9.9\r\nX-Forwarded-For: 9.9.9.9\r\nFlui-Principal: spiffe://shop/root\r\n\r\n"
            )
            answer = caller.answer()
            assert answer is not None
            assert answer.status == 200
        fields = live.upstream.seen[-1].fields
        said = [pair for pair in fields if pair[0] in {b"forwarded", b"x-forwarded-for"}]
        assert said[:-1] == kept
        assert said[-1] == (b"forwarded", b"for=127.0.0.1;proto=https")
        assert [value for name, value in fields if name == b"flui-principal"] == [b"spiffe://shop/%b" % who.encode()]
