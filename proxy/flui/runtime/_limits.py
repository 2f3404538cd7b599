"""`timeouts:` and `limits:` of a configuration file: what a peer can make us wait for and hold."""

from __future__ import annotations

from functools import partial
from typing import Final

from flui.model.config import Limits, Timeouts
from flui.model.units import GIB, KIB, MIB
from flui.runtime import _schema as schema
from flui.runtime._schema import Knobs, Reader
from flui.runtime._yaml import Node

_HOUR: Final = 3600.0
_DAY: Final = 24 * _HOUR
_MANY: Final = 1_000_000

TIMEOUTS: Final[Knobs] = {
    "handshake": ("handshake_s", partial(schema.duration, low=0.1, high=_HOUR)),
    "header": ("header_s", partial(schema.duration, low=0.1, high=_HOUR)),
    "connect": ("connect_s", partial(schema.duration, low=0.01, high=_HOUR)),
    "body_idle": ("body_idle_s", partial(schema.duration, low=0.1, high=_HOUR)),
    "keepalive": ("keepalive_s", partial(schema.duration, low=1.0, high=_DAY)),
    "drain": ("drain_s", partial(schema.duration, low=0.0, high=_HOUR)),
}

LIMITS: Final[Knobs] = {
    "fields": ("fields", partial(schema.number, low=8, high=1000)),
    "head": ("head_octets", partial(schema.size, low=1 * KIB, high=1 * MIB)),
    "target": ("target_octets", partial(schema.size, low=64, high=64 * KIB)),
    "body": ("body_octets", partial(schema.size, low=1, high=1024 * GIB, zero="no limit")),
    "window": ("window_octets", partial(schema.size, low=4 * KIB, high=256 * KIB)),  # threats C7: per stream
    "stream_window": ("stream_window_octets", partial(schema.size, low=4 * KIB, high=256 * KIB)),
    "interim_responses": ("interim_responses", partial(schema.number, low=0, high=100)),
    "connections": ("connections", partial(schema.number, low=1, high=_MANY)),
    "connections_per_source": ("connections_per_source", partial(schema.number, low=1, high=_MANY)),
    "handshakes": ("handshakes", partial(schema.number, low=1, high=_MANY)),
    "body_rate": ("body_rate", partial(schema.speed, low=1, high=1 * MIB)),
    "flows": ("flows", partial(schema.number, low=1, high=_MANY)),
    "grpc_message": ("grpc_message_octets", partial(schema.size, low=1, high=1 * GIB, zero="no limit")),
}


def timeouts(reader: Reader, node: Node | None) -> Timeouts:
    """What stands under `timeouts:`."""
    return Timeouts(**reader.knobs(reader.fields(node, TIMEOUTS, "timeouts: {connect: 2s}"), TIMEOUTS))


def limits(reader: Reader, node: Node | None) -> Limits:
    """What stands under `limits:`."""
    fields = reader.fields(node, LIMITS, "limits: {body: 10MiB}")
    found = Limits(**reader.knobs(fields, LIMITS))
    if found.target_octets > found.head_octets:
        place = (fields.get("target") or fields["head"]).place
        reader.wrong(place, "`target` is larger than `head`, of which it is a part", "write a smaller `target` or a larger `head`")
    if "connections_per_source" in fields and found.connections_per_source > found.connections:
        what = f"one source could never reach it, as all together may have {found.connections}"
        reader.wrong(fields["connections_per_source"].place, what, "write a smaller number, or a larger `connections`")
    return found
