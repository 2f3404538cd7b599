"""h2load's acceptance line of issue 5: 100 connections of 100 streams each, 200,000 requests, none fails."""

import re

import pytest

from support.pair import Pair, debian, nghttpd, run
from support.tunnel import Tunnel

pytestmark = [pytest.mark.peers]
REQUESTS = 200_000


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("h2load")
    with nghttpd(folder, ("index.html", b"a body\n")) as app, Pair(folder, f"h2c://{app}") as both:
        yield both
        both.check()


def load(address, name):
    h2load = debian("h2load", "nghttp2-client")
    status, said = run(h2load, "-c", "100", "-m", "100", "-n", str(REQUESTS), f"http://{address}/index.html", timeout_s=400)
    assert status == 0, said
    print(f"{name}: {re.search(r'finished in .*', said)[0]}; {re.search(r'requests: .*', said)[0]}")
    return re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", said).groups()


def test_none_of_200_000_fails_through_the_pair(pair):
    assert load(pair.outbound, "pair") == (str(REQUESTS), "0", "0", "0")


def test_none_of_200_000_fails_through_one_sidecar_over_mutual_tls(pair):
    with Tunnel(pair.inbound, pair.mesh.context("web")) as tunnel:
        assert load(tunnel.address, "inbound") == (str(REQUESTS), "0", "0", "0")
