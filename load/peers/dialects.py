"""What the cases of other dialects send and expect: one order, as a gRPC module, its JSON callers and its proto callers say it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from load.peers.tools import MissingError

GRPC_WEB: Final = "grpc-web"
CONNECT: Final = "connect"
JSON: Final = "json"
PROTO: Final = Path(__file__).with_name("shop.proto")
SERVICE: Final = "shop.Stock"
ORDER: Final = {
    "id": "o-7f3a",
    "quantity": "1250000000000",
    "state": "STATE_RESERVED",
    "note": "leave it at the door, please",
    "address": {"street": "12 Harbour Road", "city": "Bergen"},
    "lines": [{"sku": "pear-01", "count": 12}, {"sku": "fig-22", "count": 3}],
}
"""As its JSON is: 64-bit numbers are texts there (ProtoJSON)."""
LOOK: Final = "/v1/orders/o-7f3a?most=20&note=pears"
"""GET of an order."""


@dataclass(frozen=True, slots=True)
class Shop:
    """Files of the module that is called, and of what is said to it."""

    descriptors: Path
    """A descriptor set of `shop.proto` and what it imports."""
    framed: Path
    """The order as gRPC frames it."""
    bare: Path
    """The order in protobuf."""
    text: Path
    """The order in JSON, without blanks, its fields in the order of their numbers."""


def make(folder: Path) -> Shop:
    """Writes the files.

    Raises:
        MissingError: No compiler for protos, or no protos of Google's annotations, in this environment.
    """
    folder.mkdir()
    shop = Shop(folder / "shop.binpb", folder / "order.framed", folder / "order.pb", folder / "order.json")
    annotations = find_spec("google.api.annotations_pb2")
    if annotations is None or annotations.origin is None or find_spec("grpc_tools") is None:
        raise MissingError("missing: grpcio-tools and googleapis-common-protos (make setup)")
    includes = (PROTO.parent, Path(annotations.origin).parents[2])
    compiler = [sys.executable, "-m", "grpc_tools.protoc", *(f"-I{path}" for path in includes), "--include_imports"]
    done = subprocess.run(
        [*compiler, f"--descriptor_set_out={shop.descriptors}", PROTO.name], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode:
        raise MissingError(f"missing: a descriptor set of {PROTO.name}: {done.stderr.strip()[-400:]}")
    octets = order()
    shop.bare.write_bytes(octets)
    shop.framed.write_bytes(b"\0" + len(octets).to_bytes(4, "big") + octets)
    shop.text.write_text(json.dumps(ORDER, separators=(",", ":")))
    return shop


def order() -> bytes:
    """The order in protobuf, by hand: nothing to be installed for it."""
    lines = (_text(1, "pear-01") + _number(2, 12), _text(1, "fig-22") + _number(2, 3))
    return (
        _text(1, "o-7f3a")
        + _number(2, 1_250_000_000_000)
        + _number(3, 1)
        + _text(4, "leave it at the door, please")
        + _octets(5, _text(1, "12 Harbour Road") + _text(2, "Bergen"))
        + b"".join(_octets(6, line) for line in lines)
    )


def _varint(value: int) -> bytes:
    octets = bytearray()
    while value > 0x7F:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*octets, value))


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _octets(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _text(number: int, value: str) -> bytes:
    return _octets(number, value.encode())
