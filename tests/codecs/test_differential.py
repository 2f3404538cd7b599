"""The same octets, read by us, by h11 and by llhttp (httptools).

Three laws: what our client codec sends on, everybody reads as it was authorised; what we accept from a caller or an
endpoint, others either read the same way or refuse, for reasons that are listed here; and the classes in which we are
stricter are real.
"""

import sys
from pathlib import Path
from random import Random

import pytest

from flui.codecs.validate import canonical_path
from support.oracles import h11_requests, h11_responses, httptools_requests, httptools_responses, our_requests, our_responses
from support.rig import Wire

sys.path.insert(0, str(Path(__file__).parents[1] / "fuzz"))
from fuzz_engine import mutate, requests, responses

MUTANTS = 2500

KNOWN_METHODS = {b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE", b"CONNECT", b"M-SEARCH"}

OTHERS_REFUSE = {
    # h11
    "no request line received": "an empty line before the request (RFC 9112 2.2 asks servers to ignore one)",
    "multiple Transfer-Encoding headers": "a framing field twice in the trailers, which we drop",
    "conflicting Content-Length headers": "the same",
    "bad Content-Length": "the same",
    # llhttp
    "Invalid method encountered": "a method it does not know; RFC 9110 9.1 lets methods be extended",
    "Expected space after method": "the same",
    "Invalid character in Content-Length": "a list of identical values, which RFC 9112 6.3(5) lets us collapse",
    "Request has invalid `Transfer-Encoding`": "a tab around `chunked`, which is optional white space (RFC 9110 5.6.3)",
    "Invalid `Transfer-Encoding` header value": "a framing field in the trailers, which we drop",
    "Content-Length can't be present with Transfer-Encoding": "a framing field in the trailers, which we drop",
    "Data after `Connection: close`": "a Connection field in the trailers, which we drop",
    "Invalid character in chunk extensions": "an extension outside the grammar, which we drop",
    "Invalid character in chunk extensions name": "the same",
    "Invalid character in chunk extensions value": "the same",
    "Invalid character in chunk extensions quoted value": "the same",
    "Invalid quoted-pair in chunk extensions quoted value": "the same",
    "Invalid character in header token": "an extension of RFC 9110's token set in a trailer",
}
"""What others refuse and we accept, with why that is right. None of it is sent on as it came."""


def mutants(seeds, seed, count=MUTANTS):
    random = Random(seed)
    yield from seeds
    for _ in range(count):
        yield mutate(random.choice(seeds), seeds, random)


def same_target(said, path):
    """A target as it came, and the path that we made of it."""
    if said.startswith(b"/"):
        return _canonical(said) == path
    scheme, mark, rest = said.partition(b"://")
    if not mark or scheme.lower() not in {b"http", b"https"}:
        return said == path  # OPTIONS *
    cut = min(at for at in (rest.find(b"/"), rest.find(b"?"), len(rest)) if at >= 0)
    rest = rest[cut:]
    return _canonical(rest if rest.startswith(b"/") else b"/" + rest) == path


def _canonical(target):
    raw, mark, query = target.partition(b"?")
    path = canonical_path(raw)
    assert path is not None
    return path + mark + query


ORACLES = {"h11": (h11_requests, h11_responses), "httptools": (httptools_requests, None)}


@pytest.mark.parametrize("oracle", list(ORACLES))
@pytest.mark.parametrize("seed", range(2))
def test_a_request_that_we_accept_is_read_the_same_way_or_refused_for_a_listed_reason(oracle, seed):
    read = ORACLES[oracle][0]
    compared = 0
    for octets in mutants(requests(), seed):
        ours = our_requests(octets, valid=True).whole
        if not ours or (oracle == "httptools" and b"upgrade" in octets.lower()):
            continue  # llhttp stops at an upgrade; we read on, because none is granted
        theirs = read(octets)
        for mine, other in zip(ours, theirs.whole, strict=False):
            compared += 1
            assert other.start[0] == mine.start[0], octets
            assert same_target(other.start[1], mine.start[1]), octets
            assert other.body == mine.body, octets
        if len(theirs.whole) < len(ours):
            assert theirs.error in OTHERS_REFUSE, (theirs.error, octets)
    assert compared > 500, "too few were accepted to say anything"


@pytest.mark.parametrize("seed", range(2))
def test_a_response_that_we_accept_is_read_the_same_way_or_refused_for_a_listed_reason(seed):
    compared = 0
    for octets in mutants(responses(), seed):
        for method in (b"GET", b"HEAD"):
            ours = our_responses(octets, method).whole
            if not ours:
                continue
            compared += 1
            theirs = h11_responses(octets, [method])
            if theirs.messages and theirs.error in OTHERS_REFUSE:
                continue
            assert [(m.start, m.body) for m in theirs.whole] == [(m.start, m.body) for m in ours], octets
            if method == b"HEAD":
                continue
            read = httptools_responses(octets)
            finals = [m for m in read.messages if m.start[0][:1] != b"1"]
            if not finals or (read.error and not finals[0].whole):
                assert read.error in OTHERS_REFUSE, (read.error, octets)
            elif b"chunked\t" not in octets.lower():
                # llhttp frames `chunked` and a tab by the end of the connection (llhttp#876); we send it on without the tab.
                assert (finals[0].start, finals[0].body) == (ours[0].start, ours[0].body), octets
    assert compared > 500


@pytest.mark.parametrize("seed", range(2))
def test_what_is_sent_on_everybody_reads_as_it_was_authorised(seed):
    """Method, target, fields, body and trailers: ours, h11's and llhttp's reading are one."""
    compared = 0
    for octets in mutants(requests(), 100 + seed):
        wire = Wire()
        wire.receive(octets)
        for sent, told in zip(wire.sent, wire.told, strict=True):
            expected = [(t.method, t.target, bytes(t.body), sorted(t.trailers)) for t in told if t.whole]
            compared += len(expected)
            for read in (h11_requests, httptools_requests, our_requests):
                if read is httptools_requests and not all(t.method in KNOWN_METHODS for t in told):
                    continue
                reading = read(bytes(sent))
                assert not reading.error, (reading.error, bytes(sent))
                got = [(m.start[0], m.start[1], m.body, sorted(m.trailers)) for m in reading.whole]
                assert got == expected, bytes(sent)
                for m, t in zip(reading.whole, told, strict=False):
                    ours = [f for f in m.fields if f[0] not in {b"host", b"transfer-encoding"}]
                    assert sorted(ours) == sorted(f for f in t.fields if f[0] != b"transfer-encoding"), bytes(sent)
    assert compared > 500


@pytest.mark.parametrize("seed", range(2))
def test_what_is_answered_everybody_reads_as_the_endpoint_said_it(seed):
    compared = 0
    for octets in mutants(responses(), 200 + seed):
        wire = Wire(respond=lambda _, octets=octets: octets)
        wire.receive(b"GET /a HTTP/1.1\r\nHost: app\r\n\r\n")
        ours = our_responses(octets, b"GET", eof=False)
        if not ours.whole:
            continue
        compared += 1
        for reading in (h11_responses(bytes(wire.back), [b"GET"], eof=False), httptools_responses(bytes(wire.back))):
            assert not reading.error, (reading.error, bytes(wire.back))
            finals = [m for m in reading.whole if m.start[0][:1] != b"1"]
            assert [(m.start, m.body) for m in finals] == [(m.start, m.body) for m in ours.whole], bytes(wire.back)
    assert compared > 300


HOST = b"Host: a\r\n"
STRICTER = {
    "no Host in HTTP/1.0": (b"GET / HTTP/1.0\r\n\r\n", "h11 httptools"),
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", "httptools"),
    "two Hosts": (b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n", "httptools"),
    "an invalid Host": (b"GET / HTTP/1.1\r\nHost: a b@c/d\r\n\r\n", "h11 httptools"),
    "an empty Host": (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", "h11 httptools"),
    "two equal Content-Lengths": (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\nx", "h11"),
    "Content-Length beside chunked": (
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "h11",
    ),
    "chunked in HTTP/1.0": (b"POST / HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "h11 httptools"),
    "bare LF": (b"GET / HTTP/1.1\n" + HOST + b"\n", "h11"),
    "obs-fold": (b"GET / HTTP/1.1\r\n" + HOST + b"X: a\r\n b\r\n\r\n", "h11"),
    "a fragment": (b"GET /#f HTTP/1.1\r\n" + HOST + b"\r\n", "h11 httptools"),
    "a target that is no path": (b"GET a HTTP/1.1\r\n" + HOST + b"\r\n", "h11"),
    "another scheme": (b"GET ftp://a/ HTTP/1.1\r\n" + HOST + b"\r\n", "h11 httptools"),
    "HTTP/2.0 in text": (b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", "h11 httptools"),
    "CONNECT": (b"CONNECT a:1 HTTP/1.1\r\n" + HOST + b"\r\n", "h11 httptools"),
    "dot segments": (b"GET /a/../b HTTP/1.1\r\n" + HOST + b"\r\n", "h11 httptools"),
    "escaped slashes": (b"GET /a%2fb HTTP/1.1\r\n" + HOST + b"\r\n", "h11 httptools"),
    "double escapes": (b"GET /a%252fb HTTP/1.1\r\n" + HOST + b"\r\n", "h11 httptools"),
    "two slashes": (b"GET //a HTTP/1.1\r\n" + HOST + b"\r\n", "h11 httptools"),
    "path parameters": (b"GET /a;b HTTP/1.1\r\n" + HOST + b"\r\n", "h11 httptools"),
    "a quote in the path": (b'GET /" HTTP/1.1\r\n' + HOST + b"\r\n", "h11 httptools"),
    "a second credential": (b"GET / HTTP/1.1\r\n" + HOST + b"Authorization: a\r\nAuthorization: b\r\n\r\n", "h11 httptools"),
    "Connection that names identity": (b"GET / HTTP/1.1\r\n" + HOST + b"Connection: flui-principal\r\n\r\n", "h11 httptools"),
    "an obfuscated expectation": (b"GET / HTTP/1.1\r\n" + HOST + b"Expect: y 100-continue\r\n\r\n", "h11 httptools"),
    "17 digits of chunk size": (
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n" + b"0" * 17 + b"\r\n\r\n",
        "h11 httptools",
    ),
    "a blank after a chunk size": (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0 \r\n\r\n", "h11"),
    "long extensions": (
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0;" + b"e" * 300 + b"\r\n\r\n",
        "h11 httptools",
    ),
    "20 digits of Content-Length": (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 00000000000000000000\r\n\r\n", "h11 httptools"),
    "101 fields": (b"GET / HTTP/1.1\r\n" + HOST + b"a: b\r\n" * 100 + b"\r\n", "h11 httptools"),
}
"""Classes in which we are stricter: what we refuse, and who accepts it."""


@pytest.mark.parametrize("name", list(STRICTER))
def test_we_are_stricter_where_it_is_said(name):
    octets, accepts = STRICTER[name]
    assert our_requests(octets, valid=True).whole == []
    found = [oracle for oracle, (read, _) in ORACLES.items() if read(octets).whole]
    assert " ".join(found) == accepts
