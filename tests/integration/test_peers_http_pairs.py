"""HTTP/1.1 and HTTP/2 callers, HTTP/1.1 and HTTP/2 modules, in all four pairs: curl and nghttp, a pair of sidecars, Node.

The hop between the sidecars is HTTP/2 in each; nothing at either end knows of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import socket
from pathlib import Path

import pytest

from support.fleet import Ports
from support.pair import Pair, debian, program, run

pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(120)]
MODULE = Path(__file__).parents[1] / "support" / "echo_module.mjs"
LARGE = 3 << 20
VERSIONS = {"http": "1.1", "h2c": "2.0"}


@pytest.fixture(scope="module", params=["http", "h2c"])
def module(request):
    """What the module speaks."""
    return request.param


@pytest.fixture(scope="module")
def pair(module, tmp_path_factory):
    node = debian("node", "nodejs")
    folder = tmp_path_factory.mktemp(f"to_{module}")
    with contextlib.closing(Ports()) as ports:
        app = ports.take()
        with (
            program(node, MODULE, module, str(app.port), log=folder / "node.log", listening=app),
            Pair(folder, f"{module}://{app}") as both,
        ):
            yield both
            both.check()


@pytest.fixture(params=["--http1.1", "--http2-prior-knowledge"])
def ask(request, pair, tmp_path):
    """Calls with curl, in either version: path and further arguments to (head, body, trailers)."""
    curl = debian("curl", "curl")

    def asked(path, *more, data=None):
        heads, body = tmp_path / "heads", tmp_path / "body"
        heads.unlink(missing_ok=True)
        body.unlink(missing_ok=True)
        status, said = run(
            curl, request.param, "--silent", "--show-error", "--max-time", "30", "-H", "te: trailers",
            "-D", heads, "-o", body, *more, pair.url(path), data=data,
        )  # fmt: skip
        assert status == 0, said
        blocks = [block for block in heads.read_text().replace("\r", "").split("\n\n") if not re.match(r"HTTP/\S+ 1\d\d", block)]
        head, trailers = blocks[0], "\n".join(blocks[1:])
        return head.lower(), body.read_bytes() if body.exists() else b"", trailers.lower()

    return asked


def test_the_module_is_spoken_to_in_its_own_version(ask, module):
    head, body, _ = ask("/proto")
    assert " 200" in head.split("\n")[0]
    assert body.decode().strip() == VERSIONS[module]


@pytest.mark.parametrize("size", [0, 1, 16_384, 70_000, LARGE])
def test_a_body_of_any_length_arrives_whole_both_ways(ask, size):
    sent = bytes(range(256)) * (size // 256) + b"z" * (size % 256)
    head, body, trailers = ask("/echo", "-X", "POST", "--data-binary", "@-", data=sent)
    assert " 200" in head.split("\n")[0]
    assert body == sent
    assert f"x-sum: {hashlib.sha256(sent).hexdigest()}" in trailers


def test_a_body_whose_length_nobody_says_arrives_whole(ask):
    sent = b"abc" * 500_000
    _, body, trailers = ask("/echo", "-T", "-", data=sent)
    assert body == sent
    assert f"x-sum: {hashlib.sha256(sent).hexdigest()}" in trailers


def test_head_has_the_length_and_no_body(ask):
    head, body, _ = ask("/size/70000", "--head")
    assert "content-length: 70000" in head
    assert body == b"" or body.startswith(b"HTTP/")  # curl writes the head there


def test_no_content_is_no_content(ask, module):
    head, body, _ = ask("/empty")
    assert " 204" in head.split("\n")[0]
    assert f"x-proto: {VERSIONS[module]}" in head
    assert "content-length" not in head
    assert "transfer-encoding" not in head
    assert body == b""


def test_many_on_one_connection_are_all_answered_each_with_its_own(pair, tmp_path):
    """HTTP/1.1 by curl, one after another; HTTP/2 by nghttp, all at once: Debian's curl uses a connection twice only in HTTP/1.1."""
    curl, nghttp = debian("curl", "curl"), debian("nghttp", "nghttp2-client")
    status, said = run(curl, "--http1.1", "-sS", "--max-time", "30", "-o", tmp_path / "many-#1", pair.url("/size/[1-300]"))
    assert status == 0, said
    assert [len((tmp_path / f"many-{n}").read_bytes()) for n in range(1, 301)] == list(range(1, 301))
    status, said = run(nghttp, "-s", "-n", "--timeout=30", *(pair.url(f"/size/{n}") for n in range(1, 301)))
    assert status == 0, said
    assert sorted((int(n), int(octets)) for octets, n in re.findall(r" 200 +(\d+) /size/(\d+)\n", said)) == [(n, n) for n in range(1, 301)]


def test_thousands_of_small_ones_fail_in_neither_version(pair):
    h2load = debian("h2load", "nghttp2-client")
    for version in ((), ("--h1",)):
        status, said = run(h2load, *version, "-c", "8", "-n", "4000", "-m", "1" if version else "20", pair.url("/size/10"))
        assert status == 0, said
        assert re.search(r"4000 succeeded, 0 failed, 0 errored, 0 timeout", said), said


def test_nghttp_gets_all_of_them_and_its_trailers_pass(pair, tmp_path):
    """A length that is said beforehand would leave HTTP/1.1 no place for trailers (RFC 9112 7.1.2)."""
    nghttp = debian("nghttp", "nghttp2-client")
    body = tmp_path / "body"
    body.write_bytes(b"n" * LARGE)
    status, said = run(
        nghttp,
        "-v",
        "-n",
        "--timeout=30",
        "--no-content-length",
        "-H",
        ":method: POST",
        "-H",
        "te: trailers",
        "-d",
        body,
        "--trailer",
        "x-mine: yes",
        pair.url("/echo"),
    )
    assert status == 0, said
    assert ":status: 200" in said
    assert f"x-sum: {hashlib.sha256(body.read_bytes()).hexdigest()}" in said
    assert "x-heard: x-mine=yes" in said
    status, said = run(nghttp, "-s", "-n", "-m", "50", pair.url("/size/1000"), pair.url("/empty"))
    assert status == 0, said
    assert len(re.findall(r" (200|204) ", said)) == 100, said


def test_trailers_of_a_caller_that_speaks_http1_pass(pair):
    with socket.create_connection((pair.outbound.host, pair.outbound.port), timeout=10) as caller:
        caller.sendall(
            b"POST /echo HTTP/1.1\r\nhost: orders\r\nte: trailers\r\ntransfer-encoding: chunked\r\ntrailer: x-mine\r\nconnection: close\r\n\r\n"
            b"5\r\nhello\r\n0\r\nx-mine: yes\r\n\r\n"
        )
        said = b""
        while more := caller.recv(1 << 16):
            said += more
    assert b"hello" in said
    assert b"x-heard: x-mine=yes" in said.lower()
    assert b"x-sum: " + hashlib.sha256(b"hello").hexdigest().encode() in said.lower()


def test_the_hop_between_the_sidecars_is_one_connection(pair):
    """However many callers there were: some exchanges more than it takes at a time make one more of them at most."""
    connects = pair.web.metric("flui_upstream_connects_total", outcome="connected")
    assert 1 <= connects <= 4
