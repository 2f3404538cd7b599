"""Compressed messages are expanded within bounds, or not at all (threats C11)."""

import gzip
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flui.model.units import KIB, MIB
from flui.translate.coding import expand, is_known


@given(st.binary(max_size=4096))
def test_what_was_compressed_comes_back(octets):
    assert expand(gzip.compress(octets), b"gzip", 0) == octets
    assert expand(zlib.compress(octets), b"deflate", 0) == octets
    assert expand(octets, b"", 0) == expand(octets, b"identity", 0) == octets


def test_an_empty_message_is_empty_in_every_coding():
    assert expand(b"", b"gzip", 0) == b""


@pytest.mark.parametrize(
    ("expands_to", "most"),
    [
        pytest.param(11 * MIB, 0, id="more than 10 MiB"),
        pytest.param(9 * MIB, 0, id="more than a hundred times its length"),
        pytest.param(5 * MIB, 4 * MIB, id="more than a message may have"),
        pytest.param(200 * MIB, 0, id="a bomb"),
    ],
)
def test_what_would_expand_too_far_is_refused_and_never_held(expands_to, most):
    packing = zlib.compressobj(9, wbits=31)
    bomb = b"".join([packing.compress(bytes(MIB)) for _ in range(expands_to // MIB)]) + packing.flush()
    tracemalloc.start()
    try:
        assert expand(bomb, b"gzip", most) is None
        assert tracemalloc.get_traced_memory()[1] < 22 * MIB, "the bound, and once more while zlib joins its parts"
    finally:
        tracemalloc.stop()


def test_small_messages_may_have_any_ratio():
    assert expand(gzip.compress(bytes(64 * KIB)), b"gzip", 0) == bytes(64 * KIB)
    assert expand(gzip.compress(bytes(64 * KIB + 1)), b"gzip", 0) is None
    assert expand(gzip.compress(bytes(200)), b"gzip", 100) is None


@given(st.binary(max_size=200))
def test_octets_of_any_kind_never_raise(octets):
    expand(octets, b"gzip", 0)
    expand(octets, b"deflate", 100)


def test_what_is_cut_short_or_goes_on_is_refused():
    whole = gzip.compress(b"plum" * 100)
    assert all(expand(whole[:cut], b"gzip", 0) is None for cut in range(1, len(whole)))
    assert expand(whole + b"x", b"gzip", 0) is None


def test_codings_that_are_known():
    assert [name for name in (b"", b"identity", b"gzip", b"deflate", b"br", b"zstd", b"x") if is_known(name)] == [
        b"",
        b"identity",
        b"gzip",
        b"deflate",
    ]
