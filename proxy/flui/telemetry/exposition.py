"""The Prometheus text format, version 0.0.4, made from `Meters`.

One pass over the families in their listed order; within a family, samples are sorted, so two pages can be compared line
by line. Families without a sample are left out.
"""

from __future__ import annotations

import math
from typing import Final

from flui.telemetry.families import DURATION, FAMILIES, FOLDED, REQUEST_OCTETS, REQUESTS, RESPONSE_OCTETS, Family
from flui.telemetry.meters import BOUNDS, Meters, Series

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_ESCAPE_VALUE: Final = str.maketrans({"\\": "\\\\", "\n": "\\n", '"': '\\"'})
_ESCAPE_HELP: Final = str.maketrans({"\\": "\\\\", "\n": "\\n"})


def page(meters: Meters) -> str:
    """The whole page: HELP, TYPE and the samples of every family that has any."""
    lines: list[str] = []
    routes = sorted(meters.routes().items())
    for family in FAMILIES:
        lines += _family(family, meters, routes)
    lines.append("")
    return "\n".join(lines)


def _family(family: Family, meters: Meters, routes: list[tuple[tuple[str, ...], Series]]) -> list[str]:
    lines: list[str] = []
    if family is DURATION:
        for labels, series in routes:
            lines += _histogram(family, labels, series)
    elif family is REQUEST_OCTETS:
        lines = [_sample(family.name, family.labels, labels, series.octets_in) for labels, series in routes]
    elif family is RESPONSE_OCTETS:
        lines = [_sample(family.name, family.labels, labels, series.octets_out) for labels, series in routes]
    elif family is REQUESTS:
        lines = [_sample(family.name, family.labels, labels, count) for labels, count in sorted(meters.requests())]
    elif family is FOLDED:
        lines = [_sample(family.name, (), (), meters.folded)]
    else:
        lines = [_sample(family.name, family.labels, labels, number) for labels, number in sorted(meters.samples(family).items())]
    if not lines:
        return []
    return [f"# HELP {family.name} {family.help.translate(_ESCAPE_HELP)}", f"# TYPE {family.name} {family.kind.value}", *lines]


def _histogram(family: Family, labels: tuple[str, ...], series: Series) -> list[str]:
    names = (*family.labels, "le")
    lines: list[str] = []
    below = 0
    for bound, count in zip((*map(_number, BOUNDS), "+Inf"), series.buckets, strict=True):
        below += count
        lines.append(_sample(f"{family.name}_bucket", names, (*labels, bound), below))
    lines.append(_sample(f"{family.name}_sum", family.labels, labels, series.seconds))
    lines.append(_sample(f"{family.name}_count", family.labels, labels, below))
    return lines


def _sample(name: str, names: tuple[str, ...], values: tuple[str, ...], number: float) -> str:
    if not names:
        return f"{name} {_number(number)}"
    pairs = ",".join(f'{label}="{value.translate(_ESCAPE_VALUE)}"' for label, value in zip(names, values, strict=True))
    return f"{name}{{{pairs}}} {_number(number)}"


def _number(number: float) -> str:
    """Integers without a point; floats as Python writes them, which Prometheus reads (`+Inf`, `-Inf`, `NaN` are spelt its way)."""
    if isinstance(number, int):
        return str(number)
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "+Inf" if number > 0 else "-Inf"
    return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)
