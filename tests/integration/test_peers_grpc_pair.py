"""grpc-go's interoperability cases, grpcurl and ghz, unmodified, through a pair of real sidecars."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

import pytest
from google.api import annotations_pb2

from support import peers_grpc
from support.fleet import Ports
from support.grpc_shop import Shop
from support.pair import Pair, program, run

pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(120)]
PROTO = Path(__file__).resolve().parents[2] / "examples" / "proto"
ANNOTATIONS = Path(annotations_pb2.__file__).parents[2]
CASES = {
    "empty_unary": (),
    "large_unary": (),
    "client_streaming": (),
    "server_streaming": (),
    "ping_pong": (),
    "empty_stream": (),
    "cancel_after_begin": (),
    "cancel_after_first_response": (),
    "timeout_on_sleeping_server": (),
    "status_code_and_message": (),
    "special_status_message": (),
    "unimplemented_method": (),
    "unimplemented_service": (),
    "custom_metadata": (),
    "rpc_soak": ("--soak_iterations=300", "--soak_num_threads=3", "--soak_max_failures=0", "--soak_request_size=20000", "--soak_response_size=20000"),
    "channel_soak": ("--soak_iterations=60", "--soak_num_threads=3", "--soak_max_failures=0", "--soak_request_size=20000", "--soak_response_size=20000"),
}  # fmt: skip
"""Those that need no credentials, and their arguments."""


@pytest.fixture(scope="module")
def interop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("interop")
    with contextlib.closing(Ports()) as ports:
        app = ports.take()
        with (
            program(peers_grpc.interop_server(), f"--listen={app}", log=folder / "server.log", listening=app),
            Pair(folder, f"h2c://{app}") as both,
        ):
            yield both
            both.check()


@pytest.mark.parametrize("case", CASES)
def test_an_interoperability_case_passes_through_the_pair(interop, case):
    where = (f"--server_host={interop.outbound.host}", f"--server_port={interop.outbound.port}", f"--test_case={case}")
    status, said = run(peers_grpc.interop_client(), *where, *CASES[case], timeout_s=90)
    assert status == 0, said


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """grpcio's server behind `orders`."""
    with Shop() as module, Pair(tmp_path_factory.mktemp("shop"), f"h2c://{module.address}") as both:
        yield both
        both.check()


def grpcurl(shop, method, *messages):
    status, said = run(
        peers_grpc.grpcurl(), "-plaintext", "-max-time", "10", "-import-path", PROTO, "-import-path", ANNOTATIONS, "-proto", "shop.proto", "-d", "@",
        str(shop.outbound), f"shop.Stock/{method}", data="".join(json.dumps(message) for message in messages).encode(),
    )  # fmt: skip
    return status, said


def answers(said):
    """JSON documents, one behind the other."""
    decoder, found, at = json.JSONDecoder(), [], 0
    while at < len(said.rstrip()):
        document, at = decoder.raw_decode(said, at)
        found.append(document)
        at += len(said[at:]) - len(said[at:].lstrip())
    return found


def test_grpcurl_makes_calls_of_all_four_kinds(shop):
    assert answers(grpcurl(shop, "Reserve", {"item": "pear", "quantity": 2})[1]) == [
        {"item": "pear", "left": "98", "principal": "spiffe://shop/web"}
    ]
    assert [answer["left"] for answer in answers(grpcurl(shop, "Watch", {"item": "pear", "most": 5})[1])] == ["5", "4", "3", "2", "1"]
    many = [{"item": "pear", "quantity": n} for n in range(1, 41)]
    assert answers(grpcurl(shop, "Restock", *many)[1]) == [{"deliveries": 40, "quantity": str(sum(range(41)))}]
    words = [{"text": f"word {n}"} for n in range(30)]
    assert answers(grpcurl(shop, "Chat", *words)[1]) == words


def test_grpcurl_hears_why_a_call_failed(shop):
    status, said = grpcurl(shop, "Reserve", {"item": "pear", "quantity": 1000})
    assert status == 64 + 9, said
    assert "FailedPrecondition" in said
    assert "only 100 left" in said


def test_ghz_loses_no_call(shop):
    status, said = run(
        peers_grpc.ghz(), "--insecure", "--import-paths", f"{PROTO},{ANNOTATIONS}", "--proto", PROTO / "shop.proto", "--call", "shop.Stock.Reserve",
        "-d", '{"item": "pear", "quantity": 1}', "-n", "3000", "-c", "50", "--connections", "5", "-O", "json", str(shop.outbound),
    )  # fmt: skip
    assert status == 0, said
    counts = json.loads(said)["statusCodeDistribution"]
    assert counts == {"OK": 3000}
    assert not re.search(r'"errorDistribution": \{[^}]', said)
