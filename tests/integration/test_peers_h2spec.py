"""h2spec's questions about RFC 9113 and RFC 7541, all of them, `--strict`, asked of real sidecars."""

from __future__ import annotations

import re

import pytest

from support import peers_grpc
from support.pair import Pair, nghttpd, run
from support.tunnel import Tunnel

pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(180)]
CASES = 147


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """In front of nghttpd, which speaks HTTP/2 with prior knowledge."""
    folder = tmp_path_factory.mktemp("h2spec")
    with nghttpd(folder, ("index.html", b"a body\n")) as app, Pair(folder, f"h2c://{app}") as both:
        yield both
        both.check()


def ask(address):
    """What h2spec says of a listener: (passed, skipped, failed), and its words on what failed."""
    _, said = run(
        peers_grpc.h2spec(), "--strict", "-h", address.host, "-p", str(address.port), "-P", "/index.html", "-o", "5", timeout_s=150
    )
    counts = re.search(r"(\d+) tests, (\d+) passed, (\d+) skipped, (\d+) failed", said)
    assert counts is not None, said
    return tuple(int(count) for count in counts.groups()), said.partition("Failures:")[2]


def test_every_case_passes_over_plain_text(pair):
    counts, failures = ask(pair.outbound)
    assert counts == (CASES, CASES, 0, 0), failures


def test_every_case_passes_over_mutual_tls(pair):
    with Tunnel(pair.inbound, pair.mesh.context("web")) as tunnel:
        counts, failures = ask(tunnel.address)
        assert tunnel.opened >= CASES
    assert counts == (CASES, CASES, 0, 0), failures
