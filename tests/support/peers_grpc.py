"""The independent HTTP/2 and gRPC peers of tests: built from source by Go, versions pinned, once, kept in `.cache/peers`.

    h2spec            asks a server 147 questions about RFC 9113 and RFC 7541 (`--strict`)
    interop client    grpc-go's side of the gRPC interoperability cases; its exit status says how they went
    interop server    the other side of them: grpc-go's service under a `main` of ours, which listens where it is told
    grpcurl           gRPC from a command line
    ghz               gRPC load
    connectconformance  asks a server 1,980 questions about Connect, gRPC and gRPC-Web
    referenceserver   the other side of them: Connect's own server, which speaks all three
    grpcserver        the same service by grpc-go, which speaks gRPC alone

Needs Go on PATH and, the first time, the way to its modules; then nothing. What is missing is one line: see `missing`.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CACHE = ROOT / ".cache"
FOLDER = CACHE / "peers"
BUILD_S = 540


class PeerMissing(pytest.skip.Exception):
    """A peer cannot be had here, so the test is left out; the text is one line that says what to install."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A program, and where its source is."""

    name: str
    module: str
    version: str
    package: str = ""
    """Its `main`, below the module."""
    source: str = ""
    """A `main` of ours beside this file in place of the module's own."""

    @property
    def binary(self) -> Path:
        mark = f"-{hashlib.sha256((HERE / self.source).read_bytes()).hexdigest()[:8]}" if self.source else ""
        return FOLDER / f"{self.name}-{self.version}{mark}"


H2SPEC = Peer("h2spec", "github.com/summerwind/h2spec", "v0.0.0-20200804131034-70ac22940108", "cmd/h2spec")
INTEROP_CLIENT = Peer("interop-client", "google.golang.org/grpc", "v1.79.3", "interop/client")
INTEROP_SERVER = Peer("interop-server", "google.golang.org/grpc", "v1.79.3", source="interop_server.go")
GRPCURL = Peer("grpcurl", "github.com/fullstorydev/grpcurl", "v1.9.4", "cmd/grpcurl")
GHZ = Peer("ghz", "github.com/bojand/ghz", "v0.93.0", "cmd/ghz")
CONNECT_CONFORMANCE = Peer("connectconformance", "connectrpc.com/conformance", "v1.0.5", "cmd/connectconformance")
CONNECT_SERVER = Peer("referenceserver", "connectrpc.com/conformance", "v1.0.5", "cmd/referenceserver")
CONNECT_GRPC_SERVER = Peer("connect-grpcserver", "connectrpc.com/conformance", "v1.0.5", "cmd/grpcserver")

PEERS = (H2SPEC, INTEROP_CLIENT, INTEROP_SERVER, GRPCURL, GHZ, CONNECT_CONFORMANCE, CONNECT_SERVER, CONNECT_GRPC_SERVER)


def missing(peer: Peer) -> str:
    """What to install before `peer` can be had, in one line; empty when it is built, or Go is here to build it."""
    if peer.binary.exists() or shutil.which("go"):
        return ""
    return f"make test-peers needs Go to build {peer.name} (Debian: apt-get install golang-go; newer ones: go.dev/dl), which is not on PATH"


def built(peer: Peer) -> Path:
    """Path of its program, built now if it was not before.

    Raises:
        PeerMissing: Go is not here, or could not build it; says which.
    """
    if peer.binary.exists():
        return peer.binary
    absent = missing(peer)
    if absent:
        raise PeerMissing(absent)
    work = FOLDER / "build" / f"{peer.name}-{peer.version}"
    work.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run side by side, and one compiler takes every core
        if not peer.binary.exists():
            _build(peer, work)
    return peer.binary


def _build(peer: Peer, work: Path) -> None:
    """Builds beside, then moves into place: what stands under its name is whole."""
    (work / "go.mod").write_text(f"module peers\n\ngo 1.23\n\nrequire {peer.module} {peer.version}\n")
    fresh = work / "fresh"
    environment = {
        **os.environ,
        "XDG_CACHE_HOME": str(CACHE),  # where Go keeps what it compiled
        "GOMODCACHE": str(CACHE / "go-mod"),
        "GOFLAGS": "-mod=mod -modcacherw",  # a cache that `make clean` can remove
        "CGO_ENABLED": "0",
    }
    environment.pop("GOCACHE", None)
    package = f"{peer.module}/{peer.package}"
    if peer.source:
        shutil.copyfile(HERE / peer.source, work / "main.go")
        package = "."
    try:
        done = subprocess.run(
            ["nice", "go", "build", "-trimpath", "-ldflags=-s -w", "-o", str(fresh), package],
            cwd=work,
            env=environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=BUILD_S,
        )
    except subprocess.TimeoutExpired:
        raise PeerMissing(f"go did not build {peer.name} {peer.version} within {BUILD_S} s") from None
    if done.returncode or not fresh.exists():
        said = " ".join(done.stderr.split()[-40:]) or f"status {done.returncode}"
        raise PeerMissing(f"go could not build {peer.name} {peer.version}: {said}")
    fresh.replace(peer.binary)


def h2spec() -> Path:
    """The HTTP/2 conformance program: `h2spec --strict -h HOST -p PORT -P /path`, status 0 when every case passed."""
    return built(H2SPEC)


def interop_client() -> Path:
    """grpc-go's interop client: `--server_host=HOST --server_port=PORT --test_case=NAME`, status 0 when it passed."""
    return built(INTEROP_CLIENT)


def interop_server() -> Path:
    """The service of the interop cases: `--listen=127.0.0.1:0`; prints the address that it has on stdout."""
    return built(INTEROP_SERVER)


def grpcurl() -> Path:
    """A gRPC caller for the command line: `grpcurl -plaintext -proto FILE -d JSON HOST:PORT pkg.Service/Method`."""
    return built(GRPCURL)


def ghz() -> Path:
    """A gRPC load maker: `ghz --insecure --proto FILE --call pkg.Service.Method -d JSON -n N -c N HOST:PORT`."""
    return built(GHZ)


def connect_conformance() -> Path:
    """The Connect conformance suite: `connectconformance --conf FILE --mode server -- PROGRAM`, status 0 when nothing failed unexpectedly."""
    return built(CONNECT_CONFORMANCE)


def connect_server() -> Path:
    """The suite's own server: `-port 0`, told what to be on stdin (`connect_behind.py` says how)."""
    return built(CONNECT_SERVER)


def connect_grpc_server() -> Path:
    """The same service by grpc-go, in the same words."""
    return built(CONNECT_GRPC_SERVER)


def connect_descriptors() -> Path:
    """What that server serves: a descriptor set, compiled once from the protos that came with its source.

    Raises:
        PeerMissing: Neither the set nor its source is here.
    """
    peer = CONNECT_SERVER
    path = FOLDER / f"{peer.name}-{peer.version}.binpb"
    protos = CACHE / "go-mod" / f"{peer.module}@{peer.version}" / "proto"
    if not path.exists():
        if not protos.is_dir():
            raise PeerMissing(f"{protos} is gone: remove {peer.binary} to have both again")
        fresh = path.with_suffix(".fresh")
        compiler = [sys.executable, "-m", "grpc_tools.protoc", f"-I{protos}", "--include_imports", f"--descriptor_set_out={fresh}"]
        subprocess.run([*compiler, "connectrpc/conformance/v1/service.proto"], check=True, timeout=60)
        fresh.replace(path)
    return path
