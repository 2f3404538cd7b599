"""A bounded run of the fuzzer, every mutant that once broke a law, and proof that the laws can fail (`make fuzz` runs 100,000)."""

import os
import subprocess
import sys
from pathlib import Path
from random import Random

import fuzz_engine as engine
import pytest

from support.rig import OK, Told, Wire

ROOT = Path(__file__).parents[2]
COUNT = int(os.environ.get("FLUI_MUTANTS", "12000"))


def test_no_mutant_breaks_a_law():
    """Every run has another seed, which a failure names."""
    seed = int.from_bytes(os.urandom(4))
    verdict = engine.run(COUNT, 15.0, seed)
    assert verdict.broken == [], f"seed {seed}"
    assert verdict.cases >= 1000, "too slow to say anything"
    assert verdict.forwarded > verdict.cases / 20
    assert verdict.answered > verdict.cases / 100


def test_no_seed_and_no_mutant_that_once_broke_a_law_breaks_one():
    """Seeds are the smuggling corpus, the found cases among them."""
    for octets in dict.fromkeys(engine.requests()):
        for seed in range(5):
            engine.check_request(octets, Random(seed))
            engine.check_cuts(octets, Random(seed))
    for octets in dict.fromkeys(engine.responses()):
        for seed in range(5):
            engine.check_response(octets, Random(seed))


GOOD = b"GET /a HTTP/1.1\r\nhost: a\r\nx: y\r\n\r\n"


def told():
    return Told(b"GET", b"/a", b"a", ((b"x", b"y"),), 0, whole=True)


@pytest.mark.parametrize(
    "sent",
    [
        GOOD + GOOD,
        GOOD.replace(b"GET", b"PUT"),
        GOOD.replace(b"/a", b"/b"),
        GOOD.replace(b"host: a", b"host: b"),
        GOOD.replace(b"x: y", b"x: z"),
        GOOD.replace(b"x: y\r\n", b""),
        GOOD.replace(b"x: y", b"x: y\r\nflui-principal: evil"),
        GOOD.replace(b"x: y", b"x: y\r\ntransfer-encoding: chunked") + b"0\r\n\r\n",
        GOOD.replace(b"\r\nx: y", b"\nx: y"),
        GOOD[:-2],
        GOOD + b"X",
        b"GET /a HTTP/1.1\r\nhost: a\r\nx: y\r\ncontent-length: 1\r\n\r\nx",
    ],
)
def test_the_laws_can_fail(sent):
    """Each of these is a way in which something else than what was authorised would be sent."""
    one = told()
    engine._as_told(GOOD, [one], [one])
    with pytest.raises(engine.Broken):
        engine._as_told(sent, [one], [one])


def test_a_request_that_is_not_canonical_is_noticed():
    one = Told(b"GET", b"/%61", b"a", (), 0, whole=True)
    with pytest.raises(engine.Broken, match="canonical"):
        engine._as_told(b"GET /%61 HTTP/1.1\r\nhost: a\r\n\r\n", [one], [one])


@pytest.mark.parametrize(
    "back",
    [
        OK + b"X",
        OK + OK,
        OK.replace(b"200", b"500"),
        OK.replace(b"ok", b"no"),
        OK[:-1],
        OK.replace(b"\r\n\r\n", b"\r\nconnection: upgrade\r\n\r\n"),
    ],
)
def test_the_laws_of_responses_can_fail(back):
    heard = [("response", 1, 200, (), 2), ("data", 1, b"ok"), ("end", 1, ())]
    engine._as_answered(b"GET", OK, heard, heard[:1], True, True)
    with pytest.raises(engine.Broken):
        engine._as_answered(b"GET", back, heard, heard[:1], True, True)


def test_a_mutant_is_the_same_for_the_same_seed():
    seeds = engine.requests()
    assert [engine.mutate(seeds[0], seeds, Random(7)) for _ in range(2)] == [engine.mutate(seeds[0], seeds, Random(7))] * 2
    assert len({engine.mutate(seeds[0], seeds, Random(n)) for n in range(50)}) > 30


def test_the_wire_forwards_and_refuses_as_the_sidecar_does():
    """The rig under the fuzzer is no empty shell."""
    wire = Wire()
    wire.receive(b"GET /%61 HTTP/1.1\r\nHost: A\r\n\r\nGET /a/../b HTTP/1.1\r\nHost: a\r\n\r\n")
    assert bytes(wire.sent[0]).startswith(b"GET /a HTTP/1.1\r\nhost: a\r\n")
    assert bytes(wire.sent[0]).count(b"HTTP/1.1") == 1
    assert bytes(wire.back).startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"HTTP/1.1 400 Bad Request\r\n" in bytes(wire.back)


def test_the_command_counts_and_says_its_verdict():
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "fuzz.py", "--count", "200", "--seed", "3"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "fuzz: 200 mutants in" in done.stdout
    assert "0 broken" in done.stdout
    short = subprocess.run(
        [sys.executable, ROOT / "tools" / "fuzz.py", "--count", "100000", "--seconds", "0.1"], capture_output=True, text=True, check=False
    )
    assert short.returncode == 1
    assert "fitted into" in short.stdout
