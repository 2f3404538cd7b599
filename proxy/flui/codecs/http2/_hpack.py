"""Decoding of field blocks (RFC 7541) by native code; the one file that touches it.

`jh2._hazmat` (Rust, private, so its names are pinned by a test) decodes ten times as fast as `hpack` (pure Python), which
serves where it is not installed. Both take what RFC 7541 forbids: a table size update behind a field (4.2), and `jh2`
Huffman padding that is not made of ones (5.2). So each block that is not all indices is also surveyed here, which
finds out too whether it changed the dynamic table (one that did not means the same whenever it comes again) and whether it is
cut short, over which `jh2` panics.
"""

from __future__ import annotations

import importlib
from typing import Any, Final

_RUN: Final = bytes(range(0x80, 0xFF))
"""Octets that are an indexed field, whole (RFC 7541 6.1)."""
_MEMO: Final = 4096
_MEMO_OCTETS: Final = 256

Line = tuple[bytes, bytes, bool]
"""Name, value, and whether it must never be indexed (RFC 7541 6.2.3)."""


_Coded = tuple[int, int, bytes]
"""Number of a line, 0 for its name or 1 for its value, and its Huffman-coded octets."""


class Undecodable(Exception):  # noqa: N818 - a peer's fault, caught inside the codec
    """A field block breaks RFC 7541: what the tables hold is not known any more."""


class Oversized(Exception):  # noqa: N818 - a peer's fault, caught inside the codec
    """A field block decodes to more than it may; decoding ended there."""


def _native() -> Any:
    try:
        return importlib.import_module("jh2._hazmat")
    except ImportError:
        return None


def _pure() -> Any:
    return importlib.import_module("hpack")


_NATIVE: Final = _native()
IS_NATIVE: Final[bool] = _NATIVE is not None
LENGTHS: Final = list(
    bytes.fromhex(
        "0d171c1c1c1c1c1c1c181e1c1c1e1c1c1c1c1c1c1c1c1e1c1c1c1c1c1c1c1c1c060a0a0c0d06080b0a0a080b080606060505050606060606060607080f060c0a"
        "0d06070707070707070707070707070707070707070707070807080d130d0e060f05060506050606060507070606060506070605050607070707070f0b0e0d1c"
        "1416141416161617161717171717181718181617181717171715161716171718161514161617171517161618151617171515161517161717141616161716161"
        "71a1a1413161716191a1a1a1b1b1a181913151a1b1b1a1b1815151a1a1c1b1b1b14181415161515171616191918181a171a1b1a1a1b1b1b1b1b1c1b1b1b1b1b1a1e"
    )
)
"""Bits of the Huffman code of each octet, and of the end (RFC 7541 B)."""
_PADDED_WELL: Final[set[bytes]] = set()


class Decoder:
    """Field blocks of one direction of a connection."""

    __slots__ = ("_decoder", "_errors", "_native", "_oversized", "is_stable")

    def __init__(self, octets: int, native: bool = IS_NATIVE) -> None:
        """A decoder with an empty dynamic table of 4,096 octets.

        Args:
            octets: Decoded size of a block, 32 octets per field added, past which decoding ends.
            native: Whether native code does it.
        """
        self._native = native
        library: Any = _NATIVE if native else _pure()
        if native:
            self._decoder: Any = library.Decoder(octets)
        else:
            self._decoder = library.Decoder(max_header_list_size=octets)
        self._errors: Any = library.HPACKError
        self._oversized: Any = library.OversizedHeaderListError
        self.is_stable = True
        """The block decoded last left the dynamic table as it was."""

    def decode(self, block: bytes) -> list[Line]:
        """Lines of a field block.

        Raises:
            Undecodable: It breaks RFC 7541.
            Oversized: It decodes to more than it may.
        """
        size = len(block)
        at = size - len(block.lstrip(_RUN))
        self.is_stable = True
        coded: list[_Coded] = []
        if at < size:
            try:
                self.is_stable = _survey(block, at, coded)
            except IndexError as error:
                raise Undecodable from error
        try:
            if self._native:
                lines: list[Line] = self._decoder.decode(block, True)
            else:
                lines = [(bytes(line[0]), bytes(line[1]), not line.indexable) for line in self._decoder.decode(block, raw=True)]
        except self._oversized as error:
            raise Oversized from error
        except self._errors as error:
            raise Undecodable from error
        except BaseException as error:
            if type(error).__name__ == "PanicException":  # native code gave up on it; a peer's octets may end no process
                raise Undecodable from error
            raise
        for number, part, octets in coded:
            _see_padding(octets, lines[number][1] if part else lines[number][0])
        return lines


def _survey(block: bytes, at: int, coded: list[_Coded]) -> bool:
    """Walks a block whose first `at` octets are indexed fields, and finds the strings whose padding must be looked at.

    Returns:
        Whether it leaves the dynamic table as it is.

    Raises:
        Undecodable: It is cut short (`jh2` panics over some that are), or a size update stands behind a field.
        IndexError: It is cut short.
    """
    stable = True
    number = at
    size = len(block)
    while at < size:
        octet = block[at]
        at += 1
        if octet >= 0x80:
            if octet == 0xFF:
                at = _behind(block, at)
            number += 1
            continue
        if 0x20 <= octet < 0x40:
            # RFC 7541 4.2: a size update stands at the beginning of a block
            if number:
                raise Undecodable
            stable = False
            if octet == 0x3F:
                at = _behind(block, at)
            continue
        if octet >= 0x40:
            stable = False
            mask = 0x3F
        else:
            mask = 0x0F
        index = octet & mask
        if index == mask:
            at = _behind(block, at)
        for part in (0, 1) if not index else (1,):
            octet = block[at]
            at += 1
            length = octet & 0x7F
            if length == 0x7F:
                shift = 0
                more = 0x80
                while more:
                    more = block[at]
                    at += 1
                    length += (more & 0x7F) << shift
                    shift += 7
                    more &= 0x80
            begin = at
            at += length
            if at > size:
                raise Undecodable
            if octet & 0x80 and length and LENGTHS:
                octets = block[begin:at]
                if octets not in _PADDED_WELL:
                    coded.append((number, part, octets))
        number += 1
    return stable


def _behind(block: bytes, at: int) -> int:
    """Where the rest of an integer that begins at `at` has ended (RFC 7541 5.1)."""
    while block[at] & 0x80:
        at += 1
    return at + 1


def _see_padding(octets: bytes, text: bytes) -> None:
    """RFC 7541 5.2: Huffman-coded octets end with fewer than eight bits of padding, all of them ones.

    Raises:
        Undecodable: These do not.
    """
    padding = len(octets) * 8 - sum([LENGTHS[character] for character in text])
    ones = (1 << padding) - 1 if 0 <= padding < 8 else -1
    if ones < 0 or octets[-1] & ones != ones:
        raise Undecodable
    if len(octets) <= _MEMO_OCTETS:
        if len(_PADDED_WELL) >= _MEMO:
            _PADDED_WELL.clear()
        _PADDED_WELL.add(octets)
