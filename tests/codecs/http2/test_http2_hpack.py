"""Field blocks: the native decoder behind its one file, the pure one, and our encoder; `hpack` is the oracle."""

import importlib

import hpack
import pytest
from hpack.table import HeaderTable
from hypothesis import given
from hypothesis import strategies as st

from flui.codecs.http2 import encoder as encoding
from flui.codecs.http2._hpack import IS_NATIVE, LENGTHS, Decoder, Oversized, Undecodable
from flui.codecs.http2.encoder import Encoder, Secret, integer
from flui.model.events import RequestHead, ResponseHead
from flui.model.fields import LENGTH, classified, field

BOTH = pytest.mark.parametrize("native", [True, False], ids=["jh2", "hpack"])


def test_the_private_names_of_the_native_library_are_there():
    """Style 13: what is private is pinned; this fails when an upgrade takes it away."""
    library = importlib.import_module("jh2._hazmat")
    assert issubclass(library.HPACKError, Exception)
    assert issubclass(library.OversizedHeaderListError, Exception)
    assert library.Decoder(1000).decode(b"\x82\x10\x01a\x01b", True) == [(b":method", b"GET", False), (b"a", b"b", True)]
    assert IS_NATIVE


@pytest.mark.parametrize("constants", ["jh2.hpack.huffman_constants", "hpack.huffman_constants"])
def test_the_lengths_of_the_huffman_code_are_those_of_the_libraries(constants):
    assert importlib.import_module(constants).REQUEST_CODES_LENGTH == LENGTHS


@BOTH
@pytest.mark.parametrize(
    "block",
    [
        b"\x80",  # index 0
        b"\xbf",  # an index nobody has inserted
        b"\xff\x7f",
        b"\xff" * 20 + b"\x00",  # an integer without end
        b"\x40\x01",  # cut short
        b"\x00\x01a\x05b",
        b"\x82\x20",  # RFC 7541 4.2: a size update behind a field
        b"\x82\x00\x01a\x01b\x3f\xe1\x1f",
        b"\x3f\xe2\x1f\x82",  # a size update above what we allow
        b"\x00\x81\x18\x01b",  # RFC 7541 5.2: Huffman padding of zeros
        b"\x00\x81\x19\x01b",  # … and of both
        b"\x00\x82\x1f\xff\x01b",  # … longer than seven bits
        b"\x00\x84\xff\xff\xff\xff\x01b",  # … and EOS itself
        b"\x00\x84\xff\xff\xff\xfc\x01b",
    ],
)
def test_a_block_that_breaks_rfc_7541_is_undecodable(block, native):
    with pytest.raises(Undecodable):
        Decoder(1 << 16, native).decode(block)


@BOTH
def test_a_bomb_ends_where_it_passes_the_bound(native):
    """threats C5: 80 MB from 24 KB; nothing of it is copied past the bound."""
    big = b"\x40\x01a\x7f\x81\x1e" + b"v" * 4000
    with pytest.raises(Oversized):
        Decoder(1 << 16, native).decode(big + b"\xbe" * 20_000)


@BOTH
def test_a_block_is_stable_only_if_it_leaves_the_table_alone(native):
    decoder = Decoder(1 << 16, native)
    for block, stable in [
        (b"\x82\x84", True),
        (b"\x40\x01a\x01b", False),
        (b"\xbe", True),
        (b"\xbe\x00\x01c\x01d", True),
        (b"\x10\x01c\x01d", True),
        (b"\x41\x01x", False),
        (b"\x20\x82", False),
        (b"\x3f\xe1\x1f", False),
        (b"\x0f\x0d\x01x", True),
    ]:
        decoder.decode(block)
        assert decoder.is_stable is stable, block


@given(st.binary(max_size=60))
def test_any_octets_decode_alike_or_not_at_all(block):
    """Differential: both decoders, whatever the octets (the one thing they may differ in is integers longer than anyone needs)."""
    told = []
    for native in (True, False):
        decoder = Decoder(1 << 16, native)
        try:
            told.append((decoder.decode(block), decoder.is_stable))
        except (Undecodable, Oversized):
            told.append(None)
    if None not in told:
        assert told[0] == told[1]


TEXT = st.text("abcxyz0189-", min_size=1, max_size=12).map(str.encode)
LINES = st.lists(st.tuples(TEXT, TEXT | st.binary(max_size=300)), max_size=8)


@given(st.lists(st.tuples(LINES, st.sampled_from([None, None, None, 0, 64, 200, 4096, 70_000])), max_size=12))
def test_what_our_encoder_says_is_what_others_decode(blocks):
    """Blocks of lines that come again, and a peer that changes its table between them."""
    encoder, oracle, ours = Encoder(), hpack.Decoder(), Decoder(1 << 20)
    shared = [classified(b"accept", b"*/*"), classified(b"x-tenant", b"acme"), classified(b"authorization", b"Bearer x")]
    for lines, size in blocks:
        if size is not None:
            encoder.resize(size)
            oracle.max_allowed_table_size = max(size, 4096)
        made = [*shared, *(classified(name, value) for name, value in lines)]
        block = encoder.trailers(made)
        wanted = [(f.name, f.value) for f in made if f.kind not in encoding._HERE]
        assert [(bytes(n), bytes(v)) for n, v in oracle.decode(block, raw=True)] == wanted
        assert [(n, v) for n, v, _ in ours.decode(block)] == wanted
        assert encoder._size <= encoder._room
        assert encoder._size == sum(size for _, size in encoder._entries)


def test_the_static_table_is_the_one_of_the_rfc():
    assert tuple((bytes(n), bytes(v)) for n, v in HeaderTable.STATIC_TABLE) == encoding._STATIC
    assert encoding._NAMES[b":status"] == 8
    assert encoding._NAMES[b":path"] == 4


def test_a_head_that_is_said_again_costs_an_octet_a_line():
    encoder = Encoder()
    fields = [field(b"user-agent", b"bench/1.0"), field(b"x-a", b"b")]
    blocks = [encoder.request(RequestHead(0, b"GET", b"http", b"shop", b"/items/1", b"", fields, 0)) for _ in range(4)]
    assert len(blocks[0]) > 30
    assert len(blocks[3]) == 6
    assert blocks[2] == blocks[3]


def test_a_head_is_known_by_what_it_says_and_not_by_its_list_alone():
    """The memo of heads is looked up by the list of fields; what else the head says must be the same too."""
    encoder, decoder = Encoder(), Decoder(1 << 16)
    fields = [field(b"x-a", b"b")]
    for turn in range(30):
        path, query = b"/%d" % (turn % 3), b"?q" if turn % 2 else b""
        head = RequestHead(0, b"GET" if turn % 5 else b"PUT", b"http", b"h%d" % (turn % 4), path, query, fields, 0)
        lines = dict((n, v) for n, v, _ in decoder.decode(encoder.request(head)))
        assert (lines[b":path"], lines[b":method"], lines[b":authority"]) == (path + query, head.method, head.authority)
    for turn in range(30):
        lines = dict((n, v) for n, v, _ in decoder.decode(encoder.response(ResponseHead(0, 200 + turn % 3, fields, 0))))
        assert lines == {b":status": b"%d" % (200 + turn % 3), b"x-a": b"b"}


def test_what_must_never_be_indexed_never_is():
    """RFC 7541 7.1.3, and 6.2.3 for what its sender said so of."""
    encoder, decoder = Encoder(), Decoder(1 << 16)
    for _ in range(4):
        fields = [field(b"authorization", b"Bearer x"), Secret(b"x-key", b"k", b"x-key: k\r\n", 0), field(b"set-cookie", b"a=b")]
        fields.append(Secret(b"content-length", b"7", b"content-length: 7\r\n", LENGTH))
        assert all(never for _, _, never in decoder.decode(encoder.trailers(fields)))
    assert not encoder._entries


def test_what_changes_each_time_pushes_nothing_out():
    encoder = Encoder()
    for turn in range(1000):
        encoder.trailers([field(b"x-tenant", b"acme"), field(b"traceparent", b"00-%032x-0000000000000001-01" % turn), field(b"date", b"x")])
    assert [wire for wire, _ in encoder._entries] == [b"x-tenant: acme\r\n"]


@pytest.mark.parametrize(("value", "octets"), [(10, b"\x0a"), (1337, b"\x1f\x9a\x0a"), (31, b"\x1f\x00")])
def test_integers_are_those_of_rfc_7541_c_1(value, octets):
    assert integer(value, 5, 0) == octets
