"""The Prometheus text format, version 0.0.4, made from `Meters`.

One pass over the families in their listed order, then those of sources that are not listed, in the order in which they
came. Within a family, samples are sorted, so two pages can be compared line by line. Families without a sample are left
out.
"""

from __future__ import annotations

import math
from typing import Final

from flui.telemetry.families import (
    DURATION,
    FAMILIES,
    FOLDED,
    PEER_REQUESTS,
    PEER_SECONDS,
    REQUEST_OCTETS,
    REQUESTS,
    RESPONSE_OCTETS,
    RULE_REQUESTS,
    RULE_SECONDS,
    Family,
)
from flui.telemetry.meters import BOUNDS, Meters, Totals

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_ESCAPE_VALUE: Final = str.maketrans({"\\": "\\\\", "\n": "\\n", '"': '\\"'})
_ESCAPE_HELP: Final = str.maketrans({"\\": "\\\\", "\n": "\\n"})

_Rows = list[tuple[str, Totals]]
"""Ready label pairs and what was counted under them."""


def page(meters: Meters) -> str:
    """The whole page: HELP, TYPE and the samples of every family that has any."""
    view = meters.view()
    routes = _rows(view.routes, REQUEST_OCTETS)
    peers = _rows(view.peers, PEER_SECONDS)
    rules = _rows(view.rules, RULE_SECONDS)
    lines: list[str] = []
    for family in FAMILIES:
        name = family.name
        if family is REQUESTS:
            found = _codes(name, routes)
        elif family is DURATION:
            found = _histogram(name, routes)
        elif family is REQUEST_OCTETS:
            found = [f"{name}{{{pairs}}} {totals.octets_in}" for pairs, totals in routes]
        elif family is RESPONSE_OCTETS:
            found = [f"{name}{{{pairs}}} {totals.octets_out}" for pairs, totals in routes]
        elif family is PEER_REQUESTS:
            found = _codes(name, peers)
        elif family is PEER_SECONDS:
            found = _summary(name, peers)
        elif family is RULE_REQUESTS:
            found = _codes(name, rules)
        elif family is RULE_SECONDS:
            found = _summary(name, rules)
        elif family is FOLDED:
            found = [f"{name} {view.folded}"]
        else:
            found = _samples(family, meters)
        _add(lines, family, found)
    for family in meters.more():
        _add(lines, family, _samples(family, meters))
    lines.append("")
    return "\n".join(lines)


def _add(lines: list[str], family: Family, found: list[str]) -> None:
    if found:
        lines.append(f"# HELP {family.name} {family.help.translate(_ESCAPE_HELP)}")
        lines.append(f"# TYPE {family.name} {family.kind.value}")
        lines += found


def _rows(totals: dict[tuple[str, ...], Totals], family: Family) -> _Rows:
    """Sorted, with the label pairs of `family` written once for all the families that share them."""
    return [(_pairs(family.labels, labels), totals[labels]) for labels in sorted(totals)]


def _codes(name: str, rows: _Rows) -> list[str]:
    return [f'{name}{{{pairs},code="{code}"}} {count}' for pairs, totals in rows for code, count in sorted(totals.codes.items())]


def _summary(name: str, rows: _Rows) -> list[str]:
    lines: list[str] = []
    for pairs, totals in rows:
        lines.append(f"{name}_sum{{{pairs}}} {_number(totals.seconds)}")
        lines.append(f"{name}_count{{{pairs}}} {sum(totals.codes.values())}")
    return lines


def _histogram(name: str, rows: _Rows) -> list[str]:
    lines: list[str] = []
    for pairs, totals in rows:
        below = 0
        for bound, count in zip(_BOUNDS, totals.buckets, strict=True):
            below += count
            lines.append(f'{name}_bucket{{{pairs},le="{bound}"}} {below}')
        lines.append(f"{name}_sum{{{pairs}}} {_number(totals.seconds)}")
        lines.append(f"{name}_count{{{pairs}}} {below}")
    return lines


def _samples(family: Family, meters: Meters) -> list[str]:
    name = family.name
    if not family.labels:
        return [f"{name} {_number(number)}" for number in meters.samples(family).values()]
    return [f"{name}{{{_pairs(family.labels, labels)}}} {_number(number)}" for labels, number in sorted(meters.samples(family).items())]


def _pairs(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    return ",".join([f'{name}="{value.translate(_ESCAPE_VALUE)}"' for name, value in zip(names, values, strict=True)])


def _number(number: float) -> str:
    """Integers without a point; floats as Python writes them, which Prometheus reads (`+Inf`, `-Inf`, `NaN` are spelt its way)."""
    if isinstance(number, int):
        return str(number)
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "+Inf" if number > 0 else "-Inf"
    return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)


_BOUNDS: Final = (*map(_number, BOUNDS), "+Inf")
