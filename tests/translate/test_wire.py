"""The wire's primitives, against the library's own, and at their edges."""

import pytest
from google.protobuf.internal import encoder, wire_format
from hypothesis import example, given
from hypothesis import strategies as st

from flui.translate import wire

U64 = st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 70000))
I64 = st.integers(-(2**63), 2**63 - 1)


@given(U64)
@example(127)
@example(128)
@example(16383)
@example(16384)
def test_a_varint_is_read_as_it_was_written(value):
    made = wire.varint(value)
    assert made == encoder._VarintBytes(value)
    assert wire.read_varint(b"x" + made + b"\x01", 1, len(made) + 1) == (value, len(made) + 1)
    for cut in range(len(made)):
        with pytest.raises(wire.Malformed):
            wire.read_varint(made, 0, cut)


@given(I64)
def test_zigzag_turns_both_ways(value):
    assert wire.zigzag(value) == wire_format.ZigZagEncode(value)
    assert wire.unzigzag(wire.zigzag(value)) == value


@given(I64)
def test_signs_come_back(value):
    assert wire.signed64(value & wire.MASK64) == value
    assert wire.signed32(value & wire.MASK64) == (value & wire.MASK32) - ((value & 0x80000000) << 1)


def test_bits_beyond_64_are_dropped():
    assert wire.read_varint(b"\xff" * 9 + b"\x7f", 0, 10) == (2**64 - 1, 10)
    with pytest.raises(wire.Malformed):
        wire.read_varint(b"\x80" * 10 + b"\x01", 0, 11)


@given(st.binary(max_size=40), st.integers(0, 2**32 - 1))
def test_skipping_never_passes_the_end(octets, tag):
    try:
        stop = wire.skip(octets, 0, len(octets), tag)
    except wire.Malformed:
        return
    assert 0 <= stop <= len(octets)


def test_groups_nest_as_deep_as_messages():
    def groups(levels):
        return b"\x0b" * levels + b"\x0c" * levels

    assert wire.skip(groups(64)[1:], 0, 127, 0x0B) == 127
    with pytest.raises(wire.Malformed, match="nested"):
        wire.skip(groups(65)[1:], 0, 129, 0x0B)
    with pytest.raises(wire.Malformed):
        wire.skip(b"\x14", 0, 1, 0x0B)
    assert wire.skip_group(b"\x08\x01\x0c", 0, 3, 1) == (2, 3)
