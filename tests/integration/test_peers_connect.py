"""The Connect conformance suite, all of it, through a pair of real sidecars: Connect, gRPC and gRPC-Web in front of a gRPC module.

The suite's own server speaks every dialect itself, so that its answers alone would prove nothing: the access log tells by the rule
that decided which requests reached the module's sidecar as calls, and the second server speaks gRPC alone.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest

from support import peers_grpc
from support.pair import run

pytestmark = [pytest.mark.peers, pytest.mark.acceptance, pytest.mark.slow, pytest.mark.timeout(600)]
SUPPORT = Path(__file__).resolve().parents[1] / "support"
NAMES = {"CONNECT": "Connect ", "GRPC": "gRPC ", "GRPC_WEB": "gRPC-Web "}
"""How the suite's names of cases begin that are about one protocol."""
CALL = "rules.csv:1"
"""The rule that admits calls of the service."""
FEATURES = {
    "versions": ["HTTP_VERSION_1", "HTTP_VERSION_2"],
    "compressions": ["COMPRESSION_IDENTITY", "COMPRESSION_GZIP"],
    "supportsTls": False,  # it is between the sidecars
    "supportsH2c": True,
    "supportsTrailers": True,
    "supportsHalfDuplexBidiOverHttp1": True,
    "supportsConnectGet": True,
    "supportsMessageReceiveLimit": True,
}


@pytest.fixture
def folder():
    """A short path: the admin sockets below it may have 107 octets at most."""
    with tempfile.TemporaryDirectory(prefix="connect-") as path:
        yield Path(path)


def ask(folder, server, protocol, *codecs, known=()):
    """What the suite says of a protocol: how many cases there were, and its words on those that failed unexpectedly."""
    conf = folder / "conf.yaml"  # JSON is YAML
    conf.write_text(
        json.dumps({"features": {**FEATURES, "protocols": [f"PROTOCOL_{protocol}"], "codecs": [f"CODEC_{codec}" for codec in codecs]}})
    )
    behind = (sys.executable, SUPPORT / "connect_behind.py", server, "--keep", folder, "--api", peers_grpc.connect_descriptors())
    for _ in range(2):
        status, said = run(
            peers_grpc.connect_conformance(), "--conf", conf, *known, "--max-servers", "1", "--mode", "server", "--", *behind, timeout_s=280,
        )  # fmt: skip
        if "timed out waiting for result" not in said:
            break  # the suite waits 20 s for its own client, whose "Server Message Size" alone costs nearly as much: that is the machine's
        for left in folder.glob("*-over-*"):
            shutil.rmtree(left)
    counts = re.search(r"Total cases: (\d+)\n(\d+) passed, (\d+) failed", said)
    assert counts is not None, said
    assert (status == 0) == (counts[3] == "0"), said
    return int(counts[1]), said.partition("FAILED: ")[2]


def not_calls(folder):
    """The requests that no rule about calls admitted at the module's sidecar, by their method and status; fails if a sidecar had an error."""
    found = Counter()
    for journal in folder.glob("*-over-*/**/journal.log"):
        lines = [json.loads(line) for line in journal.read_text().splitlines() if line.startswith("{")]
        assert not [line for line in lines if line["level"] == "error"]
    for log in folder.glob("*-over-*/orders-1/orders/access.log"):
        for line in map(json.loads, log.read_text().splitlines()):
            if line["rule"] != CALL:
                found[line["method"], line["path"].rpartition("/")[2], line["status"]] += 1
    return found


CASES = {"CONNECT": 804, "GRPC": 524, "GRPC_WEB": 652}
UNKNOWN = {
    "CONNECT": {("POST", "UnknownMethod", 404): 2},
    "GRPC": {("POST", "UnknownMethod", 200): 1},
    "GRPC_WEB": {("POST", "UnknownMethod", 200): 2},
}
"""What the suite sends that is no call of the service: a method of a service that nobody has."""


@pytest.mark.parametrize("protocol", CASES)
def test_nothing_fails_in_front_of_connects_own_server(folder, protocol):
    cases, failures = ask(folder, peers_grpc.connect_server(), protocol, "PROTO", "JSON")
    assert not failures, failures
    assert cases == CASES[protocol]
    assert not_calls(folder) == UNKNOWN[protocol]


@pytest.mark.parametrize(("protocol", "codecs"), [("CONNECT", ("PROTO", "JSON")), ("GRPC", ("PROTO",)), ("GRPC_WEB", ("PROTO",))])
def test_nothing_fails_in_front_of_a_module_that_speaks_grpc_alone(folder, protocol, codecs):
    """JSON within gRPC and gRPC-Web is the module's own business, and grpc-go knows none."""
    lines = (SUPPORT / "connect_known_failing.txt").read_text().splitlines()
    known = [word for line in lines if line.startswith(NAMES[protocol]) for word in ("--known-failing", line)]
    cases, failures = ask(folder, peers_grpc.connect_grpc_server(), protocol, *codecs, known=known)
    assert not failures, failures
    assert cases > 300
