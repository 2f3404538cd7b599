"""Bad input to what is translated (issue 6, threats C11, C12, F5): refused before it is expanded or walked, in the caller's dialect.

Nothing of it reaches the module, and nobody holds more of it than its limit, however much it would be.
"""

import base64
import gzip
import json
import time
import tracemalloc
import zlib
from typing import NamedTuple

import pytest

from flui.model.units import KIB, MIB
from support.library import Library
from support.mesh import Mesh, until
from support.spoken import FORMS, framed, request

RULES = "p, spiffe://shop/web, {name}, CALL, /lib.Library/*\n"
HELD = 24 * MIB
"""What the sidecar, its caller here and Python's own buffers may hold for a limit of 4 MiB."""
BOMB = gzip.compress(b'{"title":"' + b" " * (256 * MIB), 9)
"""256 MiB in 256 KiB: a thousand times as long."""
SMALL_BOMB = gzip.compress(b"[" * (3 * MIB))
"""Shorter than the limit of a message, and yet a thousand times as long as it came."""
GZIP = "content-encoding: gzip\r\n"
ENVELOPED = "connect-content-encoding: gzip\r\n"
V1 = "connect-protocol-version: 1\r\n"
JSON, STREAM, STREAM_JSON = "application/json", "application/connect+proto", "application/connect+json"
WEB, TEXT, LINES = "application/grpc-web", "application/grpc-web-text", "application/x-ndjson"


class Case(NamedTuple):
    form: str
    kind: str
    body: bytes
    code: int
    status: int
    more: str = ""
    says: str = ""
    method: str = "CreateBook"


def long_one(letters=5 * MIB):
    return b'{"id":"' + b"x" * letters + b'"}'


DEEP = b'{"a":' * 70 + b"1" + b"}" * 70
PARSED = {
    "deep": (DEEP, "nested"),
    "very deep": (b"[" * 1_000_000, "values"),
    "many": (b"[" + b"0," * 200_000 + b"0]", "values"),
    "many empty": (b"[" + b"[]," * 200_000 + b"0]", "values"),
    "no JSON": (b"\xff\xfe{}", ""),
    "half": (b'{"id":"', ""),
    "two": (b"{}{}", ""),
    "said twice": (b'{"id":"a","id":"b"}', ""),
    "endless number": (b'{"id":' + b"9" * 100_000 + b"}", ""),
    "lone surrogate": (b'{"id":"\\ud800"}', ""),
    "NaN": (b'{"id":NaN}', ""),
    "garbage": (base64.b64encode(b"\0" * MIB), ""),
}
CASES = {
    "connect bomb": Case("connect-json", JSON, BOMB, 3, 400, V1 + GZIP, "expands"),
    "connect small bomb": Case("connect-json", JSON, SMALL_BOMB, 3, 400, V1 + GZIP, "expands"),
    "connect deflate bomb": Case(
        "connect-json", JSON, zlib.compress(b" " * (64 * MIB)), 3, 400, V1 + "content-encoding: deflate\r\n", "expands"
    ),
    "connect not gzip": Case("connect-json", JSON, b"{}", 3, 400, V1 + GZIP, "coding"),
    "connect gzip cut short": Case("connect-json", JSON, gzip.compress(b"{}")[:-9], 3, 400, V1 + GZIP, "coding"),
    "connect gzip and more": Case("connect-json", JSON, gzip.compress(b"{}") + b"{}", 3, 400, V1 + GZIP, "coding"),
    "connect gzip twice": Case("connect-json", JSON, gzip.compress(gzip.compress(b"{}")), 12, 501, V1 + "content-encoding: gzip, gzip\r\n"),
    "connect brotli": Case("connect-json", JSON, b"{}", 12, 501, V1 + "content-encoding: br\r\n"),
    "connect too large": Case("connect-json", JSON, long_one(), 8, 429, V1),
    "connect proto too large": Case("connect", "application/proto", b"\x1a" + b"x" * 5 * MIB, 8, 429, V1),
    "rest bomb": Case("rest-default", JSON, BOMB, 3, 400, GZIP, "expands"),
    "rest small bomb": Case("rest-default", JSON, SMALL_BOMB, 3, 400, GZIP, "expands"),
    "rest too large": Case("rest-default", JSON, long_one(), 8, 413),
    "rest brotli": Case("rest-default", JSON, b"{}", 3, 415, "content-encoding: br\r\n"),
    "envelope bomb": Case("connect-stream-json", STREAM_JSON, framed(BOMB, 1), 3, 200, ENVELOPED, "expands", "ImportBooks"),
    "envelope small bomb": Case("connect-stream-json", STREAM_JSON, framed(SMALL_BOMB, 1), 3, 200, ENVELOPED, "expands", "ImportBooks"),
    "envelope too large": Case("connect-stream-json", STREAM_JSON, framed(long_one()), 8, 200, "", "limit", "ImportBooks"),
    "line too long": Case("rest-default-lines", LINES, long_one() + b"\n", 8, 413, "", "limit", "ImportBooks"),
    "endless line": Case("rest-default-lines", LINES, b" " * 5 * MIB, 8, 413, "", "limit", "ImportBooks"),
    "text of garbage": Case("grpc-web-text", TEXT, b"!" * MIB, 3, 200, "", "base64", "ImportBooks"),
    "text that is no call": Case("grpc-web-text", TEXT, base64.b64encode(b"\xff" * MIB), 3, 200, "", "", "ImportBooks"),
    "text cut short": Case("grpc-web-text", TEXT, base64.b64encode(framed(b"abc"))[:-1], 3, 200, "", "base64", "ImportBooks"),
    "text padded in a letter": Case("grpc-web-text", TEXT, b"A=BC" * 100, 3, 200, "", "base64", "ImportBooks"),
}
for form, kind in (("grpc-web", WEB), ("connect-stream", STREAM), ("connect-stream-json", STREAM_JSON)):
    lies = {
        "a length of 4 GiB": (b"\0\xff\xff\xff\xff" + b"{}" * 100, 8),
        "a length beyond its end": (b"\0\0\0\1\0{}", 3),
        "a length cut short": (b"\0\0\0", 3),
        "compressed in nothing": (framed(b"{}", 1), 3),
        "a flag of nobody": (framed(b"{}", 4), 3),
        "the end of an answer": (framed(b"{}", 2 if "connect" in form else 0x80), 3),
    }
    for said, (octets, code) in lies.items():
        CASES[f"{form}: {said}"] = Case(form, kind, octets, code, 200, "", "", "ImportBooks")
for said, (octets, word) in PARSED.items():
    CASES[f"connect: {said}"] = Case("connect-json", JSON, octets, 3, 400, V1, word)
    CASES[f"rest: {said}"] = Case("rest-default", JSON, octets, 3, 400, "", word)
    CASES[f"envelope: {said}"] = Case("connect-stream-json", STREAM_JSON, framed(octets), 3, 200, "", word, "ImportBooks")
    CASES[f"lines: {said}"] = Case("rest-default-lines", LINES, octets + b"\n", 3, 400, "", word, "ImportBooks")


@pytest.fixture(scope="module")
def library():
    with Library() as served:
        yield served


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_refused_in_its_dialect_and_costs_little(tmp_path, library, name):
    case = CASES[name]
    form = FORMS[case.form]
    mesh = Mesh(tmp_path)
    library.calls.clear()

    async def story():
        side = await mesh.sidecar("library", app=f"h2c://{library.address}", rules=RULES)
        await until(lambda: side.running.relay.snapshot.schema.methods, "the shape of the module")
        octets = request("POST", f"/lib.Library/{case.method}", case.body, case.kind, case.more)
        tracemalloc.start()
        began = time.perf_counter()
        try:
            answer = await mesh.call(side, octets)
            spent = time.perf_counter() - began
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert answer.status == case.status, answer
        if case.status == 415:
            assert answer.problem()["code"] == "unsupported_type"  # it may be of no dialect at all
            return
        told = form.told(answer)
        # Where messages pass as they are, what frames them wrongly is INTERNAL, as gRPC has it (and the Connect suite asks for it).
        passes = case.form in {"grpc-web", "grpc-web-text", "connect-stream"}
        assert told.code in ({3, 13} if passes and case.code == 3 else {case.code}), answer
        assert told.messages == []
        assert (answer.get(b"content-type") or b"").decode().removesuffix("+proto") in {form.refused_kind.removesuffix("+proto"), form.kind}
        if case.says:
            body = base64.b64decode(answer.body) if "text" in case.form else answer.body
            assert case.says.encode() in body, body
        assert library.calls == []
        assert most < HELD, f"{most / MIB:.1f} MiB"
        assert spent < 0.3 + 0.005 * len(case.body) / KIB, f"{spent:.2f} s; threats C12: 5 ms per KiB"
        assert (await mesh.call(side, request("GET", "/v1/shelves/1/books/2"))).status == 200, "it goes on"

    mesh.run(story())


def test_a_get_cannot_carry_what_a_body_cannot(tmp_path, library):
    """Connect's GET: too long a target, garbage in base64, a bomb in it."""
    mesh = Mesh(tmp_path)
    library.calls.clear()

    async def story():
        side = await mesh.sidecar("library", app=f"h2c://{library.address}", rules=RULES)
        await until(lambda: side.running.relay.snapshot.schema.methods, "the shape of the module")
        bomb = base64.urlsafe_b64encode(gzip.compress(b" " * (4 * MIB), 9)).decode().rstrip("=")
        start = "/lib.Library/GetBook?connect=v1&encoding=json&base64=1"
        answer = await mesh.call(side, request("GET", f"{start}&compression=gzip&message={bomb}"))
        assert (answer.status, json.loads(answer.body)["code"]) == (400, "invalid_argument")
        answer = await mesh.call(side, request("GET", f"{start}&message={'A' * 9000}"))
        assert answer.status == 414
        answer = await mesh.call(side, request("GET", f"{start}&message=@@@"))
        assert (answer.status, json.loads(answer.body)["code"]) == (400, "invalid_argument")
        assert library.calls == []

    mesh.run(story())
