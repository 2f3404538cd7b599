"""The independent HTTP/2 and gRPC peers can be had here, and work with one another: what the sidecar is then measured with."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from pathlib import Path

import pytest
from google.api import annotations_pb2

from support import peers_grpc
from support.peers_grpc import PEERS, PeerMissing, built, missing

SHOP = Path(__file__).resolve().parents[2] / "examples" / "proto"
ANNOTATIONS = Path(annotations_pb2.__file__).parents[2]
BUILDS = [pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_missing_toolchain_is_one_line_that_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(peers_grpc, "FOLDER", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    for peer in PEERS:
        line = missing(peer)
        assert peer.name in line
        assert "apt-get install" in line
        assert "\n" not in line
        with pytest.raises(PeerMissing) as caught:
            built(peer)
        assert str(caught.value) == line
    assert list(tmp_path.iterdir()) == []


def test_a_build_that_fails_says_why_and_leaves_nothing_behind(monkeypatch, tmp_path):
    go = tmp_path / "bin" / "go"
    go.parent.mkdir()
    go.write_text("#!/bin/sh\necho 'no way to' >&2\necho 'the modules' >&2\nexit 3\n")
    go.chmod(0o755)
    monkeypatch.setattr(peers_grpc, "FOLDER", tmp_path / "peers")
    monkeypatch.setenv("PATH", f"{go.parent}:{os.environ['PATH']}")
    with pytest.raises(PeerMissing) as caught:
        peers_grpc.h2spec()
    assert re.fullmatch(r"go could not build h2spec v\S+: no way to the modules", str(caught.value))
    assert not peers_grpc.H2SPEC.binary.exists()


def test_what_was_built_is_used_without_go(monkeypatch, tmp_path):
    monkeypatch.setattr(peers_grpc, "FOLDER", tmp_path)
    monkeypatch.setenv("PATH", "")
    peers_grpc.GHZ.binary.touch()
    assert missing(peers_grpc.GHZ) == ""
    assert peers_grpc.ghz() == peers_grpc.GHZ.binary


def test_versions_are_pinned():
    for peer in PEERS:
        assert re.fullmatch(r"v\d+\.\d+\.\d+(-\d{14}-[0-9a-f]{12})?", peer.version), peer


def output(*command):
    done = subprocess.run([str(word) for word in command], check=False, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("peer", [pytest.param(peer, marks=BUILDS, id=peer.name) for peer in PEERS])
def test_a_peer_builds_and_runs(peer):
    _, said = output(built(peer), "--help")
    assert "-" in said


@contextlib.contextmanager
def interop_server():
    """grpc-go's interop service; its port."""
    process = subprocess.Popen([peers_grpc.interop_server()], stdout=subprocess.PIPE, text=True)
    try:
        host, _, port = process.stdout.readline().strip().rpartition(":")
        assert host == "127.0.0.1"
        yield int(port)
    finally:
        process.terminate()
        assert process.wait(10) == 0, "SIGTERM ends it with status 0"
        process.stdout.close()


CASES = (
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "cancel_after_begin",
    "cancel_after_first_response",
    "timeout_on_sleeping_server",
    "status_code_and_message",
    "special_status_message",
    "unimplemented_method",
    "unimplemented_service",
    "custom_metadata",
    "rpc_soak",
    "channel_soak",
)
"""Those that need no credentials."""


@pytest.mark.peers
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_interop_client_passes_against_the_interop_server():
    """Without a sidecar between them: what fails later fails because of it."""
    client = peers_grpc.interop_client()
    with interop_server() as port:
        for case in CASES:
            status, said = output(client, "--server_host=127.0.0.1", f"--server_port={port}", f"--test_case={case}")
            assert status == 0, f"{case}: {said}"


@pytest.mark.peers
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_shops_proto_is_one():
    status, said = output(
        peers_grpc.grpcurl(), "-import-path", SHOP, "-import-path", ANNOTATIONS, "-proto", "shop.proto", "describe", "shop.Stock"
    )
    assert status == 0, said
    calls = re.findall(r"rpc (\w+) \( (stream )?\S+ \) returns \( (stream )?\S+ \)[ ;{]", said)
    assert calls == [("Chat", "stream ", "stream "), ("Reserve", "", ""), ("Restock", "stream ", ""), ("Watch", "", "stream ")]
