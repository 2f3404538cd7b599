"""Values of a configuration file: what text stands for which duration, size, address, name; and a reader that keeps all mistakes.

The parsers take text and either return a value or raise `Wrong` with plain words. They are strict: what could be read in two
ways is refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from ipaddress import IPv6Address, ip_address
from typing import Any, Final, TypeAlias, TypeVar

from flui.identity.spiffe import SpiffeId
from flui.model.config import Problem
from flui.model.resilience import WHOLE_BP
from flui.model.topology import Address
from flui.model.units import GIB, KIB, MIB
from flui.runtime._yaml import Items, Node, Place, Section, Text

T = TypeVar("T")

Knobs: TypeAlias = Mapping[str, tuple[str, Callable[[str], Any]]]
"""Keys of a section that have one value each: the field that each sets, and the parser that makes what the field holds."""

_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_LABEL: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,14}")
_FRACTION: Final = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")
_MEASURE: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)([A-Za-z]*)")
_SHARE: Final = re.compile(r"([0-9]{1,3})(?:\.([0-9]{1,9}))?%")
_RATE: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)/([smh])")
_RANGE: Final = re.compile(r"([0-9]{3})(?:-([0-9]{3}))?")

_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_OCTETS: Final = {"B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB}
_SUN_PATH: Final = 107
"""Octets of a Unix socket's path that Linux takes (unix(7))."""


class Wrong(Exception):  # noqa: N818 - it is not an error of the program but a finding
    """What is wrong with a value, and what to write instead."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what)
        self.what = what
        self.fix = fix


def duration(text: str, low: float, high: float) -> float:
    """`250ms`, `15s`, `2m`, `1h` in seconds; `0` where `low` is 0."""
    found = _MEASURE.fullmatch(text)
    if found is None:
        raise Wrong(f"{text!r} is not a duration", "write a number and ms, s, m or h, such as `15s`")
    if text != "0" and found[2] not in _SECONDS:
        unit = f"the unit {found[2]!r} is not known" if found[2] else f"{text!r} has no unit"
        raise Wrong(unit, f"write ms, s, m or h, such as `{found[1]}s`")
    seconds = float(found[1]) * _SECONDS[found[2]] if text != "0" else 0.0
    if not low <= seconds <= high:
        raise Wrong(f"{text} is out of range", f"write {as_duration(low)} to {as_duration(high)}")
    return seconds


def as_duration(value: float) -> str:
    """Seconds as people write them."""
    for unit in ("h", "m", "s"):
        if value and value % _SECONDS[unit] == 0:
            return f"{value / _SECONDS[unit]:g}{unit}"
    return f"{value * 1000:g}ms" if value else "0"


def size(text: str, low: int, high: int, zero: str = "") -> int:
    """`512B`, `64KiB`, `10MiB`, `1GiB` in octets; also `0` where `zero` says what that means."""
    if text == "0" and zero:
        return 0
    found = _MEASURE.fullmatch(text)
    if found is None:
        raise Wrong(f"{text!r} is not a size", "write a number and B, KiB, MiB or GiB, such as `64KiB`")
    if text != "0" and found[2] not in _OCTETS:
        unit = f"the unit {found[2]!r} is not known" if found[2] else f"{text!r} has no unit"
        meant = {"M": "MiB", "G": "GiB"}.get(found[2][:1].upper(), "KiB")
        raise Wrong(unit, f"write B, KiB, MiB or GiB, such as `{found[1]}{meant}`")
    octets = float(found[1]) * _OCTETS[found[2]] if text != "0" else 0.0
    if not low <= octets <= high:
        raise Wrong(f"{text} is out of range", f"write {as_size(low)} to {as_size(high)}" + (f", or 0 for {zero}" if zero else ""))
    return int(octets)


def speed(text: str, low: int, high: int) -> int:
    """`500B/s`, `64KiB/s` in octets per second; `0` for none."""
    if text == "0":
        return 0
    found = _MEASURE.fullmatch(text.removesuffix("/s"))
    if found is None or found[2] not in _OCTETS or not text.endswith("/s"):
        meant = f"{found[1]}{found[2] if found[2] in _OCTETS else 'B'}/s" if found is not None else "500B/s"
        raise Wrong(f"{text!r} is not a size per second", f"write a number and B/s, KiB/s or MiB/s, such as `{meant}`")
    octets = float(found[1]) * _OCTETS[found[2]]
    if not low <= octets <= high:
        raise Wrong(f"{text} is out of range", f"write {as_size(low)}/s to {as_size(high)}/s, or 0 for no limit")
    return int(octets)


def as_size(value: int) -> str:
    """Octets as people write them."""
    unit = next(unit for unit in ("GiB", "MiB", "KiB", "B") if value % _OCTETS[unit] == 0)
    return f"{value // _OCTETS[unit]}{unit}"


def number(text: str, low: int, high: int) -> int:
    """A whole number in decimal."""
    if _NUMBER.fullmatch(text) is None:
        raise Wrong(f"{text!r} is not a whole number", f"write {low} to {high}")
    if not low <= int(text) <= high:
        raise Wrong(f"{text} is out of range", f"write {low} to {high}")
    return int(text)


def fraction(text: str, low: float, high: float) -> float:
    """A decimal fraction."""
    if _FRACTION.fullmatch(text) is None:
        raise Wrong(f"{text!r} is not a number", f"write {low:g} to {high:g}")
    if not low <= float(text) <= high:
        raise Wrong(f"{text} is out of range", f"write {low:g} to {high:g}")
    return float(text)


def share(text: str, low_bp: int = 0, high_bp: int = WHOLE_BP) -> int:
    """`1%`, `0.5%`, `12.25%` in basis points."""
    found = _SHARE.fullmatch(text)
    if found is None:
        if _FRACTION.fullmatch(text) is None:
            raise Wrong(f"{text!r} is not a share", "write it in percent, such as `1%`")
        percent = float(text) * 100 if "." in text and float(text) <= 1 else float(text)
        raise Wrong(f"{text!r} has no percent sign", f"write `{percent:g}%`")
    if len((found[2] or "").rstrip("0")) > 2:
        raise Wrong(f"{text} is finer than a hundredth of a percent", "write at most two decimals, such as `0.01%`")
    basis_points = int(found[1]) * 100 + int((found[2] or "")[:2].ljust(2, "0"))
    if not low_bp <= basis_points <= high_bp:
        raise Wrong(f"{text} is out of range", f"write {low_bp / 100:g}% to {high_bp / 100:g}%")
    return basis_points


def rate(text: str, high: float) -> float:
    """`100/s`, `0.5/s`, `30/m` per second; never 0."""
    found = _RATE.fullmatch(text)
    if found is None:
        meant = f"{text}/s" if _FRACTION.fullmatch(text) and float(text) else "100/s"
        raise Wrong(f"{text!r} is not a rate", f"write a number and /s, /m or /h, such as `{meant}`")
    per_s = float(found[1]) / _SECONDS[found[2]]
    if not per_s:
        raise Wrong("a rate of 0 lets nothing through", "write more, or deny it in the policy")
    if not 1 / _SECONDS["h"] <= per_s <= high:
        raise Wrong(f"{text} is out of range", f"write 1/h to {high:.0f}/s")
    return per_s


def status_range(text: str, low: int, high: int) -> tuple[int, int]:
    """`200-399`, or `204` alone."""
    found = _RANGE.fullmatch(text)
    if found is None:
        raise Wrong(f"{text!r} is not a range of status codes", "write the first and the last, such as `200-399`")
    first, last = int(found[1]), int(found[2] or found[1])
    if not low <= first <= last <= high:
        fix = f"write {low} to {high}, the smaller one first"
        raise Wrong(f"{text} is out of range" if first <= last else f"{text} ends before it begins", fix)
    return first, last


def off_or(text: str, parse: Callable[[str], T], off: T) -> T:
    """What `parse` makes of it; `off` stands for a value that means never."""
    if text == "off":
        return off
    try:
        return parse(text)
    except Wrong as wrong:
        raise Wrong(wrong.what, f"{wrong.fix}, or `off`") from None


def one_of(text: str, known: Collection[str], what: str, empty: str) -> str:
    """One of the words that are known.

    Args:
        text: What was written.
        known: What may be.
        what: What they are, for the message.
        empty: What to do when there is none of them, or none is meant.
    """
    if text in known:
        return text
    words = sorted(known)
    choice = "write one of " + ", ".join(words[:8]) if words else ""
    if close := _closest(text, words):
        choice = f"did you mean `{close}`"
    raise Wrong(f"there is no {what} {text!r}", ", or ".join(part for part in (choice, empty) if part))


def _closest(text: str, words: Collection[str]) -> str:
    """The word that was probably meant; empty when it is none of them."""
    import difflib  # noqa: PLC0415 - for mistakes only

    return next(iter(difflib.get_close_matches(text, words, 1, 0.6)), "")


def flag(text: str) -> bool:
    """`true` or `false`."""
    if text not in {"true", "false"}:
        raise Wrong(f"{text!r} is neither true nor false", "write `true` or `false`")
    return text == "true"


def name(text: str) -> str:
    """The name of a service or a route."""
    if _NAME.fullmatch(text) is None or len(text) > 63:
        raise Wrong(f"{text!r} is not a name", "write 1 to 63 of a-z, 0-9 and -, with a letter or digit at both ends")
    return text


def spiffe_id(text: str) -> str:
    """A SPIFFE ID with a path."""
    try:
        found = SpiffeId.parse(text)
    except ValueError as error:
        raise Wrong(str(error), "write `spiffe://TRUST-DOMAIN/NAME`") from None
    if not found.path:
        raise Wrong(f"{text!r} names a trust domain, not a workload", "write `spiffe://TRUST-DOMAIN/NAME`")
    return text


def token(text: str, of: str) -> str:
    """A method or a field name (RFC 9110 5.6.2)."""
    if _TOKEN.fullmatch(text) is None:
        raise Wrong(f"{text!r} is not {of}", "write letters, digits and -")
    return text


def endpoint(text: str) -> Address:
    """`HOST:PORT` of something to connect to: an IPv4 address, an IPv6 address in brackets, or a host name."""
    return _address(text, 1, "127.0.0.1:8000")


def listener(text: str) -> Address:
    """`ADDRESS:PORT` to listen on: an IP address; port 0 lets the system choose."""
    address = _address(text, 0, "127.0.0.1:15001")
    if not is_ip(address.host):
        raise Wrong(f"{address.host!r} is a host name", f"write the IP address to listen on, such as `127.0.0.1:{address.port}`")
    return address


def _address(text: str, lowest: int, example: str) -> Address:
    if "://" in text:
        raise Wrong(f"{text!r} is a URL", f"write only the address, such as `{example}`")
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise Wrong(f"{text!r} is not HOST:PORT", f"write it as in `{example}`")
    if _NUMBER.fullmatch(port) is None or not lowest <= int(port) <= 65535:
        raise Wrong(f"{port!r} is not a port", f"write {lowest} to 65535 behind the colon")
    return Address(_bare(host), int(port))


def host(text: str) -> str:
    """A host as a request's authority names it: an IPv6 address keeps its brackets."""
    bare = _bare(text)
    return f"[{bare}]" if ":" in bare else bare


def _bare(text: str) -> str:
    """A host without the brackets of an IPv6 address."""
    if text.startswith("[") and text.endswith("]"):
        try:
            return str(IPv6Address(text[1:-1]))
        except ValueError:
            raise Wrong(f"{text!r} is not an IPv6 address", "write it as in `[::1]:15001`") from None
    if ":" in text:
        raise Wrong(f"{text!r} holds colons", "write an IPv6 address in brackets, as in `[::1]:15001`")
    if text.rpartition(".")[2].isdecimal():  # a last label of digits is an IPv4 address or nothing (RFC 3696 2)
        try:
            return str(ip_address(text))
        except ValueError:
            raise Wrong(f"{text!r} is not an IPv4 address", "write four numbers from 0 to 255, without leading zeros") from None
    if not text or len(text) > 253 or not all(_LABEL.fullmatch(label) for label in text.split(".")):
        raise Wrong(f"{text!r} is neither an IP address nor a host name", "write it as in `127.0.0.1` or `stock.internal`")
    return text.lower()


def socket_path(text: str) -> Address:
    """The path of a Unix socket."""
    if len(os.fsencode(text)) > _SUN_PATH:
        raise Wrong(f"the socket's path has more than {_SUN_PATH} octets", "choose a shorter one, such as `/tmp/flui-NAME.sock`")
    return Address(text)


def is_ip(host: str) -> bool:
    """Whether it is an IP address rather than a name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    return host == "localhost" or (is_ip(host) and ip_address(host).is_loopback)


def overlap(one: Address, other: Address) -> bool:
    """Whether both cannot be listened on, or one leads to the other: the same port on the same addresses."""
    if not one.port or one.port != other.port:
        return False
    hosts = {"127.0.0.1" if host == "localhost" else host for host in (one.host, other.host)}
    return len(hosts) == 1 or any(is_ip(host) and ip_address(host).is_unspecified for host in hosts)


def is_off(node: Node | None) -> bool:
    """Whether the word `off` was written."""
    return isinstance(node, Text) and node.text == "off"


_NOWHERE: Final[Mapping[str, tuple[str, str]]] = {}


class Reader:
    """Reads typed values off the tree, goes on after mistakes, and keeps them all."""

    def __init__(self, problems: Iterable[Problem] = ()) -> None:
        self.problems = list(problems)

    def wrong(self, place: Place, what: str, fix: str) -> None:
        """Keep one mistake."""
        self.problems.append(Problem(place.file, place.line, place.key, what, fix))

    def value(self, node: Node | None, parse: Callable[[str], T]) -> T | None:
        """A scalar through one of the parsers; None when it is not there, or wrong (and then kept)."""
        if node is None:
            return None
        if not isinstance(node, Text):
            self.wrong(node.place, f"this is {_kind(node)}", "write one value")
            return None
        try:
            return parse(node.text)
        except Wrong as wrong:
            self.wrong(node.place, wrong.what, wrong.fix)
            return None

    def items(self, node: Node | None, example: str) -> tuple[Node, ...] | None:
        """The elements of a list; None when it is not there, or wrong (and then kept)."""
        if node is None:
            return None
        if not isinstance(node, Items):
            self.wrong(node.place, f"this is {_kind(node)}", f"write a list, such as `{example}`")
            return None
        return node.items

    def entries(self, node: Node | None, example: str) -> dict[str, Node]:
        """The entries of a section whose keys are free; those without a value are there too."""
        if node is None or (isinstance(node, Text) and node.is_nothing):
            return {}
        if not isinstance(node, Section):
            self.wrong(node.place, f"this is {_kind(node)}", f"write a section, such as `{example}`")
            return {}
        return node.entries

    def fields(
        self, node: Node | None, known: Collection[str], example: str, elsewhere: Mapping[str, tuple[str, str]] = _NOWHERE
    ) -> dict[str, Node]:
        """The entries of a section whose keys are known, without those that have no value. Other keys are mistakes.

        Args:
            node: The section; nothing stands for an empty one.
            known: Keys that it may have.
            example: How it is written.
            elsewhere: Keys that people would look for here: why there is none, and what to do instead.
        """
        fields: dict[str, Node] = {}
        for key, entry in self.entries(node, example).items():
            if key in elsewhere:
                self.wrong(entry.place, *elsewhere[key])
            elif key not in known:
                close = _closest(key, known)
                fix = f"did you mean `{close}`?" if close else "write one of " + ", ".join(sorted(known))
                self.wrong(entry.place, f"there is no key {key!r} here", fix)
            elif not (isinstance(entry, Text) and entry.is_nothing):
                fields[key] = entry
        return fields

    def fields_or_word(self, node: Node | None, words: str, known: Collection[str], example: str) -> dict[str, Node]:
        """The same of a section in whose place a word could stand; `words` tells which."""
        if isinstance(node, (Section, type(None))):
            return self.fields(node, known, example)
        self.wrong(node.place, f"this is {_kind(node)}", f"write {words}, or a section such as `{example}`")
        return {}

    def knobs(self, fields: Mapping[str, Node], knobs: Knobs) -> dict[str, Any]:
        """What those of the fields that are in the table say: ready to be given to the dataclass whose fields it names."""
        found = {knobs[key][0]: self.value(node, knobs[key][1]) for key, node in fields.items() if key in knobs}
        return {name: value for name, value in found.items() if value is not None}

    def missing(self, around: Place, key: str, fix: str) -> None:
        """Keep that a key is not there."""
        path = f"{around.key}.{key}" if around.key else key
        self.wrong(Place(around.file, around.line, path), "it is missing", fix)


def _kind(node: Node) -> str:
    if isinstance(node, Section):
        return "a section"
    if isinstance(node, Items):
        return "a list"
    return "empty" if node.is_nothing else f"the text {node.text!r}"
