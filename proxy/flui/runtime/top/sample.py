"""One look at a sidecar: its metrics page, its clusters, whether it is ready. What it says about itself is asked only once.

A page that lacks something is fine: an older sidecar, or a newer one, is still worth looking at.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flui.runtime import adminclient
from flui.runtime.adminclient import Answer, NoAnswerError

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
Labels = tuple[tuple[str, str], ...]
"""Names and values, in the order of the page."""
Metrics = Mapping[str, Mapping[Labels, float]]
"""Samples by the name that stands on their line: `NAME`, or `NAME_bucket`, `NAME_sum` and `NAME_count`."""

_LINE: Final = re.compile(r"([A-Za-z_:][A-Za-z0-9_:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+-?\d+)?\s*")
_LABEL: Final = re.compile(r'\s*([A-Za-z_][A-Za-z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*(?:,|$)')
_ESCAPED: Final = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Who:
    """What a sidecar is called, which does not change while it runs."""

    name: str
    """For people: of its socket, or what its identity ends in, or its address."""
    identity: str = ""


@dataclass(frozen=True, slots=True)
class EndpointState:
    """What `/clusters` says about one endpoint and no metric does."""

    cluster: str
    name: str
    address: str = ""
    active: int = 0
    available: bool = True
    share: float = 1.0
    """Part of its full share that it gets (slow start)."""
    why: str = ""
    """Why it is out."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What a sidecar said."""

    who: Who
    at: float
    """When: monotonic seconds of the one who asked."""
    metrics: Metrics
    endpoints: tuple[EndpointState, ...] = ()
    ready: bool = True
    why: str = ""
    """Why it is not ready."""


def look(where: str, who: Who | None, clock: Callable[[], float]) -> Sample:
    """Asks a sidecar.

    Args:
        where: its admin address.
        who: as an earlier sample had it; None: ask.
        clock: gives monotonic seconds.

    Raises:
        NoAnswerError: it does not answer, or not with what a sidecar says.
        ValueError: `where` is no address.
    """
    page = adminclient.get(where, "/metrics")
    at = clock()
    if page.status != 200:
        raise NoAnswerError(f"{where}: /metrics: {page.status}")
    try:
        metrics = parse(page.body.decode("utf-8", "replace"))
    except ValueError as error:
        raise NoAnswerError(f"{where}: /metrics: {error}") from error
    ready = adminclient.get(where, "/ready")
    told = _object(ready)
    return Sample(
        who or identify(where, _object(adminclient.get(where, "/certs"))),
        at,
        metrics,
        endpoints_of(_value(adminclient.get(where, "/clusters"))),
        ready.status == 200,
        ", ".join(map(str, _list(told.get("why")))),
    )


def identify(where: str, certs: Mapping[str, Json]) -> Who:
    """Who answers at an address, from what it says about its certificates."""
    identity = certs.get("identity")
    identity = identity if isinstance(identity, str) else ""
    if "/" in where:  # replicas share an identity, but never a socket
        return Who(Path(where).stem.removeprefix("flui-"), identity)
    return Who(identity.rpartition("/")[2] or where, identity)


def parse(page: str) -> Metrics:
    """The samples of a page in the Prometheus text format 0.0.4.

    Raises:
        ValueError: a line is not of this format.
    """
    metrics: dict[str, dict[Labels, float]] = {}
    for number, line in enumerate(page.split("\n"), 1):
        if not line.strip() or line.startswith("#"):
            continue
        found = _LINE.fullmatch(line)
        try:
            if found is None:
                raise ValueError
            name, labels, value = found.groups()
            metrics.setdefault(name, {})[_labels(labels or "")] = float(value)
        except ValueError as error:
            raise ValueError(f"line {number} is not a sample: {line[:80]}") from error
    return metrics


def endpoints_of(clusters: Json) -> tuple[EndpointState, ...]:
    """The endpoints that `/clusters` shows; what is not there is as it is when all is well."""
    return tuple(
        EndpointState(
            cluster=str(cluster.get("cluster", "")),
            name=str(endpoint.get("name", "")),
            address=str(endpoint.get("address", "")),
            active=int(_number(endpoint.get("active"), 0)),
            available=endpoint.get("available") is not False,
            share=_number(endpoint.get("share"), 1.0),
            why=str(endpoint.get("why") or ""),
        )
        for cluster in _list(clusters)
        if isinstance(cluster, dict)
        for endpoint in _list(cluster.get("endpoints"))
        if isinstance(endpoint, dict)
    )


def _labels(text: str) -> Labels:
    labels: list[tuple[str, str]] = []
    at = 0
    while at < len(text):
        found = _LABEL.match(text, at)
        if found is None:
            raise ValueError
        labels.append((found[1], _ESCAPED.sub(lambda each: "\n" if each[1] == "n" else each[1], found[2])))
        at = found.end()
    return tuple(labels)


def _value(answer: Answer) -> Json:
    try:
        value: Json = json.loads(answer.body)
    except ValueError:
        return None
    return value


def _object(answer: Answer) -> Mapping[str, Json]:
    value = _value(answer)
    return value if isinstance(value, dict) else {}


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


def _number(value: Json, otherwise: float) -> float:
    return value if isinstance(value, int | float) else otherwise
