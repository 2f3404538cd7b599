"""h2load's many exchanges on many connections: none is lost."""

from __future__ import annotations

import re

import pytest

from support.pair import Pair, debian, nghttpd, run
from support.tunnel import Tunnel

pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(180)]
REQUESTS = 20_000


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("h2load")
    with nghttpd(folder, ("index.html", b"a body\n")) as app, Pair(folder, f"h2c://{app}") as both:
        yield both
        both.check()


def load(address, *, connections=20, streams=50, requests=REQUESTS):
    """What h2load counted: (total, succeeded, failed, errored, timed out), and everything it said."""
    h2load = debian("h2load", "nghttp2-client")
    shape = ("-c", connections, "-m", streams, "-n", requests)
    status, said = run(h2load, *map(str, shape), f"http://{address}/index.html", timeout_s=170)
    assert status == 0, said
    counts = re.search(r"requests: (\d+) total, .*?(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", said)
    assert counts is not None, said
    return tuple(int(count) for count in counts.groups()), said


def test_no_exchange_fails_through_one_sidecar(pair):
    with Tunnel(pair.inbound, pair.mesh.context("web")) as tunnel:
        counts, said = load(tunnel.address)
    assert counts == (REQUESTS, REQUESTS, 0, 0, 0), said


def test_no_exchange_fails_through_the_pair(pair):
    counts, said = load(pair.outbound)
    assert counts == (REQUESTS, REQUESTS, 0, 0, 0), said
