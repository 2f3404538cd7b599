"""A seeded mutator and the laws that no mutant may break.

    seeds (the smuggling corpus, conversations, found cases) ──▶ mutate ──▶ check_request / check_response

Everything runs in memory: a mutant goes through the server codec, the validator, a splice and the client codec; what comes
in is read by h11 too, what goes out by h11 and by our own server codec again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from flui.codecs.http1 import Http1Client, Http1Server
from flui.codecs.validate import validate
from flui.model.config import Limits
from flui.model.events import End, RequestHead
from security.corpus import cases, hostile
from support.oracles import h11_requests, h11_responses
from support.rig import Told, Wire, head, hear, plain

FOUND = Path(__file__).parent / "found"
"""Mutants that once broke a law, one file each: `request-*.bin`, `response-*.bin`."""

LIMITS = Limits(fields=40, head_octets=4096, target_octets=1024, body_octets=20_000, window_octets=512, interim_responses=4)
LONGEST = 8192

_TOKENS = (
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding : chunked\r\n",
    b"transfer_encoding: chunked\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\n",
    b"Content-Length: +5\r\n",
    b"content-length: 5, 5\r\n",
    b"Connection: close\r\n",
    b"Connection: content-length\r\n",
    b"Connection: x-a, flui-principal\r\n",
    b"Expect: 100-continue\r\n",
    b"Upgrade: h2c\r\n",
    b"Host: evil\r\n",
    b"Flui-Principal: spiffe://shop/root\r\n",
    b"GET /admin HTTP/1.1\r\nHost: app\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nadmin",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"\r\n\r\n",
    b"\r\n",
    b"0\r\n\r\n",
    b"5\r\nhello\r\n",
    b"ffffffffffffffff\r\n",
    b"5;a=b\r\nhello\r\n",
    b"chunked",
    b", chunked",
    b" HTTP/1.1\r\n",
    b"/../",
    b"%2e%2e",
    b"%252f",
    b"%00",
    b"//",
    b"http://evil/",
    b"\r\n x",
)
_OCTETS = b"\r\n\t \x00\x0b\x0c\x1f\x7f\x80\x85\xa0\xff:;,.=%/?#*+-_0159afAFxX\"'@[]"
_SWAPS = (
    (b"\r\n", b"\n"),
    (b"\r\n", b"\r"),
    (b"\r\n", b"\r\r\n"),
    (b"\n", b"\r\n"),
    (b": ", b":"),
    (b": ", b" : "),
    (b": ", b":\t"),
    (b": ", b":\x0b"),
    (b" ", b"\t"),
    (b" ", b"  "),
    (b"-", b"_"),
    (b"/", b"%2f"),
    (b"1.1", b"1.0"),
    (b"Host", b"host"),
    (b"chunked", b"Chunked"),
    (b"chunked", b"\xa0chunked"),
    (b"POST", b"HEAD"),
    (b"GET", b"POST"),
)
_EXTRA_REQUESTS = (
    b"GET / HTTP/1.1\r\nHost: app\r\n\r\n",
    b"POST /a?b=c HTTP/1.1\r\nHost: app:80\r\nContent-Length: 11\r\nContent-Type: text/plain\r\n\r\nhello world",
    (
        b"PUT /a%20b HTTP/1.1\r\nHost: app\r\nTransfer-Encoding: chunked\r\nX-A: b\r\n\r\n"
        b"5;e=1\r\nhello\r\n1a\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nX-Sum: 1\r\n\r\n"
    ),
    b"GET /1 HTTP/1.1\r\nHost: app\r\n\r\nGET /2 HTTP/1.1\r\nHost: app\r\n\r\nPOST /3 HTTP/1.1\r\nHost: app\r\nContent-Length: 2\r\n\r\nhi",
    b"HEAD /a HTTP/1.1\r\nHost: app\r\nConnection: close, x-a\r\nX-A: gone\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: app\r\n\r\n",
    b"GET http://app/a HTTP/1.1\r\nHost: other\r\nAuthorization: Bearer x\r\n\r\n",
    b"GET /a HTTP/1.0\r\nHost: app\r\n\r\n",
)
_EXTRA_RESPONSES = (
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A: b\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n",
    b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\n\r\n',
    b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nuntil the end",
)
_IN_TRAILERS = {"multiple Transfer-Encoding headers", "conflicting Content-Length headers", "bad Content-Length"}
_METHODS = (b"GET", b"GET", b"GET", b"HEAD", b"POST")


class Broken(AssertionError):
    """A mutant broke a law."""


def requests() -> list[bytes]:
    """Seeds for the caller's side. Those that are forwarded come more often: most changes of a refused one are refused again."""
    known = [case for case in cases() if len(case.send) <= LONGEST]
    seeds = [case.send for case in known for _ in range(4 if case.requests else 1)]
    return [*seeds, *_EXTRA_REQUESTS * 20, *(path.read_bytes() for path in sorted(FOUND.glob("request-*.bin")))]


def responses() -> list[bytes]:
    """Seeds for the endpoint's side."""
    seeds = [case.reply for case in hostile() if len(case.reply) <= LONGEST for _ in range(4 if case.status < 300 and case.whole else 1)]
    return [*seeds, *_EXTRA_RESPONSES * 10, *(path.read_bytes() for path in sorted(FOUND.glob("response-*.bin")))]


def mutate(seed: bytes, others: list[bytes], random: Random) -> bytes:
    """A few random changes of a seed."""
    octets = seed
    for _ in range(random.choice((1, 1, 1, 2, 2, 3, 5))):
        size = len(octets)
        at = random.randrange(size + 1)
        to = min(size, at + random.choice((1, 1, 2, 4, 8, 16, 64)))
        way = random.randrange(11)
        if way == 0 and at < size:
            octets = octets[:at] + bytes((octets[at] ^ (1 << random.randrange(8)),)) + octets[at + 1 :]
        elif way == 1 and at < size:
            octets = octets[:at] + bytes((random.choice(_OCTETS),)) + octets[at + 1 :]
        elif way == 2:
            octets = octets[:at] + bytes((random.choice(_OCTETS),)) + octets[at:]
        elif way == 3:
            octets = octets[:at] + octets[to:]
        elif way == 4:
            octets = octets[:to] + octets[at:to] + octets[to:]
        elif way == 5:
            octets = octets[:at] + random.choice(_TOKENS) + octets[at:]
        elif way == 6:
            old, new = random.choice(_SWAPS)
            octets = octets.replace(old, new, random.choice((-1, 1, 1, 2)))
        elif way == 7:
            other = random.choice(others)
            cut = random.randrange(len(other) + 1)
            octets = octets[:at] + other[cut:]
        elif way in {8, 9}:
            lines = octets.split(b"\r\n")
            first, second = random.randrange(len(lines)), random.randrange(len(lines))
            if way == 8:
                lines.insert(second, lines[first])
            else:
                lines[first], lines[second] = lines[second], lines[first]
            octets = b"\r\n".join(lines)
        else:
            octets = octets + random.choice(others)
    return octets[:LONGEST]


def pieces(octets: bytes, random: Random) -> list[bytes]:
    """The octets cut at random places."""
    cuts = sorted(random.randrange(len(octets) + 1) for _ in range(random.choice((0, 1, 2, 5, 20))))
    return [octets[a:b] for a, b in zip([0, *cuts], [*cuts, len(octets)], strict=True) if b > a]


def law(holds: bool, what: str, *details: object) -> None:
    """Fails with what was expected."""
    if not holds:
        raise Broken(f"{what}: " + "; ".join(repr(detail) for detail in details))


# Requests.


def check_request(octets: bytes, random: Random) -> int:
    """Every law of the caller's side; returns how many whole requests went on."""
    wire = Wire(LIMITS)
    longest = 0
    for piece in pieces(octets, random):
        wire.receive(piece)
        longest = max(longest, wire.held())
    wire.receive_eof()
    # Heads are bounded by their limit, bodies by the window and one read.
    law(longest <= LIMITS.head_octets + 2 * LIMITS.window_octets + LONGEST, "what is held is bounded", longest)
    law(wire.splice is None or wire.down.closing or not wire.splice.done, "an exchange that is done is over")
    _as_read_by_others(octets, [t for told in wire.told for t in told if t.whole])
    forwarded = 0
    for sent, told in zip(wire.sent, wire.told, strict=True):
        whole = [t for t in told if t.whole]
        forwarded += len(whole)
        law(all(t.whole for t in told[:-1]), "nothing follows a request that was cut")
        _as_told(bytes(sent), told, whole)
    law(forwarded <= wire.heads <= octets.count(b"\r\n\r\n"), "never more requests out than in", forwarded, wire.heads)
    law(bytes(wire.back).count(b"HTTP/1.1 400") <= 1, "one answer to one fault", bytes(wire.back))
    return forwarded


def _as_read_by_others(octets: bytes, whole: list[Told]) -> None:
    """What we accepted h11 accepts, and reads the same method and body in it: the caller meant no other requests."""
    theirs = h11_requests(octets)
    if theirs.error == "no request line received":
        return  # it wants no empty line before a request; RFC 9112 2.2 asks servers to ignore one
    if theirs.error in _IN_TRAILERS and len(theirs.messages) > len(theirs.whole):
        return  # it has accepted the head, and refuses a framing field in the trailers, which we drop
    read = [(m.start[0], m.body) for m in theirs.whole[: len(whole)]]
    law(read == [(t.method, bytes(t.body)) for t in whole], "h11 reads the same requests in what came", theirs.error, read)


def _as_told(sent: bytes, told: list[Told], whole: list[Told]) -> None:
    """Others, and we ourselves, read in what was sent exactly what was authorised."""
    expected = [_written(t) for t in whole]
    reading = h11_requests(sent)
    law(not reading.error, "h11 reads all that we send", reading.error, sent)
    read = [(m.start[0], m.start[1], sorted(m.fields), m.body, sorted(m.trailers)) for m in reading.whole]
    law(read == expected, "h11 reads what was authorised", read, expected)
    law(len(reading.messages) <= len(told), "h11 reads no other request", sent)
    for m in reading.messages:
        for name, value in (*m.fields, *m.trailers):
            law(not {0, 10, 13} & set(name + value), "no CR, LF or NUL in a field", name, value)
    codec = Http1Server(Limits(), b"http")
    heard = []
    for _ in range(len(told) + 1):
        codec.receive(sent if not heard else b"")
        events = codec.events()
        for e in events:
            if isinstance(e, RequestHead):
                before = (e.method, e.path, e.authority)
                law(validate(e) is None, "what was validated is valid", sent)
                law((e.method, e.path, e.authority) == before, "what was canonical is canonical", before, e.path)
        heard += plain(events)
        if not any(isinstance(e, End) for e in events):
            break
        _answer(codec)
    law([e for e in heard if e[0] == "reset"] == [], "we read all that we send", heard)
    law(len(whole) < len(told) or codec.idle, "nothing is sent behind the last request", sent)
    heads = [(e[2], e[4], e[3]) for e in heard if e[0] == "request"]
    law(heads[: len(whole)] == [(t.method, t.target, t.host) for t in whole], "we read what was authorised", heads)
    law(sum(e[0] == "end" for e in heard) == len(whole), "we read as many requests as were sent", heard)


def _written(told: Told) -> tuple[object, ...]:
    fields = [(b"host", told.host), *told.fields]
    if told.length < 0:
        fields.append((b"transfer-encoding", b"chunked"))
    elif told.length > 0:
        law((b"content-length", b"%d" % told.length) in fields, "a declared length is sent", fields)
    return (told.method, told.target, sorted(fields), bytes(told.body), sorted(told.trailers))


def _answer(codec: Http1Server) -> None:
    from flui.model.events import ResponseHead

    codec.send(ResponseHead(codec._stream, 204, [], 0))
    codec.send(End(codec._stream))


def check_cuts(octets: bytes, random: Random) -> None:
    """Wherever the octets are cut, the same is heard. Of several faults in one head the first seen is named: that there is one counts."""

    def heard(parts: list[bytes]) -> list[object]:
        told = hear(Http1Server(LIMITS, b"http"), parts)
        return [e[:2] if e[0] == "reset" else e for e in told]

    parts = pieces(octets, random)
    law(heard([octets]) == heard(parts), "every cut gives the same events", parts)


# Responses.


def check_response(octets: bytes, random: Random) -> bool:
    """Every law of the endpoint's side; returns whether a whole response came back."""
    method = random.choice(_METHODS)
    ends = random.random() < 0.5
    wire = Wire(LIMITS, lambda _: b"")
    wire.receive(b"%b /a HTTP/1.1\r\nHost: app\r\n\r\n" % method)
    for piece in pieces(octets, random):
        wire.upstream_says(piece)
        law(wire.held() <= LIMITS.head_octets + 3 * LIMITS.window_octets + LONGEST, "what is held is bounded", wire.held())
    if ends:
        wire.ups[-1].receive_eof()
        wire.pump()
    over = wire.splice is None
    client = wire.ups[-1]
    back = bytes(wire.back)
    codec = Http1Client(LIMITS)
    codec.open()
    codec.send(head(method))
    codec.send(End(1))
    heard = hear(codec, [octets] if octets else [], eof=ends)
    finals = [e for e in heard if e[0] == "response" and e[2] >= 200]
    whole = [e for e in heard if e[0] == "end"]
    law(len(finals) <= 1, "one final response", heard)
    law(len(whole) <= 1, "one end", heard)
    law(over == (heard[-1:] != [] and heard[-1][0] in {"end", "reset"}), "an exchange ends when its response does", over, heard)
    if whole or client.closing:
        law(not (client.reusable and client._in), "a connection with octets left is not used again", bytes(client._in))
    if any(e[0] == "reset" for e in heard) or not over:
        law(not client.reusable, "a connection out of step is not used again")
    _as_answered(method, back, heard, finals, bool(whole), over)
    return bool(whole)


def _as_answered(method: bytes, back: bytes, heard: list[tuple], finals: list[tuple], whole: bool, over: bool) -> None:
    reading = h11_responses(back, [method], eof=over)
    if whole:
        law(not reading.error, "h11 reads all that we answer", reading.error, back)
        law(len(reading.whole) == 1, "one whole response", back)
        got = reading.whole[0]
        law(got.start == (b"%d" % finals[0][2],), "the status is the upstream's", got.start)
        body = b"".join(e[2] for e in heard if e[0] == "data")
        law(got.body == (b"" if method == b"HEAD" else body), "the body is the upstream's", got.body)
    elif finals:
        law(len(reading.whole) == 0 or reading.error != "", "a cut response cannot be taken for a whole one", back)
    elif over:
        law(len(reading.whole) == 1 and reading.whole[0].start == (b"502",), "no response is answered with 502", back)
    for m in reading.messages:
        for name, value in (*m.fields, *m.trailers):
            law(not {0, 10, 13} & set(name + value), "no CR, LF or NUL in a field", name, value)
            law(name not in {b"connection", b"upgrade", b"keep-alive"} or value == b"close", "hop-by-hop fields end here", name)


# The run.


@dataclass
class Verdict:
    """What a run found."""

    seed: int
    cases: int = 0
    forwarded: int = 0
    answered: int = 0
    seconds: float = 0.0
    broken: list[tuple[str, bytes, str]] = field(default_factory=list)
    """Kind, mutant, law."""


def run(count: int, seconds: float, seed: int, *, most_broken: int = 5) -> Verdict:
    """Checks `count` mutants, or as many as fit into `seconds`: three of four are requests."""
    random = Random(seed)
    asked, said = requests(), responses()
    verdict = Verdict(seed)
    began = time.monotonic()
    while verdict.cases < count and time.monotonic() - began < seconds and len(verdict.broken) < most_broken:
        verdict.cases += 1
        kind = "response" if verdict.cases % 4 == 0 else "request"
        seeds = said if kind == "response" else asked
        mutant = mutate(random.choice(seeds), seeds, random)
        try:
            if kind == "response":
                verdict.answered += check_response(mutant, random)
            else:
                verdict.forwarded += check_request(mutant, random)
                check_cuts(mutant, random)
        except Exception as error:  # noqa: BLE001 - an exception is what is looked for
            verdict.broken.append((kind, mutant, f"{type(error).__name__}: {error}"[:2000]))
    verdict.seconds = time.monotonic() - began
    return verdict
