"""Every known smuggling shape, through a real sidecar, to an upstream that records what it reads (threats A, B3, B5, D1, D4, E1-E3).

Requests seen upstream = requests allowed; what was authorised is what the upstream reads; the caller gets its own answers
and no others, and the connection ends where nobody can know any more where the next request begins.
"""

import pytest

from security.corpus import cases, hostile
from security.live import Live

CASES = cases()
MINTED = {b"flui-principal": b"spiffe://shop/caller", b"flui-roles": b"role:tester"}
TOKEN = set(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    with Live(tmp_path_factory.mktemp("live")) as running, running.call("outbound") as sentinel:
        running.sentinel = sentinel
        yield running


def settle(live):
    """Returns when everything that the sidecar had written before has been read upstream."""
    live.sentinel.send(b"GET /sentinel HTTP/1.1\r\nHost: app\r\n\r\n")
    answer = live.sentinel.answer()
    assert answer is not None
    assert answer.status == 200


def strict_heads(raw):
    """An independent reader of what the sidecar writes: only the one form of each line that it may use. Whole requests, and the rest."""
    found = []
    while raw:
        head, end, rest = raw.partition(b"\r\n\r\n")
        if not end:
            break
        start, *lines = head.split(b"\r\n")
        method, target, version = start.split(b" ")
        assert version == b"HTTP/1.1"
        assert set(method) <= TOKEN
        assert all(0x21 <= octet < 0x7F for octet in target)
        fields = []
        for line in lines:
            name, colon, value = line.partition(b": ")
            assert colon, line
            assert name == name.lower(), line
            assert set(name) <= TOKEN, line
            assert not set(value) & {*range(9), *range(10, 32), 127}, line
            fields.append((name, value))
        assert [name for name, _ in fields].count(b"host") == 1
        said = dict(fields)
        assert not ({b"content-length", b"transfer-encoding"} <= set(said)), head
        if said.get(b"transfer-encoding") is not None:
            assert said[b"transfer-encoding"] == b"chunked"
            while True:
                size, end, rest = rest.partition(b"\r\n")
                if not end:
                    return found, raw
                assert size == b"%x" % int(size, 16), "a size in any other form, or an extension"
                if int(size, 16) == 0:
                    break
                if len(rest) < int(size, 16) + 2:
                    return found, raw
                assert rest[int(size, 16) : int(size, 16) + 2] == b"\r\n"
                rest = rest[int(size, 16) + 2 :]
            while not rest.startswith(b"\r\n"):
                line, end, rest = rest.partition(b"\r\n")
                if not end:
                    return found, raw
                assert set(line.partition(b": ")[0]) <= TOKEN, line
            rest = rest[2:]
        else:
            size = int(said.get(b"content-length", b"0"))
            if len(rest) < size:
                return found, raw
            rest = rest[size:]
        found.append(b"%b %b" % (method, target))
        raw = rest
    return found, raw


def converse(live, case, listener):
    """Plays a case on a fresh connection; what the caller got is checked here."""
    with live.call(listener) as caller:
        caller.send(case.send)
        if case.eof:
            caller.half_close()
        for at, status in enumerate(case.statuses):
            asked = case.requests[at] if at < len(case.requests) else b""
            answer = caller.answer(bodiless=asked.startswith(b"HEAD "))
            assert answer is not None, f"no answer {at + 1}"
            assert answer.status == status
            assert answer.whole
            if status == 200 and not asked.startswith(b"HEAD "):
                assert answer.body == asked, "an answer to another request"
        if case.closes:
            assert caller.rest() == b"", "octets after the last answer"
        else:
            caller.send(b"GET /probe HTTP/1.1\r\nHost: app\r\n\r\n")
            answer = caller.answer()
            assert answer is not None, "the connection ended"
            assert (answer.status, answer.body) == (200, b"GET /probe"), "the connection is out of step"


@pytest.mark.parametrize("listener", ["outbound", "inbound"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_no_shape_smuggles_a_request(live, case, listener):
    if case.listener not in {"", listener}:
        return  # the case is about the other kind of listener
    settle(live)
    upstream, log = live.upstream, live.log
    seen_before, raw_before, log_before, errors = (
        len(upstream.seen),
        {id(c): len(c.raw) for c in upstream.connections},
        len(log.lines),
        len(upstream.errors),
    )

    converse(live, case, listener)
    settle(live)

    assert upstream.errors[errors:] == []
    seen = [s for s in upstream.seen[seen_before:] if s.target not in {b"/sentinel", b"/probe"}]
    whole = [s for s in seen if s.whole]
    assert [str(s).encode() for s in whole] == list(case.requests)
    assert len(seen) - len(whole) <= case.cut, [str(s) for s in seen]
    assert not [s for s in seen if s.target.startswith(b"/admin")], "a denied path was reached"

    # The same, read by a parser that knows only the one form we may write.
    strict = []
    for connection in upstream.connections:
        raw = bytes(connection.raw[raw_before.get(id(connection), 0) :])
        requests, rest = strict_heads(raw)
        strict += [r for r in requests if r not in {b"GET /sentinel", b"GET /probe"}]
        assert not rest or case.cut, rest
    assert sorted(strict) == sorted(case.requests)

    # What was authorised, says the access log, is what the upstream read.
    records = [r for r in log.records(log_before) if r["path"] not in {"/sentinel", "/probe"}]
    assert [r["status"] for r in records if r["status"] != 499] == list(case.statuses)
    forwarded = [(r["method"], r["path"]) for r in records if r["upstream"] and not r["fault"]]
    assert forwarded == [(s.method.decode(), s.target.decode().partition("?")[0]) for s in whole]

    if case.bodies is not None:
        assert [s.body for s in whole] == list(case.bodies)
    for s in seen:
        names = [name for name, _ in s.fields]
        assert not set(names) & set(case.absent)
        for name in case.only_ours:
            assert [value for n, value in s.fields if n == name] == ([MINTED[name]] if listener == "inbound" else [])
    if whole:
        lines = [b"%b: %b" % pair for pair in whole[-1].fields]
        assert [line for line in case.present if line not in lines] == []
        assert [b"%b: %b" % pair for pair in whole[-1].trailers] == list(case.trailers)
        if listener == "inbound":
            assert dict(whole[-1].fields)[b"flui-principal"] == b"spiffe://shop/caller"


def test_there_are_at_least_76_shapes_and_every_row_has_some():
    assert len(CASES) >= 76
    assert len({str(case) for case in CASES}) == len(CASES)
    rows = {row for case in CASES for row in case.threats}
    assert rows >= {"A1", "A2", "A3", "A4", "A5", "A6", "A7", "A9", "A10", "A11", "B3", "B5", "B7", "D1", "D3", "D4", "E1", "E2", "E3"}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_no_shape_smuggles_a_request_octet_by_octet(live, case):
    """The same verdict when the octets come in small pieces."""
    if case.listener == "inbound" or len(case.send) > 2000:
        return
    settle(live)
    before = len(live.upstream.seen)
    with live.call("outbound") as caller:
        for at in range(0, len(case.send), 3):
            caller.send(case.send[at : at + 3])
        if case.eof:
            caller.half_close()
        for at, status in enumerate(case.statuses):
            asked = case.requests[at] if at < len(case.requests) else b""
            answer = caller.answer(bodiless=asked.startswith(b"HEAD "))
            assert answer is not None
            assert answer.status == status
        if case.closes:
            assert caller.rest() == b""
    settle(live)
    seen = [s for s in live.upstream.seen[before:] if s.target != b"/sentinel"]
    assert [str(s).encode() for s in seen if s.whole] == list(case.requests)
    assert not [s for s in seen if s.target.startswith(b"/admin")]


@pytest.mark.parametrize("listener", ["outbound", "inbound"])
@pytest.mark.parametrize("case", hostile(), ids=str)
def test_a_hostile_upstream_harms_one_exchange_and_its_connection_is_not_used_again(live, case, listener):
    """threats A8."""
    settle(live)
    live.upstream.script = (case.reply, case.ends)
    before = len(live.upstream.seen)
    with live.call(listener) as caller:
        caller.send(case.method + b" /hostile HTTP/1.1\r\nHost: app\r\n\r\n")
        answer = caller.answer(bodiless=case.method == b"HEAD")
        assert answer is not None
        assert answer.status == case.status
        assert answer.whole is case.whole
        assert answer.interim == case.interim
        if case.body is not None:
            assert answer.body == case.body
        names = {name for name, _ in answer.fields}
        assert not names & {b"upgrade", b"x", b"set-cookie", b"x-gone", b"keep-alive", b"flui-principal"}
        if case.whole:
            caller.send(b"GET /probe HTTP/1.1\r\nHost: app\r\n\r\n")
            probe = caller.answer()
            assert probe is not None
            assert (probe.status, probe.body) == (200, b"GET /probe"), "what the upstream said first was taken for this answer"
        else:
            assert caller.rest() == b""
    settle(live)
    used = [s for s in live.upstream.seen[before:] if s.target == b"/hostile"]
    assert len(used) == 1, "never sent twice"
    assert used[0].connection.lost is not case.reusable
    after = [s.connection for s in live.upstream.seen[live.upstream.seen.index(used[0]) + 1 :]]
    assert (used[0].connection in after) is case.reusable
