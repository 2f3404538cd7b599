"""What is compressed is expanded within bounds, or not at all."""

import gzip
import time
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flui.model.units import KIB, MIB
from flui.translate.coding import expand, is_known


@given(st.binary(max_size=3000))
def test_what_was_compressed_comes_back(octets):
    assert expand(gzip.compress(octets), b"gzip", 4 * MIB) == octets
    assert expand(zlib.compress(octets), b"deflate", 4 * MIB) == octets
    assert expand(octets, b"identity", 4 * MIB) == expand(octets, b"", 4 * MIB) == octets


@given(st.binary(max_size=300))
def test_octets_of_any_kind_never_raise(octets):
    found = expand(octets, b"gzip", 4 * MIB)
    assert found is None or not octets or octets[:2] in {b"\x1f\x8b", octets[:2]}


@pytest.mark.parametrize("size", [200 * MIB, 1 * MIB])
def test_a_bomb_is_refused_before_it_is_expanded(size):
    bomb = gzip.compress(bytes(size), 9)
    tracemalloc.start()
    try:
        begun = time.perf_counter()
        assert expand(bomb, b"gzip", 0) is None
        took_s = time.perf_counter() - begun
        assert tracemalloc.get_traced_memory()[1] < 24 * MIB
    finally:
        tracemalloc.stop()
    assert took_s < 1.0


def test_the_bounds_are_of_the_output():
    octets = bytes(range(256)) * 1024  # a quarter of a MiB; its ratio is far above a hundred
    assert expand(gzip.compress(octets), b"gzip", 4 * MIB) is None
    assert expand(gzip.compress(bytes(64 * KIB)), b"gzip", 4 * MIB) == bytes(64 * KIB)
    assert expand(gzip.compress(bytes(64 * KIB)), b"gzip", 64 * KIB - 1) is None


def test_what_is_cut_short_or_goes_on_is_refused():
    packed = gzip.compress(b"hello")
    assert expand(packed[:-1], b"gzip", 0) is None
    assert expand(packed + b"x", b"gzip", 0) is None
    assert expand(b"", b"gzip", 0) == b""
    assert [is_known(coding) for coding in (b"", b"gzip", b"identity", b"deflate", b"br")] == [True, True, True, True, False]
